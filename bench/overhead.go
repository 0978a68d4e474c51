package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"rbee/internal/sse"
)

const (
	overheadStreams = 64
	overheadEach    = 6 // requests of each client in one measurement
	overheadScript  = "token=20ms,eos_at=100000"
	crowd           = 2000 // streams at one time
)

// benchOverhead compares a worker behind queen and hive with one alone.
func benchOverhead(ctx context.Context, cfg config, out io.Writer) (err error) {
	f, err := startFleet(ctx, cfg, []string{overheadScript}, overheadStreams, 256)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	worker, err := f.alone(ctx, overheadScript, overheadStreams, 256)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, worker.close()) }()
	if err := f.compareWithWorker(ctx, worker, out); err != nil {
		return err
	}
	return f.crowd(ctx, out)
}

func (f *fleet) compareWithWorker(ctx context.Context, worker *daemon, out io.Writer) error {
	model := "file:" + f.model
	alone, ours := newServer(worker.calls.Base(), model), newServer(f.queen.calls.Base(), model)
	var ratio, p50, p99, aloneP50, oursP50 []float64
	for rep := range f.cfg.reps + 1 { // the first warms up
		var both [2]loaded
		for i, s := range []server{alone, ours} {
			var err error
			if both[i], err = s.streams(ctx, newLetters(f.cfg.seed+uint64(rep))); err != nil { //nolint:gosec // a count
				return err
			}
		}
		if rep == 0 {
			continue
		}
		a, o := latenciesOf(both[0].answers), latenciesOf(both[1].answers)
		aloneP50, oursP50 = append(aloneP50, percentile(a.first, 50)), append(oursP50, percentile(o.first, 50))
		p50 = append(p50, percentile(o.first, 50)-percentile(a.first, 50))
		p99 = append(p99, percentile(o.first, 99)-percentile(a.first, 99))
		ratio = append(ratio, both[1].rate()/both[0].rate())
	}
	table(out, f.cfg, fmt.Sprintf("%d streams at a time of a worker with a fake engine, 20 ms a token, through queen and hive and alone", overheadStreams), [][]string{
		{"", "median", "min", "max"},
		row("TTFT p50, worker alone, ms", "%.2f", aloneP50),
		row("TTFT p50, through queen and hive, ms", "%.2f", oursP50),
		row("added TTFT p50, ms (goal at most 1)", "%.2f", p50),
		row("added TTFT p99, ms (goal at most 3)", "%.2f", p99),
		row("ratio of tokens/s (goal 0.98)", "%.3f", ratio),
	})
	return nil
}

// streams runs a closed loop whose answers differ in length, so that they begin
// at different times.
func (s server) streams(ctx context.Context, texts letters) (loaded, error) {
	var mu sync.Mutex
	var all loaded
	group, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for range overheadStreams {
		own := texts.split()
		group.Go(func() error {
			wait(ctx, time.Duration(own.IntN(1000))*time.Millisecond)
			for range overheadEach {
				a, err := s.ask(ctx, own.words(40), 32+own.IntN(64))
				if err != nil {
					return err
				}
				mu.Lock()
				all.answers = append(all.answers, a)
				mu.Unlock()
			}
			return nil
		})
	}
	err := group.Wait()
	all.took = time.Since(start)
	return all, err
}

// crowd has many streams go through the queen at one time, from a server of
// others beside a hive, and says what they take of her.
func (f *fleet) crowd(ctx context.Context, out io.Writer) (err error) {
	c, err := startCrowd()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := f.addHive(ctx, "", 0, 0, "RBEE_EXTERNAL=others="+c.base); err != nil {
		return err
	}
	if err := f.await(ctx, "the queen knows the server", func() bool {
		workers, err := f.queen.calls.ColonyWorkers(ctx)
		return err == nil && len(workers) == 2
	}); err != nil {
		return err
	}
	s := newServer(f.queen.calls.Base(), "external:others/crowd")
	before, err := resident(f.queen.cmd.Process.Pid)
	if err != nil {
		return err
	}
	group, all := errgroup.WithContext(ctx)
	for range crowd {
		group.Go(func() error {
			_, err := s.ask(all, "x", 2)
			return err
		})
	}
	if err := f.await(all, "all streams are there", func() bool { return c.come.Load() == crowd }); err != nil {
		return errors.Join(err, group.Wait())
	}
	during, err := resident(f.queen.cmd.Process.Pid)
	close(c.on)
	if err = errors.Join(err, group.Wait()); err != nil {
		return err
	}
	table(out, f.cfg, fmt.Sprintf("%d streams at one time through one queen", crowd), [][]string{
		{"", ""},
		{"streams that were answered whole", fmt.Sprint(crowd)},
		{"memory of the queen for each, KiB (goal at most 100)", fmt.Sprintf("%.1f", float64(during-before)/crowd/1024)},
	})
	return nil
}

// crowdServer speaks as much of llama-server's API as a hive asks for. Its streams
// go on after their first token once it is told.
type crowdServer struct {
	base   string
	come   atomic.Int64
	on     chan struct{}
	server *http.Server
	served sync.WaitGroup
}

func startCrowd() (*crowdServer, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &crowdServer{base: "http://" + listener.Addr().String(), on: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"object":"list","data":[{"id":"crowd","object":"model","owned_by":"llamacpp"}]}`)
	})
	mux.HandleFunc("GET /props", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"total_slots":%d,"default_generation_settings":{"n_ctx":1024}}`, crowd)
	})
	mux.HandleFunc("POST /v1/completions", c.complete)
	c.server = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	c.served.Go(func() { _ = c.server.Serve(listener) }) // it ends by close
	return c, nil
}

func (c *crowdServer) complete(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", sse.ContentType)
	say := func(event string) {
		_, _ = io.WriteString(w, "data: "+event+"\n\n") // a reader that left is told of by the context
		_ = http.NewResponseController(w).Flush()
	}
	say(`{"choices":[{"index":0,"text":"one "}]}`)
	c.come.Add(1)
	select {
	case <-c.on:
	case <-r.Context().Done():
		return
	}
	say(`{"choices":[{"index":0,"text":"two","finish_reason":"stop"}]}`)
	say(`{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}`)
	say(sse.End)
}

func (c *crowdServer) close() error {
	err := c.server.Close()
	c.served.Wait()
	return err
}
