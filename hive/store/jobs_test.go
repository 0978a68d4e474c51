package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rbee"
	"rbee/hive/store"
)

var hubRef = rbee.ModelRef{Provider: rbee.ProviderHF, Reference: "org/name:Q8_0"}

// scripted is a provider that does what a test tells each of its fetches.
type scripted struct {
	mu      sync.Mutex
	fetches []*fetching
	began   chan *fetching
}

// fetching is one fetch. The test sends what it does next.
type fetching struct {
	terms store.Terms
	steps chan rbee.DownloadProgress
	end   chan error
	ended chan struct{} // closed when it has returned
	slow  chan struct{} // closed when it may return although its context has ended
}

func (*scripted) Name() rbee.Provider { return rbee.ProviderHF }

func (p *scripted) Fetch(ctx context.Context, terms store.Terms) (store.Delivery, error) {
	f := &fetching{
		terms: terms, steps: make(chan rbee.DownloadProgress), end: make(chan error, 1), ended: make(chan struct{}), slow: make(chan struct{}),
	}
	defer close(f.ended)
	p.mu.Lock()
	p.fetches = append(p.fetches, f)
	p.mu.Unlock()
	p.began <- f
	for {
		select {
		case s := <-f.steps:
			terms.Report(s)
		case err := <-f.end:
			return p.delivery(terms), err
		case <-ctx.Done():
			<-f.slow
			return store.Delivery{}, fmt.Errorf("stopped: %w", ctx.Err())
		}
	}
}

func (p *scripted) delivery(terms store.Terms) store.Delivery {
	path := strings.TrimSuffix(terms.Ref.Reference, ":Q8_0") + ".gguf"
	return store.Delivery{Model: rbee.Model{
		Provider: terms.Ref.Provider, Reference: terms.Ref.Reference, LocalPath: path, SizeBytes: 8, DownloadedAt: time.Now(),
	}}
}

// next is the next fetch that begins.
func (p *scripted) next(t *testing.T) *fetching {
	t.Helper()
	select {
	case f := <-p.began:
		return f
	case <-time.After(patience):
		t.Fatal("no fetch begins")
		return nil
	}
}

func (p *scripted) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.fetches)
}

// patience bounds what should happen at once.
const patience = 30 * time.Second

// fetcher is a store that fetches as a test tells it.
type fetcher struct {
	*store.Store
	*scripted
	t      *testing.T
	ref    rbee.ModelRef // of a model whose file is there
	path   string
	close  func()
	mu     sync.Mutex
	events []rbee.Download
}

