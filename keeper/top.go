package keeper

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"rbee"
	"rbee/internal/conf"
)

const (
	topEvery = time.Second
	// topPatience bounds what is asked for one picture.
	topPatience = 2 * time.Second
	// topLook is how often a new size of the window is noticed.
	topLook = 250 * time.Millisecond
)

func (a *app) hiveTopCommand() *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch the workers of a hive: memory, slots, speed",
		Long: `Watch the workers of a hive: memory, slots in use, tokens per second, idle time
and requests so far. On a terminal the table is drawn anew each second; q or
Ctrl-C ends it. Elsewhere, with --once and with --json it is printed once.`,
		Example: "  rbee hive top\n  rbee hive top --once --node big",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withHive(cmd, false, func(ctx context.Context, _ conf.Config, c *colony) error {
				t := &top{colony: c}
				if once || a.out.json || !a.out.outTerminal {
					return a.topOnce(ctx, t)
				}
				return a.topLive(ctx, t)
			})
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "print the table once")
	nodeFlag(cmd)
	return cmd
}

// topRow is a worker as top shows it.
type topRow struct {
	rbee.Worker
	TokensPerSecond float64 `json:"tokens_per_second"`
	IdleSeconds     float64 `json:"idle_seconds"`
	Requests        int64   `json:"requests"`
	Queued          int     `json:"queued_requests"`
}

// topPicture is what top shows at one moment.
type topPicture struct {
	Time    time.Time        `json:"time"`
	Host    string           `json:"host"`
	Hive    *rbee.HiveStatus `json:"hive,omitempty"`
	Workers []topRow         `json:"workers"`
}

// top gathers what a hive and its workers tell.
type top struct {
	colony *colony

	mu      sync.Mutex
	workers map[rbee.WorkerID]rbee.Worker // from the feed

	counted map[rbee.WorkerID]tokenCount // by the picture before
}

// tokenCount is how many tokens a worker had generated at a time.
type tokenCount struct {
	tokens float64
	at     time.Time
}

