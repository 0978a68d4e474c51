// Package sse writes and reads streams of server-sent events whose data is
// JSON and whose last event is the text [DONE] (WHATWG HTML, section 9.2; the
// end mark is the habit of OpenAI-compatible APIs).
//
// It knows events, not what they mean: neither errors nor tokens.
package sse

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"

	gosse "github.com/tmaxmax/go-sse"
)

// ContentType is the media type of a stream of events.
const ContentType = "text/event-stream"

// End is the data of the last event of a stream that came to its end.
const End = "[DONE]"

// ErrCut is what Read reports when a stream ends without its end mark: the
// sender died or the connection broke.
var ErrCut = errors.New("the stream ended before its end mark")

// maxEventBytes bounds one event on the reading side.
const maxEventBytes = 16 << 20

// Writer sends events on one HTTP response, each flushed as it is written. It
// is for one goroutine.
type Writer struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	buf bytes.Buffer
	enc *json.Encoder
}

// NewWriter begins the stream: status 200, headers, flushed at once, so that
// the reader knows that the request was taken before the first event.
func NewWriter(w http.ResponseWriter) *Writer {
	h := w.Header()
	h.Set("Content-Type", ContentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	s := &Writer{w: w, rc: http.NewResponseController(w)}
	s.enc = json.NewEncoder(&s.buf)
	s.enc.SetEscapeHTML(false)
	_ = s.rc.Flush() // a broken connection shows at the first event
	return s
}

// JSON sends v as the data of one event.
func (s *Writer) JSON(v any) error {
	s.buf.Reset()
	s.buf.WriteString("data: ")
	if err := s.enc.Encode(v); err != nil { // Encode ends with one newline
		return fmt.Errorf("cannot encode an event: %w", err)
	}
	s.buf.WriteByte('\n')
	return s.flush()
}

// Data sends the data of one event as it is; it must hold no line break.
func (s *Writer) Data(data []byte) error {
	s.buf.Reset()
	s.buf.WriteString("data: ")
	s.buf.Write(data)
	s.buf.WriteString("\n\n")
	return s.flush()
}

// Comment sends a comment, which readers ignore: it keeps a silent stream alive.
func (s *Writer) Comment(text string) error {
	s.buf.Reset()
	s.buf.WriteString(": ")
	s.buf.WriteString(text)
	s.buf.WriteString("\n\n")
	return s.flush()
}

// Done sends the end mark.
func (s *Writer) Done() error { return s.Data([]byte(End)) }

func (s *Writer) flush() error {
	if _, err := s.w.Write(s.buf.Bytes()); err != nil {
		return err
	}
	return s.rc.Flush()
}

// Read yields the events of r, each decoded from JSON into a T, until the end
// mark. A stream that breaks off before it yields ErrCut last (wrapped with the
// transport's cause, if there is one); an event that is no JSON yields an error
// and ends the stream.
func Read[T any](r io.Reader) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for ev, err := range gosse.Read(r, &gosse.ReadConfig{MaxEventSize: maxEventBytes}) {
			var v T
			if err != nil {
				yield(v, fmt.Errorf("%w: %w", ErrCut, err))
				return
			}
			if ev.Data == End {
				return
			}
			if err := json.Unmarshal([]byte(ev.Data), &v); err != nil {
				yield(v, fmt.Errorf("cannot read an event: %w", err))
				return
			}
			if !yield(v, nil) {
				return
			}
		}
		var zero T
		yield(zero, ErrCut)
	}
}
