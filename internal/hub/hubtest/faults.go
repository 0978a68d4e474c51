package hubtest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Kind is a way to fail.
type Kind string

// Kinds for any answer.
const (
	Status   Kind = "status"   // Status, with RetryAfter and Code if they are set
	Redirect Kind = "redirect" // to To, or to the same address again; of a file, it is the hub that does
	Slow     Kind = "slow"     // the answer begins after Wait
	Cut      Kind = "cut"      // the connection ends after After bytes
	Stall    Kind = "stall"    // nothing more comes after After bytes, until the client goes away
	Throttle Kind = "throttle" // Bytes per second, for each connection
)

// Kinds for the bytes of a file.
const (
	Corrupt    Kind = "corrupt"     // the byte at After, of the file, is another
	Changed    Kind = "changed"     // the file becomes another of the same size, with another commit and digest
	NoRanges   Kind = "no-ranges"   // a Range is not looked at
	Expired    Kind = "expired"     // the signed address that was used ends, and those before it
	Bound      Kind = "bound"       // a signed address is for the range that the hub was asked for
	Short      Kind = "short"       // the answer ends well after After bytes, without having said how many come
	Longer     Kind = "longer"      // Bytes more come than were asked for, without having said how many come
	WrongBegin Kind = "wrong-begin" // Content-Range begins Bytes later
	WrongTotal Kind = "wrong-total" // Content-Range tells of Bytes more
)

// Kinds for what the listing says of a file. They last until Heal.
const (
	WrongDigest Kind = "wrong-digest" // the listing and the hub's headers have another one
	StaleDigest Kind = "stale-digest" // only the listing has another one
	WrongLength Kind = "wrong-length" // the listing has Bytes more
)

// Kinds for a listing or a search.
const (
	NotJSON   Kind = "not-json"
	Truncated Kind = "truncated" // the first half, as if it were all
	Huge      Kind = "huge"      // Bytes of white space first
)

// Fault is one way to fail, and when.
type Fault struct {
	Kind  Kind
	At    Host  // Hub: when the hub is asked for the file; default: when its bytes are sent
	Skip  int   // requests that go well before
	Times int   // requests that fail then; 0 is all
	After int64 // see Kind
	Bytes int64 // see Kind

	Status     int
	RetryAfter string // header of Status: seconds or a date
	Code       string // header X-Error-Code of Status
	To         string // of Redirect
	Wait       time.Duration
}

// Check says what is wrong with a fault that was written by hand.
func (f Fault) Check() error {
	kinds := []Kind{
		Status, Redirect, Slow, Cut, Stall, Throttle, Corrupt, Changed, NoRanges, Expired, Bound, Short, Longer, WrongBegin, WrongTotal,
		WrongDigest, StaleDigest, WrongLength, NotJSON, Truncated, Huge,
	}
	switch {
	case !slices.Contains(kinds, f.Kind):
		return fmt.Errorf("%q is no kind of a fault; the kinds are %q", f.Kind, kinds)
	case f.Kind == Status && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("%d is no status", f.Status)
	case f.Kind == Throttle && f.Bytes <= 0:
		return errors.New("a rate is more than 0 bytes per second")
	}
	return nil
}

type fault struct {
	Fault
	repo, path string
	seen       int
}

// Fault makes requests for a file fail, or for a listing if path is empty, or
// for searches if repo is empty too. Faults add up.
func (s *Server) Fault(repo, path string, f Fault) {
	if f.Kind == Redirect {
		f.At = Hub
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &fault{Fault: f, repo: repo, path: path})
}

// Heal takes all faults back.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// due lists the faults that a request meets, and counts it. At is Hub where the
// hub answers without the bytes of a file.
func (s *Server) due(at Host, repo, path string) []Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	var due []Fault
	for _, f := range s.faults {
		if f.repo != repo || f.path != path || path != "" && (f.At == Hub) != (at == Hub) {
			continue
		}
		if f.seen++; f.seen > f.Skip && (f.Times == 0 || f.seen <= f.Skip+f.Times) {
			due = append(due, f.Fault)
		}
	}
	return due
}

// listed is what a listing says wrongly of a file, if it does.
func (s *Server) listed(repo, path string, kind Kind) (Fault, bool) {
	for _, f := range s.faults {
		if f.repo == repo && f.path == path && f.Kind == kind {
			return f.Fault, true
		}
	}
	return Fault{}, false
}

// begin does what faults do before an answer, and says whether that is all. The
// others are left to the writer.
func (w *writer) begin(r *http.Request, faults []Fault) (answered bool) {
	w.cut, w.stall, w.end = -1, -1, -1
	for _, f := range faults {
		switch f.Kind {
		case Slow:
			w.wait(f.Wait)
		case Status:
			if f.RetryAfter != "" {
				w.Header().Set("Retry-After", f.RetryAfter)
			}
			w.refuse(f.Status, f.Code, "told to fail")
			return true
		case Redirect:
			to := f.To
			if to == "" {
				to = r.URL.RequestURI()
			}
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusFound)
			return true
		case Cut:
			w.cut = f.After
		case Stall:
			w.stall = f.After
		case Short:
			w.end = f.After
		case Throttle:
			w.rate = f.Bytes
		case Longer:
			w.extra = f.Bytes
		case NoRanges:
			r.Header.Del("Range")
			w.noRanges = true
		case WrongBegin:
			w.beginLie = f.Bytes
		case WrongTotal:
			w.totalLie = f.Bytes
		}
	}
	return false
}

