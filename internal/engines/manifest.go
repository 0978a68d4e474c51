package engines

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"rbee"
)

// own is the component of an own build; the others are named by their backend.
const own = "own"

const maxManifestBytes = 1 << 20

// manifest says what a component put into the directory of libraries.
type manifest struct {
	Component string         `json:"component"`
	Backends  []rbee.Backend `json:"backends"`
	Engine    string         `json:"engine"`
	Source    string         `json:"source"`              // package, or directory of the own build
	Integrity string         `json:"integrity,omitempty"` // of the package
	Files     []fileEntry    `json:"files"`
}

// fileEntry is a regular file with its digest, or a link with its target.
type fileEntry struct {
	Name    string    `json:"name"`
	Size    int64     `json:"size,omitempty"`
	SHA256  string    `json:"sha256,omitempty"`
	ModTime time.Time `json:"mod_time,omitzero"` // a file with another time is digested before it is trusted
	Link    string    `json:"link,omitempty"`
}

func (m *manifest) size() int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

func manifestName(component string) string { return "manifest-" + component + ".json" }

// Damage is a file that is not as it was installed.
type Damage struct {
	Backend rbee.Backend `json:"backend"`
	File    string       `json:"file"`
	Problem string       `json:"problem"`
}

func (d Damage) String() string { return d.File + " " + d.Problem }

// readManifest returns nil if the component is not installed, or if what is
// there cannot be read as a manifest: then it has to be installed anyway.
func readManifest(dir, component string) *manifest {
	b, err := os.ReadFile(filepath.Join(dir, manifestName(component)))
	if err != nil || len(b) > maxManifestBytes {
		return nil
	}
	var m manifest
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil || m.Component != component || len(m.Files) == 0 || len(m.Backends) == 0 {
		return nil
	}
	for _, f := range m.Files {
		if !fs.ValidPath(f.Name) || filepath.Base(f.Name) != f.Name {
			return nil
		}
	}
	return &m
}

// newManifest describes the files of a staging directory.
func newManifest(root *os.Root) (*manifest, error) {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	m := &manifest{Engine: "llama.cpp " + Version}
	for _, e := range entries {
		entry := fileEntry{Name: e.Name()}
		switch {
		case e.Type()&fs.ModeSymlink != 0:
			if entry.Link, err = root.Readlink(e.Name()); err != nil {
				return nil, err
			}
		case e.Type().IsRegular():
			if err := entry.digest(root); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("%s is neither a file nor a link", e.Name())
		}
		m.Files = append(m.Files, entry)
	}
	return m, nil
}

func (f *fileEntry) digest(root *os.Root) (err error) {
	file, err := root.Open(f.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	h := sha256.New()
	if f.Size, err = io.Copy(h, file); err != nil {
		return err
	}
	f.SHA256, f.ModTime = hex.EncodeToString(h.Sum(nil)), info.ModTime().UTC()
	return nil
}

// write stores the manifest as the last file of an installation.
func (m *manifest) write(root *os.Root) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	_, err = writeFile(root, manifestName(m.Component), bytes.NewReader(append(b, '\n')))
	return err
}

// check compares the files of the component with the manifest. Without full it
// trusts a file of the right size and time; with full it digests every file.
func (m *manifest) check(dir string, full bool) []Damage {
	var damage []Damage
	root, err := os.OpenRoot(dir)
	if err != nil {
		return []Damage{{Backend: m.Backends[0], File: dir, Problem: "cannot be opened"}}
	}
	for _, f := range m.Files {
		if problem := f.check(root, full); problem != "" {
			damage = append(damage, Damage{Backend: m.Backends[0], File: f.Name, Problem: problem})
		}
	}
	if err := root.Close(); err != nil {
		damage = append(damage, Damage{Backend: m.Backends[0], File: dir, Problem: "cannot be closed"})
	}
	return damage
}

func (f fileEntry) check(root *os.Root, full bool) string {
	info, err := root.Lstat(f.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "is missing"
	case err != nil:
		return "cannot be read"
	case f.Link != "":
		if target, err := root.Readlink(f.Name); err != nil || target != f.Link {
			return "is not the link to " + f.Link
		}
		return ""
	case !info.Mode().IsRegular():
		return "is not a regular file"
	case info.Size() != f.Size:
		return fmt.Sprintf("has %d bytes instead of %d", info.Size(), f.Size)
	case !full && info.ModTime().Equal(f.ModTime):
		return ""
	}
	now := fileEntry{Name: f.Name}
	if err := now.digest(root); err != nil {
		return "cannot be read"
	}
	if now.SHA256 != f.SHA256 {
		return "has the wrong digest"
	}
	return ""
}

// names lists the files that hold libraries.
func (m *manifest) names() []string {
	var names []string
	for _, f := range m.Files {
		names = append(names, f.Name)
	}
	return names
}

// writeFile makes a new file below root and returns after it is on the disk.
func writeFile(root *os.Root, name string, in io.Reader) (n int64, err error) {
	// Other users of the machine may run the same engine.
	out, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644) //nolint:gosec // see above
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if n, err = io.Copy(out, in); err != nil {
		return n, err
	}
	return n, out.Sync()
}

// syncDir puts the names of a directory on the disk. Windows does that itself.
func syncDir(dir string) (err error) {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir) //nolint:gosec // the directory of the engines
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}

// publish gives the files of a staging directory their final names in dir, the
// manifest last, so that a reader sees an installed component or none.
func (m *manifest) publish(staging, dir string) error {
	names := append(slices.DeleteFunc(m.names(), func(n string) bool { return n == manifestName(m.Component) }), manifestName(m.Component))
	for _, name := range names {
		if err := os.Rename(filepath.Join(staging, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return syncDir(dir)
}
