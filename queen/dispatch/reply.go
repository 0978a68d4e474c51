package dispatch

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"rbee"
	"rbee/internal/forward"
	"rbee/internal/httpapi"
	"rbee/internal/sse"
)

// commentEvery is how often a stream without a token says what it waits for.
const commentEvery = time.Second

// reply is what the client gets.
type reply struct {
	f    *flight
	w    http.ResponseWriter
	rc   *http.ResponseController
	came time.Time

	mu    sync.Mutex // of w, until there is something to tell
	timer *time.Timer
	begun bool // as a stream, with comments
	over  bool // the comments are

	attempt *attempt
	first   time.Duration
	status  int
	failed  *rbee.Error // also one that the hive told in the stream
	whole   bool        // all has been passed on
	cutOff  bool        // the client must not take what it has for the whole
}

// serve answers the request. The error is for a reply that has not begun.
func (p *reply) serve() error {
	a, failed := p.wait()
	if failed != nil {
		return p.fail(failed)
	}
	defer a.end()
	p.attempt, p.first = a, time.Since(p.came)
	p.f.d.metrics.first.Observe(p.first.Seconds())
	return p.pass(a)
}

// wait waits for something to tell. A stream gets comments meanwhile.
func (p *reply) wait() (*attempt, *failure) {
	if !p.f.stream {
		return p.f.answered()
	}
	p.mu.Lock()
	p.timer = time.AfterFunc(commentEvery, p.comment)
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.over = true
		p.timer.Stop()
	}()
	return p.f.answered()
}

// comment says what the request waits for, as a comment that clients ignore.
func (p *reply) comment() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	if !p.begun {
		p.begun = true
		h := p.w.Header()
		h.Set("Content-Type", sse.ContentType)
		h.Set("Cache-Control", "no-store")
		h.Set("X-Accel-Buffering", "no")
		h["Trailer"] = told // what is to be known by then only
		p.w.WriteHeader(http.StatusOK)
	}
	// A client that left is told of by the context of the request.
	_, _ = io.WriteString(p.w, ": "+p.f.says()+"\n\n")
	_ = p.rc.Flush()
	p.timer.Reset(commentEvery)
}

// fail tells of a request that nobody serves: as a status, or as the last event.
func (p *reply) fail(failed *failure) error {
	e := *failed.err
	e.RequestID = p.f.id
	p.failed, p.status = &e, e.Code.Status()
	switch {
	case p.begun:
		p.status = http.StatusOK
		_, _ = p.w.Write(forward.LastEvents(httpapi.OpenAI(&e)))
		_ = p.rc.Flush()
		return nil
	case failed.kind == finally && failed.body != nil && json.Valid(failed.body):
		h := p.w.Header()
		h.Set("Content-Type", "application/json")
		p.w.WriteHeader(p.status)
		_, _ = p.w.Write(failed.body)
		return nil
	}
	return &e
}

// pass hands the reply on as it comes.
func (p *reply) pass(a *attempt) error {
	p.status = a.resp.StatusCode
	p.headers(a)
	p.heard(a.held)
	if _, err := p.w.Write(a.held); err != nil {
		return nil //nolint:nilerr // the client left
	}
	a.held = nil
	if a.body == nil {
		p.whole = true
		return nil
	}
	_ = p.rc.Flush()
	for buf := make([]byte, forward.BufferBytes); p.passOn(a, buf); {
	}
	return nil
}

// passOn hands on what comes next; false if nothing does, or nobody listens.
func (p *reply) passOn(a *attempt, buf []byte) bool {
	n, err := a.body.Read(buf)
	if n > 0 {
		p.heard(buf[:n])
		if _, err := p.w.Write(buf[:n]); err != nil {
			return false
		}
		if err := p.rc.Flush(); err != nil {
			return false
		}
	}
	if err != nil {
		p.cut(a, err)
	}
	return err == nil
}

// failureMark begins an event that tells of a failure; in a text its quotes
// would be escaped.
var failureMark = []byte(`data: {"error":`)

// heard takes note of a failure that the hive told in a stream.
func (p *reply) heard(events []byte) {
	at := bytes.Index(events, failureMark)
	if at < 0 {
		return
	}
	if what, data := listen(events[at:]); what == saidFailure {
		p.failed = readFailure(0, data).err
	}
}

