package supervise_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"rbee/internal/supervise"
)

// sink is a copy of a log. Nil channels let everything through.
type sink struct {
	gate   chan struct{} // closed when writes may go on
	closed chan struct{}
	fail   error

	mu   sync.Mutex
	text strings.Builder
}

func newSink() *sink { return &sink{closed: make(chan struct{})} }

func (s *sink) Write(b []byte) (int, error) {
	if s.gate != nil {
		<-s.gate
	}
	if s.fail != nil {
		return 0, s.fail
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *sink) Close() error {
	close(s.closed)
	return nil
}

func (s *sink) awaitClose(t *testing.T) {
	t.Helper()
	select {
	case <-s.closed:
	case <-time.After(time.Minute):
		t.Fatal("the copy was not closed")
	}
}

func TestTheLogIsCopiedWithTheEnd(t *testing.T) {
	copied := newSink()
	spec := testSpec("print 2")
	spec.Copy = copied
	p, err := spawner(t, nil).Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	p.Exit()
	copied.awaitClose(t)
	if got, want := copied.text.String(), "line 0\nline 1\nno end\n[ended: exit status 0]\n"; got != want {
		t.Errorf("copy = %q, want %q", got, want)
	}
}

func TestACopyThatHangsHoldsNobodyUp(t *testing.T) {
	copied := newSink()
	copied.gate = make(chan struct{})
	spec := testSpec("print 20000") // more than pipe and log hold
	spec.Copy, spec.LogLines = copied, 10
	p, err := spawner(t, nil).Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Exit(); !got.Success() {
		t.Error(got)
	}
	close(copied.gate)
	copied.awaitClose(t)
	if text := copied.text.String(); !strings.Contains(text, " lines lost") || !strings.HasSuffix(text, "no end\n[ended: exit status 0]\n") {
		t.Errorf("copy ends with %q", text[max(0, len(text)-200):])
	}
}

func TestACopyThatFailsCostsTheCopyAlone(t *testing.T) {
	copied := newSink()
	copied.fail = errors.New("disk full")
	spec := testSpec("print 3")
	spec.Copy = copied
	p, err := spawner(t, nil).Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	p.Exit()
	copied.awaitClose(t)
	if got := len(p.Log().Lines()); got != 4 {
		t.Errorf("%d lines in the log, want 4", got)
	}
}

func TestAStartThatFailsClosesTheCopy(t *testing.T) {
	copied := newSink()
	if _, err := spawner(t, nil).Start(supervise.Spec{Path: "/no/such/program", Copy: copied}); err == nil {
		t.Fatal("started")
	}
	copied.awaitClose(t)
}

func TestTheKernelTakesAChildRatherThanOthers(t *testing.T) {
	spec := testSpec("obey")
	spec.OOMScore = 700
	p, err := spawner(t, nil).Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	nextLine(t, p)
	got, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.PID()))
	if err != nil || strings.TrimSpace(string(got)) != "700" {
		t.Errorf("score = %q, %v", got, err)
	}
}
