package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"rbee"
)

const (
	soakClients = 8
	soakSlots   = 4 // fewer than clients, so that some wait
	soakFlat    = 1.05
	soakRest    = 10 * time.Second // in which everything must have ended at the end
)

// benchSoak lets clients send anything for a long time: what was not asked for
// must not come, and nothing must be left. A missed goal is an error.
func benchSoak(ctx context.Context, cfg config, out io.Writer) error {
	cfg.drafts = true // a worker as it is
	ours, err := startServer(ctx, cfg, soakSlots, soakSpace)
	if err != nil {
		return err
	}
	s := &soak{served: ours, out: out}
	verdicts, err := s.run(ctx, cfg)
	if err != nil {
		return ours.close(err)
	}
	rows := [][]string{{"", "", "goal"}}
	var missed []string
	for _, v := range verdicts {
		rows = append(rows, []string{v.name, v.value, v.goal})
		if !v.met {
			missed = append(missed, v.name)
		}
	}
	table(out, cfg, fmt.Sprintf("soak, %d clients, %d slots, 125M parameters Q4_0, seed %d", soakClients, soakSlots, cfg.seed), rows)
	for _, f := range s.now.faults {
		fmt.Fprintln(out, "not asked for:", f)
	}
	if len(missed) > 0 {
		err = errors.New("the soak missed: " + strings.Join(missed, "; "))
	}
	return ours.close(err)
}

// soak is one while it runs.
type soak struct {
	*served
	out    io.Writer
	before [2]float64   // goroutines of worker and hive
	memory [2][]float64 // of worker and hive, MiB
	mu     sync.Mutex
	now    tally
}

// tally counts what came of the requests.
type tally struct {
	requests, tokens, left, asked, unasked int
	faults                                 []string // the first that nobody asked for
}

const maxFaults = 10

func (s *soak) note(c came, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.requests++
	s.now.tokens += c.tokens
	if c.left {
		s.now.left++
	}
	if c.failed {
		s.now.asked++
	}
	if err != nil {
		if s.now.unasked++; len(s.now.faults) < maxFaults {
			s.now.faults = append(s.now.faults, err.Error())
		}
	}
}

func (s *soak) tally() tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// run sends requests for as long as asked, watches, and judges.
func (s *soak) run(ctx context.Context, cfg config) ([]verdict, error) {
	var err error
	if s.before, err = s.goroutines(ctx); err != nil {
		return nil, err
	}
	worker, err := s.colony.calls.Worker(ctx, s.id)
	if err != nil {
		return nil, err
	}
	sending, stop := context.WithCancel(ctx)
	defer stop()
	until := time.Now().Add(cfg.span)
	texts := newLetters(cfg.seed)
	var clients sync.WaitGroup
	for range soakClients {
		texts := texts.split()
		clients.Go(func() {
			for time.Now().Before(until) && sending.Err() == nil {
				if c, err := drawTask(texts, s.model).do(sending, s.server); sending.Err() == nil {
					s.note(c, err)
				}
			}
		})
	}
	if err = s.watch(ctx, cfg.span, until, [2]int{worker.PID, s.colony.hive.Process.Pid}); err != nil {
		stop()
	}
	clients.Wait()
	if err != nil {
		return nil, err
	}
	return s.judge(ctx)
}

