package forward

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"

	"rbee"
	"rbee/internal/sse"
)

// BufferBytes is what is copied at a time. It is small: each stream holds two
// of such buffers for as long as it lasts, and its events are smaller still.
const BufferBytes = 4 << 10

// maxHeldBack bounds the part of an event that waits for its end.
const maxHeldBack = 1 << 20

var (
	eventEnd     = []byte("\n\n")
	eventEndCRLF = []byte("\r\n\r\n") // of servers that are not ours
	lastMark     = []byte("data: " + sse.End + "\n\n")
)

// Watcher is told of what a stream does.
type Watcher interface {
	// Passed counts whole events that came, and bytes that were handed on.
	Passed(events, bytes int)
	// Obituary is what is added to a stream that ended without its end mark:
	// whole events, such as LastEvents makes. The cause is what reading said.
	Obituary(cause error) []byte
}

// Events is the body of a stream of events. It hands on whole events only, so
// that the one it adds when the sender dies never lands in the middle of another.
type Events struct {
	body io.ReadCloser
	ctx  context.Context
	to   Watcher

	buf    []byte // read and not handed on
	whole  int    // bytes of buf that are whole events
	finite bool   // the end mark has passed
	err    error  // what the next Read with nothing left says
}

// NewEvents wraps the body of a reply. Nothing is added where ctx has ended:
// the reader went away and hears no explanation.
func NewEvents(ctx context.Context, body io.ReadCloser, to Watcher) *Events {
	return &Events{body: body, ctx: ctx, to: to}
}

// Read hands on whole events. It is io.EOF after the end mark or the obituary.
func (e *Events) Read(p []byte) (int, error) {
	for e.whole == 0 && e.err == nil {
		e.fill()
	}
	if e.whole == 0 {
		return 0, e.err
	}
	n := copy(p, e.buf[:e.whole])
	e.whole -= n
	e.buf = e.buf[:copy(e.buf, e.buf[n:])]
	e.to.Passed(0, n)
	return n, nil
}

// Close closes the body.
func (e *Events) Close() error { return e.body.Close() }

// fill reads more from the sender; at its end it settles what comes last.
func (e *Events) fill() {
	if cap(e.buf)-len(e.buf) < BufferBytes/8 {
		e.buf = append(make([]byte, 0, 2*cap(e.buf)+BufferBytes), e.buf...)
	}
	from := len(e.buf)
	n, err := e.body.Read(e.buf[from:cap(e.buf)])
	e.buf = e.buf[:from+n]
	fresh := e.buf[max(0, from-len(eventEndCRLF)+1):] // an end may have begun before
	if end, events := lastEnd(fresh); events > 0 {
		e.whole = len(e.buf) - len(fresh) + end
		e.to.Passed(events, 0)
		e.finite = e.finite || isLast(e.buf[:e.whole]) // a comment may follow
	} else if len(e.buf) > maxHeldBack {
		e.whole = len(e.buf)
	}
	if err == nil {
		return
	}
	e.err = io.EOF
	if e.finite {
		return
	}
	if !errors.Is(err, io.EOF) && e.ctx.Err() != nil {
		e.err = err // the caller went away: nobody hears an explanation
		return
	}
	e.buf = append(e.buf[:e.whole], e.to.Obituary(err)...)
	e.whole = len(e.buf)
}

// lastEnd is where the last whole event ends, and how many end before.
func lastEnd(b []byte) (end, events int) {
	for _, mark := range [...][]byte{eventEnd, eventEndCRLF} {
		if i := bytes.LastIndex(b, mark); i >= 0 {
			end = max(end, i+len(mark))
			events += bytes.Count(b, mark)
		}
	}
	return end, events
}

// isLast says whether whole events end with the end mark.
func isLast(events []byte) bool {
	line := bytes.TrimRight(events, "\r\n")
	line = line[bytes.LastIndexByte(line, '\n')+1:]
	data, ok := bytes.CutPrefix(line, []byte("data:"))
	return ok && string(bytes.TrimPrefix(data, []byte(" "))) == sse.End
}

// LastEvents is the end of a stream whose sender failed: an event with what is
// said last, and the end mark.
func LastEvents(last any) []byte {
	b, err := json.Marshal(last)
	if err != nil { // an error of ours holds nothing that cannot be encoded
		b = []byte(`{"error":{"code":"` + string(rbee.CodeWorkerCrashed) + `","message":"the worker is gone"}}`)
	}
	return append(append(append([]byte("data: "), b...), eventEnd...), lastMark...)
}
