package catalog

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"rbee"
	"rbee/internal/sqlite"
)

// Builtin is a model that ships in the program.
type Builtin struct {
	Name   string
	Bytes  []byte
	SHA256 string // lower-case hex
}

type builtins struct {
	dir     string
	inspect Inspect
	models  []Builtin
}

// NewBuiltins is the provider of the models in the program. It writes them to
// builtin/ in the store's directory.
func NewBuiltins(dir string, inspect Inspect, models ...Builtin) Provider {
	return &builtins{dir: dir, inspect: inspect, models: models}
}

func (*builtins) Name() rbee.Provider { return rbee.ProviderBuiltin }

func (p *builtins) Fetch(_ context.Context, ref rbee.ModelRef) (rbee.Model, error) {
	for _, b := range p.models {
		if b.Name == ref.Reference {
			return p.extract(b)
		}
	}
	names := make([]string, len(p.models))
	for i, b := range p.models {
		names[i] = "builtin:" + b.Name
	}
	return rbee.Model{}, rbee.Errorf(rbee.CodeModelNotFound, "rbee has no builtin model %q", ref.Reference).Suggest("use one of %q", names)
}

func (p *builtins) extract(b Builtin) (rbee.Model, error) {
	path := filepath.Join(p.dir, "builtin", b.Name+".gguf")
	err := place(p.dir, path, func(f *os.File) error {
		if _, err := f.Write(b.Bytes); err != nil {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		return wantDigest(path, f, b.SHA256)
	})
	if err != nil {
		return rbee.Model{}, err
	}
	m, err := p.inspect(path)
	if err != nil {
		return rbee.Model{}, err
	}
	m.Provider, m.Reference, m.LocalPath, m.SHA256 = rbee.ProviderBuiltin, b.Name, path, b.SHA256
	m.Revision, m.DownloadedAt = rbee.Version, time.Now().UTC()
	return m, nil
}

// wantDigest reads r and compares its SHA-256 with want.
func wantDigest(path string, r io.Reader, want string) error {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return rbee.Errorf(rbee.CodeChecksumMismatch, "the digest of %s is %s and should be %s", path, got, want).
			Suggest("check the disk; then try again")
	}
	return nil
}

type files struct{ inspect Inspect }

// NewFiles is the provider of GGUF files that are used where they lie.
func NewFiles(inspect Inspect) Provider { return files{inspect} }

func (files) Name() rbee.Provider { return rbee.ProviderFile }

func (p files) Fetch(_ context.Context, ref rbee.ModelRef) (rbee.Model, error) {
	if err := regular(ref.Reference); err != nil {
		return rbee.Model{}, err
	}
	m, err := p.inspect(ref.Reference)
	if err != nil {
		return rbee.Model{}, err
	}
	m.Provider, m.Reference, m.LocalPath = rbee.ProviderFile, ref.Reference, ref.Reference
	m.DownloadedAt = time.Now().UTC()
	return m, nil
}

// regular refuses what cannot be a model file before anything reads it: a read
// of a named pipe would never return.
func regular(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return rbee.Errorf(rbee.CodeModelNotFound, "cannot find the file %s on the hive's machine", path).
			Suggest("check the path; it is one of the machine where the hive runs")
	case errors.Is(err, fs.ErrPermission):
		return rbee.Errorf(rbee.CodeInvalidRequest, "the hive may not read %s", path).Suggest("give the hive's user the right to read the file")
	case err != nil:
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot read %s", path).WithCause(err).Suggest("check the path")
	case !info.Mode().IsRegular():
		return rbee.Errorf(rbee.CodeInvalidRequest, "%s is not a file", path).Suggest("name a GGUF file")
	}
	return nil
}

// splitName is how the parts of a split model are named.
var splitName = regexp.MustCompile(`-\d{5}-of-\d{5}\.gguf$`)

// Import takes the GGUF file at an absolute path into the store, under the
// reference file:PATH: by a hard link where the disk allows it, else by a
// copy. Files are named by their digest, so two with the same bytes are one. A
// digest that is asked for and not the file's is CHECKSUM_MISMATCH.
func (s *Store) Import(ctx context.Context, req rbee.ImportRequest) (rbee.Model, error) {
	ref, err := rbee.ParseModelRef("file:" + req.Path)
	if err != nil {
		return rbee.Model{}, err
	}
	if err := regular(req.Path); err != nil {
		return rbee.Model{}, err
	}
	if splitName.MatchString(req.Path) {
		return rbee.Model{}, rbee.Errorf(rbee.CodeInvalidRequest, "%s is one part of a split model, and parts are not imported alone", req.Path).
			Suggest("use the first part where it lies, as file:PATH")
	}
	m, err := s.cfg.Inspect(req.Path)
	if err != nil {
		return rbee.Model{}, err
	}
	src, err := os.Open(req.Path)
	if err != nil {
		return rbee.Model{}, sqlite.Explain("read "+req.Path, err)
	}
	defer src.Close() //nolint:errcheck // nothing was written
	sum, err := digest(ctx, src, io.Discard)
	if err != nil {
		return rbee.Model{}, fmt.Errorf("cannot read %s: %w", req.Path, err)
	}
	if req.SHA256 != "" && sum != req.SHA256 {
		return rbee.Model{}, rbee.Errorf(rbee.CodeChecksumMismatch, "the digest of %s is %s and should be %s", req.Path, sum, req.SHA256).
			Suggest("get the file again")
	}
	m.Provider, m.Reference, m.SHA256 = ref.Provider, ref.Reference, sum
	m.LocalPath, m.DownloadedAt = filepath.Join(s.cfg.Dir, "sha256", sum+".gguf"), time.Now().UTC()
	if fault(m) != "" {
		if err := s.take(ctx, src, m); err != nil {
			return rbee.Model{}, err
		}
	}
	return m, s.put(ctx, m)
}

// take makes the store's own name for the open file src, or a copy of it.
func (s *Store) take(ctx context.Context, src *os.File, m rbee.Model) error {
	if err := s.link(src.Name(), m.LocalPath); err == nil && fault(m) == "" {
		return nil
	}
	if err := room(s.cfg.Dir, m.SizeBytes); err != nil {
		return err
	}
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("cannot read %s: %w", src.Name(), err)
	}
	return place(s.cfg.Dir, m.LocalPath, func(f *os.File) error {
		sum, err := digest(ctx, src, f)
		if err == nil && sum != m.SHA256 {
			err = rbee.Errorf(rbee.CodeChecksumMismatch, "%s changed while it was copied", src.Name()).Suggest("import it when nothing writes to it")
		}
		return err
	})
}

// link makes path another name of the file at src, replacing what is there.
func (s *Store) link(src, path string) (err error) {
	release, err := writing(s.cfg.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	src, err = filepath.EvalSymlinks(src) // a link to a link would die with it
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// Others may link the same bytes at this moment.
	temp := filepath.Join(filepath.Dir(path), tempPrefix+rand.Text()+"-"+filepath.Base(path))
	if err := os.Link(src, temp); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	// A rename of a file onto another name of itself leaves both.
	if err := ignoreGone(os.Remove(temp)); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// digest copies r to w and returns the SHA-256 of what it copied. It ends early with ctx.
func digest(ctx context.Context, r io.Reader, w io.Writer) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(h, w), &tiedReader{ctx, r}); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// tiedReader ends with a context.
type tiedReader struct {
	ctx context.Context
	r   io.Reader
}

func (t *tiedReader) Read(p []byte) (int, error) {
	if t.ctx.Err() != nil {
		return 0, context.Cause(t.ctx)
	}
	return t.r.Read(p)
}
