package download

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rbee"
)

// memory is a source of bytes in memory. Its hook may change what an opening
// gives, by the number of the opening, from 1.
type memory struct {
	content []byte
	hook    func(n int, from, to int64) (io.ReadCloser, error) // nil, nil: as it is

	mu     sync.Mutex
	opened []span
	open   int
	most   int // open at the same time
	sent   int64
}

func (m *memory) Open(ctx context.Context, from, to int64) (io.ReadCloser, error) {
	m.mu.Lock()
	m.opened = append(m.opened, span{from, to})
	n := len(m.opened)
	m.mu.Unlock()
	if m.hook != nil {
		r, err := m.hook(n, from, to)
		if s, ok := r.(*silent); ok {
			s.ctx = ctx
		}
		if r != nil || err != nil {
			return r, err
		}
	}
	return m.body(from, to), nil
}

// body is the bytes [from, to), counted.
func (m *memory) body(from, to int64) io.ReadCloser {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open++
	m.most = max(m.most, m.open)
	return &counted{Reader: bytes.NewReader(m.content[from:to]), m: m}
}

type counted struct {
	io.Reader
	m *memory
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.m.mu.Lock()
	c.m.sent += int64(n)
	c.m.mu.Unlock()
	return n, err
}

func (c *counted) Close() error {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.m.open--
	return nil
}

// cut ends after n bytes with an error.
func (m *memory) cut(from, to, n int64) io.ReadCloser {
	body := m.body(from, min(to, from+n)).(*counted)
	body.Reader = io.MultiReader(body.Reader, failing{errors.New("the connection was reset")})
	return body
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func content(size int) []byte {
	b := make([]byte, size)
	r := rand.New(rand.NewChaCha8([32]byte{1}))
	for i := 0; i+8 <= size; i += 8 {
		v := r.Uint64()
		for k := range 8 {
			b[i+k] = byte(v >> (8 * k))
		}
	}
	return b
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, dir string) *Part {
	t.Helper()
	p, err := Open(t.Context(), dir, "k", func(Progress) {})
	must(t, err)
	return p
}

// notes collects the notes of a download.
type notes struct {
	mu   sync.Mutex
	text []string
}

func (n *notes) report(p Progress) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.text) == 0 || n.text[len(n.text)-1] != p.Note {
		n.text = append(n.text, p.Note)
	}
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.text, "\n")
}

// fetch fetches the source into a directory and checks what is there then.
func fetch(t *testing.T, dir string, m *memory, change ...func(*Request)) (string, error) {
	t.Helper()
	p := open(t, dir)
	defer func() { must(t, p.Close()) }()
	r := Request{Source: m, SizeBytes: int64(len(m.content)), SHA256: sum(m.content), Stamp: "one"}
	for _, c := range change {
		c(&r)
	}
	digest, err := p.Fetch(t.Context(), r)
	if err == nil {
		b, readErr := os.ReadFile(p.Path())
		must(t, readErr)
		if !bytes.Equal(b, m.content) {
			t.Error("the part is not what the source has")
		}
	}
	return digest, err
}

func TestAFileArrivesWholeWithItsDigest(t *testing.T) {
	for _, size := range []int{0, 1, bufferBytes, minRange + 1, 3*smallFile + 17} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			m := &memory{content: content(size)}
			for _, known := range []string{sum(m.content), ""} {
				digest, err := fetch(t, t.TempDir(), m, func(r *Request) { r.SHA256 = known })
				must(t, err)
				if digest != sum(m.content) {
					t.Errorf("digest is %s", digest)
				}
			}
		})
	}
}

func TestNoByteIsAskedForTwice(t *testing.T) {
	m := &memory{content: content(5*smallFile + 3)}
	_, err := fetch(t, t.TempDir(), m)
	must(t, err)
	if m.sent != int64(len(m.content)) {
		t.Errorf("the source sent %d bytes of %d", m.sent, len(m.content))
	}
	if m.most > MaxConnections {
		t.Errorf("%d connections at once", m.most)
	}
}

