package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"rbee"
	"rbee/internal/download"
	"rbee/internal/sqlite"
)

// Usage says what the models take on the disk, and which files no model needs.
func (s *Store) Usage(ctx context.Context) (u rbee.Usage, err error) {
	if err := s.complete(ctx); err != nil {
		return rbee.Usage{}, err
	}
	release, err := s.files.alone(ctx)
	if err != nil {
		return rbee.Usage{}, err
	}
	defer func() { err = errors.Join(err, release()) }()
	v, err := s.takeInventory(ctx)
	if err != nil {
		return rbee.Usage{}, err
	}
	u = rbee.Usage{
		Directory: s.cfg.Dir, Files: v.used, Spare: v.spare,
		StoreBytes: v.storeBytes(), QuotaBytes: s.cfg.QuotaBytes, FreeBytes: s.files.free(),
	}
	for _, f := range v.spare {
		u.SpareBytes += f.SizeBytes
	}
	for _, f := range v.used {
		if !f.InStore {
			u.OutsideBytes += f.SizeBytes
		}
	}
	return u, nil
}

// GC removes the files that no model needs, then models that the quota has no
// room for, those first that were not used for longest: never a builtin one, nor
// one that is in use, nor a file outside the store. With DryRun it only says
// which. It waits until nobody writes to the store; CONFLICT if that does not end.
func (s *Store) GC(ctx context.Context, req rbee.GCRequest) (reply rbee.GCReply, err error) {
	if err := s.complete(ctx); err != nil {
		return rbee.GCReply{}, err
	}
	release, err := s.files.alone(ctx)
	if err != nil {
		return rbee.GCReply{}, err
	}
	defer func() { err = errors.Join(err, release()) }()
	v, err := s.takeInventory(ctx)
	if err != nil {
		return rbee.GCReply{}, err
	}
	reply = rbee.GCReply{DryRun: req.DryRun, Removed: []rbee.SpareFile{}, StoreBytes: v.storeBytes(), QuotaBytes: s.cfg.QuotaBytes}
	for _, f := range v.spare {
		gone := req.DryRun
		if !gone {
			if gone, err = s.removeSpare(f); err != nil {
				return reply, err
			}
		}
		if gone {
			reply.Removed = append(reply.Removed, f)
			reply.FreedBytes += f.SizeBytes
		}
	}
	bounded := s.cfg.QuotaBytes > 0
	if req.MaxBytes != nil {
		bounded, reply.QuotaBytes = true, *req.MaxBytes
	}
	if !bounded {
		return reply, nil
	}
	var victims []shared
	victims, reply.Kept = s.choose(v, v.storeBytes()-reply.QuotaBytes, rbee.ModelRef{})
	for _, m := range victims {
		if !req.DryRun {
			if err := s.evict(ctx, m); err != nil {
				return reply, err
			}
		}
		reply.Removed = append(reply.Removed, m.evicted()...)
		reply.FreedBytes += m.bytes
		reply.StoreBytes -= m.bytes
	}
	return reply, nil
}

// MakeRoom evicts models, those first that were not used for longest, until need
// more bytes fit the quota, and says which. It fails with INSUFFICIENT_DISK, and
// evicts none, if that is not enough. It never evicts the model except. The
// caller must not hold writing.
func (s *Store) MakeRoom(ctx context.Context, need int64, except rbee.ModelRef) (evicted []rbee.SpareFile, err error) {
	if s.cfg.QuotaBytes <= 0 {
		return nil, nil
	}
	if err := s.complete(ctx); err != nil {
		return nil, err
	}
	release, err := s.files.alone(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	rows, err := s.cfg.Catalog.Models(ctx)
	if err != nil {
		return nil, err
	}
	v := s.sort(rows)
	excess := v.storeBytes() + need - s.cfg.QuotaBytes
	victims, _ := s.choose(v, excess, except)
	var freed int64
	for _, m := range victims {
		freed += m.bytes
	}
	if freed < excess {
		return nil, s.noRoom(need, need-(excess-freed))
	}
	for _, m := range victims {
		if err := s.evict(ctx, m); err != nil {
			return evicted, err
		}
		evicted = append(evicted, m.evicted()...)
	}
	return evicted, nil
}

func (s *Store) noRoom(need, available int64) error {
	available = max(0, available)
	return rbee.Errorf(rbee.CodeInsufficientDisk, "the quota of %d MB leaves %d MB in %s and %d MB are needed; the models that are left there are in use or builtin",
		s.cfg.QuotaBytes/1e6, available/1e6, s.cfg.Dir, need/1e6).
		With("required", need/1e6).With("available", available/1e6).
		Suggest("raise the quota in config.yaml, or choose a smaller quantisation")
}

// choose picks the models that have to go for excess bytes, and says why others
// that would have to go may not.
func (s *Store) choose(v inventory, excess int64, except rbee.ModelRef) (victims []shared, kept []rbee.Kept) {
	for _, m := range v.stored {
		if excess <= 0 {
			break
		}
		if ref, why := s.protected(m, except); why != "" {
			kept = append(kept, rbee.Kept{ModelRef: ref, Reason: why})
			continue
		}
		victims = append(victims, m)
		excess -= m.bytes
	}
	return victims, kept
}

// protected says why a model must not go, and for which of its references; ""
// if it may.
func (s *Store) protected(m shared, except rbee.ModelRef) (ref rbee.ModelRef, why string) {
	for _, row := range m.rows {
		switch why := s.cfg.InUse(row); {
		case row.Provider == rbee.ProviderBuiltin:
			return row.Ref(), "it ships in the program"
		case row.Ref() == except:
			return row.Ref(), "it is being fetched"
		case why != "":
			return row.Ref(), why
		}
	}
	return rbee.ModelRef{}, ""
}

// evicted names what goes with a model: a file for each reference, its size once.
func (m shared) evicted() []rbee.SpareFile {
	files := make([]rbee.SpareFile, len(m.rows))
	for i, row := range m.rows {
		ref := row.Ref()
		files[i] = rbee.SpareFile{Path: row.LocalPath, Kind: rbee.SpareEvicted, ModelRef: &ref, LastUsed: row.LastUsed}
	}
	files[0].SizeBytes = m.bytes
	return files
}

// evict removes the rows of a model, then its files. The caller is alone.
func (s *Store) evict(ctx context.Context, m shared) error {
	for _, row := range m.rows {
		if err := s.strike(ctx, row); err != nil {
			return err
		}
	}
	return s.drop(m.rows[0])
}

// removeSpare removes a spare file, unless somebody took it up meanwhile.
func (s *Store) removeSpare(f rbee.SpareFile) (gone bool, err error) {
	if f.Kind == rbee.SparePartial {
		return s.removePartial(f)
	}
	if err := ignoreGone(os.Remove(f.Path)); err != nil {
		return false, sqlite.Explain("remove "+f.Path, err)
	}
	if dir := filepath.Dir(f.Path); dir != s.files.dir && dir != s.files.Partial() {
		_ = os.Remove(dir) // which fails if anything else is in it
	}
	return true, nil
}

func (s *Store) removePartial(f rbee.SpareFile) (gone bool, err error) {
	now, cancel := context.WithCancel(context.Background())
	cancel() // nobody waits for a download that has begun again
	part, err := download.Open(now, s.files.Partial(), strings.TrimSuffix(filepath.Base(f.Path), ".part"), func(download.Progress) {})
	if errors.Is(err, context.Canceled) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, errors.Join(part.Discard(), part.Close())
}
