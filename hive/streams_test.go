package hive_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rbee"
	"rbee/client"
)

// manyStreams is how many streams one hive carries at a time.
const manyStreams = 500

// slotsEach is how many of them one worker has.
const slotsEach = 63

// fleet starts workers for n streams at a time, and returns their URLs.
func fleet(tb testing.TB, c *client.Client, n int) (urls []string) {
	tb.Helper()
	for ; n > 0; n -= slotsEach {
		reply, err := c.Spawn(tb.Context(), rbee.SpawnRequest{ModelRef: "builtin:bee-tiny", Slots: slotsEach, Context: 256})
		if err != nil {
			tb.Fatal(err)
		}
		deadline := time.Now().Add(patience)
		for {
			w, err := c.Worker(tb.Context(), reply.WorkerID)
			if err != nil || w.State.Final() || time.Now().After(deadline) {
				tb.Fatalf("worker %+v, %v", w, err)
			}
			if w.State.Ready() {
				break
			}
			<-time.After(5 * time.Millisecond)
		}
		urls = append(urls, reply.URL)
	}
	return urls
}

func TestManyStreamsAtOnceAllComplete(t *testing.T) {
	t.Setenv("RBEE_FAKE_ENGINE", "token=50ms")
	r := start(t)
	urls := fleet(t, r.Client, manyStreams)
	const tokens = 30
	var open, most atomic.Int64
	var streams sync.WaitGroup
	for i := range manyStreams {
		streams.Go(func() {
			asked, begun := tokens, false
			for ev, err := range r.At(urls[i%len(urls)]).Infer(t.Context(), rbee.InferRequest{Prompt: "a", MaxTokens: &asked}) {
				if err != nil {
					t.Errorf("stream %d: %v", i, err)
					return
				}
				if !begun {
					begun = true
					most.Store(max(most.Load(), open.Add(1)))
					defer open.Add(-1)
				}
				if ev.InferDone != nil && ev.TotalTokens != tokens {
					t.Errorf("stream %d ended with %+v", i, ev.InferDone)
				}
			}
		})
	}
	streams.Wait()
	if most.Load() < manyStreams/2 {
		t.Errorf("at most %d streams were open at a time", most.Load())
	}
	for _, w := range r.workers() {
		r.wait(w.ID, rbee.WorkerIdle)
	}
}

// memoryOf is the anonymous memory of a process, in bytes.
func memoryOf(b *testing.B, pid int) int64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "RssAnon:")
	line, _, _ := strings.Cut(after, "\n")
	kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(line), " kB"), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return kib << 10
}

// BenchmarkManyStreams has 500 streams open through one hive: what memory the
// hive takes for each, and how long its shutdown takes with all of them open.
func BenchmarkManyStreams(b *testing.B) {
	b.Setenv("RBEE_FAKE_ENGINE", "token=200ms,eos_at=1000000")
	var perStream, shutdown []float64
	for b.Loop() {
		d := startDaemon(b, b.TempDir())
		urls := fleet(b, d.Client, manyStreams)
		before := memoryOf(b, d.cmd.Process.Pid)
		var open, streams sync.WaitGroup
		open.Add(manyStreams)
		for i := range manyStreams {
			streams.Go(func() {
				tokens, begun := 200, false
				for _, err := range d.At(urls[i%len(urls)]).Infer(b.Context(), rbee.InferRequest{Prompt: "a", MaxTokens: &tokens}) {
					if !begun {
						begun = true
						open.Done()
					}
					if err != nil {
						b.Errorf("stream %d: %v", i, err)
						return
					}
				}
			})
		}
		open.Wait()
		perStream = append(perStream, float64(memoryOf(b, d.cmd.Process.Pid)-before)/manyStreams/1024)
		began := time.Now()
		if _, err := d.Shutdown(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := d.cmd.Wait(); err != nil {
			b.Errorf("the daemon ended with %v", err)
		}
		shutdown = append(shutdown, time.Since(began).Seconds())
		streams.Wait()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(slices.Max(perStream), "KiB/stream")
	b.ReportMetric(slices.Max(shutdown), "s/shutdown")
}

// BenchmarkRelayDelay compares how long an event is on its way from a worker to
// its reader, straight and through the hive, at an event each millisecond.
func BenchmarkRelayDelay(b *testing.B) {
	const events = 2000
	mux := http.NewServeMux()
	answer := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
	}
	mux.HandleFunc("GET /v1/health", answer(`{"status":"alive"}`))
	mux.HandleFunc("GET /v1/ready", answer(`{"ready":true,"state":"idle","model_loaded":true,"slots_total":2}`))
	mux.HandleFunc("GET /v1/loading/progress", answer("data: {\"stage\":\"ready\"}\n\ndata: [DONE]\n\n"))
	begin := time.Now()
	mux.HandleFunc("POST /v1/inference", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for range events {
			<-tick.C
			_, _ = fmt.Fprintf(w, "data: {\"token\":\" word\",\"at\":%d}\n\n", time.Since(begin))
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = io.WriteString(w, "data: [DONE]\n\n")
	})
	r := start(b)
	outside := listen(b, mux)
	if _, err := r.WorkerReady(b.Context(), rbee.ReadyRequest{WorkerID: "outside", URL: outside, ModelRef: "hf:a/b", Backend: rbee.BackendCPU, Device: "cpu"}); err != nil {
		b.Fatal(err)
	}
	r.wait("outside", rbee.WorkerIdle)
	for b.Loop() {
		straight := medianDelay(b, begin, outside+"/v1/inference")
		relayed := medianDelay(b, begin, r.Base()+"/v1/workers/outside/v1/inference")
		b.ReportMetric(float64(straight.Nanoseconds())/1e3, "µs-straight")
		b.ReportMetric(float64((relayed-straight).Nanoseconds())/1e3, "µs-added")
	}
	b.ReportMetric(0, "ns/op")
}

// medianDelay is half of the events' time on their way at most.
func medianDelay(b *testing.B, begin time.Time, url string) time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("{}"))
	if err != nil {
		b.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	var delays []time.Duration
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if _, at, ok := strings.Cut(lines.Text(), `"at":`); ok {
			sent, err := strconv.ParseInt(strings.TrimSuffix(at, "}"), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			delays = append(delays, time.Since(begin)-time.Duration(sent))
		}
	}
	if len(delays) < 100 {
		b.Fatalf("%d events came", len(delays))
	}
	slices.Sort(delays)
	return delays[len(delays)/2]
}
