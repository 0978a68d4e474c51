package dispatch_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"rbee"
	"rbee/internal/conf"
	"rbee/queen/dispatch"
	"rbee/queen/sched"
)

// queenEnv makes the test binary a queen before one hive, whose URL it is.
const queenEnv = "RBEE_TEST_DISPATCH_HIVE"

// one is a colony of one hive that never changes.
type one struct {
	url       string
	snapshot  *sched.Snapshot
	never     chan struct{}
	transport *http.Transport
}

func newOne(url string, flights *sched.Flights, transport *http.Transport) *one {
	return &one{url: url, never: make(chan struct{}), transport: transport, snapshot: sched.NewSnapshot([]*sched.Hive{{
		ID: "1", Name: "one", Seq: 1, Workers: []rbee.ColonyWorker{{
			ID: "w", ModelRef: rbee.ModelRef{Provider: rbee.ProviderBuiltin, Reference: "bee-tiny"}, Backend: rbee.BackendCPU, State: rbee.WorkerIdle,
			SlotsTotal: 4, External: true, // which has no bound
		}},
	}}, flights)}
}

func (o *one) Snapshot() *sched.Snapshot { return o.snapshot }
func (o *one) Changed() <-chan struct{}  { return o.never }
func (o *one) Hives() []rbee.ColonyHive  { return nil }
func (o *one) Failed(rbee.HiveID, error) {}
func (o *one) Reach(rbee.HiveID) (dispatch.Target, error) {
	return dispatch.Target{Base: o.url, Transport: o.transport}, nil
}

func dispatcher(url string) *dispatch.Dispatcher {
	settings := conf.Defaults()
	settings.Aliases = map[string]string{"tiny": model}
	flights := sched.NewFlights()
	transport := &http.Transport{ReadBufferSize: 2 << 10, WriteBufferSize: 1 << 10, MaxIdleConnsPerHost: 64, DisableCompression: true}
	return dispatch.New(dispatch.Config{
		Settings: settings, Colony: newOne(url, flights, transport), Flights: flights, Log: slog.New(slog.DiscardHandler),
	})
}

// queenProgram serves until it is interrupted. Its first line is its URL.
func queenProgram(hive string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 1
	}
	fmt.Printf("http://%s\n", ln.Addr())
	if api(dispatcher(hive)).Serve(ctx, ln) != nil {
		return 1
	}
	return 0
}

// queenProcess starts one, and returns its URL and its process id.
func queenProcess(b *testing.B, hive string) (string, int) {
	b.Helper()
	p := exec.CommandContext(b.Context(), os.Args[0])
	p.Env = append(os.Environ(), queenEnv+"="+hive)
	p.Cancel = func() error { return p.Process.Signal(os.Interrupt) }
	out, err := p.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := p.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = p.Process.Signal(os.Interrupt)
		_ = p.Wait()
	})
	var url string
	if _, err := fmt.Fscanln(out, &url); err != nil {
		b.Fatal(err)
	}
	return url, p.Process.Pid
}

// source is a hive that sends an event to each stream at each beat.
func source(b *testing.B, events int, every time.Duration, stamp func() int64) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		rc := http.NewResponseController(w)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for range events {
			_, _ = fmt.Fprintf(w, "data: {\"at\":%d,\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n", stamp())
			if rc.Flush() != nil {
				return
			}
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
		_, _ = io.WriteString(w, "data: [DONE]\n\n")
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(ln) })
	b.Cleanup(func() {
		s.Close()
		serving.Wait()
	})
	return "http://" + ln.Addr().String()
}

func rss(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Skip("memory is read from /proc")
	}
	_, after, _ := strings.Cut(string(text), "RssAnon:")
	line, _, _ := strings.Cut(after, "\n")
	kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(line), " kB"), 64)
	if err != nil {
		b.Fatal(err)
	}
	return kib
}

// BenchmarkMemoryOfAStream has 2,000 streams open through one queen, and tells
// what memory of hers each takes.
func BenchmarkMemoryOfAStream(b *testing.B) {
	const streams = 2000
	for b.Loop() {
		url, pid := queenProcess(b, source(b, 40, 250*time.Millisecond, func() int64 { return 0 }))
		before := rss(b, pid)
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, ReadBufferSize: 1 << 10}}
		var begun, all sync.WaitGroup
		begun.Add(streams)
		door := make(chan struct{}, 64)
		for range streams {
			all.Go(func() {
				door <- struct{}{}
				resp, err := client.Post(url+chats, "application/json", strings.NewReader(asks)) //nolint:noctx // ends by itself
				<-door
				begun.Done()
				if err != nil {
					b.Error(err)
					return
				}
				defer resp.Body.Close()
				text, err := io.ReadAll(resp.Body)
				if n := strings.Count(string(text), "\n\n"); err != nil || n != 41 {
					b.Errorf("%d events came, %v", n, err)
				}
			})
		}
		begun.Wait()
		b.ReportMetric((rss(b, pid)-before)/streams, "KiB/stream")
		all.Wait()
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkDelay compares how long an event, and the first token, are on their way
// straight from a hive and through a queen.
func BenchmarkDelay(b *testing.B) {
	began := time.Now()
	hive := source(b, 50, time.Millisecond, func() int64 { return int64(time.Since(began)) })
	url, _ := queenProcess(b, hive)
	for b.Loop() {
		straight, first := delays(b, began, hive)
		through, firstThrough := delays(b, began, url)
		b.ReportMetric(float64(straight.Nanoseconds())/1e3, "µs-straight")
		b.ReportMetric(float64((through-straight).Nanoseconds())/1e3, "µs-added")
		b.ReportMetric(float64((firstThrough-first).Nanoseconds())/1e3, "µs-added-ttft")
	}
	b.ReportMetric(0, "ns/op")
}

// delays are medians: of the way of events, and of the time to the first of a stream.
func delays(b *testing.B, began time.Time, url string) (event, first time.Duration) {
	b.Helper()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	var events, firsts []time.Duration
	for range 60 {
		sent := time.Now()
		ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+chats, strings.NewReader(asks))
		if err != nil {
			b.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		buf := make([]byte, 64<<10)
		for n := 0; ; {
			k, err := resp.Body.Read(buf)
			now := time.Since(began)
			if n == 0 {
				firsts = append(firsts, time.Since(sent))
			}
			for _, e := range strings.SplitAfter(string(buf[:k]), "\n\n") {
				_, after, found := strings.Cut(e, `"at":`)
				if !found {
					continue
				}
				digits, _, _ := strings.Cut(after, ",")
				if at, err := strconv.ParseInt(digits, 10, 64); err == nil {
					events = append(events, now-time.Duration(at))
					n++
				}
			}
			if err != nil {
				break
			}
		}
		resp.Body.Close()
		cancel()
	}
	if len(events) == 0 {
		b.Fatal("no events came")
	}
	slices.Sort(events)
	slices.Sort(firsts)
	return events[len(events)/2], firsts[len(firsts)/2]
}
