// Package download brings one file from a source to the disk: in parallel
// ranges, with their number fitted to what it brings; resumed after a dropped
// connection, a killed program or a power cut; its SHA-256 computed from the
// disk while the rest still arrives.
//
// It knows neither HTTP nor where the file goes: a source opens ranges, and the
// caller renames the finished part.
package download

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/shirou/gopsutil/v4/disk"

	"rbee"
)

// The numbers of a download.
const (
	MaxConnections = 8
	Attempts       = 6                      // in a row that bring nothing
	firstPause     = 100 * time.Millisecond // between two of them; doubled each time, with jitter
	maxPause       = 10 * time.Second
	Stall          = 60 * time.Second // silence of a connection that ends it

	bufferBytes  = 256 << 10 // of one connection
	liveBytes    = 4 << 20   // written at most until it is noted
	syncBytes    = 256 << 20 // written at most until it is synced,
	syncEvery    = 5 * time.Second
	minRange     = 4 << 20 // of one request
	maxRange     = 64 << 20
	reportEvery  = 200 * time.Millisecond
	adaptEvery   = time.Second
	smallFile    = 2 * minRange // below that one connection does
	reserveSlack = 64 << 20     // to be left on the disk
)

// Request says what to fetch.
type Request struct {
	Source      Source
	SizeBytes   int64
	SHA256      string        // lower-case hex; "" if the source does not tell
	Stamp       string        // names the content: a part with another stamp is of another file
	Connections int           // at most; 0 is MaxConnections
	Stall       time.Duration // silence of a connection that ends it; 0 is Stall
	Limits      []*Limit      // all hold
	Report      func(Progress)
}

// Progress says how far a download is.
type Progress struct {
	Done, Total int64 // bytes
	PerSecond   float64
	Connections int
	Verifying   bool   // all bytes are there
	Note        string // the last thing that happened
}

// Fetch fetches the file into the part and returns its SHA-256. It blocks until
// the part is whole, checked and synced. What it has by an error or the end of
// ctx stays for the next Fetch.
//
// It fails with the final error of the source, with ErrChanged, with
// DOWNLOAD_FAILED after Attempts in a row brought nothing, with
// CHECKSUM_MISMATCH, or with INSUFFICIENT_DISK.
func (p *Part) Fetch(ctx context.Context, r Request) (digest string, err error) {
	if r.Report == nil {
		r.Report = func(Progress) {}
	}
	note := ""
	if p.foreign(r) {
		note = "what had arrived is of an older version of the file; it is fetched anew"
		if err := p.Discard(); err != nil {
			return "", explain("replace "+p.Path(), err)
		}
	}
	for again := false; ; again = true {
		had := p.resume(r)
		if len(had) > 0 {
			note = fmt.Sprintf("resumed at %d %%", 100*had.total()/max(1, r.SizeBytes))
		}
		digest, err = p.fetch(ctx, r, had, note)
		if err != nil {
			return "", err
		}
		if r.SHA256 == "" || digest == r.SHA256 {
			return digest, nil
		}
		if err := p.Discard(); err != nil {
			return "", explain("remove "+p.Path(), err)
		}
		if len(had) == 0 || again {
			return "", rbee.Errorf(rbee.CodeChecksumMismatch, "the digest of what arrived is %s and should be %s", digest, r.SHA256).
				Suggest("try again; if it stays, the file is damaged at its source, or something on the way changes it")
		}
		note = "what had arrived earlier was damaged; it is fetched anew"
	}
}

// fetch makes the part whole, beginning with what it had.
func (p *Part) fetch(ctx context.Context, r Request, had spans, note string) (digest string, err error) {
	f, err := p.file(r, had)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	t := newTransfer(p, r, f, had, note)
	if err := t.journal(true); err != nil {
		return "", explain("write "+p.Path(), err)
	}
	return t.run(ctx)
}

// file opens the file of the part, with the space on the disk taken.
func (p *Part) file(r Request, had spans) (*os.File, error) {
	f, err := os.OpenFile(p.Path(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, explain("write "+p.Path(), err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() == r.SizeBytes && len(had) > 0 {
		return f, nil
	}
	if err == nil {
		err = Room(filepath.Dir(p.Path()), r.SizeBytes-info.Size())
	}
	if err == nil && info.Size() > r.SizeBytes {
		err = f.Truncate(r.SizeBytes)
	}
	if err == nil && r.SizeBytes > 0 {
		err = reserve(f, r.SizeBytes)
	}
	if err != nil {
		return nil, errors.Join(explain("make room for "+p.Path(), err), f.Close())
	}
	return f, nil
}

// Room refuses to begin what the disk of a directory, which must be there, cannot
// hold.
func Room(dir string, need int64) error {
	u, err := disk.Usage(dir)
	if err != nil || need <= 0 || u.Free > uint64(need)+reserveSlack {
		return nil //nolint:nilerr // without figures the reservation will tell
	}
	return rbee.Errorf(rbee.CodeInsufficientDisk, "the disk of %s has %d MB free and %d MB are needed", dir, u.Free/1e6, (need+reserveSlack)/1e6).
		With("required", (need+reserveSlack)/1e6).With("available", int64(u.Free/1e6)).
		Suggest("free some space, for instance with 'rbee models gc', or choose a smaller quantisation")
}

// explain turns an error of the disk into one that says what to do.
func explain(what string, err error) error {
	var known *rbee.Error
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return rbee.Errorf(rbee.CodeInsufficientDisk, "cannot %s: the disk is full", what).WithCause(err).
			Suggest("free some space, for instance with 'rbee models gc'; what has arrived is kept")
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot %s: the directory cannot be written", what).WithCause(err).
			Suggest("make the state directory writable for this user, or set RBEE_HOME to one that is")
	}
	return fmt.Errorf("cannot %s: %w", what, err)
}