func TestFaultsOfASource(t *testing.T) {
	big := 3 * smallFile
	for _, test := range []struct {
		name  string
		size  int
		hook  func(m *memory) func(n int, from, to int64) (io.ReadCloser, error)
		code  rbee.Code // "" for success
		note  string
		cause string // in the message
	}{
		{
			name: "each connection is cut after some bytes", size: big,
			hook: func(m *memory) func(int, int64, int64) (io.ReadCloser, error) {
				return func(_ int, from, to int64) (io.ReadCloser, error) { return m.cut(from, to, 300_000), nil }
			},
			note: "the connection was reset",
		},
		{
			name: "every second opening fails", size: big,
			hook: func(*memory) func(int, int64, int64) (io.ReadCloser, error) {
				return func(n int, _, _ int64) (io.ReadCloser, error) {
					if n%2 == 1 {
						return nil, errors.New("the hub answered 502")
					}
					return nil, nil
				}
			},
			note: "of 6: the hub answered 502",
		},
		{
			name: "five failures in a row are endured", size: 1000,
			hook: func(*memory) func(int, int64, int64) (io.ReadCloser, error) {
				return func(n int, _, _ int64) (io.ReadCloser, error) {
					if n <= 5 {
						return nil, errors.New("refused")
					}
					return nil, nil
				}
			},
			note: "attempt 6 of 6: refused",
		},
		{
			name: "six are not", size: 1000,
			hook: func(*memory) func(int, int64, int64) (io.ReadCloser, error) {
				return func(int, int64, int64) (io.ReadCloser, error) { return nil, errors.New("connection refused") }
			},
			code: rbee.CodeDownloadFailed, cause: "connection refused",
		},
		{
			name: "a body that ends early is asked for again", size: 1000,
			hook: func(m *memory) func(int, int64, int64) (io.ReadCloser, error) {
				return func(n int, from, to int64) (io.ReadCloser, error) {
					if n == 1 {
						return m.body(from, to-10), nil
					}
					return nil, nil
				}
			},
			note: "ended before the last byte",
		},
		{
			name: "a silent connection is given up after a minute", size: big,
			hook: func(*memory) func(int, int64, int64) (io.ReadCloser, error) {
				return func(n int, _, _ int64) (io.ReadCloser, error) {
					if n == 1 {
						return &silent{}, nil
					}
					return nil, nil
				}
			},
			note: "no byte came for 60 seconds",
		},
		{
			name: "a source without ranges is read from its beginning", size: big,
			hook: func(m *memory) func(int, int64, int64) (io.ReadCloser, error) {
				return func(n int, from, to int64) (io.ReadCloser, error) {
					switch {
					case from > 0:
						return nil, ErrNoRanges
					case n < 5:
						return m.cut(from, to, int64(n)*3_000_000), nil
					}
					return nil, nil
				}
			},
			note: "the connection was reset",
		},
		{
			name: "one that is always cut at the same byte fails", size: big,
			hook: func(m *memory) func(int, int64, int64) (io.ReadCloser, error) {
				return func(_ int, from, to int64) (io.ReadCloser, error) {
					if from > 0 {
						return nil, ErrNoRanges
					}
					return m.cut(from, to, 5_000_000), nil
				}
			},
			code: rbee.CodeDownloadFailed, cause: "the connection was reset",
		},
		{
			name: "a final error ends it at once", size: big,
			hook: func(*memory) func(int, int64, int64) (io.ReadCloser, error) {
				return func(int, int64, int64) (io.ReadCloser, error) {
					return nil, fmt.Errorf("asked: %w", rbee.Errorf(rbee.CodeModelNotFound, "no such file"))
				}
			},
			code: rbee.CodeModelNotFound,
		},
		{
			name: "wrong bytes are noticed", size: big,
			hook: func(m *memory) func(int, int64, int64) (io.ReadCloser, error) {
				return func(_ int, from, to int64) (io.ReadCloser, error) {
					b := bytes.Clone(m.content[from:to])
					b[0] ^= 1
					return io.NopCloser(bytes.NewReader(b)), nil
				}
			},
			code: rbee.CodeChecksumMismatch,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &memory{content: content(test.size)}
				m.hook = test.hook(m)
				var told notes
				_, err := fetch(t, t.TempDir(), m, func(r *Request) { r.Report = told.report })
				if rbee.CodeOf(err) != test.code || test.code == "" && err != nil {
					t.Fatalf("error is %v, want the code %q", err, test.code)
				}
				if test.code != "" && (!strings.Contains(err.Error(), test.cause) || rbee.AsError(err).Suggestion() == "" && test.code != rbee.CodeModelNotFound) {
					t.Errorf("error is %v, suggestion %q", err, rbee.AsError(err).Suggestion())
				}
				if !strings.Contains(told.String(), test.note) {
					t.Errorf("told %q", told.String())
				}
				if n := len(m.opened); test.code == rbee.CodeDownloadFailed && test.size == 1000 && n != Attempts {
					t.Errorf("%d attempts", n)
				}
			})
		})
	}
}

