package dispatch

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"rbee"
)

func TestThoseWhoWantTheSameAreServedInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(10)
		w := wish{node: "a"}
		var tickets []*ticket
		turns := make(chan int, 3)
		for i := range 3 {
			ticket, err := q.enter(0)
			if err != nil {
				t.Fatal(err)
			}
			tickets = append(tickets, ticket)
			go func() {
				if ticket.stand(t.Context(), w) == nil {
					turns <- i
				}
			}()
			synctest.Wait()
		}
		if q.before(tickets[2]) != 2 || !q.crowded(w) || q.crowded(wish{node: "b"}) {
			t.Errorf("%d before the last", q.before(tickets[2]))
		}
		tickets[1].leave() // who gives up is passed over
		for _, want := range []int{0, 1, 2} {
			synctest.Wait()
			if want == 1 {
				continue
			}
			if got := <-turns; got != want {
				t.Errorf("the turn is %d's, want %d's", got, want)
			}
			tickets[want].step()
		}
		if q.crowded(w) || q.size() != 2 {
			t.Errorf("%d tickets are held", q.size())
		}
		for _, x := range tickets {
			x.leave()
			x.leave()
		}
		if q.size() != 0 || len(q.lines) != 0 {
			t.Errorf("%d tickets are left", q.size())
		}
	})
}

func TestWhoStandsInLineCanLeave(t *testing.T) {
	q := newQueue(10)
	first, _ := q.enter(0)
	second, _ := q.enter(0)
	if err := first.stand(t.Context(), wish{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := second.stand(ctx, wish{}); err == nil {
		t.Error("it was its turn")
	}
	second.leave()
	first.leave()
}

func TestAFullQueueSaysWhenAPlaceIsExpected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(2)
		first, _ := q.enter(0)
		second, _ := q.enter(0)
		refused := func(expected time.Duration, want int) {
			t.Helper()
			_, err := q.enter(expected)
			if e := rbee.AsError(err); e == nil || e.Code != rbee.CodeQueueFull || e.Details["retry_after_seconds"] != want || e.Suggestion() == "" {
				t.Errorf("got %+v, want a try in %d s", e, want)
			}
		}
		refused(0, 1)
		refused(7200*time.Millisecond, 8) // nothing is known but what a load takes
		time.Sleep(12 * time.Second)
		first.leave()
		if _, err := q.enter(0); err != nil {
			t.Error(err)
		}
		refused(time.Hour, 6) // tickets are held for 12 s, and there are two
		second.leave()
	})
}
