package feed_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"rbee/internal/feed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// counter is a state with a feed: its changes are the numbers from 1.
type counter struct {
	n int // guarded by the feed's lock
	*feed.Feed[int, int]
}

func newCounter(buffer int) *counter {
	c := &counter{}
	c.Feed = feed.New[int, int](buffer, func() int { return c.n })
	return c
}

func (c *counter) add() {
	c.Change(func(publish func(int)) {
		c.n++
		publish(c.n)
	})
}

func TestATailBeginsWhereItsSnapshotEnds(t *testing.T) {
	c := newCounter(10)
	c.add()
	c.add()
	n, tail := c.Subscribe(t.Context())
	c.add()
	c.add()
	c.Close()
	var got []int
	for e, err := range tail {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if n != 2 || !slices.Equal(got, []int{3, 4}) {
		t.Errorf("snapshot %d and tail %v, want 2 and [3 4]", n, got)
	}
}

func TestASlowReaderIsCutOffAndOthersAreNot(t *testing.T) {
	c := newCounter(2)
	_, slow := c.Subscribe(t.Context())
	quickCtx, leave := context.WithCancel(t.Context())
	_, quick := c.Subscribe(quickCtx)
	seen := make(chan int)
	var wg sync.WaitGroup
	wg.Go(func() {
		for e, err := range quick {
			if err != nil {
				return
			}
			seen <- e
		}
	})
	for i := 1; i <= 5; i++ {
		c.add()
		if got := <-seen; got != i {
			t.Fatalf("the quick reader has %d, want %d", got, i)
		}
	}
	var got []int
	var end error
	for e, err := range slow {
		if err != nil {
			end = err
			break
		}
		got = append(got, e)
	}
	if !errors.Is(end, feed.ErrSlow) || !slices.Equal(got, []int{1, 2}) {
		t.Errorf("the slow reader has %v and %v, want [1 2] and ErrSlow", got, end)
	}
	leave()
	wg.Wait()
	if n := c.Readers(); n != 0 {
		t.Errorf("%d readers are left", n)
	}
}

func TestATailEndsWithTheCauseOfItsContext(t *testing.T) {
	c := newCounter(2)
	why := errors.New("the client went away")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, tail := c.Subscribe(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, err := range tail {
			if !errors.Is(err, why) {
				t.Errorf("ended with %v, want the cause", err)
			}
		}
	})
	cancel(why)
	wg.Wait()
}

func TestAReaderThatNeverReadsIsForgottenWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounter(2)
		ctx, cancel := context.WithCancel(t.Context())
		c.Subscribe(ctx)
		if c.Readers() != 1 {
			t.Error("no reader")
		}
		cancel()
		synctest.Wait()
		if n := c.Readers(); n != 0 {
			t.Errorf("%d readers are left", n)
		}
		c.add()
	})
}

func TestLeavingTheLoopEndsTheSubscription(t *testing.T) {
	c := newCounter(2)
	_, tail := c.Subscribe(t.Context())
	c.add()
	for range tail {
		break
	}
	if n := c.Readers(); n != 0 {
		t.Errorf("%d readers are left", n)
	}
}

func TestAClosedFeedGivesASnapshotAndAnEmptyTail(t *testing.T) {
	c := newCounter(2)
	c.add()
	c.Close()
	c.Close()
	c.add()
	n, tail := c.Subscribe(t.Context())
	for e, err := range tail {
		t.Errorf("the tail has %d, %v", e, err)
	}
	if n != 2 || c.Readers() != 0 {
		t.Errorf("snapshot %d, %d readers", n, c.Readers())
	}
}

func TestManyReadersAndWritersAtOnce(t *testing.T) {
	const writers, each, readers = 4, 250, 8
	c := newCounter(writers * each)
	var writing, reading sync.WaitGroup
	for range readers {
		reading.Go(func() {
			last, tail := c.Subscribe(t.Context())
			for e, err := range tail {
				if err != nil || e != last+1 {
					t.Errorf("after %d came %d, %v", last, e, err)
					return
				}
				last = e
			}
			if last != writers*each {
				t.Errorf("the last change is %d, want %d", last, writers*each)
			}
		})
	}
	for range writers {
		writing.Go(func() {
			for range each {
				c.add()
			}
		})
	}
	writing.Wait()
	c.Close()
	reading.Wait()
}

// TestEveryReaderSeesAPrefixOfTheTruth drives a feed by random steps: whatever
// the order, snapshot and tail together are the changes without gap and
// duplicate, up to where the reader was cut off.
func TestEveryReaderSeesAPrefixOfTheTruth(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		buffer := rapid.IntRange(1, 4).Draw(rt, "buffer")
		c := newCounter(buffer)
		type subscriber struct {
			snapshot, behind int
			slow             bool
			next             func() (int, error, bool)
			stop             func()
			seen             int
		}
		var subs []*subscriber
		read := func(rt *rapid.T, s *subscriber) bool {
			e, err, ok := s.next()
			switch {
			case !ok:
				return false
			case err != nil:
				if !errors.Is(err, feed.ErrSlow) || !s.slow || s.behind != 0 {
					rt.Fatalf("ended with %v, slow %v, %d unread", err, s.slow, s.behind)
				}
				return false
			case e != s.snapshot+s.seen+1:
				rt.Fatalf("after the snapshot %d and %d changes came %d", s.snapshot, s.seen, e)
			}
			s.seen++
			s.behind--
			return true
		}
		rt.Repeat(map[string]func(*rapid.T){
			"change": func(*rapid.T) {
				c.add()
				for _, s := range subs {
					switch {
					case s.slow:
					case s.behind == buffer:
						s.slow = true
					default:
						s.behind++
					}
				}
			},
			"subscribe": func(*rapid.T) {
				n, tail := c.Subscribe(context.Background())
				next, stop := iter.Pull2(tail)
				subs = append(subs, &subscriber{snapshot: n, next: next, stop: stop})
			},
			"read": func(rt *rapid.T) {
				if len(subs) == 0 {
					rt.Skip("nobody reads")
				}
				s := rapid.SampledFrom(subs).Draw(rt, "reader")
				if s.behind == 0 {
					rt.Skip("nothing to read")
				}
				read(rt, s)
			},
		})
		c.Close()
		for _, s := range subs {
			for read(rt, s) {
			}
			if !s.slow && s.snapshot+s.seen != c.n {
				rt.Fatalf("a reader that kept up saw %d of %d changes", s.snapshot+s.seen, c.n)
			}
			s.stop()
		}
		if c.Readers() != 0 {
			rt.Fatal("readers are left")
		}
	})
}
