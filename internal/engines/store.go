package engines

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/gofrs/flock"

	"rbee"
)

// The names of what an installation makes in the directory of a Store.
const (
	stagingPattern  = ".staging-*"
	freshDirName    = "libs"     // the libraries, until they are complete
	replacedDirName = "replaced" // those that a swap puts aside
)

// Store is the directory of the engines of a state directory. Its methods may
// be called from several goroutines and several processes at once.
type Store struct {
	dir      string
	platform string
	pins     []pin
	find     func(library string) string // path of a library of the system, or ""
	unpacked int64                       // bound of an archive's content
}

// Open returns the store in dir. It touches nothing; the directory is made when
// something is installed.
func Open(dir string) *Store {
	return &Store{
		dir:      dir,
		platform: runtime.GOOS + "/" + runtime.GOARCH,
		pins:     pinsOf(runtime.GOOS, runtime.GOARCH),
		find:     findLibrary,
		unpacked: maxUnpackedBytes,
	}
}

// Dir is the directory of the store.
func (s *Store) Dir() string { return s.dir }

// LibDir is the directory of the libraries, whether they are installed or not.
func (s *Store) LibDir() string { return filepath.Join(s.dir, libDirName) }

// Find returns the directory of the libraries for a directory that a user
// named: the libraries' own directory, or the one of a Store. It fails with
// BACKEND_UNAVAILABLE if there is no engine.
func Find(dir string) (string, error) {
	for _, candidate := range []string{dir, filepath.Join(dir, libDirName)} {
		missing := slices.ContainsFunc(bound(), func(lib string) bool {
			_, err := os.Stat(filepath.Join(candidate, libraryFile(lib)))
			return err != nil
		})
		if !missing {
			return filepath.Abs(candidate)
		}
	}
	return "", rbee.Errorf(rbee.CodeBackendUnavailable, "cannot find the engine: %s has no libraries of llama.cpp %s", dir, Version).
		Suggest("install them with 'rbee engine install'")
}

// Report says what an installation found and did.
type Report struct {
	LibDir  string   `json:"lib_dir"`
	Fetched []string `json:"fetched,omitempty"` // packages that were fetched, empty if all was there
	Damage  []Damage `json:"damage,omitempty"`  // what was damaged before and is not any more
}

// Ensure makes the engine of a backend usable: it installs what is not there
// and replaces what is damaged, judged by sizes and times. If all is well it
// takes no lock, writes nothing and costs a few system calls. progress may be
// nil; it is not called from two goroutines at once. Ensure blocks until it is
// done, also while another process installs, or until the context ends.
func (s *Store) Ensure(ctx context.Context, b rbee.Backend, progress func(Progress)) (Report, error) {
	return s.install(ctx, b, false, progress)
}

// Repair is Ensure with each file of the backend digested.
func (s *Store) Repair(ctx context.Context, b rbee.Backend, progress func(Progress)) (Report, error) {
	return s.install(ctx, b, true, progress)
}

// Verify digests every installed file and returns those that are not as they
// were installed. It changes nothing.
func (s *Store) Verify() []Damage {
	var damage []Damage
	for _, component := range s.components() {
		if m := readManifest(s.LibDir(), component); m != nil {
			damage = append(damage, m.check(s.LibDir(), true)...)
		}
	}
	return damage
}

func (s *Store) components() []string {
	names := []string{own}
	for _, b := range rbee.Backends() {
		names = append(names, string(b))
	}
	return names
}

func (s *Store) install(ctx context.Context, b rbee.Backend, full bool, progress func(Progress)) (Report, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	report := Report{LibDir: s.LibDir()}
	if !full {
		if ok, _, err := s.ready(b, false); ok || err != nil {
			return report, err
		}
	}
	unlock, err := s.lock(ctx, progress)
	if err != nil {
		return report, err
	}
	defer unlock()
	for _, part := range slices.Compact([]rbee.Backend{rbee.BackendCPU, b}) {
		ok, damage, err := s.ready(part, full)
		if err != nil {
			return report, err
		}
		if ok {
			continue
		}
		p, err := s.pinFor(part)
		if err != nil {
			return report, err
		}
		if err := s.installPin(ctx, p, progress); err != nil {
			return report, cannotWrite(s.dir, err)
		}
		report.Fetched = append(report.Fetched, p.spec())
		report.Damage = append(report.Damage, damage...)
	}
	return report, nil
}

