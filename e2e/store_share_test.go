//go:build linux

package e2e

import (
	"encoding/json"
	"strings"
	"sync"
	"syscall"
	"testing"

	"rbee"
	"rbee/client"
	"rbee/internal/hub/hubtest"
)

const largeRef = "hf:share/large::large.Q8_0.gguf"

// large offers a model of 64 MiB, of which no connection gets more than so many
// bytes a second.
func (s *shelf) large(bytesPerSecond int64) goods {
	g := s.offer(largeRef, "share/large", hubtest.File{Path: "large.Q8_0.gguf", Content: hubtest.GGUF(1, 64<<20)})
	s.throttle("share/large", bytesPerSecond, "large.Q8_0.gguf")
	return g
}

// fetchedOnce checks what is in the store when nobody uses it: the one model, and
// nothing else, not even a spare file.
func (s *shelf) fetchedOnce(g goods) {
	s.t.Helper()
	rows := s.rows()
	if len(rows) != 1 || rows[0].ref != g.ref {
		s.t.Fatalf("in the catalog: %+v", rows)
	}
	s.checkDigests(rows[0], g)
	s.checkFiles(rows, nil)
}

func TestKilledKeeperLeavesNoHiveAndItsDownloadGoesOn(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	g := s.large(4 << 20)
	keeper := s.start("rbee", "models", "pull", g.ref)
	s.sent(20 << 20)
	hive := s.find("the private hive", isHive)
	s.procs()
	s.killed(keeper)
	eventually(t, "the private hive is gone", func() bool { return !runs(hive.pid) && len(s.procs()) == 0 })
	written := s.written(g)
	if written == 0 {
		t.Error("nothing was kept")
	}
	s.hub.Heal()
	s.hub.Reset()
	again := s.run("rbee", "models", "pull", g.ref)
	again.mustExit("exit status 0")
	if !strings.Contains(again.stderr(), "resumed at ") {
		t.Errorf("the second pull says\n%s", again.stderr())
	}
	if sent := s.hub.Counts().Bytes; sent > g.size()-written+slack {
		t.Errorf("%d of %d bytes were written, and %d were fetched after the kill", written, g.size(), sent)
	}
	s.fetchedOnce(g)
}

// privately starts a hive as a keeper does.
func (s *shelf) privately() (*running, *client.Client) {
	s.t.Helper()
	r := s.start("rbee-hive", "daemon", "--private", "--addr", "127.0.0.1:0")
	var said struct {
		URL string `json:"url"`
	}
	eventually(s.t, "the private hive answers", func() bool {
		return json.Unmarshal([]byte(r.stdout()), &said) == nil && said.URL != ""
	})
	return r, s.caller(said.URL)
}

// Two hives share a state directory and want one model. The one that waits sees
// how far the other is, and goes on where that is killed.
func TestAHiveGoesOnWithTheDownloadOfOneThatWasKilled(t *testing.T) {
	t.Parallel()
	for _, victim := range []string{"daemon", "private hive"} {
		t.Run("the "+victim+" is killed", func(t *testing.T) {
			t.Parallel()
			s := newShelf(t)
			g := s.large(3 << 20)
			daemon, daemonCalls := s.daemon()
			private, privateCalls := s.privately()
			first, firstCalls, second, secondCalls := daemon, daemonCalls, private, privateCalls
			if victim != "daemon" {
				first, firstCalls, second, secondCalls = private, privateCalls, daemon, daemonCalls
			}
			ctx, cancel := s.within()
			defer cancel()
			var firstErr, secondErr error
			var pulls sync.WaitGroup
			pulls.Go(func() { firstErr = pulled(ctx, firstCalls, g.ref, unheard) })
			s.sent(6 << 20)
			waits := make(chan struct{}) // closed when the second one knows that it waits
			pulls.Go(func() {
				told := sync.OnceFunc(func() { close(waits) })
				secondErr = pulled(ctx, secondCalls, g.ref, func(p rbee.DownloadProgress) {
					if p.BytesDownloaded > 0 { // by the first one, so far
						told()
					}
				})
				told()
			})
			<-waits
			s.sent(12 << 20)
			kill(t, first.pid(), syscall.SIGSTOP) // nothing is asked for from here on
			before := len(s.hub.Requests())
			written := s.written(g)
			s.hub.Heal()
			s.killed(first)
			pulls.Wait()
			if secondErr != nil || !client.IsCut(firstErr) {
				t.Errorf("the killed one: %v; the other: %v", firstErr, secondErr)
			}
			var sent int64
			for _, r := range s.hub.Requests()[before:] {
				sent += r.Bytes
			}
			if sent == 0 || sent > g.size()-written+slack {
				t.Errorf("%d of %d bytes were written, and %d were fetched after the kill", written, g.size(), sent)
			}
			kill(t, second.pid(), syscall.SIGTERM)
			second.mustExit("exit status 0")
			s.fetchedOnce(g)
		})
	}
}

func TestSixteenPullsAtOnceAreOneDownload(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	g := s.large(24 << 20)
	keepers := make([]*running, 16)
	for i := range keepers {
		keepers[i] = s.start("rbee", "models", "pull", g.ref)
	}
	for _, r := range keepers {
		r.mustExit("exit status 0")
		if r.stdout() != g.ref+"\n" {
			t.Errorf("stdout: %q", r.stdout())
		}
	}
	var sent int64
	for _, r := range s.hub.Requests() {
		if r.Host == hubtest.CDN {
			sent += r.Bytes
		}
	}
	if sent != g.size() {
		t.Errorf("the hub sent %d bytes of a model of %d", sent, g.size())
	}
	s.fetchedOnce(g)
}

// What a hub says of a size is all that is known of a file before it is fetched:
// no disk holds this one.
func TestAModelThatTheDiskCannotHoldIsNotBegun(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	small := s.offer("hf:share/small::small.Q8_0.gguf", "share/small", hubtest.File{Path: "small.Q8_0.gguf", Content: hubtest.GGUF(2, 3<<20)})
	huge := s.offer("hf:share/huge::huge.Q8_0.gguf", "share/huge", hubtest.File{Path: "huge.Q8_0.gguf", Content: hubtest.GGUF(3, 1<<20)})
	s.hub.Fault("share/huge", "huge.Q8_0.gguf", hubtest.Fault{Kind: hubtest.WrongLength, Bytes: 1<<44 - 1<<21})
	hive, calls := s.daemon()
	ctx, cancel := s.within()
	defer cancel()
	s.must(pulled(ctx, calls, small.ref, unheard))
	s.hub.Reset()
	err := pulled(ctx, calls, huge.ref, unheard)
	e := rbee.AsError(err)
	if e.Code != rbee.CodeInsufficientDisk || e.Details["required"] == nil || e.Details["available"] == nil || e.Suggestion() == "" {
		t.Errorf("error: %v, details %v, suggestion %q", err, e.Details, e.Suggestion())
	}
	for _, r := range s.hub.Requests() {
		if r.Host == hubtest.CDN {
			t.Errorf("asked for %s", r.Path)
		}
	}
	kill(t, hive.pid(), syscall.SIGTERM)
	hive.mustExit("exit status 0")
	s.fetchedOnce(small)
}
