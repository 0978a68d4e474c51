package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
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
	name string
	server
	first [][]float64 // ms, of each measurement
}

// benchColony compares the queen with dispatchers that know less, on the same
// trace and the same hives.
func benchColony(ctx context.Context, cfg config, out io.Writer) (err error) {
	f, err := startFleet(ctx, cfg, routeHives(), routeSlots, routeSpace)
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
		kind.tell(cfg, out, ways)
	}
	return nil
}

// warmUp has each hive compute, so that all are measured.
func (f *fleet) warmUp(ctx context.Context, cfg config) error {
	texts := newLetters(cfg.seed ^ 99)
	for _, h := range f.hives {
		s := newServer(h.calls.Base(), "file:"+f.model)
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
	model := "file:" + f.model
	ways = append(ways, &way{name: "queen", server: newServer(f.queen.calls.Base(), model)})
	for _, other := range []struct {
		name   string
		choose func(*dispatcher) int
	}{{"round robin", roundRobin}, {"least-loaded", leastLoaded}} {
		d, base, err := startDispatcher(bases, other.choose)
		if err != nil {
			return nil, end, err
		}
		others = append(others, d)
		ways = append(ways, &way{name: other.name, server: newServer(base, model)})
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
			answers, err := w.play(ctx, trace, texts.texts(trace))
			if err != nil {
				return fmt.Errorf("%s, %s: %w", kind.name, w.name, err)
			}
			late := latenciesOf(answers)
			w.first = append(w.first, late.first)
		}
	}
	return nil
}

// play sends the requests of a trace when they are due, and returns the answers.
func (s server) play(ctx context.Context, trace []arrival, prompts []string) ([]answer, error) {
	answers := make([]answer, len(trace))
	group, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for i, a := range trace {
		due := start.Add(a.at)
		wait(ctx, time.Until(due))
		group.Go(func() (err error) {
			answers[i], err = s.askAt(ctx, due, prompts[i], a.tokens)
			return err
		})
	}
	return answers, group.Wait()
}

// tell prints the times and the ratios of their means to those of the others.
func (t traceOf) tell(cfg config, out io.Writer, ways []*way) {
	rows := [][]string{{"dispatcher", "requests answered", "TTFT mean, ms", "TTFT p50 / p99, ms", "queen's mean by this one's", "goal"}}
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
			w.name, strconv.Itoa(len(first)), spread("%.1f", means),
			fmt.Sprintf("%.0f / %.0f", percentile(first, 50), percentile(first, 99)), ratio, goal,
		})
	}
	table(out, cfg, fmt.Sprintf("three hives of different speeds, %d requests, Poisson arrivals of %g a second, %s", t.requests, t.perSecond, t.name), rows)
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(max(1, len(values)))
}
