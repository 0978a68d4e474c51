//go:build linux

package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rbee"
	"rbee/internal/netns"
	"rbee/models"
)

// Throttled workers: what prompts and tokens take there.
const (
	fastHive   = "prefill_token=200us,token=2ms,eos_at=100000"
	middleHive = "prefill_token=500us,token=5ms,eos_at=100000"
	slowHive   = "prefill_token=1500us,token=12ms,eos_at=100000"
)

// modelFiles makes model files for all hives of a test, with the names.
func modelFiles(t *testing.T, names ...string) (refs []string) {
	t.Helper()
	dir := t.TempDir()
	for i, name := range names {
		path := filepath.Join(dir, name+".gguf")
		// What follows a model's weights is not read; it makes another digest.
		if err := os.WriteFile(path, append(models.BeeTiny(), make([]byte, 32*(i+1))...), 0o600); err != nil {
			t.Fatal(err)
		}
		refs = append(refs, "file:"+path)
	}
	return refs
}

// Requests of all kinds for several models, of which some hives have some, are
// all answered whichever hives they go to, and all hives have their part.
func TestThreeHivesOfDifferentSpeedsAnswerFiveHundredMixedRequests(t *testing.T) {
	a := newApiary(t, fastHive, middleHive, slowHive)
	refs := modelFiles(t, "anna", "bert")
	for i, h := range a.hives {
		h.spawn(h.calls, rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})
		if i != 1 {
			h.spawn(h.calls, rbee.SpawnRequest{ModelRef: refs[0]})
		}
		if i == 1 {
			h.spawn(h.calls, rbee.SpawnRequest{ModelRef: refs[1]})
		}
	}
	eventually(t, "the queen knows all models", func() bool {
		list, err := a.calls.ServedModels(t.Context())
		return err == nil && len(list) == 3
	})
	at := map[string]int{} // hives by their workers
	for i, h := range a.hives {
		workers, err := h.calls.Workers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range workers {
			at[string(w.ID)] = i
		}
	}
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // not for secrets
	known := append([]string{"builtin:bee-tiny"}, refs...)
	hits := volley(t.Context(), a.official(), 16, count(500, func(int) shot { return mixed(random, known) }))
	l := judge(t, hits)
	served, kinds := make([]int, len(a.hives)), map[string]int{}
	for _, h := range hits {
		served[at[h.worker]]++
		kinds[h.kind]++
		if _, known := at[h.worker]; !known {
			t.Errorf("a reply names the worker %q, which nobody started", h.worker)
		}
	}
	t.Logf("%s; by hive %v, by kind %v", l, served, kinds)
	if l.answered != 500 {
		t.Errorf("%d of 500 were answered", l.answered)
	}
	for i, n := range served {
		if n == 0 {
			t.Errorf("hive %d had no part in it", i)
		}
	}
}

// crowdServer is a server of others, beside a hive, whose streams go on after their
// first token only when so many have come: all of them are there at one time.
func crowdServer(t *testing.T, streams int, come *atomic.Int64) (base string) {
	t.Helper()
	all := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"object":"list","data":[{"id":"crowd","object":"model","owned_by":"llamacpp"}]}`)
	})
	mux.HandleFunc("GET /props", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"total_slots":%d,"default_generation_settings":{"n_ctx":1024}}`, streams)
	})
	mux.HandleFunc("POST /v1/completions", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		say := func(event string) {
			_, _ = io.WriteString(w, "data: "+event+"\n\n")
			_ = http.NewResponseController(w).Flush()
		}
		say(`{"choices":[{"index":0,"text":"one "}]}`)
		if come.Add(1) == int64(streams) {
			close(all)
		}
		select {
		case <-all:
		case <-r.Context().Done():
			return
		}
		say(`{"choices":[{"index":0,"text":"two","finish_reason":"stop"}]}`)
		say(`{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}`)
		say("[DONE]")
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// Two thousand streams that go through one queen and hive at one time are all
// answered whole.
func TestTwoThousandStreamsCompleteOnOneQueen(t *testing.T) {
	const streams, beginning = 2000, 50                            // at a time; more would only show how long the line at the queen may be
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // a stream that fails never comes, and all wait for it
	defer cancel()
	var come atomic.Int64
	q := newQueen(t, "127.0.0.1")
	h := newMember(t, netns.Place{Addr: "127.0.0.1"}, "", q.token(rbee.JoinHive), "RBEE_EXTERNAL=others="+crowdServer(t, streams, &come))
	h.start()
	h.await()
	eventually(t, "the queen knows the server", func() bool {
		told := q.told(h)
		return told != nil && len(told.Workers) == 1 && told.Workers[0].SlotsTotal == streams
	})
	before := memoryOf(t, q.run.pid())
	hits := volley(ctx, q.official(), streams, count(streams, func(i int) shot {
		for int64(i)-come.Load() > beginning && ctx.Err() == nil {
			<-time.After(time.Millisecond)
		}
		return shot{kind: "completion", model: "external:others/crowd", prompt: "x", stream: true, tokens: 2}
	}))
	t.Logf("with the race detector the queen took %d KiB more for each", (memoryOf(t, q.run.pid())-before)/streams>>10)
	for _, h := range hits {
		if h.err == nil && h.text != "one two" {
			t.Errorf("a stream said %q", h.text)
		}
	}
	if l := judge(t, hits); l.answered != streams {
		t.Error(l)
	}
}

// memoryOf is the most memory that a process had, in bytes.
func memoryOf(t *testing.T, pid int) (bytes int) {
	t.Helper()
	text := readText(t, fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(text, "VmHWM:")
	if _, err := fmt.Sscanf(rest, "%d kB", &bytes); err != nil {
		t.Fatal(err)
	}
	return bytes << 10
}
