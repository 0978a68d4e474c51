package worker

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"rbee"
	"rbee/internal/sse"
)

// headerGrace is how long a stream's headers wait for the first token. Until
// then a request that is refused gets an error status; afterwards the client
// knows at least that it was taken, and under which id.
const headerGrace = 250 * time.Millisecond

// writeGrace is how long the last events may take to reach a client that reads slowly.
const writeGrace = time.Second

// reply is where a generation goes: a stream of events, or one body.
type reply interface {
	// token sends the text that the token with this number, from 0, completes.
	// A token whose text is held back, or is empty, is not sent.
	token(text []byte, index int) error
	// done ends the reply with the rest of the text and the figures.
	done(rest []byte, d rbee.InferDone) error
	// fail ends the reply with an error. If the reply has not begun the error
	// comes back, for the handler to answer with.
	fail(err *rbee.Error, requestID string) error
}

// stream sends events as they come.
type stream struct {
	mu     sync.Mutex // the grace timer begins the stream beside the handler
	w      http.ResponseWriter
	events *sse.Writer // nil before the stream began
	ended  bool
	event  tokenEvent // reused

	grace   *time.Timer
	release func() // takes the deadline off the connection
}

type tokenEvent struct {
	Token string `json:"token"`
	Index int    `json:"index"`
}

func newStream(ctx context.Context, w http.ResponseWriter) *stream {
	s := &stream{w: w}
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
func (s *stream) begin() {
	if s.events == nil && !s.ended {
		s.events = sse.NewWriter(s.w)
	}
}

// close releases the connection. The handler calls it before it returns.
func (s *stream) close() {
	s.grace.Stop()
	s.release()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
}

func (s *stream) token(text []byte, index int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin()
	s.event = tokenEvent{Token: string(text), Index: index}
	return s.events.JSON(&s.event)
}

func (s *stream) done(rest []byte, d rbee.InferDone) error {
	if len(rest) > 0 {
		if err := s.token(rest, d.TotalTokens-1); err != nil {
			return err
		}
	}
	return s.finish(d)
}

func (s *stream) fail(err *rbee.Error, requestID string) error {
	s.mu.Lock()
	if s.events == nil {
		s.ended = true
		s.mu.Unlock()
		return err
	}
	s.mu.Unlock()
	e := *err
	e.RequestID = requestID
	return s.finish(rbee.ErrorBody{Error: &e})
}

func (s *stream) finish(last any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin()
	s.ended = true
	if err := s.events.JSON(last); err != nil {
		return err
	}
	return s.events.Done()
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
	r.w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(r.w).Encode(rbee.InferReply{RequestID: r.requestID, Text: r.text.String(), InferDone: d})
}

func (r *whole) fail(err *rbee.Error, _ string) error { return err }
