package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"rbee"
	"rbee/hive/catalog"
	"rbee/internal/durable"
	"rbee/internal/sqlite"
)

// Export gives a model a name outside the store: a copy, which shares blocks
// where the file system can, or with Link another name of the same file. In an
// existing directory the file keeps the name that it came with; a split model
// goes into a directory only. What is there already is CONFLICT, and stays.
//
// A copy has its name once it is whole and its digest is right. Export blocks
// until then.
func (s *Store) Export(ctx context.Context, req rbee.ExportRequest, report func(rbee.StoreProgress)) error {
	ref, err := rbee.ParseModelRef(req.ModelRef)
	if err != nil {
		return err
	}
	m, err := s.toExport(ctx, ref)
	if err != nil {
		return err
	}
	paths, err := s.exportPaths(m, req.Path)
	if err != nil {
		return err
	}
	for i, f := range m.Files() {
		progress := newMeter(ref, paths[i], f.SizeBytes, report)
		if req.Link {
			err = linkOut(f.Path, paths[i])
		} else {
			err = copyOut(ctx, ref, f, paths[i], progress)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		progress.end(rbee.StoreProgress{Stage: rbee.StoreExported})
	}
	return nil
}

// toExport is the row of a model whose files are there.
func (s *Store) toExport(ctx context.Context, ref rbee.ModelRef) (rbee.Model, error) {
	m, err := s.cfg.Catalog.Model(ctx, ref)
	if errors.Is(err, catalog.ErrNoRow) {
		if err := s.settled(ctx); err != nil {
			return rbee.Model{}, err
		}
		m, err = s.cfg.Catalog.Model(ctx, ref)
	}
	if errors.Is(err, catalog.ErrNoRow) {
		return rbee.Model{}, notHere(ref)
	}
	if err != nil {
		return rbee.Model{}, err
	}
	if why := fault(m); why != "" {
		return rbee.Model{}, rbee.Errorf(rbee.CodeModelNotFound, "cannot export %s: %s", ref, why).Suggest("get it again with 'rbee models pull %s'", ref)
	}
	return m, nil
}

// exportPaths are the names that the files of a model get, none of them taken.
func (s *Store) exportPaths(m rbee.Model, path string) ([]string, error) {
	bad := func(code rbee.Code, format string, args ...any) ([]string, error) {
		return nil, rbee.Errorf(code, "cannot export to %s: %s", path, fmt.Sprintf(format, args...)).Suggest("name another place")
	}
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	inside := err == nil && info.IsDir()
	switch {
	case !filepath.IsAbs(path):
		return bad(rbee.CodeInvalidRequest, "it is not an absolute path")
	case s.files.Owns(path):
		return bad(rbee.CodeInvalidRequest, "it lies in the store")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return bad(rbee.CodeInvalidRequest, "%s", reason(err))
	case !inside && len(m.Parts) > 0:
		return bad(rbee.CodeInvalidRequest, "a split model has %d files and needs a directory that is there", len(m.Parts))
	}
	paths := []string{path}
	if inside {
		paths = nil
		for i := range m.Files() {
			paths = append(paths, filepath.Join(path, exportName(m, i)))
		}
	} else if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
		return bad(rbee.CodeInvalidRequest, "there is no directory %s", filepath.Dir(path))
	}
	for _, p := range paths {
		if _, err := os.Lstat(p); err == nil {
			return nil, taken(p)
		}
	}
	return paths, nil
}

func taken(path string) *rbee.Error {
	return rbee.Errorf(rbee.CodeConflict, "cannot export to %s: there is such a file already", path).Suggest("remove it, or name another place")
}

// exportName is what a file of a model is called outside the store: as it came,
// or after the model. It is a plain name, whatever somebody called the model.
func exportName(m rbee.Model, part int) string {
	name := filepath.Base(filepath.FromSlash(m.FileName))
	if !isGGUF(name) {
		name = filepath.Base(filepath.FromSlash(m.Reference))
	}
	if !isGGUF(name) {
		name = cmp.Or(m.Name, m.Reference) + ".gguf"
	}
	stem := strings.TrimLeft(strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || c == utf8.RuneError || strings.ContainsRune(`/\:*?"<>|`, c) {
			return '-'
		}
		return c
	}, name[:len(name)-len(".gguf")]), ".- ")
	if len(m.Parts) > 0 {
		if split := splitName.FindStringSubmatch(stem + ".gguf"); split != nil {
			stem = split[1]
		}
	}
	for len(stem) > maxStem {
		_, last := utf8.DecodeLastRuneInString(stem)
		stem = stem[:len(stem)-last]
	}
	stem = cmp.Or(stem, "model")
	if len(m.Parts) == 0 {
		return stem + ".gguf"
	}
	return fmt.Sprintf("%s-%05d-of-%05d.gguf", stem, part+1, len(m.Parts))
}

// maxStem bounds a name, in bytes, so that every file system takes it.
const maxStem = 200

func linkOut(from, to string) error {
	target, err := filepath.EvalSymlinks(from)
	if err != nil {
		return sqlite.Explain("read "+from, err)
	}
	switch err := os.Link(target, to); {
	case errors.Is(err, fs.ErrExist):
		return taken(to)
	case err != nil:
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot make a link at %s: %s", to, linkReason(err)).WithCause(err).Suggest("export a copy, without --link")
	}
	return sqlite.Explain("make "+to, durable.SyncDir(filepath.Dir(to)))
}

func linkReason(err error) string {
	var at *os.LinkError
	if errors.As(err, &at) {
		return at.Err.Error()
	}
	return reason(err)
}

// copyOut copies a file to a name that nobody has.
func copyOut(ctx context.Context, ref rbee.ModelRef, f rbee.ModelFile, to string, progress *meter) (err error) {
	dir := filepath.Dir(to)
	temp := filepath.Join(dir, ".rbee-export-"+rand.Text())
	defer func() { err = errors.Join(err, ignoreGone(os.Remove(temp))) }()
	sum, err := cloneOrCopy(ctx, f.Path, temp, progress)
	if err != nil {
		return sqlite.Explain("write "+to, err)
	}
	if f.SHA256 != "" && sum != f.SHA256 {
		return rbee.Errorf(rbee.CodeChecksumMismatch, "cannot export %s: the digest of %s is %s and should be %s", ref, f.Path, sum, f.SHA256).
			Suggest("run 'rbee models verify %s', which sets the damaged file aside", ref)
	}
	// A link takes no name that somebody has; a rename would.
	err = os.Link(temp, to)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		if _, statErr := os.Lstat(to); statErr == nil {
			return taken(to)
		}
		err = os.Rename(temp, to) // on a file system without links
	}
	if errors.Is(err, fs.ErrExist) {
		return taken(to)
	}
	if err != nil {
		return sqlite.Explain("write "+to, err)
	}
	return sqlite.Explain("write "+to, durable.SyncDir(dir))
}

// cloneOrCopy makes a synced copy of a file and returns the digest of its bytes.
func cloneOrCopy(ctx context.Context, from, to string, progress io.Writer) (sum string, err error) {
	src, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer src.Close()                                                     //nolint:errcheck // nothing was written
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644) //nolint:gosec // the user's file, with the user's umask
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	w := io.MultiWriter(dst, progress)
	if clone(dst, src) == nil {
		w = progress
	}
	if sum, err = digest(ctx, src, w); err != nil {
		return "", err
	}
	return sum, dst.Sync()
}
