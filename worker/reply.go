package worker

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"rbee"
	"rbee/internal/sse"
	"rbee/worker/openai"
)

// headerGrace is how long a stream's headers wait for the first token. Until
// then a request that is refused gets an error status; afterwards the client
// knows at least that it was taken, and under which id.
const headerGrace = 250 * time.Millisecond

// writeGrace is how long the last events may take to reach a client that reads slowly.
const writeGrace = time.Second

// events is a reply that is a stream of events. Several goroutines may send.
type events struct {
	mu    sync.Mutex // the grace timer begins the stream beside the handler
	w     http.ResponseWriter
	out   *sse.Writer // nil before the stream began
	ended bool

	grace   *time.Timer
	release func() // takes the deadline off the connection
}

// newEvents makes a stream that begins with its first event, or after
// headerGrace. It needs a close.
func newEvents(ctx context.Context, w http.ResponseWriter) *events {
	s := &events{w: w}
	s.grace = time.AfterFunc(headerGrace, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.begin()
	})
	// A client that does not read blocks the write, and the generation's end with it.
	rc := http.NewResponseController(w)
	fired := make(chan struct{})
	unwatch := context.AfterFunc(ctx, func() {
		defer close(fired)
		_ = rc.SetWriteDeadline(time.Now().Add(writeGrace)) // not every writer of a test has deadlines
	})
	s.release = func() {
		if !unwatch() {
			<-fired
			_ = rc.SetWriteDeadline(time.Time{})
		}
	}
	return s
}

// begin sends the headers; the caller holds the lock.
func (s *events) begin() {
	if s.out == nil && !s.ended {
		s.out = sse.NewWriter(s.w)
	}
}

// close releases the connection. The handler calls it before it returns.
func (s *events) close() {
	s.grace.Stop()
	s.release()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
}

// send sends the JSON of one event.
func (s *events) send(data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin()
	return s.out.Data(data)
}

// unused ends a stream that has not begun, so that the reply can be an error.
func (s *events) unused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out == nil {
		s.ended = true
	}
	return s.ended
}

// finish sends the last event, if there is one, and the end mark.
func (s *events) finish(last any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin()
	s.ended = true
	if last != nil {
		if err := s.out.JSON(last); err != nil {
			return err
		}
	}
	return s.out.Done()
}

// reply is where a generation goes: a stream of events, or one body.
type reply interface {
	// token sends the text that the token with this number, from 0, completes.
	token(text []byte, index int) error
	// done ends the reply with the rest of the text and the figures.
	done(rest []byte, d rbee.InferDone) error
	// fail ends the reply with an error. If the reply has not begun the error
	// comes back, for the handler to answer with.
	fail(err *rbee.Error, requestID string) error
}

// stream sends events as they come.
type stream struct {
	events *events
	buf    []byte // reused
}

func (s *stream) token(text []byte, index int) error {
	s.buf = append(s.buf[:0], `{"token":`...)
	s.buf = openai.AppendString(s.buf, text)
	s.buf = append(s.buf, `,"index":`...)
	s.buf = strconv.AppendInt(s.buf, int64(index), 10)
	s.buf = append(s.buf, '}')
	return s.events.send(s.buf)
}

func (s *stream) done(rest []byte, d rbee.InferDone) error {
	if len(rest) > 0 {
		if err := s.token(rest, d.TotalTokens-1); err != nil {
			return err
		}
	}
	return s.events.finish(d)
}

func (s *stream) fail(err *rbee.Error, requestID string) error {
	if s.events.unused() {
		return err
	}
	e := *err
	e.RequestID = requestID
	return s.events.finish(rbee.ErrorBody{Error: &e})
}

// whole collects the text and sends one body.
type whole struct {
	w         http.ResponseWriter
	requestID string
	text      strings.Builder
}

func (r *whole) token(text []byte, _ int) error {
	r.text.Write(text)
	return nil
}

func (r *whole) done(rest []byte, d rbee.InferDone) error {
	r.text.Write(rest)
	tellTimes(r.w, d.QueuedMS, d.PrefillMS)
	return writeJSON(r.w, rbee.InferReply{RequestID: r.requestID, Text: r.text.String(), InferDone: d})
}

func (r *whole) fail(err *rbee.Error, _ string) error { return err }

// tellTimes says in the headers of a whole reply what the last event of a stream
// says: what the request waited for a slot, and what its prompt took.
func tellTimes(w http.ResponseWriter, queuedMS, prefillMS float64) {
	w.Header().Set(rbee.QueueMSHeader, strconv.FormatFloat(queuedMS, 'f', -1, 64))
	w.Header().Set(rbee.PrefillMSHeader, strconv.FormatFloat(prefillMS, 'f', -1, 64))
}

// writeJSON sends a whole body.
func writeJSON(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	return out.Encode(v)
}
