package download

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// transfer is one run of a fetch.
type transfer struct {
	part *Part
	req  Request
	file *os.File
	boot string

	mu       sync.Mutex
	moved    *sync.Cond // done grew, or the run has failed
	done     spans
	active   spans // what connections are at, beginning with what they have written
	since    int64 // bytes written since the last note in the live journal
	unsynced int64
	arrived  int64 // bytes of this run
	pace     pace
	workers  int
	note     string
	whole    bool // the source sends a file from its beginning only
	failed   error
	wake     chan struct{} // look how many connections there are; one is enough
	syncs    chan struct{} // sync what was written; likewise
	news     chan struct{} // tell the note; likewise
}

func newTransfer(p *Part, r Request, f *os.File, had spans, note string) *transfer {
	most := r.Connections
	if most <= 0 || most > MaxConnections {
		most = MaxConnections
	}
	if r.SizeBytes-had.total() <= smallFile {
		most = 1
	}
	t := &transfer{
		part: p, req: r, file: f, boot: bootID(), done: had, note: note, pace: newPace(most),
		wake: make(chan struct{}, 1), syncs: make(chan struct{}, 1), news: make(chan struct{}, 1),
	}
	t.moved = sync.NewCond(&t.mu)
	return t
}

// run fetches what is missing and returns the digest of the whole.
func (t *transfer) run(ctx context.Context) (digest string, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { t.fail(context.Cause(ctx)) })
	defer stop()
	over := make(chan struct{}) // closed below: all bytes are there and hashed, or nothing comes any more
	var beside errgroup.Group
	beside.Go(func() error { return t.keepJournal(over) })
	beside.Go(func() error { t.tell(over); return nil })
	var group errgroup.Group
	group.Go(func() error {
		var err error
		digest, err = t.digest()
		return err
	})
	group.Go(func() error { return t.connect(ctx) })
	err = group.Wait()
	close(over)
	err = errors.Join(err, beside.Wait())
	if t.cause() != nil { // the others only say that it has failed
		return "", t.cause()
	}
	return digest, err
}

// fail ends the run; the first cause counts.
func (t *transfer) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == nil {
		t.failed = err
	}
	t.moved.Broadcast()
	poke(t.wake)
}

func (t *transfer) cause() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

// complete says whether all bytes are there.
func (t *transfer) complete() bool { return t.done.front() >= t.req.SizeBytes }

// connect runs as many connections as the pace wants until all bytes are there.
func (t *transfer) connect(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var connections sync.WaitGroup
	defer connections.Wait()
	tick := time.NewTicker(adaptEvery)
	defer tick.Stop()
	var before int64
	for {
		t.mu.Lock()
		for t.failed == nil && t.workers < t.pace.n && t.unclaimed().size() > 0 {
			t.workers++
			connections.Go(func() { t.work(ctx) })
		}
		failed, finished := t.failed, t.complete()
		t.mu.Unlock()
		if failed != nil || finished {
			cancel()
			return failed
		}
		select {
		case <-t.wake:
		case <-tick.C:
			t.mu.Lock()
			t.pace.tick(float64(t.arrived - before))
			before = t.arrived
			t.mu.Unlock()
		}
	}
}

// unclaimed is the first span that nobody fetches. t.mu is held.
func (t *transfer) unclaimed() span {
	taken := append(spans(nil), t.done...)
	for _, s := range t.active {
		taken = taken.add(s)
	}
	return taken.gap(t.req.SizeBytes)
}

// claim takes a span to fetch; not if there is none, or more connections than
// the pace wants.
func (t *transfer) claim() (span, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.unclaimed()
	if s.size() <= 0 || t.failed != nil || t.workers > t.pace.n {
		return span{}, false
	}
	if !t.whole {
		share := (t.req.SizeBytes - t.done.total()) / int64(2*t.pace.n)
		s.To = min(s.To, s.From+max(minRange, min(share, maxRange)))
	}
	t.active = append(t.active, s)
	return s, true
}

// release gives back a span that was claimed; what of it was written is done.
func (t *transfer) release(s span) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, a := range t.active {
		if a == s {
			t.active = append(t.active[:i], t.active[i+1:]...)
			break
		}
	}
}

// work is one connection: it fetches spans until there are no more.
func (t *transfer) work(ctx context.Context) {
	defer func() {
		t.mu.Lock()
		t.workers--
		t.mu.Unlock()
		poke(t.wake)
	}()
	try := attempts{}
	for {
		s, ok := t.claim()
		if !ok {
			return
		}
		n, err := t.get(ctx, s)
		t.release(s)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !t.endures(ctx, &try, n, err) {
			return
		}
		if err == nil {
			try = attempts{}
		}
	}
}

