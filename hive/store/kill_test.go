package store_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rbee"
	"rbee/hive/store"
)

// killee is set in the environment of a process that is going to be killed: the
// test program itself, at work in a state directory.
const killee = "RBEE_TEST_KILLEE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(killee); dir != "" {
		if err := workUntilKilled(context.Background(), dir); err != nil {
			fmt.Println(err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func openAt(ctx context.Context, dir string) (*store.Store, func() error, error) {
	models := filepath.Join(dir, "models")
	s, closer, err := store.Open(ctx, filepath.Join(dir, "models.db"), store.Config{
		Dir: models, Inspect: inspect, Log: slog.New(slog.DiscardHandler),
		Providers: []store.Provider{store.NewBuiltins(models, inspect, bee), store.NewFiles(inspect)},
	})
	if err != nil {
		return nil, nil, err
	}
	return s, closer.Close, nil
}

// workUntilKilled does whatever changes a store, in any order.
func workUntilKilled(ctx context.Context, dir string) error {
	s, _, err := openAt(ctx, dir)
	if err != nil {
		return err
	}
	copies, _, err := openAt(ctx, dir)
	if err != nil {
		return err
	}
	copies.WithoutLinks()
	fmt.Println("working")
	name := func(name string) string { return filepath.Join(dir, "theirs", name) }
	ref := func(path string) rbee.ModelRef {
		return rbee.ModelRef{Provider: rbee.ProviderFile, Reference: path}
	}
	most := int64(1 << 20)
	work := []func() error{
		func() error { return s.Import(ctx, rbee.ImportRequest{Path: name("a.gguf")}, nobody) },
		func() error { return s.Import(ctx, rbee.ImportRequest{Path: name("same as a.gguf")}, nobody) },
		func() error { return copies.Import(ctx, rbee.ImportRequest{Path: name("b.gguf"), Copy: true}, nobody) },
		func() error {
			return copies.Import(ctx, rbee.ImportRequest{Path: name("s-00001-of-00003.gguf"), Copy: true}, nobody)
		},
		func() error { return s.Import(ctx, rbee.ImportRequest{Path: name("")}, nobody) },
		func() error { _, err := s.Resolve(ctx, beeRef); return err },
		func() error { _, err := s.Resolve(ctx, ref(name("in place.gguf"))); return err },
		func() error { return s.Remove(ctx, ref(name("a.gguf"))) },
		func() error { return s.Remove(ctx, ref(name("b.gguf"))) },
		func() error { return s.Remove(ctx, ref(name("s-00001-of-00003.gguf"))) },
		func() error { return s.Remove(ctx, beeRef) },
		func() error { return s.Verify(ctx, nil, nobody) },
		func() error { _, err := s.GC(ctx, rbee.GCRequest{}); return err },
		func() error { _, err := s.GC(ctx, rbee.GCRequest{MaxBytes: &most}); return err },
	}
	for {
		if err := work[rand.IntN(len(work))](); err != nil && rbee.CodeOf(err) == "" {
			return err
		}
	}
}

func TestWhateverMomentAStoreIsKilledAt(t *testing.T) {
	const rounds = 30
	h := newHome(t)
	content := func(name string, size int) {
		h.file(filepath.Join("theirs", name), "GGUF"+strings.Repeat(name[:1], size))
	}
	content("a.gguf", 1<<20)
	content("b.gguf", 1<<20)
	content("in place.gguf", 1<<16)
	for i := range 3 {
		content(fmt.Sprintf("s-%05d-of-%05d.gguf", i+1, 3), 1<<19)
	}
	must(t, os.Link(filepath.Join(h.dir, "theirs", "a.gguf"), filepath.Join(h.dir, "theirs", "same as a.gguf")))
	for round := range rounds {
		if round%10 == 9 {
			h.loseCatalog()
		}
		hurt := round%3 == 1 && damaged(t, h)
		killed(t, h.dir)
		if !whole(t, h, hurt) {
			t.Fatalf("after %d kills", round+1)
		}
	}
}

// damaged damages the model that the store has a copy of, if it is there.
func damaged(t *testing.T, h *home) bool {
	t.Helper()
	path := store.FilesAt(h.models()).Single(sum("GGUF" + strings.Repeat("b", 1<<20)))
	if !exists(path) {
		return false
	}
	scribble(t, path)
	return true
}

// killed starts a process that works on a state directory and kills it.
func killed(t *testing.T, dir string) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), killee+"="+dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	lines.Scan()
	if lines.Text() != "working" {
		t.Errorf("the process says %q", lines.Text())
	}
	<-time.After(rand.N(100 * time.Millisecond))
	must(t, cmd.Process.Kill())
	for lines.Scan() {
		t.Errorf("the process says %q", lines.Text())
	}
	_ = cmd.Wait() // it was killed
}

// whole checks that each model of a store is intact, unless one was hurt, and
// that each other file is one that gc names and removes.
func whole(t *testing.T, h *home, hurt bool) bool {
	t.Helper()
	s, end, err := openAt(t.Context(), h.dir)
	must(t, err)
	defer func() { must(t, end()) }()
	must(t, s.Settled(t.Context()))
	for _, p := range verify(t, s).all {
		if p.Stage == rbee.StoreDamaged && !hurt || p.Stage == rbee.StoreSkipped {
			t.Errorf("%s %s: %v", p.ModelRef, p.Stage, p.Error)
		}
	}
	u, err := s.Usage(t.Context())
	must(t, err)
	known := []string{filepath.Join(h.models(), ".lock"), filepath.Join(h.models(), ".notes.lock")}
	for _, f := range u.Files {
		known = append(known, f.Path, f.Path+".json")
	}
	for _, f := range collect(t, s, rbee.GCRequest{DryRun: true}).Removed {
		known = append(known, f.Path)
	}
	for _, path := range filesOf(t, h.models()) {
		if !slices.Contains(known, path) {
			t.Errorf("%s is of no model, and gc does not name it", path)
		}
	}
	if round := collect(t, s, rbee.GCRequest{}); len(round.Removed) > 0 {
		if left := collect(t, s, rbee.GCRequest{DryRun: true}).Removed; len(left) > 0 {
			t.Errorf("gc left %v", named(left))
		}
	}
	for _, p := range verify(t, s).all {
		if p.Stage == rbee.StoreDamaged || p.Stage == rbee.StoreSkipped {
			t.Errorf("after gc: %s %s: %v", p.ModelRef, p.Stage, p.Error)
		}
	}
	return !t.Failed()
}