// cut is the end of a reply. One that broke where nothing can be said any more
// is to be cut off for the client, too.
func (p *reply) cut(a *attempt, err error) {
	if a.failed != nil {
		p.failed = a.failed
	}
	switch {
	case err == io.EOF: //nolint:errorlint // as io.Reader has it
		p.whole = true
	case p.f.ctx.Err() == nil:
		p.failed, p.cutOff = a.crashed(err), true
	case errors.Is(context.Cause(p.f.ctx), httpapi.ErrShutdown): // the client is still there
		p.failed, p.cutOff = p.f.left(), !isStream(a.resp)
		if !p.cutOff {
			p.failed.RequestID = p.f.id
			_, _ = p.w.Write(forward.LastEvents(httpapi.OpenAI(p.failed)))
			_ = p.rc.Flush()
		}
	}
}

// told are the headers that say where a request went. Those of a stream that began
// with comments come after it, as trailers.
var told = []string{rbee.HiveHeader, rbee.WorkerHeader, rbee.DigestHeader, rbee.QueueMSHeader, rbee.LoadMSHeader, rbee.PrefillMSHeader}

// headers says what the client gets, and where it comes from.
func (p *reply) headers(a *attempt) {
	from, h := a.resp.Header, p.w.Header()
	for _, name := range []string{rbee.DigestHeader, rbee.LoadMSHeader, rbee.PrefillMSHeader} {
		if v := from.Get(name); v != "" {
			h.Set(name, v)
		}
	}
	h.Set(rbee.HiveHeader, clean(a.route.HiveName))
	h.Set(rbee.WorkerHeader, clean(cmp.Or(from.Get(rbee.WorkerHeader), string(a.route.Worker))))
	queued := p.f.queued.Milliseconds()
	if ms, err := strconv.ParseFloat(from.Get(rbee.QueueMSHeader), 64); err == nil {
		queued += int64(ms)
	}
	h.Set(rbee.QueueMSHeader, strconv.FormatInt(queued, 10))
	if h.Get(rbee.LoadMSHeader) == "" { // the worker was ready
		h.Set(rbee.LoadMSHeader, "0")
	}
	if isStream(a.resp) && h.Get(rbee.PrefillMSHeader) == "" {
		loaded, _ := strconv.ParseInt(h.Get(rbee.LoadMSHeader), 10, 64) // 0 for what is no number
		h.Set(rbee.PrefillMSHeader, strconv.FormatInt(max(0, p.came.Add(p.first).Sub(a.began).Milliseconds()-loaded), 10))
	}
	if p.begun {
		_, _ = io.WriteString(p.w, ": "+clean(a.route.HiveName)+" answers, after "+p.first.Round(time.Millisecond).String()+"\n\n")
		if !isStream(a.resp) {
			a.held = append(append([]byte("data: "), oneLine(a.held)...), "\n\n"+"data: "+sse.End+"\n\n"...)
		}
		return
	}
	for _, name := range []string{"Content-Type", "Cache-Control", "X-Accel-Buffering"} {
		if v := from.Get(name); v != "" {
			h.Set(name, v)
		}
	}
	if a.body == nil {
		h.Set("Content-Length", strconv.Itoa(len(a.held)))
	}
	p.w.WriteHeader(a.resp.StatusCode)
}

func isStream(resp *http.Response) bool {
	return strings.HasPrefix(resp.Header.Get("Content-Type"), sse.ContentType)
}

// oneLine is a JSON text without line breaks.
func oneLine(text []byte) []byte {
	var b bytes.Buffer
	if json.Compact(&b, text) != nil {
		return []byte(`{}`)
	}
	return b.Bytes()
}

// clean is a name as it may stand in a header or a comment.
func clean(name string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, name)
}

// outcome is how the request ended.
func (p *reply) outcome(err error) rbee.Outcome {
	o := rbee.Outcome{
		Status: p.status, Error: p.failed,
		QueueMS: p.f.queued.Milliseconds(), FirstMS: p.first.Milliseconds(), TotalMS: time.Since(p.came).Milliseconds(),
	}
	if err != nil && o.Error == nil {
		o.Error = rbee.AsError(err)
	}
	if o.Error == nil && !p.whole || o.Error != nil && o.Error.Code == rbee.CodeRequestCanceled {
		o.Status, o.Error = rbee.CodeRequestCanceled.Status(), p.f.left()
	}
	return o
}
