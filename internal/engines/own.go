package engines

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"rbee"
)

// InstallFrom takes the libraries of an own build of llama.cpp: a build
// directory, an unpacked release, or a folder of libraries. They replace the
// pinned packages until the directory of libraries is removed. The build must
// be of the release Version, since the binding relies on its structures, and be
// linked against shared libraries; what is missing is said.
func (s *Store) InstallFrom(ctx context.Context, dir string) (report Report, err error) {
	report.LibDir = s.LibDir()
	source, files, err := ownLibraries(dir)
	if err != nil {
		return report, err
	}
	unlock, err := s.lock(ctx, func(Progress) {})
	if err != nil {
		return report, err
	}
	defer unlock()
	staging, err := s.staging()
	if err != nil {
		return report, cannotWrite(s.dir, err)
	}
	defer func() {
		if e := os.RemoveAll(staging); e != nil {
			err = errors.Join(err, cannotWrite(s.dir, e))
		}
	}()
	libs := filepath.Join(staging, freshDirName)
	if err := s.stageOwn(ctx, source, files, libs); err != nil {
		return report, cannotWrite(s.dir, err)
	}
	if err := swap(libs, s.LibDir(), filepath.Join(staging, replacedDirName)); err != nil {
		return report, cannotWrite(s.dir, err)
	}
	report.Fetched = []string{source}
	return report, nil
}

// ownLibraries finds the folder with the libraries in what a user calls a build.
func ownLibraries(dir string) (string, []string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the own build: %w", err)
	}
	if _, err := os.ReadDir(dir); err != nil {
		return "", nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the own build in %s: %s", dir, reason(err)).
			Suggest("name the directory that holds %s", libraryFile("llama")).WithCause(err)
	}
	var best []string
	for _, folder := range []string{"", "bin", "lib", filepath.Join("build", "bin")} {
		candidate := filepath.Join(dir, folder)
		entries, err := os.ReadDir(candidate)
		if err != nil {
			continue
		}
		pattern := libraryPattern()
		var files []string
		for _, e := range entries {
			if pattern.MatchString(e.Name()) {
				files = append(files, e.Name())
			}
		}
		missing := missingFrom(files)
		if len(missing) == 0 {
			return candidate, files, nil
		}
		if best == nil || len(missing) < len(best) {
			best = missing
		}
	}
	return "", nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot use the own build in %s: there is no %s", dir, strings.Join(best, ", no ")).
		Suggest("build llama.cpp %s with -DBUILD_SHARED_LIBS=ON and name the directory that holds %s", Version, libraryFile("llama"))
}

func reason(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "there is no such directory"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	}
	return "it is not a readable directory"
}

func (s *Store) stageOwn(ctx context.Context, source string, files []string, libs string) (err error) {
	if err := os.Mkdir(libs, 0o755); err != nil { //nolint:gosec // other users of the machine may run the same engine
		return err
	}
	root, err := os.OpenRoot(libs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	for _, name := range files {
		if ctx.Err() != nil {
			return rbee.Errorf(rbee.CodeRequestCanceled, "cannot install the own build: %w", context.Cause(ctx))
		}
		if err := takeFile(root, source, name, files); err != nil {
			return err
		}
	}
	m, err := stage(root, true)
	if err != nil {
		return err
	}
	m.Component, m.Source = own, source
	for _, b := range rbee.Backends() {
		for _, name := range files {
			if holdsBackend(name, b) {
				m.Backends = append(m.Backends, b)
				break
			}
		}
	}
	if err := m.write(root); err != nil {
		return err
	}
	return syncDir(libs)
}

// takeFile copies a library; a link to another of the libraries stays a link.
func takeFile(root *os.Root, source, name string, files []string) (err error) {
	path := filepath.Join(source, name)
	if target, err := os.Readlink(path); err == nil {
		for _, f := range files {
			if f == target {
				return root.Symlink(target, name)
			}
		}
	}
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot use the own build in %s: %s is not a readable file", source, name).
			Suggest("check the build; a link in it may lead nowhere").WithCause(err)
	}
	in, err := os.Open(path) //nolint:gosec // the user names the directory of the build
	if err != nil {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot use the own build in %s: %s cannot be read", source, name).
			Suggest("check the permissions of the file").WithCause(err)
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	_, err = writeFile(root, name, in)
	return err
}

// swap puts a complete directory into the place of another one.
func swap(fresh, place, aside string) error {
	err := os.Rename(place, aside)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	replaced := err == nil
	if err := os.Rename(fresh, place); err != nil {
		if replaced {
			err = errors.Join(err, os.Rename(aside, place))
		}
		return err
	}
	return syncDir(filepath.Dir(place))
}
