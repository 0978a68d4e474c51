package store

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"rbee"
	"rbee/internal/sqlite"
)

// Verify reads the files of models, nil for all, and compares their digests,
// each file once however many references it has. What report is told ends with
// one of intact, damaged and skipped for each reference.
//
// A file without a digest gets one. A damaged file of the store is set aside in
// quarantine/, one elsewhere is left where it is; neither is in the catalog any
// more. Verify fails only when it cannot go on.
func (s *Store) Verify(ctx context.Context, refs []rbee.ModelRef, report func(rbee.StoreProgress)) error {
	if err := s.settled(ctx); err != nil {
		return err
	}
	groups, err := s.toVerify(ctx, refs, report)
	if err != nil {
		return err
	}
	for _, rows := range groups {
		if err := s.verify(ctx, rows, report); err != nil {
			return err
		}
	}
	return nil
}

// toVerify gathers the rows that are asked for by where their models lie.
func (s *Store) toVerify(ctx context.Context, refs []rbee.ModelRef, report func(rbee.StoreProgress)) ([][]rbee.Model, error) {
	all, err := s.cfg.Catalog.Models(ctx)
	if err != nil {
		return nil, err
	}
	byRef := map[rbee.ModelRef]rbee.Model{}
	for _, m := range all {
		byRef[m.Ref()] = m
	}
	if len(refs) == 0 {
		for _, m := range all {
			refs = append(refs, m.Ref())
		}
	}
	var groups [][]rbee.Model
	at := map[string]int{}
	seen := map[rbee.ModelRef]bool{}
	for _, ref := range refs {
		if seen[ref] {
			continue
		}
		seen[ref] = true
		m, ok := byRef[ref]
		if !ok {
			report(rbee.StoreProgress{Stage: rbee.StoreSkipped, ModelRef: &ref, Error: notHere(ref)})
			continue
		}
		i, ok := at[m.LocalPath]
		if !ok {
			i = len(groups)
			at[m.LocalPath], groups = i, append(groups, nil)
		}
		groups[i] = append(groups[i], m)
	}
	return groups, nil
}

func notHere(ref rbee.ModelRef) *rbee.Error {
	return rbee.Errorf(rbee.CodeModelNotFound, "cannot find the model %s on this machine", ref).
		Suggest("see what is there with 'rbee models list'")
}

// verify reads one model, of which rows are the rows that were asked for. It
// reads all of it: whatever is damaged must not stay where others look for it.
func (s *Store) verify(ctx context.Context, rows []rbee.Model, report func(rbee.StoreProgress)) error {
	m := rows[0]
	files := m.Files()
	progress := newMeter(m.Ref(), m.LocalPath, m.SizeBytes, report)
	digests := make([]string, len(files))
	var damaged []finding
	var unknown error
	for i, f := range files {
		d, err := examine(ctx, f, progress)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			unknown = err
		case d.why != nil:
			damaged = append(damaged, d)
		}
		digests[i] = d.sha256
	}
	switch {
	case damaged != nil:
		return s.condemn(ctx, m, damaged, progress)
	case unknown != nil:
		return endAll(rows, progress, rbee.StoreProgress{Stage: rbee.StoreSkipped, Error: rbee.AsError(unknown)})
	}
	if err := s.record(ctx, m, digests); err != nil {
		return err
	}
	return endAll(rows, progress, rbee.StoreProgress{Stage: rbee.StoreIntact})
}

func endAll(rows []rbee.Model, progress *meter, p rbee.StoreProgress) error {
	for _, row := range rows {
		ref := row.Ref()
		p.ModelRef = &ref
		progress.end(p)
	}
	return nil
}

// finding is what was found where a file should be.
type finding struct {
	content                   // zero if it was not read to its end
	file       rbee.ModelFile // as it should be
	why        *rbee.Error    // nil if it is intact
	unreadable bool           // it is all there, but the disk does not give it
}

// examine compares a file with what its row says. An error tells nothing of it.
func examine(ctx context.Context, f rbee.ModelFile, progress *meter) (finding, error) {
	d := finding{file: f}
	if d.why = sizeFault(f); d.why != nil {
		return d, nil
	}
	var err error
	d.content, err = read(ctx, f.Path, progress)
	switch {
	case errors.Is(err, syscall.EIO):
		d.unreadable, d.why = true, rbee.Errorf(rbee.CodeChecksumMismatch, "the disk cannot read %s any more", f.Path)
		return d, nil
	case err == nil && f.SHA256 != "" && d.sha256 != f.SHA256:
		d.why = wrongDigest(d.content, f.SHA256)
	}
	return d, err
}

func sizeFault(f rbee.ModelFile) *rbee.Error {
	info, err := os.Stat(f.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return rbee.Errorf(rbee.CodeModelNotFound, "the file %s is gone", f.Path)
	case err == nil && info.Mode().IsRegular() && info.Size() != f.SizeBytes:
		return rbee.Errorf(rbee.CodeChecksumMismatch, "the file %s has %d bytes and should have %d", f.Path, info.Size(), f.SizeBytes)
	}
	return nil // whatever else is wrong, the reading tells
}

