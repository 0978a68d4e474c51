package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"rbee"
	"rbee/hive/catalog"
	"rbee/internal/sqlite"
)

// Open is the store of a state directory: the database at path, the files in
// cfg.Dir. A database that was not there, or was damaged, is made from the
// files, which goes on in the background: to read their digests takes as long
// as the disk does. A program that ends before it is done leaves it to the next
// start. The caller closes what Open returns.
func Open(ctx context.Context, path string, cfg Config) (*Store, io.Closer, error) {
	db, fresh, err := catalog.Open(ctx, path, cfg.Log)
	if err != nil {
		return nil, nil, err
	}
	cfg.Catalog = db
	s, err := NewStore(cfg)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	end := &opened{db: db, jobs: s.jobs, cancel: func() {}}
	if fresh {
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		end.cancel, s.rebuild = cancel, &rebuild{done: make(chan struct{})}
		end.work.Go(func() { s.rebuild.run(ctx, s, db) })
	}
	cfg.Log.InfoContext(ctx, "Model catalog initialized (SQLite, persistent)")
	return s, end, nil
}

// opened is what the caller of Open has to close.
type opened struct {
	db     *catalog.Database
	jobs   *jobs
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// Close ends the fetches and a rebuild, and closes the database.
func (o *opened) Close() error {
	o.cancel()
	o.jobs.close()
	o.work.Wait()
	return o.db.Close()
}

// rebuild fills an empty catalog.
type rebuild struct {
	done chan struct{} // closed by run
	err  error         // why rows may be missing; to be read when done
}

func (r *rebuild) run(ctx context.Context, s *Store, db *catalog.Database) {
	defer close(r.done)
	if r.err = s.fill(ctx); r.err == nil {
		r.err = db.Filled()
	}
	if r.err != nil && ctx.Err() == nil {
		s.cfg.Log.ErrorContext(ctx, "the model catalog could not be made anew; the next start tries again", "err", r.err)
	}
}

// settled waits until the catalog has the rows that it can have. What is not in
// it before may still turn up.
func (s *Store) settled(ctx context.Context) error {
	if s.rebuild == nil {
		return nil
	}
	select {
	case <-s.rebuild.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// complete waits until the catalog has all rows, and fails if it does not get
// them: then nobody may take a file without a row for spare.
func (s *Store) complete(ctx context.Context) error {
	if err := s.settled(ctx); err != nil {
		return err
	}
	if s.rebuild != nil && s.rebuild.err != nil {
		return rbee.Errorf(rbee.CodeConflict, "cannot tell which files are spare: the model catalog could not be made anew from %s", s.cfg.Dir).
			WithCause(s.rebuild.err).Suggest("see the log of the hive for the cause; then start it again")
	}
	return nil
}

// fill puts a row into the catalog for each reference to each model in the
// store's directory, once its digest was compared. What is there and is no model
// is left alone, and said.
func (s *Store) fill(ctx context.Context) error {
	found := 0
	var unread error
	err := s.files.walk(func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // removed at this moment
		case err != nil:
			return sqlite.Explain("scan "+s.cfg.Dir, err)
		case e.IsDir() && (path == s.files.Partial() || path == s.files.Quarantine()):
			return fs.SkipDir
		case !e.Type().IsRegular() || filepath.Ext(path) != ".gguf" || strings.HasPrefix(e.Name(), tempPrefix):
			return nil
		}
		if part, _ := partOf(path); part > 1 {
			return nil // the first one stands for all
		}
		n, err := s.restore(ctx, path)
		found += n
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var refused *rbee.Error
		if errors.As(err, &refused) {
			s.cfg.Log.WarnContext(ctx, "a file in the model directory is left alone", "path", path, "err", err)
			return nil
		}
		unread = errors.Join(unread, err)
		return nil
	})
	if found > 0 {
		s.cfg.Log.InfoContext(ctx, "the model catalog was made anew from the model files", "models", found)
	}
	return errors.Join(err, unread)
}

// restore catalogues a model file and counts the rows. An *rbee.Error says that
// it is no model that could be served; any other, that nobody knows.
func (s *Store) restore(ctx context.Context, path string) (n int, err error) {
	noted, err := readNote(path)
	if err != nil {
		s.cfg.Log.WarnContext(ctx, "the note beside a model file cannot be read", "path", notePath(path), "err", err)
	}
	digests, err := s.check(ctx, path, noted)
	if err != nil {
		return 0, err
	}
	header, err := s.cfg.Inspect(path)
	if err != nil {
		return 0, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	header.LocalPath, header.DownloadedAt = path, info.ModTime().UTC()
	if header, err = withDigests(header, digests); err != nil {
		return 0, err
	}
	release, err := s.files.writing()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, release()) }()
	for _, m := range s.rowsOf(header, noted) {
		have, err := s.cfg.Catalog.Model(ctx, m.Ref())
		switch {
		case err == nil && !have.DownloadedAt.Before(m.DownloadedAt):
			continue // a newer file of the same reference, or written since the start
		case err != nil && !errors.Is(err, catalog.ErrNoRow):
			return n, err
		}
		if why := fault(m); why != "" {
			return n, rbee.Errorf(rbee.CodeConflict, "%s changed while it was read: %s", path, why)
		}
		if err := s.cfg.Catalog.Put(ctx, m); err != nil {
			return n, err
		}
		s.cfg.Changed(rbee.EventModel, m)
		n++
	}
	return n, nil
}

