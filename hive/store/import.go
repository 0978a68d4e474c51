package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"rbee"
	"rbee/internal/durable"
	"rbee/internal/sqlite"
)

// Import takes GGUF files into the store: a file, all parts of a split model
// whose first part is named, or what is found in a directory (see survey). It
// makes hard links, or shares blocks where the file system can, and copies only
// if that is asked for. Files are named by their digest, so two with the same
// bytes are one.
//
// Of a directory each model ends in imported, or in skipped with the reason; a
// single file that cannot be imported is the error. Import blocks until all have
// been read, and fails early only with ctx or the catalog.
func (s *Store) Import(ctx context.Context, req rbee.ImportRequest, report func(rbee.StoreProgress)) error {
	info, err := os.Stat(req.Path)
	if err != nil || !info.IsDir() {
		err := s.importFile(ctx, req, report)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	if req.ModelRef != "" || req.SHA256 != "" {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot import %s under one reference or digest: it is a directory", req.Path).
			Suggest("name the file")
	}
	all := survey(ctx, req.Path, s.cfg.Dir)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(all) == 0 {
		return rbee.Errorf(rbee.CodeModelNotFound, "cannot find a model in %s", req.Path).
			Suggest("name a directory with GGUF files, or one that Ollama, LM Studio or a Hugging Face program keeps its models in")
	}
	for _, f := range all {
		progress := newMeter(f.ref, f.path, 0, report)
		err := f.why
		if err == nil {
			err = s.importFound(ctx, f, req.Copy, progress)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			progress.end(rbee.StoreProgress{Stage: rbee.StoreSkipped, Error: rbee.AsError(err)})
		}
	}
	return nil
}

func (s *Store) importFile(ctx context.Context, req rbee.ImportRequest, report func(rbee.StoreProgress)) error {
	wanted := req.ModelRef
	if wanted == "" {
		wanted = "file:" + req.Path
	}
	ref, err := rbee.ParseModelRef(wanted)
	if err == nil && ref.Provider == rbee.ProviderBuiltin {
		err = rbee.Errorf(rbee.CodeInvalidRequest, "cannot import a file as %s: builtin models ship in the program", ref).
			Suggest("use a reference that begins with file: or hf:")
	}
	if err != nil {
		return err
	}
	f := found{path: req.Path, ref: ref, fileName: filepath.Base(req.Path), sha256: req.SHA256}
	return s.importFound(ctx, f, req.Copy, newMeter(ref, req.Path, 0, report))
}

// importFound takes a model into the store and says so.
func (s *Store) importFound(ctx context.Context, f found, copying bool, progress *meter) error {
	if err := regular(f.path); err != nil {
		return err
	}
	if !firstOf(f.path) {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot import %s: it is not the first part of the model", f.path).
			Suggest("name the first part, %s", partsOf(f.path)[0])
	}
	m, err := s.cfg.Inspect(f.path)
	if err != nil {
		return err
	}
	m.LocalPath = f.path
	if f.sha256 != "" && len(m.Parts) > 0 {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot compare %s with one digest: it is a split model", f.path).Suggest("leave the digest out")
	}
	progress.now.BytesTotal = m.SizeBytes
	i := intake{store: s}
	for _, file := range m.Files() {
		c, err := read(ctx, file.Path, progress)
		if err != nil {
			return err
		}
		if want := f.digestOf(file.Path); want != "" && c.sha256 != want {
			return wrongDigest(c, want).Suggest("get the file again")
		}
		i.from = append(i.from, c)
	}
	i.model = s.row(m, f, i.from)
	if err := i.take(ctx, copying); err != nil {
		return err
	}
	progress.end(rbee.StoreProgress{Stage: rbee.StoreImported, Model: &i.model})
	return nil
}

// row is the row that a model gets in the store.
func (s *Store) row(m rbee.Model, f found, from []content) rbee.Model {
	m.Provider, m.Reference, m.Revision, m.FileName = f.ref.Provider, f.ref.Reference, f.revision, f.fileName
	if f.name != "" {
		m.Name = f.name
	}
	m.DownloadedAt = time.Now().UTC()
	if len(m.Parts) == 0 {
		m.SHA256, m.LocalPath = from[0].sha256, s.files.Single(from[0].sha256)
		return m
	}
	digests := make([]string, len(from))
	for i, c := range from {
		digests[i] = c.sha256
	}
	parts := make([]rbee.ModelFile, len(from))
	for i, c := range from {
		parts[i] = rbee.ModelFile{Path: s.files.Part(digests, i), SizeBytes: m.Parts[i].SizeBytes, SHA256: c.sha256}
	}
	m.Parts, m.LocalPath = parts, parts[0].Path
	return m
}

// intake takes the files of one model into the store.
type intake struct {
	store  *Store
	model  rbee.Model
	from   []content        // what was read, one for each file of the model
	intact map[int]content  // what the store has of it already
	copies map[int]*os.File // held, whole and synced
}

// take brings the files to their places and catalogues the model in one go, so
// that nobody who collects spare files comes in between. Copies, which take
// long, are made before.
func (i *intake) take(ctx context.Context, copying bool) (err error) {
	i.copies = map[int]*os.File{}
	defer func() { err = errors.Join(err, i.discard()) }()
	if err := i.look(ctx); err != nil {
		return err
	}
	far, err := i.place(ctx)
	if err != nil || len(far) == 0 {
		return err
	}
	if !copying {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot take %s into %s without copying it: the file system makes no link", far[0].path, i.store.cfg.Dir).
			Suggest("copy it with --copy, or use it where it is, as file:PATH")
	}
	for n, c := range i.from {
		if err := i.copy(ctx, n, c); err != nil {
			return err
		}
	}
	far, err = i.place(ctx)
	if err == nil && len(far) > 0 {
		err = changed(far[0].path)
	}
	return err
}

// look reads what the store has under the names of the files: bytes may be
// damaged, or be there without a row.
func (i *intake) look(ctx context.Context) error {
	i.intact = map[int]content{}
	for n, f := range i.model.Files() {
		if fileFault(f.Path, f.SizeBytes) != "" || i.from[n].isAt(f.Path) {
			continue
		}
		c, err := read(ctx, f.Path, io.Discard)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil && c.sha256 == f.SHA256 {
			i.intact[n] = c
		}
	}
	return nil
}

// place brings all files to their places and catalogues the model; or it returns
// what it can only copy.
func (i *intake) place(ctx context.Context) (far []content, err error) {
	release, err := i.store.files.writing()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	for n, f := range i.model.Files() {
		src := i.from[n]
		if have, ok := i.intact[n]; src.isAt(f.Path) || ok && have.isAt(f.Path) {
			if err := syncFile(f.Path); err != nil {
				return nil, sqlite.Explain("write "+f.Path, err)
			}
			continue
		}
		if temp := i.copies[n]; temp != nil {
			if err := i.store.files.adopt(Move{From: temp.Name(), To: f.Path}); err != nil {
				return nil, err
			}
			continue
		}
		if err := i.store.share(src, f.Path); err != nil {
			if rbee.CodeOf(err) != "" {
				return nil, err
			}
			far = append(far, src)
		}
	}
	if len(far) > 0 {
		return far, nil
	}
	return nil, i.store.catalogue(ctx, i.model)
}

// copy copies a file beside its place.
func (i *intake) copy(ctx context.Context, n int, src content) (err error) {
	f := i.model.Files()[n]
	if have, ok := i.intact[n]; src.isAt(f.Path) || ok && have.isAt(f.Path) {
		return nil
	}
	if err := i.store.files.room(f.SizeBytes); err != nil {
		return err
	}
	temp, err := i.store.files.temporary(filepath.Dir(f.Path))
	if err != nil {
		return err
	}
	i.copies[n] = temp
	from, err := os.Open(src.path)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", src.path, err)
	}
	defer from.Close() //nolint:errcheck // nothing was written
	sum, err := digest(ctx, from, temp)
	if err != nil {
		return sqlite.Explain("copy "+src.path, err)
	}
	if sum != src.sha256 {
		return changed(src.path)
	}
	return sqlite.Explain("copy "+src.path, temp.Sync())
}