func newFetcher(t *testing.T) *fetcher {
	t.Helper()
	before := goleak.IgnoreCurrent()
	dir := t.TempDir()
	f := &fetcher{t: t, scripted: &scripted{began: make(chan *fetching, 64)}, path: write(t, filepath.Join(dir, "m.gguf"), "GGUF hub")}
	f.ref = rbee.ModelRef{Provider: rbee.ProviderHF, Reference: strings.TrimSuffix(f.path, ".gguf")}
	s, closer, err := store.Open(t.Context(), filepath.Join(dir, "models.db"), store.Config{
		Dir: filepath.Join(dir, "models"), Providers: []store.Provider{f.scripted}, Inspect: inspect,
		Downloading: func(d rbee.Download) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.events = append(f.events, d)
		},
		Log: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	f.Store = s
	must(t, s.Settled(t.Context()))
	f.close = sync.OnceFunc(func() {
		must(t, closer.Close())
		goleak.VerifyNone(t, before)
	})
	t.Cleanup(f.close)
	return f
}

// wait waits for the end of a wish.
func (f *fetcher) wait(w *store.Wish) (rbee.Model, error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	return w.Wait(ctx)
}

// watch collects what a watcher sees, up to the end.
func (f *fetcher) watch(w *store.Wish) (seen func() []rbee.DownloadProgress) {
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	now, changes := w.Progress(ctx)
	all := []rbee.DownloadProgress{now}
	var done sync.WaitGroup
	done.Go(func() {
		defer cancel()
		for p, err := range changes {
			if err != nil {
				f.t.Errorf("watching: %v", err)
			}
			all = append(all, p)
		}
	})
	return func() []rbee.DownloadProgress { done.Wait(); return all }
}

func bytesOf(steps []rbee.DownloadProgress) (numbers []string) {
	for _, s := range steps {
		numbers = append(numbers, fmt.Sprintf("%s %d", s.Stage, s.BytesDownloaded))
	}
	return numbers
}

func downloading(n int64) rbee.DownloadProgress {
	return rbee.DownloadProgress{Stage: rbee.DownloadDownloading, BytesDownloaded: n, BytesTotal: 8, SpeedMBps: 1, ETASeconds: 1, Connections: 2}
}

func TestOneFetchServesAllWhoWantAModel(t *testing.T) {
	f := newFetcher(t)
	var wishes []*store.Wish
	ids := map[rbee.DownloadID]bool{}
	for range 32 {
		w := f.Want(f.ref, 0)
		wishes, ids[w.ID] = append(wishes, w), true
	}
	var resolved sync.WaitGroup
	for range 8 {
		resolved.Go(func() {
			if m, err := f.Resolve(t.Context(), f.ref); err != nil || m.LocalPath != f.path {
				t.Errorf("resolved %+v, %v", m, err)
			}
		})
	}
	run := f.next(t)
	if list := f.Downloads(); len(list) != 1 || list[0].ModelRef != f.ref || list[0].Stage != rbee.DownloadResolving {
		t.Errorf("downloads: %+v", list)
	}
	run.end <- nil
	for _, w := range wishes {
		if m, err := f.wait(w); err != nil || m.LocalPath != f.path {
			t.Fatalf("%+v, %v", m, err)
		}
		w.Release()
	}
	resolved.Wait()
	if f.count() != 1 || len(ids) != 32 || len(f.Downloads()) != 0 {
		t.Errorf("%d fetches, %d ids, %v run", f.count(), len(ids), f.Downloads())
	}
	w := f.Want(f.ref, 0)
	_, err := f.wait(w)
	must(t, err)
	if now, _ := w.Progress(t.Context()); now.Stage != rbee.DownloadCached || now.LocalPath != f.path || now.BytesTotal != 8 || f.count() != 1 {
		t.Errorf("a model that is there: %+v, %d fetches", now, f.count())
	}
}

func TestAFetchEndsWithItsLastWish(t *testing.T) {
	f := newFetcher(t)
	first, second := f.Want(f.ref, 0), f.Want(f.ref, 0)
	run := f.next(t)
	close(run.slow)
	first.Release()
	first.Release() // of the same wish does not count twice
	run.steps <- downloading(1)
	second.Release()
	for _, w := range []*store.Wish{first, second} {
		_, err := f.wait(w)
		if e := rbee.AsError(err); e == nil || e.Code != rbee.CodeRequestCanceled || e.Suggestion() == "" || !strings.Contains(e.Message, f.ref.String()) {
			t.Errorf("ended with %v", err)
		}
	}
	<-run.ended
	if list := f.Downloads(); len(list) != 0 {
		t.Errorf("downloads: %v", list)
	}
}

func TestAWishBeginsAnewWhatIsBeingGivenUp(t *testing.T) {
	f := newFetcher(t)
	old := f.Want(f.ref, 0)
	given := f.next(t)
	old.Release()
	w := f.Want(f.ref, 0) // while the old fetch still cleans up
	run := f.next(t)
	if list := f.Downloads(); len(list) != 1 {
		t.Errorf("downloads: %v", list)
	}
	close(given.slow)
	if _, err := f.wait(old); rbee.CodeOf(err) != rbee.CodeRequestCanceled {
		t.Errorf("the old one: %v", err)
	}
	if list := f.Downloads(); len(list) != 1 {
		t.Errorf("the end of the old fetch has hidden the new one: %v", list)
	}
	old.Release()
	run.end <- nil
	if _, err := f.wait(w); err != nil {
		t.Errorf("the new one: %v", err)
	}
}

func TestAllWatchersSeeTheSame(t *testing.T) {
	f := newFetcher(t)
	w, other := f.Want(f.ref, 0), f.Want(f.ref, 0)
	early, twin := f.watch(w), f.watch(other)
	run := f.next(t)
	for i := range int64(3) {
		run.steps <- downloading(i)
	}
	run.steps <- downloading(3)
	run.steps <- downloading(4) // by now 3 was told
	late := f.watch(w)
	run.end <- nil
	_, err := f.wait(w)
	must(t, err)
	want := []string{"resolving 0", "downloading 0", "downloading 1", "downloading 2", "downloading 3", "downloading 4", "complete 8"}
	if got := bytesOf(early()); !slices.Equal(got, want) || !slices.Equal(bytesOf(twin()), want) {
		t.Errorf("saw %v and %v", got, bytesOf(twin()))
	}
	got := bytesOf(late())
	if len(got) < 2 || !slices.Equal(got, want[len(want)-len(got):]) || got[0] == want[0] {
		t.Errorf("a late watcher saw %v", got)
	}
	after := f.watch(w)()
	if len(after) != 1 || after[0].Stage != rbee.DownloadComplete || after[0].LocalPath != f.path || after[0].SpeedMBps != 0 || after[0].ETASeconds != 0 || after[0].Connections != 0 {
		t.Errorf("who came after the end saw %+v", after)
	}
	f.close()
	var told []rbee.DownloadProgress
	for _, e := range f.events {
		told = append(told, e.DownloadProgress)
	}
	if got := bytesOf(told); !slices.Equal(got, want[1:]) {
		t.Errorf("events: %v", got)
	}
}

func TestAFailureKeepsItsCodeForAll(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		code rbee.Code
	}{
		"one for users": {fmt.Errorf("fetching: %w", rbee.Errorf(rbee.CodeChecksumMismatch, "it is damaged").Suggest("try again")), rbee.CodeChecksumMismatch},
		"any other":     {errors.New("secret"), rbee.CodeInternalError},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFetcher(t)
			w := f.Want(f.ref, 0)
			run := f.next(t)
			run.steps <- downloading(5)
			run.end <- c.err
			_, err := f.wait(w)
			if !errors.Is(err, c.err) || rbee.AsError(err).Code != c.code {
				t.Errorf("failed with %v", err)
			}
			last := f.watch(w)()
			if p := last[len(last)-1]; p.Stage != rbee.DownloadError || p.Error == nil || p.Error.Code != c.code || p.BytesDownloaded != 5 || strings.Contains(p.Error.Message, "secret") {
				t.Errorf("told %+v", p)
			}
			if _, ok, err := f.OnDisk(t.Context(), f.ref); ok || err != nil {
				t.Errorf("it is catalogued: %v", err)
			}
			again := f.Want(f.ref, 0)
			f.next(t).end <- nil
			if _, err := f.wait(again); err != nil {
				t.Errorf("another try: %v", err)
			}
		})
	}
}

