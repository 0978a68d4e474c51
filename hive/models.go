package hive

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"rbee"
	"rbee/hive/provision"
	"rbee/hive/store"
	"rbee/internal/conf"
	"rbee/internal/download"
	"rbee/internal/gguf"
	"rbee/internal/hub"
	"rbee/models"
)

// storeConfig is how this hive keeps its models.
func (h *Hive) storeConfig() store.Config {
	dir := h.cfg.Settings.Home.ModelsDir()
	return store.Config{
		Dir: dir,
		Providers: []store.Provider{
			store.NewBuiltins(dir, inspect, store.Builtin{Name: models.BeeTinyName, Bytes: models.BeeTiny(), SHA256: models.BeeTinySHA256}),
			store.NewFiles(inspect),
			h.provider,
			elsewhere{},
		},
		Inspect:    inspect,
		QuotaBytes: int64(h.cfg.Settings.Models.QuotaGB * 1e9),
		InUse:      h.inUse,
		Changed: func(kind rbee.EventKind, m rbee.Model) {
			h.pool.Feed().Publish(rbee.Event{Kind: kind, Time: h.clock.now(), Model: &m})
		},
		Downloading: func(d rbee.Download) {
			h.pool.Feed().Publish(rbee.Event{Kind: rbee.EventDownload, Time: h.clock.now(), Download: &d})
		},
		Log: h.log,
	}
}

// newProvider is how this hive gets models from a hub.
func (h *Hive) newProvider() (*provision.Provider, error) {
	cfg, err := hub.FromEnviron(h.cfg.Environ)
	if err != nil {
		return nil, err
	}
	settings := h.cfg.Settings.Download
	return provision.New(provision.Config{
		Hub: hub.New(cfg), Files: store.FilesAt(h.cfg.Settings.Home.ModelsDir()),
		Connections: settings.Connections, Limit: download.NewLimit(schedule(settings)),
		Row: row, Machine: h.machine,
		Catalogued: func(ctx context.Context, path string) (bool, error) { return h.store.Catalogued(ctx, path) },
		MakeRoom: func(ctx context.Context, need int64, except rbee.ModelRef) ([]rbee.SpareFile, error) {
			return h.store.MakeRoom(ctx, need, except)
		},
	}), nil
}

// schedule is the limit of all downloads at each hour of the day.
func schedule(s conf.Download) download.Schedule {
	usual, quiet := download.Always(s.LimitMBps*megabyte), s.QuietLimitMBps*megabyte
	if s.QuietHours == "" {
		return usual
	}
	return func(now time.Time) (float64, time.Time) {
		next := s.QuietHours.Next(now)
		if s.QuietHours.Contains(now) {
			return quiet, next
		}
		perSecond, _ := usual(now)
		return perSecond, next
	}
}

// machine is what this machine has for a worker with one slot, on the device
// that a spawn would choose.
func (h *Hive) machine(ctx context.Context) provision.Machine {
	where, free := h.roomiest(ctx)
	return provision.Machine{FreeBytes: free, Need: func(f gguf.File) int64 {
		return f.Estimate(h.usualContext(f), 1, where.backend).Need()
	}}
}

// usualContext is the context that a worker gets unasked.
func (h *Hive) usualContext(f gguf.File) int {
	context, err := contextFor(0, h.cfg.Settings.Worker.Context, f.ContextLength)
	if err != nil { // nothing was asked for
		return maxDefaultContext
	}
	return context
}

// inUse says what needs a model.
func (h *Hive) inUse(m rbee.Model) string {
	if users := h.pool.ByModel(m.Ref()); len(users) > 0 {
		return fmt.Sprintf("worker %s uses it", users[0].ID)
	}
	if h.claims.has(m.Ref()) {
		return "a worker is being started for it"
	}
	return ""
}

// claims are the models that spawns are looking at.
type claims struct {
	mu sync.Mutex
	n  map[rbee.ModelRef]int
}

func (c *claims) add(ref rbee.ModelRef) (release func()) {
	c.change(ref, 1)
	return func() { c.change(ref, -1) }
}

func (c *claims) change(ref rbee.ModelRef, by int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[rbee.ModelRef]int{}
	}
	if c.n[ref] += by; c.n[ref] == 0 {
		delete(c.n, ref)
	}
}

func (c *claims) has(ref rbee.ModelRef) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[ref] > 0
}

// inspect makes the row of a model out of its header.
func inspect(path string) (rbee.Model, error) {
	f, err := gguf.Read(path)
	if err != nil {
		return rbee.Model{}, err
	}
	m := row(f)
	m.LocalPath = path
	if len(f.Parts) == 1 {
		return m, nil
	}
	for _, part := range f.Parts {
		info, err := os.Stat(part)
		if err != nil {
			return rbee.Model{}, fmt.Errorf("cannot read %s: %w", part, err)
		}
		m.Parts = append(m.Parts, rbee.ModelFile{Path: part, SizeBytes: info.Size()})
	}
	return m, nil
}

// row is what the catalog knows of a model from its header.
func row(f gguf.File) rbee.Model {
	return rbee.Model{
		SizeBytes: f.SizeBytes, Name: f.Name, Architecture: f.Architecture, Quantisation: f.Quantisation,
		ContextLength: f.ContextLength, Parameters: f.Parameters,
	}
}