// poke leaves word in a channel that holds one.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// get fetches one span and returns how many bytes of it were written.
func (t *transfer) get(ctx context.Context, s span) (n int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := t.req.Stall
	if patience <= 0 {
		patience = Stall
	}
	stall := time.AfterFunc(patience, func() { cancel(silence(patience)) })
	defer stall.Stop()
	at := t.opening(s)
	body, err := t.req.Source.Open(ctx, at, s.To)
	if err != nil {
		return 0, stalled(ctx, err)
	}
	defer func() { _ = body.Close() }() // what it has to say, reading said
	buf := make([]byte, bufferBytes)
	for at < s.To && ctx.Err() == nil {
		stop := s.To
		if at < s.From { // of a source that sends from the beginning only
			stop = s.From
		}
		stall.Reset(patience)
		k, readErr := body.Read(buf[:min(int64(len(buf)), stop-at)])
		stall.Stop()
		if k > 0 {
			if err := t.write(ctx, buf[:k], at, at >= s.From); err != nil {
				return n, err
			}
			if at >= s.From {
				n += int64(k)
			}
			at += int64(k)
		}
		if readErr != nil && at < s.To {
			if errors.Is(readErr, io.EOF) {
				readErr = errShort
			}
			return n, stalled(ctx, readErr)
		}
	}
	return n, context.Cause(ctx)
}

// opening is where the source is to begin so that a span arrives.
func (t *transfer) opening(s span) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.whole {
		return 0
	}
	return s.From
}

// write puts bytes where they belong, unless they are there already, and waits
// as the limits want.
func (t *transfer) write(ctx context.Context, b []byte, at int64, fresh bool) error {
	if fresh {
		if _, err := t.file.WriteAt(b, at); err != nil {
			err = explain("write "+t.part.Path(), err)
			t.fail(err)
			return err
		}
		if t.wrote(span{at, at + int64(len(b))}) {
			if err := t.journal(false); err != nil {
				t.fail(explain("write "+t.part.Path(), err))
			}
		}
	}
	for _, l := range t.req.Limits {
		if err := l.wait(ctx, len(b)); err != nil {
			return err
		}
	}
	return nil
}

// wrote notes what was written, and says whether the journal should know.
func (t *transfer) wrote(s span) (tell bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done = t.done.add(s)
	t.arrived += s.size()
	t.since += s.size()
	t.unsynced += s.size()
	if t.unsynced >= syncBytes {
		t.unsynced = 0
		poke(t.syncs)
	}
	t.moved.Broadcast()
	return t.since >= liveBytes
}

// journal notes what is done: in the live journal, or after a sync in the
// durable one as well.
func (t *transfer) journal(sync bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	j := journal{Version: journalVersion, Stamp: t.req.Stamp, SizeBytes: t.req.SizeBytes, Boot: t.boot, Spans: t.done}
	t.since = 0
	if err := t.part.writeLive(j); err != nil || !sync {
		return err
	}
	return t.part.writeDurable(j)
}

// keepJournal syncs what was written and notes it, until the run is over.
func (t *transfer) keepJournal(over <-chan struct{}) error {
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for last := false; !last; {
		select {
		case <-tick.C:
		case <-t.syncs:
		case <-over:
			last = true
		}
		if err := t.sync(); err != nil {
			t.fail(err)
			return err
		}
	}
	return nil
}

// sync makes durable what was written by now, and notes it.
func (t *transfer) sync() error {
	t.mu.Lock()
	j := journal{Version: journalVersion, Stamp: t.req.Stamp, SizeBytes: t.req.SizeBytes, Spans: append(spans(nil), t.done...)}
	t.mu.Unlock()
	if err := t.file.Sync(); err != nil {
		return explain("write "+t.part.Path(), err)
	}
	return explain("write "+t.part.Path(), t.part.writeDurable(j))
}

// digest reads the file from its beginning, behind what arrives, and returns
// its SHA-256. It reads the disk, not the network: what was there before this
// run, or was written wrongly, is checked as well.
func (t *transfer) digest() (string, error) {
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for at := int64(0); at < t.req.SizeBytes; {
		t.mu.Lock()
		for t.done.front() <= at && t.failed == nil {
			t.moved.Wait()
		}
		front, failed := t.done.front(), t.failed
		t.mu.Unlock()
		if failed != nil {
			return "", failed
		}
		n, err := t.file.ReadAt(buf[:min(int64(len(buf)), front-at)], at)
		if n == 0 && err != nil {
			err = explain("read "+t.part.Path(), err)
			t.fail(err)
			return "", err
		}
		h.Write(buf[:n])
		at += int64(n)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// tell reports the progress until the run is over.
func (t *transfer) tell(over <-chan struct{}) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	var speed speed
	for last := false; ; {
		t.mu.Lock()
		speed.add(t.arrived)
		p := Progress{
			Done: t.done.total(), Total: t.req.SizeBytes, PerSecond: speed.perSecond(), Connections: t.workers,
			Verifying: t.complete(), Note: t.note,
		}
		t.mu.Unlock()
		t.req.Report(p)
		if last {
			return
		}
		select {
		case <-tick.C:
		case <-t.news:
		case <-over:
			last = true
		}
	}
}

// speed is the rate of the last seconds.
type speed struct {
	times []time.Time
	bytes []int64
}

// speedSamples are about three seconds of reports.
const speedSamples = 15

func (s *speed) add(total int64) {
	s.times, s.bytes = append(s.times, time.Now()), append(s.bytes, total)
	if len(s.times) > speedSamples {
		s.times, s.bytes = s.times[1:], s.bytes[1:]
	}
}

func (s *speed) perSecond() float64 {
	last := len(s.times) - 1
	took := s.times[last].Sub(s.times[0]).Seconds()
	if took <= 0 {
		return 0
	}
	return float64(s.bytes[last]-s.bytes[0]) / took
}