// watch looks at the memory all the time, and prints a line each minute.
func (s *soak) watch(ctx context.Context, span time.Duration, until time.Time, pids [2]int) error {
	fmt.Fprint(s.out, "\n|   time | requests | tokens | canceled | asked for | not asked for | worker, MiB | hive, MiB | goroutines |\n")
	fmt.Fprint(s.out, "| ------ | -------- | ------ | -------- | --------- | ------------- | ----------- | --------- | ---------- |\n")
	start := until.Add(-span)
	every := min(time.Minute, span/4)
	look := min(5*time.Second, span/200)
	var last tally
	printed := 0 // samples
	for next := start.Add(every); time.Now().Before(until); {
		wait(ctx, look)
		if err := ctx.Err(); err != nil {
			return err
		}
		for i, pid := range pids {
			b, err := residentBytes(pid)
			if err != nil {
				return err
			}
			s.memory[i] = append(s.memory[i], float64(b)/(1<<20))
		}
		if time.Now().Before(next) {
			continue
		}
		next = next.Add(every)
		routines, err := s.goroutines(ctx)
		if err != nil {
			return err
		}
		now := s.tally()
		fmt.Fprintf(s.out, "| %6s | %8d | %6d | %8d | %9d | %13d | %11.1f | %9.1f | %10s |\n",
			time.Since(start).Round(time.Second), now.requests-last.requests, now.tokens-last.tokens, now.left-last.left, now.asked-last.asked,
			now.unasked-last.unasked, percentile(s.memory[0][printed:], 50), percentile(s.memory[1][printed:], 50),
			fmt.Sprintf("%.0f / %.0f", routines[0], routines[1]))
		last, printed = now, len(s.memory[0])
	}
	return nil
}

// goroutines are those of the worker and of the hive.
func (s *served) goroutines(ctx context.Context) (n [2]float64, err error) {
	text, err := s.worker.Metrics(ctx)
	if err != nil {
		return n, err
	}
	hive, err := s.colony.calls.Metrics(ctx)
	if err != nil {
		return n, err
	}
	return [2]float64{metric(text, "go_goroutines"), metric(hive, "go_goroutines")}, nil
}

// metric is a figure without labels of Prometheus' text format, 0 if there is none.
func metric(text, name string) float64 {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, _ := strconv.ParseFloat(strings.TrimSpace(value), 64) // what is no number is none
			return v
		}
	}
	return 0
}

// verdict is what came of one goal.
type verdict struct {
	name, value, goal string
	met               bool
}

// judge waits for the worker to come to rest.
func (s *soak) judge(ctx context.Context) ([]verdict, error) {
	limit, stop := context.WithTimeout(ctx, soakRest)
	defer stop()
	var list rbee.SlotList
	var after [2]float64
	most := [2]float64{s.before[0] + 4*soakClients, s.before[1] + 4*soakClients}
	for {
		var err error
		if list, err = s.worker.Slots(ctx); err != nil {
			return nil, err
		}
		if after, err = s.goroutines(ctx); err != nil {
			return nil, err
		}
		atRest := busySlots(list) == 0 && list.KVUsedTokens == 0 && list.Queued == 0 && after[0] <= most[0] && after[1] <= most[1]
		if atRest || limit.Err() != nil {
			break
		}
		wait(limit, 100*time.Millisecond)
	}
	all := s.tally()
	verdicts := []verdict{
		{"requests / tokens", fmt.Sprintf("%d / %d", all.requests, all.tokens), "", all.requests > 0},
		{"canceled / refused, as asked for", fmt.Sprintf("%d / %d", all.left, all.asked), "", true},
		none("errors that nobody asked for", all.unasked),
		none("slots in use at the end", busySlots(list)),
		none("KV cells in use at the end", list.KVUsedTokens),
		none("requests queued at the end", list.Queued),
	}
	for i, of := range []string{"worker", "hive"} {
		flat := flatness(s.memory[i])
		verdicts = append(verdicts,
			verdict{
				"memory of the " + of + ", last quarter to second", fmt.Sprintf("%.3f", flat),
				fmt.Sprintf("at most %g", soakFlat), flat > 0 && flat <= soakFlat,
			},
			verdict{
				"goroutines of the " + of + " at the end, " + fmt.Sprintf("%.0f before", s.before[i]), fmt.Sprintf("%.0f", after[i]),
				fmt.Sprintf("at most %.0f", most[i]), after[i] > 0 && after[i] <= most[i],
			})
	}
	return verdicts, nil
}

func none(name string, n int) verdict { return verdict{name, strconv.Itoa(n), "0", n == 0} }

func busySlots(list rbee.SlotList) (n int) {
	for _, slot := range list.Slots {
		if slot.State != "idle" {
			n++
		}
	}
	return n
}
