package provision

import (
	"context"
	"crypto/sha1" //nolint:gosec // git's name of a file, not a proof of who made it
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"rbee"
	"rbee/hive/store"
	"rbee/internal/download"
	"rbee/internal/hub"
)

// plan is where the files of a model come to lie. Their places follow from their
// digests, which are not all known before they are here.
type plan struct {
	at      store.Files
	files   []hub.File
	keys    []string // of the parts of the downloads
	digests []string // "" as long as it is not known
	parts   []*download.Part
}

func (p *Provider) plan(repo hub.Repository, v variant) *plan {
	pl := &plan{at: p.cfg.Files, files: v.files, parts: make([]*download.Part, len(v.files))}
	for _, file := range v.files {
		pl.keys = append(pl.keys, keyOf(repo, file))
		pl.digests = append(pl.digests, file.SHA256)
	}
	return pl
}

// hasTwins says whether two files are the same. No model has such parts, and the
// part of one download cannot serve both.
func (p *plan) hasTwins() bool {
	seen := map[string]bool{}
	for _, key := range p.keys {
		seen[key] = true
	}
	return len(seen) < len(p.keys)
}

// to is the place of file i, "" if it is not known yet.
func (p *plan) to(i int) string {
	for _, d := range p.digests {
		if d == "" {
			return ""
		}
	}
	if len(p.files) == 1 {
		return p.at.Single(p.digests[0])
	}
	return p.at.Part(p.digests, i)
}

// now is where file i is at this moment.
func (p *plan) now(i int) string {
	if p.parts[i] != nil {
		return p.parts[i].Path()
	}
	return p.to(i)
}

// moves are those of the files that were downloaded.
func (p *plan) moves() (moves []store.Move) {
	for i, part := range p.parts {
		if part != nil {
			moves = append(moves, store.Move{From: part.Path(), To: p.to(i)})
		}
	}
	return moves
}

// missing is how many bytes are not in the store yet, and how many of them have
// their space on the disk already.
func (p *plan) missing() (need, reserved int64) {
	for i, f := range p.files {
		if to := p.to(i); to != "" && there(to, f.SizeBytes) {
			continue
		}
		need += f.SizeBytes
		if there(filepath.Join(p.at.Partial(), p.keys[i]+".part"), f.SizeBytes) {
			reserved += f.SizeBytes
		}
	}
	return need, reserved
}

// before is how many bytes the files before file i have.
func (p *plan) before(i int) (n int64) {
	for _, f := range p.files[:i] {
		n += f.SizeBytes
	}
	return n
}

// file makes sure that file i is here: in the store, shared with the cache of
// the hub's own programs, or downloaded.
func (f *fetch) file(ctx context.Context, repo hub.Repository, p *plan, i int) error {
	if have, err := f.have(ctx, repo, p, i); have || err != nil {
		return err
	}
	file, before := p.files[i], p.before(i)
	part, err := download.Open(ctx, f.cfg.Files.Partial(), p.keys[i], func(g download.Progress) { f.progress(before, g) })
	if err != nil {
		return err
	}
	f.parts = append(f.parts, part)
	// Another program may have brought it while we waited for the part.
	if have, err := f.stored(ctx, p, i); have || err != nil {
		return err
	}
	digest, err := part.Fetch(ctx, download.Request{
		Source: f.cfg.Hub.Source(repo.ID, repo.Revision, file), SizeBytes: file.SizeBytes, SHA256: file.SHA256,
		Stamp: stampOf(repo, file), Connections: f.cfg.Connections, Stall: f.cfg.Stall,
		Limits: []*download.Limit{f.cfg.Limit, download.NewLimit(download.Always(f.terms.PerSecond))},
		Report: func(g download.Progress) { f.progress(before, g) },
	})
	if rbee.CodeOf(err) == rbee.CodeChecksumMismatch && f.listedAnew(ctx, file) {
		return download.ErrChanged
	}
	if err != nil {
		return f.explain(err)
	}
	if file.SHA256 == "" && file.BlobID != "" {
		if err := f.checkBlob(part, file); err != nil {
			return err
		}
	}
	p.digests[i], p.parts[i] = digest, part
	return nil
}

// listedAnew says whether the hub tells another digest of a file by now. Then
// some of what arrived is of another file than the rest, and none is damaged.
func (f *fetch) listedAnew(ctx context.Context, file hub.File) bool {
	ref, _ := f.terms.Ref.Hub()
	now, err := f.cfg.Hub.Repository(ctx, ref.Repository, ref.Revision)
	return err == nil && slices.ContainsFunc(now.Files, func(n hub.File) bool { return n.Path == file.Path && n.SHA256 != file.SHA256 })
}

