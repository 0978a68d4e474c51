package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"rbee"
	"rbee/internal/feed"
)

// job is one fetch of a model, however many want it:
//
//	resolving → downloading → verifying → complete
//	resolving → complete | cached
//	any of these but the last two → error
//
// Its progress is written by its goroutine alone, inside the feed.
type job struct {
	ref    rbee.ModelRef
	feed   *feed.Feed[rbee.DownloadProgress, rbee.DownloadProgress]
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when model and err are set

	wishes   int                   // of jobs
	progress rbee.DownloadProgress // of the feed
	model    rbee.Model
	err      error
}

// jobs are the fetches that run, and the wishes for them.
type jobs struct {
	store *Store
	ctx   context.Context // of all jobs
	end   context.CancelCauseFunc
	runs  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	byRef  map[rbee.ModelRef]*job
	wishes map[rbee.DownloadID]*Wish
	order  []rbee.DownloadID // of the wishes, oldest first
}

const (
	// rememberedWishes is how many wishes can be asked about; the oldest that are over go first.
	rememberedWishes = 256
	// progressBuffer is how many reports, of which there are a few a second, a
	// watcher may fall behind.
	progressBuffer = 256
)

var (
	errUnwanted = errors.New("nobody wants the download any more")
	errClosed   = errors.New("the hive shuts down")
)

func newJobs(s *Store) *jobs {
	j := &jobs{store: s, byRef: map[rbee.ModelRef]*job{}, wishes: map[rbee.DownloadID]*Wish{}}
	j.ctx, j.end = context.WithCancelCause(context.Background())
	return j
}

// GiveUp gives all fetches up, now and from now on, and returns when they have
// ended. What has arrived is kept.
func (s *Store) GiveUp() { s.jobs.close() }

// close may be called more than once.
func (j *jobs) close() {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.end(errClosed)
	j.runs.Wait()
}

// Wish is somebody's wish for a model. It must be released.
type Wish struct {
	ID   rbee.DownloadID
	jobs *jobs
	job  *job
	gone bool // of jobs
}

// Want begins to bring a model to the disk, or joins in where that is under way.
// perSecond bounds the bytes per second of a fetch that begins, 0 for no bound.
// It returns at once.
func (s *Store) Want(ref rbee.ModelRef, perSecond float64) *Wish {
	j := s.jobs
	j.mu.Lock()
	defer j.mu.Unlock()
	run, ok := j.byRef[ref]
	if !ok {
		run = &job{ref: ref, done: make(chan struct{}), progress: rbee.DownloadProgress{Stage: rbee.DownloadResolving}}
		run.feed = feed.New[rbee.DownloadProgress, rbee.DownloadProgress](progressBuffer, func() rbee.DownloadProgress { return run.progress })
		ctx, cancel := context.WithCancelCause(j.ctx)
		run.cancel = cancel
		if j.closed { // nobody would wait for it
			j.finish(ctx, run, rbee.Model{}, false, errClosed)
		} else {
			j.byRef[ref] = run
			j.runs.Go(func() { j.run(ctx, run, perSecond) })
		}
	}
	run.wishes++
	w := &Wish{ID: rbee.DownloadID("d-" + strings.ToLower(rand.Text()[:10])), jobs: j, job: run}
	j.wishes[w.ID] = w
	j.order = append(j.order, w.ID)
	j.trim()
	return w
}

// trim forgets old wishes whose fetch is over. j.mu is held.
func (j *jobs) trim() {
	for i := 0; len(j.order) > rememberedWishes && i < len(j.order); {
		if id := j.order[i]; j.wishes[id].job.over() {
			delete(j.wishes, id)
			j.order = slices.Delete(j.order, i, i+1)
			continue
		}
		i++
	}
}

// run is the goroutine of a job.
func (j *jobs) run(ctx context.Context, run *job, perSecond float64) {
	m, there, err := j.store.bring(ctx, Terms{Ref: run.ref, PerSecond: perSecond, Report: func(p rbee.DownloadProgress) { j.tell(run, p) }})
	j.mu.Lock()
	if j.byRef[run.ref] == run {
		delete(j.byRef, run.ref)
	}
	j.mu.Unlock()
	j.finish(ctx, run, m, there, err)
}

