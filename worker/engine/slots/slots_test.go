package slots_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rbee/worker/engine/slots"
)

func enter(t *testing.T, g *slots.Gate, cells int) int {
	t.Helper()
	slot, err := g.Enter(t.Context(), cells)
	if err != nil {
		t.Fatalf("cannot enter with %d cells: %v", cells, err)
	}
	return slot
}

func TestEachHolderHasItsOwnSlot(t *testing.T) {
	g := slots.New(2, 100, 0)
	a, b := enter(t, g, 10), enter(t, g, 20)
	if a == b {
		t.Errorf("both got slot %d", a)
	}
	if c := g.Counts(); c.Busy != 2 || c.CellsUsed != 30 || c.Entered != 2 {
		t.Errorf("counts are %+v", c)
	}
	if _, err := g.Enter(t.Context(), 1); !errors.Is(err, slots.ErrFull) {
		t.Errorf("a third got %v, want ErrFull", err)
	}
	g.Leave(a, 10)
	if again := enter(t, g, 1); again != a {
		t.Errorf("got slot %d, want the free one, %d", again, a)
	}
}

func TestFreeSlotsDoNotHelpWithoutCells(t *testing.T) {
	g := slots.New(2, 100, 0)
	a := enter(t, g, 90)
	if _, err := g.Enter(t.Context(), 11); !errors.Is(err, slots.ErrFull) {
		t.Errorf("got %v, want ErrFull", err)
	}
	g.Leave(a, 90)
	enter(t, g, 100)
}

func TestWaitersComeInInTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := slots.New(2, 100, 3)
		a, b := enter(t, g, 50), enter(t, g, 50)
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i, cells := range []int{60, 10, 10} {
			wg.Go(func() {
				slot := enter(t, g, cells)
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				g.Leave(slot, cells)
			})
			synctest.Wait()
		}
		if _, err := g.Enter(t.Context(), 1); !errors.Is(err, slots.ErrFull) {
			t.Errorf("a fourth waiter got %v, want ErrFull", err)
		}
		g.Leave(a, 50)
		synctest.Wait()
		if len(order) != 0 {
			t.Errorf("%v came in before the first of the queue, who needs more cells", order)
		}
		g.Leave(b, 50)
		wg.Wait()
		if len(order) != 3 || g.Counts().Busy != 0 {
			t.Errorf("order is %v, counts are %+v", order, g.Counts())
		}
	})
}

func TestOneWhoGivesUpLetsTheNextIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := slots.New(2, 100, 2)
		enter(t, g, 50)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := g.Enter(ctx, 60); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want that it was canceled", err)
			}
		})
		synctest.Wait()
		wg.Go(func() { enter(t, g, 50) })
		synctest.Wait()
		cancel()
		wg.Wait()
		if c := g.Counts(); c.Busy != 2 || c.Queued != 0 || c.CellsUsed != 100 {
			t.Errorf("counts are %+v", c)
		}
	})
}

func TestCloseRefusesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := slots.New(1, 10, 1)
		slot := enter(t, g, 1)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := g.Enter(t.Context(), 1); !errors.Is(err, slots.ErrClosed) {
				t.Errorf("the waiter got %v, want ErrClosed", err)
			}
		})
		synctest.Wait()
		g.Close()
		wg.Wait()
		g.Leave(slot, 1)
		if _, err := g.Enter(t.Context(), 1); !errors.Is(err, slots.ErrClosed) {
			t.Errorf("a late one got %v, want ErrClosed", err)
		}
	})
}

func TestNothingLeaksUnderRandomCancels(t *testing.T) {
	const total, cells = 3, 50
	g := slots.New(total, cells, 5)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), 1))
			for range 500 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(50))*time.Microsecond)
				need := 1 + r.IntN(cells)
				if slot, err := g.Enter(ctx, need); err == nil {
					if slot < 0 || slot >= total {
						t.Errorf("got slot %d", slot)
					}
					g.Leave(slot, need)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if c := g.Counts(); c.Busy != 0 || c.Queued != 0 || c.CellsUsed != 0 {
		t.Errorf("something leaked: %+v", c)
	}
}