// discard closes the copies, and removes those that were not adopted.
func (i *intake) discard() (err error) {
	for _, temp := range i.copies {
		err = errors.Join(err, ignoreGone(os.Remove(temp.Name())), temp.Close())
	}
	return err
}

// share makes path a name of the file that was read, or a file that has its
// blocks, replacing what is there. It fails with an *rbee.Error if that is not
// the file any more, with any other if the file system cannot. The caller holds
// writing.
func (f Files) share(src content, path string) (err error) {
	origin, err := filepath.EvalSymlinks(src.path) // a link to a link would die with it
	if err != nil {
		return changed(src.path)
	}
	if err := durable.MkdirAll(filepath.Dir(path)); err != nil {
		return sqlite.Explain("write "+path, err)
	}
	// Others may link the same bytes at this moment.
	temp := filepath.Join(filepath.Dir(path), tempPrefix+rand.Text()+"-"+filepath.Base(path))
	// A rename of a file onto another name of itself leaves both.
	defer func() { err = errors.Join(err, ignoreGone(os.Remove(temp))) }()
	if os.Link(origin, temp) == nil {
		if !src.isAt(temp) {
			return changed(src.path)
		}
		err = syncFile(temp)
	} else if err = cloneFile(origin, temp); err == nil && !src.isAt(origin) {
		return changed(src.path)
	}
	if err != nil {
		return err
	}
	return sqlite.Explain("write "+path, durable.Rename(temp, path))
}

// cloneFile makes the file at path share the blocks of the one at src.
func cloneFile(src, path string) (err error) {
	from, err := os.Open(src)
	if err != nil {
		return err
	}
	defer from.Close() //nolint:errcheck // nothing was written
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if err := clone(to, from); err != nil {
		return err
	}
	return to.Sync()
}

// syncFile makes sure that the bytes of a file that somebody else wrote are on
// the disk. Windows syncs for writers only.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, os.ErrPermission) {
		err = nil
	}
	return errors.Join(err, f.Close())
}