// ready tells whether a backend can be used as it is, or what is damaged. It
// fails where an own build rules and cannot serve the backend.
func (s *Store) ready(b rbee.Backend, full bool) (bool, []Damage, error) {
	if m := readManifest(s.LibDir(), own); m != nil {
		return s.ownReady(m, b, full)
	}
	var damage []Damage
	for _, part := range slices.Compact([]rbee.Backend{rbee.BackendCPU, b}) {
		m := readManifest(s.LibDir(), string(part))
		if m == nil {
			return false, nil, nil
		}
		// After an upgrade of rbee, or of the system's CUDA, another package may be due.
		if p, err := s.pinFor(part); err != nil || p.integrity != m.Integrity {
			return false, nil, err
		}
		damage = append(damage, m.check(s.LibDir(), full)...)
	}
	return len(damage) == 0, damage, nil
}

func (s *Store) ownReady(m *manifest, b rbee.Backend, full bool) (bool, []Damage, error) {
	if !slices.Contains(m.Backends, b) {
		return false, nil, rbee.Errorf(rbee.CodeBackendUnavailable, "cannot use %s: the installed own build of llama.cpp has no library for it", b).
			Suggest("build llama.cpp %s with %s and run 'rbee engine install --from DIR', or remove %s to go back to the pinned packages", Version, b, s.LibDir())
	}
	if damage := m.check(s.LibDir(), full); len(damage) > 0 {
		return false, damage, rbee.Errorf(rbee.CodeBackendUnavailable, "cannot use the own build of llama.cpp in %s: %s", s.LibDir(), damage[0]).
			Suggest("run 'rbee engine install --from %s' again, or remove %s to go back to the pinned packages", m.Source, s.LibDir())
	}
	return true, nil, nil
}

// pinFor picks the package of a backend: the one whose system libraries are
// there, else the one that is installed, else the first.
func (s *Store) pinFor(b rbee.Backend) (pin, error) {
	var candidates []pin
	for _, p := range s.pins {
		if p.backend == b {
			candidates = append(candidates, p)
		}
	}
	if len(candidates) == 0 {
		return pin{}, s.noPin(b)
	}
	for _, p := range candidates {
		if s.missingRuntime(p) == "" {
			return p, nil
		}
	}
	if m := readManifest(s.LibDir(), string(b)); m != nil {
		for _, p := range candidates {
			if p.integrity == m.Integrity {
				return p, nil
			}
		}
	}
	return candidates[0], nil
}

func (s *Store) missingRuntime(p pin) string {
	for _, lib := range p.runtime {
		if s.find(lib) == "" {
			return lib
		}
	}
	return ""
}

func (s *Store) noPin(b rbee.Backend) error {
	return rbee.Errorf(rbee.CodeBackendUnavailable, "cannot install the engine for %s: no package is pinned for %s", b, s.platform).
		Suggest("build llama.cpp %s with shared libraries, or unpack its release, and run 'rbee engine install --from DIR'", Version)
}

// lock takes the lock of the store for this process and returns its release.
func (s *Store) lock(ctx context.Context, progress func(Progress)) (func(), error) {
	if err := os.MkdirAll(s.dir, 0o755); err != nil { //nolint:gosec // other users of the machine may run the same engine
		return nil, cannotWrite(s.dir, err)
	}
	lock := flock.New(filepath.Join(s.dir, ".lock"))
	taken, err := lock.TryLock()
	if err == nil && !taken {
		progress(Progress{Step: StepWaiting})
		_, err = lock.TryLockContext(ctx, pollInterval)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, rbee.Errorf(rbee.CodeRequestCanceled, "cannot install the engine: another process is installing it in %s: %w", s.dir, context.Cause(ctx))
		}
		return nil, cannotWrite(s.dir, err)
	}
	if err := s.restore(); err != nil {
		return nil, errors.Join(cannotWrite(s.dir, err), lock.Close())
	}
	return func() { _ = lock.Close() }, nil // the kernel drops the lock with the file
}