func wrongDigest(c content, want string) *rbee.Error {
	return rbee.Errorf(rbee.CodeChecksumMismatch, "the digest of %s is %s and should be %s", c.path, c.sha256, want)
}

// holds says whether what was found is still so.
func (d finding) holds() bool {
	if d.info != nil {
		return d.isAt(d.path)
	}
	return d.unreadable || sizeFault(d.file) != nil
}

// condemn sets the damaged files of a model aside, if they are the store's, then
// takes its rows out of the catalog. In this order, since a row whose file is gone
// is not served and is repaired, but a damaged file might be taken up again.
func (s *Store) condemn(ctx context.Context, m rbee.Model, damaged []finding, progress *meter) (err error) {
	release, err := s.files.alone(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	rows, err := s.cfg.Catalog.ByPath(ctx, m.LocalPath)
	if err != nil {
		return err
	}
	why := *damaged[0].why
	damaged = slices.DeleteFunc(damaged, func(d finding) bool { return !d.holds() })
	if len(damaged) == 0 {
		return endAll(rows, progress, rbee.StoreProgress{Stage: rbee.StoreSkipped, Error: changed(m.LocalPath)})
	}
	for i, d := range damaged {
		kept, err := s.setAside(d.file)
		if err != nil {
			return err
		}
		said := d.why.Message
		if kept != "" {
			said += "; it is kept as " + kept
		}
		if i == 0 {
			why = *d.why
			why.Message = said
		} else {
			why.Message += "; " + said
		}
	}
	for _, row := range rows {
		if err := s.strike(ctx, row); err != nil {
			return err
		}
	}
	if s.files.Owns(m.LocalPath) {
		if err := ignoreGone(os.Remove(notePath(m.LocalPath))); err != nil {
			return sqlite.Explain("remove "+notePath(m.LocalPath), err)
		}
	}
	for _, row := range rows {
		ref := row.Ref()
		progress.end(rbee.StoreProgress{Stage: rbee.StoreDamaged, ModelRef: &ref, Error: s.again(row, why)})
	}
	return nil
}

func changed(path string) *rbee.Error {
	return rbee.Errorf(rbee.CodeConflict, "%s changed while it was read", path).Suggest("try again when nothing writes to it")
}

// again says how to get a model again.
func (s *Store) again(m rbee.Model, e rbee.Error) *rbee.Error {
	switch {
	case m.Provider == rbee.ProviderHF:
		return e.Suggest("get it again with 'rbee models pull %s'", m.Ref())
	case m.Provider == rbee.ProviderBuiltin:
		return e.Suggest("nothing: it is written again when it is used next")
	case s.files.Owns(m.LocalPath):
		return e.Suggest("bring an intact copy in with 'rbee models import %s'", m.Reference)
	}
	return e.Suggest("put an intact copy in its place; then 'rbee models pull %s'", m.Ref())
}

// setAside moves a damaged file of the store to quarantine and returns where it
// is then; "" for a file that is not the store's or is gone. The caller is alone.
func (s *Store) setAside(f rbee.ModelFile) (kept string, err error) {
	if !s.files.Owns(f.Path) {
		return "", nil
	}
	name := cmp.Or(f.SHA256, strings.TrimSuffix(filepath.Base(f.Path), ".gguf"))
	kept = filepath.Join(s.files.Quarantine(), name+"-"+time.Now().UTC().Format("20060102T150405.000000000Z")+".gguf")
	err = s.files.adopt(Move{From: f.Path, To: kept})
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return kept, err
}

// quarantine sets a file that has no row aside, because of its digest, and says
// so as an error.
func (s *Store) quarantine(ctx context.Context, c content, want string) (err error) {
	release, err := s.files.alone(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if !c.isAt(c.path) {
		return changed(c.path)
	}
	kept, err := s.setAside(rbee.ModelFile{Path: c.path, SHA256: want})
	if err != nil {
		return err
	}
	e := rbee.Errorf(rbee.CodeChecksumMismatch, "the digest of %s is %s and is not what it was", c.path, c.sha256)
	if want != "" {
		e = wrongDigest(c, want)
	}
	e.Message += "; it is kept as " + kept
	return e
}

// record notes digests that were not known.
func (s *Store) record(ctx context.Context, m rbee.Model, digests []string) (err error) {
	if !slices.ContainsFunc(m.Files(), func(f rbee.ModelFile) bool { return f.SHA256 == "" }) {
		return nil
	}
	release, err := s.files.writing()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	rows, err := s.cfg.Catalog.ByPath(ctx, m.LocalPath)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if row.SizeBytes != m.SizeBytes {
			continue // of another file, since
		}
		if row, err = withDigests(row, digests); err == nil {
			err = s.catalogue(ctx, row)
		}
		if err != nil && rbee.CodeOf(err) != rbee.CodeConflict {
			return err
		}
	}
	return nil
}