// entry is a line of the log that is still being written.
type entry struct {
	request Request
	status  atomic.Int64
	bytes   atomic.Int64
}

func (e *entry) snapshot() Request {
	r := e.request
	r.Status, r.Bytes = int(e.status.Load()), e.bytes.Load()
	return r
}

// writer is an answer that is counted and may go wrong.
type writer struct {
	http.ResponseWriter
	request   *http.Request
	entry     *entry
	sent      int64
	cut       int64 // bytes, -1 for never; so are stall and end
	stall     int64
	end       int64
	rate      int64 // bytes per second, 0 for no bound
	extra     int64
	beginLie  int64
	totalLie  int64
	noRanges  bool
	announced bool
}

// Unwrap serves http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *writer) refuse(status int, code, message string) {
	if code != "" {
		w.Header().Set("X-Error-Code", code)
	}
	w.Header().Set("X-Error-Message", message)
	http.Error(w, `{"error":`+strconv.Quote(message)+`}`, status)
}

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	if w.announced {
		return
	}
	w.announced = true
	w.entry.status.Store(int64(status))
	h := w.Header()
	if w.end >= 0 || w.extra > 0 {
		h.Del("Content-Length")
	}
	if w.noRanges {
		h.Del("Accept-Ranges")
	}
	if spec, ok := strings.CutPrefix(h.Get("Content-Range"), "bytes "); ok && (w.beginLie != 0 || w.totalLie != 0) {
		span, total, _ := strings.Cut(spec, "/")
		begin, end, _ := strings.Cut(span, "-")
		h.Set("Content-Range", "bytes "+plus(begin, w.beginLie)+"-"+end+"/"+plus(total, w.totalLie))
	}
	w.ResponseWriter.WriteHeader(status)
	if w.end >= 0 || w.extra > 0 {
		w.flush() // a short answer would get its length back
	}
}

func plus(number string, n int64) string {
	v, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return number
	}
	return strconv.FormatInt(v+n, 10)
}

// whole says whether bytes can go to the connection as they come.
func (w *writer) whole() bool { return w.cut < 0 && w.stall < 0 && w.end < 0 && w.rate == 0 }

const pieceBytes = 4 << 20

// ReadFrom implements io.ReaderFrom: a file on disk goes from the kernel to the
// connection, counted in pieces.
func (w *writer) ReadFrom(src io.Reader) (n int64, err error) {
	limited, ok := src.(*io.LimitedReader)
	direct, can := w.ResponseWriter.(io.ReaderFrom)
	if !ok || !can || !w.whole() {
		return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{src}, make([]byte, 256<<10))
	}
	for limited.N > 0 && err == nil {
		piece := &io.LimitedReader{R: limited.R, N: min(limited.N, pieceBytes)}
		var m int64
		m, err = direct.ReadFrom(piece)
		if w.count(m); m == 0 {
			break
		}
		limited.N -= m
		n += m
	}
	return n, err
}

func (w *writer) count(n int64) {
	w.sent += n
	w.entry.bytes.Add(n)
}

// Write implements http.ResponseWriter.
func (w *writer) Write(p []byte) (n int, err error) {
	if !w.announced {
		w.WriteHeader(http.StatusOK)
	}
	for n < len(p) && err == nil {
		piece := p[n:]
		for _, at := range []int64{w.cut, w.stall, w.end} {
			if at >= 0 {
				piece = piece[:min(int64(len(piece)), max(at-w.sent, 0))]
			}
		}
		if w.rate > 0 {
			piece = piece[:min(int64(len(piece)), max(w.rate/20, 1))]
		}
		var m int
		m, err = w.ResponseWriter.Write(piece)
		w.count(int64(m))
		n += m
		if err != nil {
			break
		}
		switch w.sent {
		case w.cut:
			w.flush()
			panic(http.ErrAbortHandler)
		case w.stall:
			w.flush()
			<-w.request.Context().Done()
			panic(http.ErrAbortHandler)
		case w.end:
			return len(p), nil
		}
		if w.rate > 0 {
			w.flush()
			w.wait(time.Duration(len(piece)) * time.Second / time.Duration(w.rate))
		}
	}
	return n, err
}

func (w *writer) flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// wait ends early when the client goes away.
func (w *writer) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.request.Context().Done():
	}
}

// logged gives each request its line in the log.
func (s *Server) logged(host Host, serve http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		s.running.RLock()
		defer s.running.RUnlock()
		if s.closed {
			panic(http.ErrAbortHandler)
		}
		e := &entry{request: Request{
			Host: host, Method: r.Method, Path: r.URL.RequestURI(), Range: r.Header.Get("Range"),
			Authorized: r.Header.Get("Authorization") != "", UserAgent: r.UserAgent(),
		}}
		s.mu.Lock()
		s.log = append(s.log, e)
		s.mu.Unlock()
		defer func() { s.each(e.snapshot()) }()
		serve.ServeHTTP(&writer{ResponseWriter: rw, request: r, entry: e, cut: -1, stall: -1, end: -1}, r)
	})
}
