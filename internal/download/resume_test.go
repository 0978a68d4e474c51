package download

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// interrupted fetches until the source has sent so many bytes.
func interrupted(t *testing.T, dir string, m *memory, after int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	m.hook = func(_ int, from, to int64) (io.ReadCloser, error) {
		body := m.body(from, to).(*counted)
		body.Reader = &watched{body.Reader, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.sent >= after {
				cancel()
			}
		}}
		return body, nil
	}
	p := open(t, dir)
	_, err := p.Fetch(ctx, Request{Source: m, SizeBytes: int64(len(m.content)), SHA256: sum(m.content), Stamp: "one", Connections: 1})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("the interrupted fetch ended with %v", err)
	}
	must(t, p.Close())
	m.hook = nil
}

type watched struct {
	io.Reader
	read func()
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	w.read()
	return n, err
}

func TestACancelledDownloadIsResumed(t *testing.T) {
	for _, after := range []int64{2 * smallFile, 2*smallFile + liveBytes - bufferBytes} { // just after a note, and long after
		dir := t.TempDir()
		m := &memory{content: content(4 * smallFile)}
		interrupted(t, dir, m, after)
		before := m.sent
		var told notes
		_, err := fetch(t, dir, m, func(r *Request) { r.Report = told.report })
		must(t, err)
		if again := m.sent - int64(len(m.content)); again > bufferBytes {
			t.Errorf("%d bytes were sent again (%d before the interruption)", again, before)
		}
		if !strings.Contains(told.String(), "resumed at ") {
			t.Errorf("told %q", told.String())
		}
	}
}

func TestWhatIsResumed(t *testing.T) {
	lose := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, name))) }
	}
	spoil := func(name, text string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		}
	}
	for _, test := range []struct {
		name    string
		damage  func(*testing.T, string)
		stamp   string
		resumed bool
		note    string
	}{
		{name: "a program that was killed goes on where it was", damage: func(*testing.T, string) {}, resumed: true},
		{name: "after a restart of the machine what was synced counts", damage: func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, "k.live"))
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, "k.live"), bytes.Replace(b, []byte(bootID()), []byte("another boot"), 1), 0o600))
		}, resumed: true},
		{name: "without the live journal the durable one counts", damage: lose("k.live"), resumed: true},
		{name: "a part without journals is fetched anew", damage: func(t *testing.T, dir string) {
			lose("k.live")(t, dir)
			lose("k.json")(t, dir)
		}},
		{name: "journals without a part are of no use", damage: lose("k.part")},
		{name: "journals that are no JSON are of no use", damage: func(t *testing.T, dir string) {
			spoil("k.live", "{")(t, dir)
			spoil("k.json", "")(t, dir)
		}},
		{name: "journals with impossible spans are of no use", damage: func(t *testing.T, dir string) {
			text := fmt.Sprintf(`{"version":1,"stamp":"one","size_bytes":%d,"boot":%q,"spans":[[5,2],[-1,99999999999]]}`, 4*smallFile, bootID())
			spoil("k.live", text)(t, dir)
			spoil("k.json", text)(t, dir)
		}},
		{name: "a part of another size is of no use", damage: func(t *testing.T, dir string) {
			must(t, os.Truncate(filepath.Join(dir, "k.part"), 100))
		}},
		{name: "a part of another version of the file is fetched anew, and said", damage: func(*testing.T, string) {}, stamp: "two", note: "older version"},
		{name: "a part that was damaged is fetched anew, and said", damage: func(t *testing.T, dir string) {
			f, err := os.OpenFile(filepath.Join(dir, "k.part"), os.O_RDWR, 0)
			must(t, err)
			_, err = f.WriteAt([]byte("damaged"), 1000)
			must(t, errors.Join(err, f.Close()))
		}, note: "was damaged"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			m := &memory{content: content(4 * smallFile)}
			interrupted(t, dir, m, 2*smallFile)
			m.sent = 0
			test.damage(t, dir)
			var told notes
			_, err := fetch(t, dir, m, func(r *Request) {
				r.Report = told.report
				if test.stamp != "" {
					r.Stamp = test.stamp
				}
			})
			must(t, err)
			if resumed := m.sent < int64(len(m.content)); resumed != test.resumed {
				t.Errorf("%d of %d bytes were sent", m.sent, len(m.content))
			}
			if !strings.Contains(told.String(), test.note) {
				t.Errorf("told %q", told.String())
			}
		})
	}
}
