package store

import (
	"context"
	"errors"
	"fmt"
	"io"

	"rbee"
	"rbee/hive/catalog"
	"rbee/internal/sqlite"
)

// Resolve returns the row of a model whose files are on disk. A model that is
// not in the catalog, or whose file has gone or changed its size, is brought by
// its provider first, once however many ask; one that is there is not touched.
// It blocks until then. What nobody waits for any more is given up, and may be
// resumed later.
func (s *Store) Resolve(ctx context.Context, ref rbee.ModelRef) (rbee.Model, error) {
	m, ok, err := s.OnDisk(ctx, ref)
	if ok || err != nil {
		return m, err
	}
	w := s.Want(ref, 0)
	defer w.Release()
	return w.Wait(ctx)
}

// OnDisk finds a model in the catalog, and reports whether it can be served as
// it is.
func (s *Store) OnDisk(ctx context.Context, ref rbee.ModelRef) (m rbee.Model, ok bool, err error) {
	s.cfg.Log.InfoContext(ctx, fmt.Sprintf("Checking model catalog for %s/%s", ref.Provider, ref.Reference))
	m, err = s.cfg.Catalog.Model(ctx, ref)
	if errors.Is(err, catalog.ErrNoRow) {
		return m, false, nil
	}
	if err != nil {
		return m, false, err
	}
	if why := fault(m); why != "" {
		s.cfg.Log.WarnContext(ctx, "a catalogued model cannot be served as it is", "model", ref.String(), "path", m.LocalPath, "reason", why)
		return m, false, nil
	}
	s.cfg.Log.InfoContext(ctx, "Model found in catalog: "+m.LocalPath)
	return m, true, nil
}

// bring is what a job does: it makes sure that a model is on disk. It reports
// whether it was there already.
func (s *Store) bring(ctx context.Context, t Terms) (m rbee.Model, there bool, err error) {
	// What is not in a catalog that is being made anew may still turn up, and
	// another program may have brought it meanwhile.
	if err := s.settled(ctx); err != nil {
		return m, false, err
	}
	if m, there, err = s.OnDisk(ctx, t.Ref); there || err != nil {
		return m, there, err
	}
	p, ok := s.providers[t.Ref.Provider]
	if !ok {
		return m, false, rbee.Errorf(rbee.CodeModelNotFound, "cannot find the model %s on this machine", t.Ref).
			Suggest("bring a GGUF file in with 'rbee models import PATH' and name it as file:PATH, or use builtin:bee-tiny")
	}
	d, err := p.Fetch(ctx, t)
	if err != nil {
		return m, false, err
	}
	if d.Release != nil {
		defer func() { err = errors.Join(err, d.Release()) }()
	}
	return d.Model, false, s.take(ctx, d)
}

// take makes the files of a delivery the store's and catalogues the model, so
// that nobody who collects spare files comes in between.
func (s *Store) take(ctx context.Context, d Delivery) (err error) {
	release, err := s.files.writing()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	for _, m := range d.Moves {
		if err := s.files.adopt(m); err != nil {
			return err
		}
	}
	// From here on it is short, and half of it would be a pity.
	return s.catalogue(context.WithoutCancel(ctx), d.Model)
}

// Catalogued says whether a row of the catalog has the file, or the first part of
// a split model, at a path. Such a file was checked when it came.
func (s *Store) Catalogued(ctx context.Context, path string) (bool, error) {
	rows, err := s.cfg.Catalog.ByPath(ctx, path)
	return len(rows) > 0, err
}

// TakeUp says whether the file at a path, which may have no row, has a digest.
// It reads the file, and syncs it.
func (f Files) TakeUp(ctx context.Context, path, sha256 string) (bool, error) {
	c, err := read(ctx, path, io.Discard)
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case err != nil || c.sha256 != sha256:
		return false, nil
	}
	return true, sqlite.Explain("write "+path, syncFile(path))
}

// Borrow makes a file of somebody else, such as the hub's own programs, the
// store's under the name to, by a link or by sharing its blocks. It reports false
// if the file does not have the digest, or the file system can do neither.
func (f Files) Borrow(ctx context.Context, src, sha256, to string) (bool, error) {
	c, err := read(ctx, src, io.Discard)
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case err != nil || c.sha256 != sha256:
		return false, nil
	}
	release, err := f.writing()
	if err != nil {
		return false, err
	}
	err = f.share(c, to)
	return err == nil, release()
}
