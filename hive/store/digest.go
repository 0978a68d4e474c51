package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"time"

	"rbee"
)

// bufferBytes are read at a time: large reads keep a disk that turns busy.
const bufferBytes = 1 << 20

// reportEvery is the least pause between two reports of one file.
const reportEvery = 100 * time.Millisecond

// meter is a writer that reports how much was written to it.
type meter struct {
	report func(rbee.StoreProgress)
	now    rbee.StoreProgress
	last   time.Time
}

func newMeter(ref rbee.ModelRef, path string, total int64, report func(rbee.StoreProgress)) *meter {
	now := rbee.StoreProgress{Stage: rbee.StoreReading, Path: path, BytesTotal: total}
	if ref != (rbee.ModelRef{}) {
		now.ModelRef = &ref
	}
	return &meter{report: report, now: now}
}

func (m *meter) Write(b []byte) (int, error) {
	m.now.BytesDone += int64(len(b))
	if now := time.Now(); now.Sub(m.last) >= reportEvery {
		m.last = now
		m.report(m.now)
	}
	return len(b), nil
}

// end reports how it went. An intact file was read to its end.
func (m *meter) end(p rbee.StoreProgress) {
	if p.ModelRef == nil {
		p.ModelRef = m.now.ModelRef
	}
	if p.Path == "" {
		p.Path = m.now.Path
	}
	p.BytesDone, p.BytesTotal = m.now.BytesDone, m.now.BytesTotal
	m.report(p)
}

// digest copies r to w and returns the SHA-256 of what it copied. It ends early with ctx.
func digest(ctx context.Context, r io.Reader, w io.Writer) (string, error) {
	h := sha256.New()
	if _, err := io.CopyBuffer(io.MultiWriter(h, w), &tiedReader{ctx, r}, make([]byte, bufferBytes)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// tiedReader ends with a context.
type tiedReader struct {
	ctx context.Context
	r   io.Reader
}

func (t *tiedReader) Read(p []byte) (int, error) {
	if t.ctx.Err() != nil {
		return 0, context.Cause(t.ctx)
	}
	return t.r.Read(p)
}

// content is a file as it was read: what of it was digested.
type content struct {
	path   string
	info   os.FileInfo // of the file that was read, whatever has its name now
	sha256 string
}

// read digests a file. It fails if somebody writes to it meanwhile.
func read(ctx context.Context, path string, progress io.Writer) (c content, err error) {
	if err := regular(path); err != nil {
		return content{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return content{}, fmt.Errorf("cannot read %s: %w", path, err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	before, err := f.Stat()
	if err != nil {
		return content{}, fmt.Errorf("cannot read %s: %w", path, err)
	}
	sum, err := digest(ctx, f, progress)
	if err != nil {
		if ctx.Err() != nil {
			return content{}, context.Cause(ctx)
		}
		return content{}, fmt.Errorf("cannot read %s: %w", path, err)
	}
	c = content{path, before, sum}
	if after, err := f.Stat(); err != nil || !c.isStill(after) {
		return content{}, changed(path)
	}
	return c, nil
}

// isStill says whether info is of the very file that was read, and nobody has
// written to it since.
func (c content) isStill(info os.FileInfo) bool {
	return os.SameFile(c.info, info) && c.info.Size() == info.Size() && c.info.ModTime().Equal(info.ModTime())
}

// isAt says the same of whatever has a name now.
func (c content) isAt(path string) bool {
	info, err := os.Stat(path)
	return err == nil && c.isStill(info)
}
