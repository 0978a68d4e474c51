package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"rbee"
)

// Builtin is a model that ships in the program.
type Builtin struct {
	Name   string
	Bytes  []byte
	SHA256 string // lower-case hex
}

type builtins struct {
	files   Files
	inspect Inspect
	models  []Builtin
}

// NewBuiltins is the provider of the models in the program. It writes them to
// builtin/ in the store's directory.
func NewBuiltins(dir string, inspect Inspect, models ...Builtin) Provider {
	return &builtins{files: FilesAt(dir), inspect: inspect, models: models}
}

func (*builtins) Name() rbee.Provider { return rbee.ProviderBuiltin }

func (p *builtins) Fetch(_ context.Context, t Terms) (Delivery, error) {
	for _, b := range p.models {
		if b.Name == t.Ref.Reference {
			return p.extract(b)
		}
	}
	names := make([]string, len(p.models))
	for i, b := range p.models {
		names[i] = "builtin:" + b.Name
	}
	return Delivery{}, rbee.Errorf(rbee.CodeModelNotFound, "rbee has no builtin model %q", t.Ref.Reference).Suggest("use one of %q", names)
}

func (p *builtins) extract(b Builtin) (Delivery, error) {
	path := filepath.Join(p.files.dir, "builtin", b.Name+".gguf")
	err := p.place(path, func(f *os.File) error {
		if _, err := f.Write(b.Bytes); err != nil {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		return wantDigest(path, f, b.SHA256)
	})
	if err != nil {
		return Delivery{}, err
	}
	m, err := p.inspect(path)
	if err != nil {
		return Delivery{}, err
	}
	m.Provider, m.Reference, m.LocalPath, m.SHA256 = rbee.ProviderBuiltin, b.Name, path, b.SHA256
	m.Revision, m.DownloadedAt = rbee.Version, time.Now().UTC()
	return Delivery{Model: m}, nil
}

func (p *builtins) place(path string, write func(*os.File) error) (err error) {
	release, err := p.files.writing()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	return p.files.place(path, write)
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

type inPlace struct{ inspect Inspect }

// NewFiles is the provider of GGUF files that are used where they lie.
func NewFiles(inspect Inspect) Provider { return inPlace{inspect} }

func (inPlace) Name() rbee.Provider { return rbee.ProviderFile }

func (p inPlace) Fetch(_ context.Context, t Terms) (Delivery, error) {
	if err := regular(t.Ref.Reference); err != nil {
		return Delivery{}, err
	}
	m, err := p.inspect(t.Ref.Reference)
	if err != nil {
		return Delivery{}, err
	}
	m.Provider, m.Reference, m.LocalPath = rbee.ProviderFile, t.Ref.Reference, t.Ref.Reference
	m.FileName, m.DownloadedAt = filepath.Base(t.Ref.Reference), time.Now().UTC()
	return Delivery{Model: m}, nil
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