// rowsOf makes the rows of a model out of its header and its note.
func (s *Store) rowsOf(header rbee.Model, noted []rbee.Model) []rbee.Model {
	var rows []rbee.Model
	for _, n := range noted {
		if n.Provider == "" || n.Reference == "" || n.SizeBytes != header.SizeBytes {
			continue // of another file
		}
		m := header
		m.Provider, m.Reference, m.Revision, m.ETag = n.Provider, n.Reference, n.Revision, n.ETag
		m.Name, m.FileName = n.Name, n.FileName
		m.DownloadedAt, m.LastUsed, m.UseCount = n.DownloadedAt, n.LastUsed, n.UseCount
		rows = append(rows, m)
	}
	if rows == nil {
		header.Provider, header.Reference = rbee.ProviderFile, header.LocalPath
		if name, ok := strings.CutPrefix(header.LocalPath, filepath.Join(s.cfg.Dir, "builtin")+string(filepath.Separator)); ok {
			header.Provider, header.Reference = rbee.ProviderBuiltin, strings.TrimSuffix(name, ".gguf")
		}
		rows = []rbee.Model{header}
	}
	return rows
}

// check compares the digests of the files of a model with what their place in
// the store, or the note, says. It returns them; "" where nothing says one. Files
// that are damaged go to quarantine; all parts do, where nobody knows which it is.
func (s *Store) check(ctx context.Context, path string, noted []rbee.Model) (digests []string, err error) {
	paths := partsOf(path)
	named := s.files.named(path, len(paths) > 1)
	digests = make([]string, len(paths))
	var all []content
	var unread, damage error
	for i, p := range paths {
		want := noteOf(noted, i, len(paths), p)
		if len(paths) == 1 && named != "" {
			want = named
		}
		if want == "" && named == "" {
			continue
		}
		c, err := read(ctx, p, io.Discard)
		switch {
		case err != nil:
			unread = errors.Join(unread, err)
		case want != "" && c.sha256 != want:
			damage = errors.Join(damage, s.quarantine(ctx, c, want))
		default:
			digests[i], all = c.sha256, append(all, c)
		}
	}
	if err := errors.Join(damage, unread); err != nil {
		return nil, err
	}
	if len(paths) > 1 && named != "" && digestOfParts(digests) != named {
		for _, c := range all {
			damage = errors.Join(damage, s.quarantine(ctx, c, ""))
		}
	}
	return digests, damage
}

// noteOf is the digest of a part of a model in its note, "" if that tells none
// or is of another file.
func noteOf(noted []rbee.Model, part, parts int, path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	for _, n := range noted {
		if files := n.Files(); len(files) == parts && files[part].SizeBytes == info.Size() && files[part].SHA256 != "" {
			return files[part].SHA256
		}
	}
	return ""
}

// withDigests sets the digests of the files of a model, as many as it has.
func withDigests(m rbee.Model, digests []string) (rbee.Model, error) {
	files := slices.Clone(m.Files())
	if len(files) != len(digests) {
		return m, rbee.Errorf(rbee.CodeInvalidRequest, "%s is a model of %d files, and its name says %d", m.LocalPath, len(files), len(digests))
	}
	for i, d := range digests {
		files[i].SHA256 = d
	}
	if len(m.Parts) > 0 {
		m.Parts = files
	} else {
		m.SHA256 = digests[0]
	}
	return m, nil
}

// named is the digest that the place of a model in the store says, "" for one
// that lies elsewhere.
func (f Files) named(path string, split bool) string {
	name := strings.TrimSuffix(path, ".gguf")
	if split {
		name = filepath.Dir(path)
	}
	digest := filepath.Base(name)
	if !isDigest(digest) || filepath.Dir(name) != filepath.Join(f.dir, "sha256") {
		return ""
	}
	return digest
}

// isDigest says whether s is a SHA-256 as the store writes it.
func isDigest(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size && s == strings.ToLower(s)
}

// splitName is how the parts of a split model are named.
var splitName = regexp.MustCompile(`^(.*)-(\d{5})-of-(\d{5})\.gguf$`)

// partOf says which part of how many a file is by its name; 1 of 1 if it is whole.
func partOf(path string) (part, parts int) {
	m := splitName.FindStringSubmatch(filepath.Base(path))
	if m == nil {
		return 1, 1
	}
	part, _ = strconv.Atoi(m[2]) // five digits
	parts, _ = strconv.Atoi(m[3])
	return part, parts
}

// partsOf lists the files of the model whose first part is at path.
func partsOf(path string) []string {
	m := splitName.FindStringSubmatch(filepath.Base(path))
	if m == nil {
		return []string{path}
	}
	_, n := partOf(path)
	if n < 1 {
		return []string{path}
	}
	parts := make([]string, n)
	for i := range parts {
		parts[i] = filepath.Join(filepath.Dir(path), fmt.Sprintf("%s-%05d-of-%05d.gguf", m[1], i+1, n))
	}
	return parts
}