// have says whether a file need not be downloaded.
func (f *fetch) have(ctx context.Context, repo hub.Repository, p *plan, i int) (bool, error) {
	if have, err := f.stored(ctx, p, i); have || err != nil {
		return have, err
	}
	to, file := p.to(i), p.files[i]
	if to == "" {
		return false, nil
	}
	cached, ok := f.cfg.Hub.Cached(repo.ID, file)
	if !ok {
		return false, nil
	}
	f.state.Stage = rbee.DownloadVerifying
	f.say("found in the hub's own cache; its digest is compared")
	shared, err := f.cfg.Files.Borrow(ctx, cached, file.SHA256, to)
	if !shared && err == nil {
		f.say("what the hub's own cache has cannot be shared; the file is downloaded")
	}
	return shared, err
}

// stored says whether the store has a file. One that no row has was left by a
// program that was killed, maybe because it is damaged, and is read first.
func (f *fetch) stored(ctx context.Context, p *plan, i int) (bool, error) {
	to := p.to(i)
	if to == "" || !there(to, p.files[i].SizeBytes) {
		return false, nil
	}
	if known, err := f.cfg.Catalogued(ctx, p.to(0)); known || err != nil {
		return known, err
	}
	f.state.Stage = rbee.DownloadVerifying
	f.say("found in the store, where no model has it; its digest is compared")
	return f.cfg.Files.TakeUp(ctx, to, p.digests[i])
}

// progress tells how far a file is as progress of the model.
func (f *fetch) progress(before int64, g download.Progress) {
	s := &f.state
	s.Stage = rbee.DownloadDownloading
	if g.Verifying && before+g.Total == s.BytesTotal {
		s.Stage = rbee.DownloadVerifying
	}
	s.BytesDownloaded, s.Connections, s.SpeedMBps, s.ETASeconds = before+g.Done, g.Connections, g.PerSecond/1e6, 0
	if g.PerSecond > 0 {
		s.ETASeconds = float64(s.BytesTotal-s.BytesDownloaded) / g.PerSecond
	}
	if g.Note != "" {
		s.Note = g.Note
	}
	f.report()
}

// explain names the model that a failure of the download is about.
func (f *fetch) explain(err error) error {
	e := (*rbee.Error)(nil)
	if errors.Is(err, download.ErrChanged) || !errors.As(err, &e) || e.Code != rbee.CodeDownloadFailed && e.Code != rbee.CodeChecksumMismatch {
		return err
	}
	named := *e
	named.Message = fmt.Sprintf("%s: %s", f.terms.Ref, e.Message)
	return &named
}

// checkBlob compares a small file, of which the hub knows no SHA-256, with git's
// id of it: the SHA-1 of "blob SIZE\0" and the content.
func (f *fetch) checkBlob(part *download.Part, file hub.File) error {
	in, err := os.Open(part.Path())
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", part.Path(), err)
	}
	defer in.Close() //nolint:errcheck // nothing was written
	h := sha1.New()  //nolint:gosec // as above
	_, _ = fmt.Fprintf(h, "blob %d\x00", file.SizeBytes)
	if _, err := io.Copy(h, in); err != nil {
		return fmt.Errorf("cannot read %s: %w", part.Path(), err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != file.BlobID {
		return errors.Join(rbee.Errorf(rbee.CodeChecksumMismatch, "%s: git's id of %s is %s and should be %s", f.terms.Ref, file.Path, got, file.BlobID).
			Suggest("try again; if it stays, something between the hub and this machine changes the file"), part.Discard())
	}
	return nil
}

// keyOf names the part of a file: by its digest, so that one download serves all
// who have the same bytes, else by where it is from.
func keyOf(repo hub.Repository, file hub.File) string {
	if file.SHA256 != "" {
		return file.SHA256
	}
	sum := sha256.Sum256([]byte(repo.ID + "\x00" + file.Path))
	return hex.EncodeToString(sum[:])
}

// stampOf names the content of a file.
func stampOf(repo hub.Repository, file hub.File) string {
	switch {
	case file.SHA256 != "":
		return file.SHA256
	case file.BlobID != "":
		return file.BlobID
	}
	return repo.Revision
}
