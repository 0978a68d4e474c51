package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/shirou/gopsutil/v4/disk"

	"rbee"
	"rbee/internal/sqlite"
)

// notePath is where the rows of a file in the store are written down beside
// it, so that the catalog can be made anew from the directory alone.
func notePath(file string) string { return file + ".json" }

// note writes the rows of a file that the store owns beside it.
func (s *Store) note(ctx context.Context, path string) error {
	if !s.owns(path) {
		return nil
	}
	rows, err := s.sharing(ctx, path)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	return place(s.cfg.Dir, notePath(path), func(f *os.File) error {
		_, err := f.Write(append(b, '\n'))
		return err
	})
}

// Rebuild puts a row into the catalog for each reference to each model file in
// the store's directory. What is there and is no model is left alone, and said.
func (s *Store) Rebuild(ctx context.Context) error {
	found := 0
	err := filepath.WalkDir(s.cfg.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return sqlite.Explain("scan "+s.cfg.Dir, err)
		}
		if !e.Type().IsRegular() || filepath.Ext(path) != ".gguf" || strings.HasPrefix(e.Name(), tempPrefix) {
			return nil
		}
		rows, err := s.rowsOf(path)
		if err != nil {
			s.cfg.Log.WarnContext(ctx, "a file in the model directory is left alone", "path", path, "err", err)
			return nil
		}
		for _, m := range rows {
			if err := s.cfg.Catalog.Put(ctx, m); err != nil {
				return err
			}
			found++
		}
		return ctx.Err()
	})
	if err == nil && found > 0 {
		s.cfg.Log.InfoContext(ctx, "the model catalog was made anew from the model files", "models", found)
	}
	return err
}

// rowsOf makes the rows of a model file from its header and the note beside it.
func (s *Store) rowsOf(path string) ([]rbee.Model, error) {
	header, err := s.cfg.Inspect(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	header.LocalPath, header.DownloadedAt = path, info.ModTime().UTC()
	var noted []rbee.Model
	b, err := os.ReadFile(notePath(path))
	if err == nil {
		err = json.Unmarshal(b, &noted)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.cfg.Log.Warn("the note beside a model file cannot be read", "path", notePath(path), "err", err)
	}
	var rows []rbee.Model
	for _, n := range noted {
		if n.Provider == "" || n.Reference == "" || n.SizeBytes != header.SizeBytes {
			continue // of another file
		}
		m := header
		m.Provider, m.Reference, m.SHA256, m.Revision, m.ETag = n.Provider, n.Reference, n.SHA256, n.Revision, n.ETag
		m.DownloadedAt, m.LastUsed, m.UseCount = n.DownloadedAt, n.LastUsed, n.UseCount
		rows = append(rows, m)
	}
	if rows == nil {
		header.Provider, header.Reference = rbee.ProviderFile, path
		if name, ok := strings.CutPrefix(path, filepath.Join(s.cfg.Dir, "builtin")+string(filepath.Separator)); ok {
			header.Provider, header.Reference = rbee.ProviderBuiltin, strings.TrimSuffix(name, ".gguf")
		}
		rows = []rbee.Model{header}
	}
	return rows, nil
}

// Open is the store of a state directory: the database at path, the files in
// cfg.Dir. A database that was not there, or was damaged, is made from the
// files; a start that is killed on the way leaves that to the next one. The caller closes the database that it returns.
func Open(ctx context.Context, path string, cfg Config) (s *Store, db *Database, err error) {
	release, err := alone(ctx, path) // until the rows are there, for nobody else to miss them
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	db, fresh, err := openDatabase(ctx, path, cfg.Log)
	if err != nil {
		return nil, nil, err
	}
	cfg.Catalog = db
	s, err = NewStore(cfg)
	if err == nil && fresh {
		err = s.Rebuild(ctx)
		if err == nil {
			err = unmark(path)
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	cfg.Log.InfoContext(ctx, "Model catalog initialized (SQLite, persistent)")
	return s, db, nil
}

// room refuses to begin a copy that the disk cannot hold.
func room(dir string, need int64) error {
	u, err := disk.Usage(dir)
	if err != nil || u.Free > uint64(max(need, 0)) {
		return nil //nolint:nilerr // without figures the copy itself will tell
	}
	return rbee.Errorf(rbee.CodeInsufficientDisk, "the disk of %s has %d MB free and %d MB are needed", dir, u.Free/1e6, need/1e6).
		With("required", need/1e6).With("available", int64(u.Free/1e6)).
		Suggest("free some space, or name the file as file:PATH to use it where it is")
}
