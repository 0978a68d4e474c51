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
	"time"

	"rbee"
	"rbee/internal/download"
	"rbee/internal/sqlite"
)

// shared is a model on disk and the rows that have it.
type shared struct {
	rows  []rbee.Model
	bytes int64 // in the store
}

// lastUsed is the latest use of any row; a model that was not used yet counts
// from the moment when it came.
func (m shared) lastUsed() time.Time {
	var last time.Time
	for _, row := range m.rows {
		for _, t := range []time.Time{row.LastUsed, row.DownloadedAt} {
			if t.After(last) {
				last = t
			}
		}
	}
	return last
}

// inventory is what the rows of the catalog have, and what else is in the
// directory. It holds as long as its maker is alone.
type inventory struct {
	used   []rbee.UsedFile // each file once
	stored []shared        // models in the store, least recently used first
	spare  []rbee.SpareFile
}

// storeBytes is the size of the files of models in the store.
func (v inventory) storeBytes() (sum int64) {
	for _, m := range v.stored {
		sum += m.bytes
	}
	return sum
}

// takeInventory compares the catalog with the directory. The caller is alone.
func (s *Store) takeInventory(ctx context.Context) (inventory, error) {
	rows, err := s.cfg.Catalog.Models(ctx)
	if err != nil {
		return inventory{}, err
	}
	v := s.sort(rows)
	needed := map[string]bool{
		filepath.Join(s.files.dir, lockName): true, filepath.Join(s.files.dir, noteLockName): true,
	}
	for _, u := range v.used {
		for path := u.Path; s.files.Owns(path) && path != s.files.dir; path = filepath.Dir(path) {
			needed[path] = true // with the directories above, which may be links
		}
	}
	for _, m := range v.stored {
		needed[notePath(m.rows[0].LocalPath)] = true
	}
	if v.spare, err = s.spare(needed); err != nil {
		return inventory{}, err
	}
	return v, nil
}

// sort sorts the rows by the files that they have.
func (s *Store) sort(rows []rbee.Model) inventory {
	v := inventory{used: []rbee.UsedFile{}}
	file, model := map[string]int{}, map[string]int{}
	for _, row := range rows {
		var bytes int64
		for _, f := range row.Files() {
			i, ok := file[f.Path]
			if !ok {
				i = len(v.used)
				file[f.Path] = i
				v.used = append(v.used, rbee.UsedFile{ModelFile: f, InStore: s.files.Owns(f.Path)})
				if v.used[i].InStore {
					bytes += f.SizeBytes
				}
			}
			v.used[i].Models = append(v.used[i].Models, row.Ref())
		}
		if !s.files.Owns(row.LocalPath) {
			continue
		}
		i, ok := model[row.LocalPath]
		if !ok {
			i = len(v.stored)
			model[row.LocalPath] = i
			v.stored = append(v.stored, shared{})
		}
		v.stored[i].rows = append(v.stored[i].rows, row)
		v.stored[i].bytes += bytes
	}
	slices.SortStableFunc(v.stored, func(a, b shared) int { return a.lastUsed().Compare(b.lastUsed()) })
	slices.SortStableFunc(v.used, func(a, b rbee.UsedFile) int { return cmp.Compare(b.SizeBytes, a.SizeBytes) })
	return v
}

// spare lists what is in the directory and not needed.
func (s *Store) spare(needed map[string]bool) ([]rbee.SpareFile, error) {
	spare, err := s.partials()
	if err != nil {
		return nil, err
	}
	err = s.files.walk(func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // a download that ended at this moment
		case err != nil:
			return sqlite.Explain("scan "+s.cfg.Dir, err)
		case e.IsDir() || needed[path] || s.isPartial(path):
			return nil
		}
		f := rbee.SpareFile{Path: path, Kind: rbee.SpareOrphan}
		switch {
		case filepath.Dir(path) == s.files.Quarantine():
			f.Kind = rbee.SpareQuarantine
		case strings.HasPrefix(e.Name(), tempPrefix):
			if held(path) {
				return nil
			}
			f.Kind = rbee.SpareTemporary
		}
		if info, err := e.Info(); err == nil {
			f.SizeBytes = info.Size()
		}
		spare = append(spare, f)
		return nil
	})
	return spare, err
}

// isPartial says whether a file is of a download, spare or not.
func (s *Store) isPartial(path string) bool {
	return filepath.Dir(path) == s.files.Partial() && download.IsOfPart(filepath.Base(path))
}

// partials lists the downloads that were broken off.
func (s *Store) partials() ([]rbee.SpareFile, error) {
	left, err := download.Abandoned(s.files.Partial())
	if err != nil {
		return nil, sqlite.Explain("scan "+s.files.Partial(), err)
	}
	spare := make([]rbee.SpareFile, 0, len(left))
	for _, path := range left {
		f := rbee.SpareFile{Path: path, Kind: rbee.SparePartial}
		if info, err := os.Stat(path); err == nil {
			f.SizeBytes = info.Size() // which is taken from the start
		}
		spare = append(spare, f)
	}
	slices.SortFunc(spare, func(a, b rbee.SpareFile) int { return cmp.Compare(a.Path, b.Path) })
	return spare, nil
}