// restore puts the libraries back that a swap had put aside when its process
// was killed. Fresh libraries beside them say that it was: after a whole swap
// the libraries are missing because somebody removed them. It comes before the
// libraries are judged, or packages would be installed over an own build. The
// caller holds the lock.
func (s *Store) restore() error {
	if _, err := os.Lstat(s.LibDir()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	left, err := filepath.Glob(filepath.Join(s.dir, stagingPattern))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if _, err := os.Lstat(filepath.Join(dir, freshDirName)); err != nil {
			continue
		}
		err := os.Rename(filepath.Join(dir, replacedDirName), s.LibDir())
		if err == nil {
			return syncDir(s.dir)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// staging makes an empty directory beside the libraries and removes those that
// an ended process left. The caller holds the lock.
func (s *Store) staging() (string, error) {
	left, err := filepath.Glob(filepath.Join(s.dir, stagingPattern))
	if err != nil {
		return "", err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	return os.MkdirTemp(s.dir, stagingPattern)
}

// installPin fetches a package and puts its libraries into place. The caller
// holds the lock.
func (s *Store) installPin(ctx context.Context, p pin, progress func(Progress)) (err error) {
	staging, err := s.staging()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(staging)) }()
	download, libs := filepath.Join(staging, "download"), filepath.Join(staging, freshDirName)
	for _, dir := range []string{download, libs} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	archive, err := fetch(ctx, p, download, progress)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(libs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if err := s.unpackPin(p, archive, root, progress); err != nil {
		return err
	}
	m, err := stage(root, p.backend == rbee.BackendCPU)
	if err != nil {
		return rbee.Errorf(rbee.CodeChecksumMismatch, "cannot use the archive of %s: %w", p.spec(), err).
			Suggest("use an own build of llama.cpp %s with 'rbee engine install --from DIR'", Version)
	}
	m.Component, m.Backends = string(p.backend), []rbee.Backend{p.backend}
	m.Source, m.Integrity = p.spec(), p.integrity
	if err := m.write(root); err != nil {
		return err
	}
	if err := os.MkdirAll(s.LibDir(), 0o755); err != nil { //nolint:gosec // other users of the machine may run the same engine
		return err
	}
	return m.publish(libs, s.LibDir())
}

func (s *Store) unpackPin(p pin, archive string, root *os.Root, progress func(Progress)) (err error) {
	file, err := os.Open(archive) //nolint:gosec // the archive that npm wrote into our own directory
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	progress(Progress{Step: StepUnpacking, Subject: p.spec()})
	if err := verifyIntegrity(file, p.spec(), p.integrity); err != nil {
		return err
	}
	if _, err := file.Seek(0, 0); err != nil {
		return err
	}
	var done int64
	err = unpack(file, root, s.unpacked, p.wants, func(n int64) {
		done += n
		progress(Progress{Step: StepUnpacking, Subject: p.spec(), Done: done})
	})
	if err != nil && !isFull(err) {
		return rbee.Errorf(rbee.CodeChecksumMismatch, "cannot unpack the archive of %s: %w", p.spec(), err).
			Suggest("run 'npm cache verify' and try again, or use 'rbee engine install --from DIR'")
	}
	return err
}

// stage completes a staging directory: it checks what a base needs, adds the
// unversioned names and describes the files.
func stage(root *os.Root, base bool) (*manifest, error) {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		files = append(files, e.Name())
	}
	if len(files) == 0 {
		return nil, errors.New("it has no library of llama.cpp")
	}
	if base {
		if missing := missingFrom(files); len(missing) > 0 {
			return nil, errors.New("it has no " + missing[0])
		}
		if _, err := addNames(root, files); err != nil {
			return nil, err
		}
	}
	return newManifest(root)
}
