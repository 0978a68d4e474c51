package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	oai "github.com/openai/openai-go/v3"
	"golang.org/x/sync/errgroup"

	"rbee/internal/netns"
)

const (
	routeSlots = 4
	routeSpace = 4096 // tokens of context of each slot
)

// routeHives are machines of different speeds: what a token of a prompt and one of
// an answer take there.
func routeHives() []string {
	const also = ",context=4096,eos_at=100000"
	return []string{"prefill_token=60us,token=1500us" + also, "prefill_token=125us,token=3ms" + also, "prefill_token=375us,token=7ms" + also}
}

// way is one to dispatch requests.
type way struct {
	name   string
	model  string
	client *oai.Client
	first  [][]float64 // ms to the first token of streams, of each measurement
	whole  []float64   // ms to the answer of embeddings
}

// benchColony compares the queen with dispatchers that know less, on the same
// trace and the same hives.
func benchColony(ctx context.Context, cfg config, out io.Writer) (err error) {
	network := netns.New(len(routeHives()))
	f, err := startFleetIn(ctx, cfg, network, routeHives(), routeSlots, routeSpace)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	if err := f.warmUp(ctx, cfg); err != nil {
		return err
	}
	for _, kind := range traces() {
		ways, end, err := f.ways()
		if err == nil {
			err = measure(ctx, cfg, kind, ways)
		}
		if err = errors.Join(err, end(ctx)); err != nil {
			return err
		}
		kind.tell(cfg, out, network.Where(), ways)
	}
	return nil
}

// warmUp has each hive compute, so that all are measured.
func (f *fleet) warmUp(ctx context.Context, cfg config) error {
	texts := newLetters(cfg.seed ^ 99)
	for _, h := range f.hives {
		s := newServer(h.calls.Base(), "file:"+f.model)
		s.key = f.key
		for range 6 {
			if _, err := s.ask(ctx, texts.words(300), 20); err != nil {
				return err
			}
		}
	}
	return nil
}

// ways are the queen and the others, and what ends them.
func (f *fleet) ways() (ways []*way, end func(context.Context) error, err error) {
	var bases []string
	for _, h := range f.hives {
		bases = append(bases, h.calls.Base())
	}
	var others []*dispatcher
	end = func(ctx context.Context) error {
		var errs []error
		for _, d := range others {
			errs = append(errs, d.close(ctx))
		}
		return errors.Join(errs...)
	}
	add := func(name, base string) {
		ways = append(ways, &way{name: name, model: "file:" + f.model, client: official(base, f.key)})
	}
	add("queen", f.queen.calls.Base())
	for _, other := range []struct {
		name   string
		choose func(*dispatcher) int
	}{{"round robin", roundRobin}, {"least-loaded", leastLoaded}} {
		d, base, err := startDispatcher(bases, other.choose)
		if err != nil {
			return nil, end, err
		}
		others = append(others, d)
		add(other.name, base)
	}
	return ways, end, nil
}

// measure sends a trace by each way in turn.
func measure(ctx context.Context, cfg config, kind traceOf, ways []*way) error {
	for rep := range cfg.reps {
		seed := cfg.seed + uint64(rep) //nolint:gosec // a count
		trace := kind.draw(newLetters(seed))
		for i, w := range ways {
			texts := newLetters(seed*100 + uint64(i) + 7) //nolint:gosec // a count
			took, err := w.play(ctx, trace, texts.texts(trace))
			if err != nil {
				return fmt.Errorf("%s, %s: %w", kind.name, w.name, err)
			}
			w.note(trace, took)
		}
	}
	return nil
}

// play sends the requests of a trace when they are due, and returns how long after
// that what each asked for began to come. It fails with the first that fails.
func (w *way) play(ctx context.Context, trace []arrival, texts []text) ([]time.Duration, error) {
	took := make([]time.Duration, len(trace))
	group, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for i, a := range trace {
		due := start.Add(a.at)
		wait(ctx, time.Until(due))
		group.Go(func() error {
			at, err := w.send(ctx, a, texts[i])
			took[i] = at.Sub(due)
			return err
		})
	}
	return took, group.Wait()
}

// note keeps the times of one measurement.
func (w *way) note(trace []arrival, took []time.Duration) {
	var first []float64
	for i, a := range trace {
		if a.kind == embedding {
			w.whole = append(w.whole, ms(took[i]))
		} else {
			first = append(first, ms(took[i]))
		}
	}
	w.first = append(w.first, first)
}

// tell prints the times and the ratios of their means to those of the others.
func (t traceOf) tell(cfg config, out io.Writer, where string, ways []*way) {
	rows := [][]string{{
		"dispatcher", "streams + embeddings answered", "TTFT mean, ms", "TTFT p50 / p99, ms", "queen's mean by this one's", "goal", "embeddings p50, ms",
	}}
	for i, w := range ways {
		ratio, goal := "", ""
		if i > 0 {
			var all []float64
			for rep := range w.first {
				all = append(all, mean(ways[0].first[rep])/mean(w.first[rep]))
			}
			ratio = spread("%.3f", all)
			if t.goals[i-1] > 0 {
				goal = "≤ " + strconv.FormatFloat(t.goals[i-1], 'g', -1, 64)
			}
		}
		var means []float64
		for _, first := range w.first {
			means = append(means, mean(first))
		}
		first := slices.Concat(w.first...)
		rows = append(rows, []string{
			w.name, fmt.Sprintf("%d + %d", len(first), len(w.whole)), spread("%.1f", means),
			fmt.Sprintf("%.0f / %.0f", percentile(first, 50), percentile(first, 99)), ratio, goal, fmt.Sprintf("%.1f", percentile(w.whole, 50)),
		})
	}
	table(out, cfg, fmt.Sprintf("three hives of different speeds, %d requests of the official OpenAI client, Poisson arrivals of %g a second, %s; the hives were %s",
		t.requests, t.perSecond, t.name, where), rows)
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(max(1, len(values)))
}