// follow keeps the workers as the feed tells them, until ctx or the hive ends.
func (t *top) follow(ctx context.Context) error {
	for {
		for ev, err := range t.colony.client.Events(ctx) {
			if err != nil {
				break // too slow; who comes again gets the present state
			}
			t.take(ev)
			if ev.Kind == rbee.EventShutdown {
				return rbee.Errorf(rbee.CodeHiveNotFound, "the hive on %s has ended", t.colony.host)
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !t.colony.alive(ctx) {
			return t.colony.died("while we looked", errors.New("its feed ended"))
		}
		if err := pause(ctx, topLook); err != nil {
			return err
		}
	}
}

func (t *top) take(ev rbee.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ev.Kind == rbee.EventSnapshot {
		t.workers = map[rbee.WorkerID]rbee.Worker{}
	}
	for _, w := range append(slices.Clone(ev.Workers), deref(ev.Worker)...) {
		if ev.Kind == rbee.EventWorkerGone {
			delete(t.workers, w.ID)
		} else {
			t.workers[w.ID] = w
		}
	}
}

// known are the workers of the feed, in the order of their start. Before its
// first event they are not known.
func (t *top) known() ([]rbee.Worker, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.SortedFunc(maps.Values(t.workers), func(a, b rbee.Worker) int {
		if order := a.StartedAt.Compare(b.StartedAt); order != 0 {
			return order
		}
		return strings.Compare(string(a.ID), string(b.ID))
	}), t.workers != nil
}

// picture asks the workers for their figures.
func (t *top) picture(ctx context.Context, workers []rbee.Worker) topPicture {
	ctx, cancel := context.WithTimeout(ctx, topPatience)
	defer cancel()
	now := time.Now()
	p := topPicture{Time: now, Host: t.colony.host, Workers: make([]topRow, len(workers))}
	texts := make([]string, len(workers))
	var group errgroup.Group
	group.SetLimit(8)
	group.Go(func() error {
		if status, err := t.colony.client.Status(ctx); err == nil { // what is not told is not shown
			p.Hive = &status
		}
		return nil
	})
	for i, w := range workers {
		p.Workers[i] = topRow{Worker: w}
		if w.State.Ready() {
			group.Go(func() error {
				texts[i], _ = t.colony.worker(w.ID).Metrics(ctx) // not all programs have figures
				return nil
			})
		}
	}
	_ = group.Wait() // of functions that never fail
	counted := map[rbee.WorkerID]tokenCount{}
	for i := range p.Workers {
		counted[p.Workers[i].ID] = p.Workers[i].fill(texts[i], now, t.counted)
	}
	t.counted = counted
	return p
}

// fill adds the figures of a worker, and returns its count of tokens.
func (r *topRow) fill(metrics string, now time.Time, before map[rbee.WorkerID]tokenCount) tokenCount {
	if r.State == rbee.WorkerIdle {
		r.IdleSeconds = max(0, now.Sub(r.LastActivity).Seconds())
	}
	figure := samples(metrics)
	r.Requests, r.Queued = int64(figure["rbee_worker_admitted_requests_total"]), int(figure["rbee_worker_queued_requests"])
	if busy, ok := figure["rbee_worker_slots_busy"]; ok {
		r.SlotsAvailable = r.SlotsTotal - int(busy)
	}
	count := tokenCount{tokens: figure["rbee_worker_generated_tokens_total"], at: now}
	if last, ok := before[r.ID]; ok && count.tokens > last.tokens && now.After(last.at) {
		r.TokensPerSecond = (count.tokens - last.tokens) / now.Sub(last.at).Seconds()
	}
	return count
}

// topOnce prints one picture. Where somebody computes it takes two, a second
// apart, to see how fast.
func (a *app) topOnce(ctx context.Context, t *top) error {
	workers, err := t.colony.client.Workers(ctx)
	if err != nil {
		return err
	}
	p := t.picture(ctx, workers)
	if slices.ContainsFunc(workers, func(w rbee.Worker) bool { return w.State == rbee.WorkerBusy }) {
		if err := pause(ctx, topEvery); err != nil {
			return err
		}
		if workers, err = t.colony.client.Workers(ctx); err != nil {
			return err
		}
		p = t.picture(ctx, workers)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if a.out.json {
		a.out.emit(p)
		return nil
	}
	for _, line := range p.lines(0, 0, a.out.outStyles) {
		a.out.line("%s", line)
	}
	return nil
}

// topLive draws pictures until somebody ends it.
func (a *app) topLive(ctx context.Context, t *top) error {
	ctx, done := untilInterrupted(ctx, errLeft)
	defer done()
	s, err := openScreen(a.in, a.out.stdout.(*os.File))
	if err != nil {
		return err
	}
	defer s.close()
	group, ctx := errgroup.WithContext(ctx)
	pictures, keys := make(chan topPicture), make(chan byte) // never closed
	group.Go(func() error { return t.follow(ctx) })
	group.Go(func() error {
		for {
			if workers, ok := t.known(); ok {
				select {
				case pictures <- t.picture(ctx, workers):
				case <-ctx.Done():
					return nil
				}
			}
			if pause(ctx, topEvery) != nil {
				return nil
			}
		}
	})
	group.Go(func() error { return s.readKeys(ctx, keys) })
	group.Go(func() error { return a.drawTop(ctx, s, pictures, keys) })
	if err := group.Wait(); !errors.Is(err, errEnough) {
		return err
	}
	return nil
}

// errEnough ends what shows something without an end, as the user wished.
var errEnough = errors.New("enough was seen")

func (a *app) drawTop(ctx context.Context, s *screen, pictures <-chan topPicture, keys <-chan byte) error {
	var p topPicture
	tick := time.NewTicker(topLook)
	defer tick.Stop()
	var drawn window
	for {
		select {
		case p = <-pictures:
		case key := <-keys:
			switch key {
			case 'q', 'Q':
				return errEnough
			case ctrlC:
				return errLeft
			}
			continue
		case <-tick.C:
			if s.size() == drawn {
				continue
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		drawn = s.size()
		if !p.Time.IsZero() {
			s.draw(p.lines(drawn.width, drawn.height, a.out.outStyles))
		}
	}
}