// silent is a body that says nothing, as long as somebody waits.
type silent struct{ ctx context.Context }

func (s *silent) Read([]byte) (int, error) { <-s.ctx.Done(); return 0, s.ctx.Err() }
func (s *silent) Close() error             { return nil }

func TestTheSilenceThatEndsAConnectionCanBeChosen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{content: content(1000)}
		m.hook = func(n int, _, _ int64) (io.ReadCloser, error) {
			if n == 1 {
				return &silent{}, nil
			}
			return nil, nil
		}
		var told notes
		begun := time.Now()
		_, err := fetch(t, t.TempDir(), m, func(r *Request) { r.Stall, r.Report = 5*time.Second, told.report })
		must(t, err)
		if !strings.Contains(told.String(), "no byte came for 5 seconds") || time.Since(begun) > 6*time.Second {
			t.Errorf("after %s told %q", time.Since(begun), told.String())
		}
	})
}

func TestAPauseThatASourceWantsIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		m := &memory{content: content(1000)}
		m.hook = func(n int, _, _ int64) (io.ReadCloser, error) {
			if n == 1 {
				return nil, busy{}
			}
			if waited := time.Since(began); waited < 90*time.Second {
				t.Errorf("asked again after %s", waited)
			}
			return nil, nil
		}
		_, err := fetch(t, t.TempDir(), m)
		must(t, err)
	})
}

type busy struct{}

func (busy) Error() string             { return "the hub wants a pause" }
func (busy) RetryAfter() time.Duration { return 90 * time.Second }

func TestAChangedFileIsTold(t *testing.T) {
	m := &memory{content: content(1000), hook: func(int, int64, int64) (io.ReadCloser, error) { return nil, ErrChanged }}
	if _, err := fetch(t, t.TempDir(), m); !errors.Is(err, ErrChanged) {
		t.Errorf("error is %v", err)
	}
}