func TestAWishIsFoundByItsID(t *testing.T) {
	f := newFetcher(t)
	running := f.Want(f.ref, 0)
	run := f.next(t)
	found, err := f.Wish(running.ID)
	if err != nil || found != running {
		t.Errorf("found %v, %v", found, err)
	}
	if _, err := f.Wish("d-nobody"); rbee.CodeOf(err) != rbee.CodeModelNotFound || rbee.AsError(err).Suggestion() == "" {
		t.Errorf("one that is not there: %v", err)
	}
	var ids []rbee.DownloadID
	for range 400 { // of a provider that is not there, so they are over at once
		w := f.Want(rbee.ModelRef{Provider: rbee.ProviderFile, Reference: "/nowhere.gguf"}, 0)
		if _, err := f.wait(w); rbee.CodeOf(err) != rbee.CodeModelNotFound {
			t.Fatalf("ended with %v", err)
		}
		ids = append(ids, w.ID)
	}
	if _, err := f.Wish(ids[len(ids)-1]); err != nil {
		t.Errorf("the last one is forgotten: %v", err)
	}
	if _, err := f.Wish(ids[0]); rbee.CodeOf(err) != rbee.CodeModelNotFound {
		t.Errorf("all are remembered: %v", err)
	}
	if found, err := f.Wish(running.ID); err != nil || found != running {
		t.Errorf("one that runs is forgotten: %v", err)
	}
	run.end <- nil
	_, err = f.wait(running)
	must(t, err)
}

func TestThePathIsToldAsSoonAsItIsKnown(t *testing.T) {
	for name, c := range map[string]struct {
		does func(*fetching)
		path string
		code rbee.Code
	}{
		"with the answer of the hub": {func(run *fetching) {
			run.steps <- rbee.DownloadProgress{Stage: rbee.DownloadResolving}
			run.steps <- rbee.DownloadProgress{Stage: rbee.DownloadResolving, LocalPath: "/there"}
		}, "/there", ""},
		"only at the end": {func(run *fetching) { run.steps <- downloading(1) }, "", ""},
		"never":           {func(run *fetching) { run.end <- rbee.Errorf(rbee.CodeDownloadFailed, "no hub") }, "", rbee.CodeDownloadFailed},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFetcher(t)
			w := f.Want(f.ref, 0)
			run := f.next(t)
			close(run.slow)
			var beside sync.WaitGroup
			beside.Go(func() { c.does(run) })
			path, err := w.Path(t.Context())
			beside.Wait()
			if path != c.path || rbee.CodeOf(err) != c.code || c.code == "" && err != nil {
				t.Errorf("path %q, %v", path, err)
			}
			left, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := f.Want(hubRef, 0).Path(left); !errors.Is(err, context.Canceled) {
				t.Errorf("who has left: %v", err)
			}
			close(f.next(t).slow)
		})
	}
}

func TestCloseEndsAllFetches(t *testing.T) {
	f := newFetcher(t)
	w, other := f.Want(f.ref, 0), f.Want(hubRef, 0)
	watched := f.watch(w)
	for range 2 {
		close(f.next(t).slow)
	}
	f.GiveUp()
	for _, w := range []*store.Wish{w, other, f.Want(f.ref, 0)} { // the last one comes too late
		if _, err := f.wait(w); rbee.CodeOf(err) != rbee.CodeRequestCanceled || !strings.Contains(err.Error(), "shuts down") {
			t.Errorf("ended with %v", err)
		}
	}
	if all := watched(); all[len(all)-1].Error == nil {
		t.Errorf("a watcher saw %+v", all)
	}
	if f.count() != 2 || len(f.Downloads()) != 0 {
		t.Errorf("%d fetches, running: %v", f.count(), f.Downloads())
	}
	f.close() // where nothing may be left
}

func TestTheTermsOfAFetchAreThoseOfItsFirstWish(t *testing.T) {
	f := newFetcher(t)
	w := f.Want(f.ref, 1000)
	f.Want(f.ref, 5)
	run := f.next(t)
	if run.terms.PerSecond != 1000 || run.terms.Ref != f.ref {
		t.Errorf("terms: %+v", run.terms)
	}
	run.end <- nil
	_, err := f.wait(w)
	must(t, err)
}