// finish tells how a fetch ended, which nobody can join any more.
func (j *jobs) finish(ctx context.Context, run *job, m rbee.Model, there bool, err error) {
	if err != nil && ctx.Err() != nil {
		err = rbee.Errorf(rbee.CodeRequestCanceled, "the download of %s was canceled: %w", run.ref, context.Cause(ctx)).
			Suggest("what has arrived is kept; ask for the model again to go on")
	}
	end := run.last()
	end.SpeedMBps, end.ETASeconds, end.Connections = 0, 0, 0
	switch {
	case err != nil:
		end.Stage, end.Error = rbee.DownloadError, rbee.AsError(err)
		j.store.cfg.Log.WarnContext(ctx, "a model was not brought", "model", run.ref.String(), "err", err)
	case there:
		end = rbee.DownloadProgress{Stage: rbee.DownloadCached, BytesDownloaded: m.SizeBytes, BytesTotal: m.SizeBytes, LocalPath: m.LocalPath}
	default:
		end.Stage, end.LocalPath, end.BytesDownloaded, end.BytesTotal = rbee.DownloadComplete, m.LocalPath, m.SizeBytes, m.SizeBytes
	}
	run.model, run.err = m, err
	j.tell(run, end)
	run.feed.Close()
	close(run.done)
	run.cancel(nil)
}

// tell makes a step of the progress known to all who watch.
func (j *jobs) tell(run *job, p rbee.DownloadProgress) {
	run.feed.Change(func(publish func(rbee.DownloadProgress)) {
		run.progress = p
		publish(p)
	})
	if p.Stage != rbee.DownloadCached {
		j.store.cfg.Downloading(rbee.Download{ModelRef: run.ref, DownloadProgress: p})
	}
}

// last is the progress as it was told last.
func (run *job) last() (p rbee.DownloadProgress) {
	run.feed.Change(func(func(rbee.DownloadProgress)) { p = run.progress })
	return p
}

func (run *job) over() bool {
	select {
	case <-run.done:
		return true
	default:
		return false
	}
}

// Release takes the wish back. The fetch is given up when the last one is.
func (w *Wish) Release() {
	w.jobs.mu.Lock()
	defer w.jobs.mu.Unlock()
	if w.gone {
		return
	}
	w.gone = true
	w.job.wishes--
	if w.job.wishes == 0 {
		w.job.cancel(errUnwanted)
		// Who wants the model from now on gets a fetch that is not being given up.
		if w.jobs.byRef[w.job.ref] == w.job {
			delete(w.jobs.byRef, w.job.ref)
		}
	}
}

// Wait blocks until the model is on disk, or cannot be brought, or ctx ends.
func (w *Wish) Wait(ctx context.Context) (rbee.Model, error) {
	select {
	case <-w.job.done:
		return w.job.model, w.job.err
	case <-ctx.Done():
		return rbee.Model{}, context.Cause(ctx)
	}
}

// Progress is the present state of the fetch, then each change, for one loop.
func (w *Wish) Progress(ctx context.Context) (rbee.DownloadProgress, iter.Seq2[rbee.DownloadProgress, error]) {
	return w.job.feed.Subscribe(ctx)
}

// Wish finds a wish by its id: MODEL_NOT_FOUND if there is none.
func (s *Store) Wish(id rbee.DownloadID) (*Wish, error) {
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	w, ok := s.jobs.wishes[id]
	if !ok {
		return nil, rbee.Errorf(rbee.CodeModelNotFound, "this hive has no download %s", id).
			Suggest("ask for the model again; what has arrived is kept")
	}
	return w, nil
}

// Downloads lists the fetches that run.
func (s *Store) Downloads() []rbee.Download {
	s.jobs.mu.Lock()
	runs := make([]*job, 0, len(s.jobs.byRef))
	for _, run := range s.jobs.byRef {
		runs = append(runs, run)
	}
	s.jobs.mu.Unlock()
	list := make([]rbee.Download, len(runs))
	for i, run := range runs {
		list[i] = rbee.Download{ModelRef: run.ref, DownloadProgress: run.last()}
	}
	slices.SortFunc(list, func(a, b rbee.Download) int { return cmp.Compare(a.ModelRef.String(), b.ModelRef.String()) })
	return list
}

// Path waits until it is known where the file of a wish is, or is going to be,
// and returns that; "" if it is known only when all bytes are there. It fails if
// the fetch has failed, or ctx ends.
func (w *Wish) Path(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, pathWait)
	defer cancel()
	now, changes := w.Progress(ctx)
	for p, err := range later(now, changes) {
		switch {
		case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
			return "", nil
		case err != nil:
			return "", err
		case p.Error != nil:
			return "", w.job.err
		case p.LocalPath != "" || p.Stage != rbee.DownloadResolving:
			return p.LocalPath, nil
		}
	}
	return "", nil
}

// pathWait bounds how long a caller waits for a hub that does not answer.
const pathWait = 30 * time.Second

// later yields now, then the changes.
func later[T any](now T, changes iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		if !yield(now, nil) {
			return
		}
		for v, err := range changes {
			if !yield(v, err) {
				return
			}
		}
	}
}