func TestAPartHasOneWriter(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	opened := make(chan *Part)
	waiting := make(chan struct{}, 1000)
	var second sync.WaitGroup
	must(t, first.writeLive(journal{Version: journalVersion, SizeBytes: 10, Spans: spans{{0, 4}}}))
	second.Go(func() {
		p, err := Open(t.Context(), dir, "k", func(p Progress) {
			if p.Done != 4 || p.Total != 10 {
				t.Errorf("the other one is at %+v", p)
			}
			waiting <- struct{}{}
		})
		if err != nil {
			t.Error(err)
		}
		opened <- p
	})
	<-waiting
	select {
	case <-opened:
		t.Fatal("two have the part")
	default:
	}
	must(t, first.Close())
	p := <-opened
	second.Wait()
	must(t, p.Close())
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestAbandonedPartsAreListed(t *testing.T) {
	dir := t.TempDir()
	m := &memory{content: content(4 * smallFile)}
	interrupted(t, dir, m, smallFile)
	held, err := Open(t.Context(), dir, "held", func(Progress) {})
	must(t, err)
	must(t, os.WriteFile(held.Path(), []byte("x"), 0o600))
	if left, err := Abandoned(dir); err != nil || len(left) != 1 || filepath.Base(left[0]) != "k.part" {
		t.Errorf("abandoned: %v, %v", left, err)
	}
	must(t, held.Close())
	if left, err := Abandoned(dir); err != nil || len(left) != 2 {
		t.Errorf("abandoned, once nobody fetches any: %v, %v", left, err)
	}
	all, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range all {
		if !IsOfPart(e.Name()) {
			t.Errorf("%s is not known as a file of a part", e.Name())
		}
	}
	for _, name := range []string{"k.gguf", ".lock", "k", "k.part.x"} {
		if IsOfPart(name) {
			t.Errorf("%s is taken for a file of a part", name)
		}
	}
	if left, err := Abandoned(filepath.Join(dir, "none")); err != nil || left != nil {
		t.Errorf("a directory that is not there: %v, %v", left, err)
	}
}

func TestALimitBoundsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		m := &memory{content: content(10 << 20)}
		_, err := fetch(t, t.TempDir(), m, func(r *Request) { r.Limits = []*Limit{NewLimit(Always(1 << 20)), NewLimit(Always(0)), nil} })
		must(t, err)
		if took := time.Since(began); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("10 MiB at 1 MiB/s took %s of virtual time", took)
		}
	})
}

func TestAPausedScheduleIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		resume := began.Add(3 * time.Hour)
		l := NewLimit(func(now time.Time) (float64, time.Time) {
			if now.Before(resume) {
				return 0, resume
			}
			return -1, now.Add(time.Hour)
		})
		m := &memory{content: content(3 * bufferBytes)}
		_, err := fetch(t, t.TempDir(), m, func(r *Request) { r.Limits = []*Limit{l} })
		must(t, err)
		if time.Since(began) < 3*time.Hour {
			t.Errorf("did not wait: %s", time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began = time.Now()
		resume = began.Add(3 * time.Hour)
		if err := l.wait(ctx, 1); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("a pause outlasts its caller: %v after %s", err, time.Since(began))
		}
	})
}

func TestAPauseEndsWhenTheClockIsSetPastIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var past atomic.Bool
		l := NewLimit(func(now time.Time) (float64, time.Time) {
			if past.Load() {
				return -1, now.Add(time.Hour)
			}
			return 0, now.Add(9 * time.Hour)
		})
		time.AfterFunc(time.Hour, func() { past.Store(true) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour+time.Minute)
		defer cancel()
		must(t, l.wait(ctx, 1))
	})
}

func TestPace(t *testing.T) {
	for _, test := range []struct {
		name  string
		rates []float64
		want  []int // connections after each tick
	}{
		{"each connection brings more", []float64{10, 20, 30, 40, 50, 60, 70, 80}, []int{3, 4, 5, 6, 7, 8, 8, 8}},
		{"the third brings nothing", []float64{10, 10, 10, 10}, []int{3, 2, 2, 2}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPace(MaxConnections)
			for i, r := range test.rates {
				p.tick(r)
				if p.n != test.want[i] {
					t.Fatalf("tick %d at %g: %d connections, want %d", i, r, p.n, test.want[i])
				}
			}
		})
	}
	t.Run("a better time is found later", func(t *testing.T) {
		p := newPace(MaxConnections)
		p.less()
		for range restTicks {
			p.tick(10)
		}
		if p.n != 2 {
			t.Errorf("%d connections", p.n)
		}
	})
	t.Run("there is always one", func(t *testing.T) {
		p := newPace(1)
		p.less()
		p.tick(0)
		if p.n != 1 {
			t.Errorf("%d connections", p.n)
		}
	})
}
