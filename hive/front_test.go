package hive

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rbee"
)

func TestRequestsForOneModelShareItsStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s starts
		ref := rbee.ModelRef{Provider: rbee.ProviderFile, Reference: "/a"}
		started := 0
		start := func() (spawned, error) {
			started++
			time.Sleep(time.Second)
			return spawned{worker: rbee.Worker{ID: "w"}}, nil
		}
		hasty, leave := context.WithTimeout(t.Context(), time.Millisecond)
		defer leave()
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := s.share(hasty, ref, start); err == nil {
				t.Error("who left got a worker")
			}
		})
		synctest.Wait()
		for range 10 {
			all.Go(func() {
				if got, err := s.share(t.Context(), ref, start); err != nil || got.worker.ID != "w" {
					t.Errorf("%+v, %v", got, err)
				}
			})
		}
		all.Wait()
		if started != 2 || s.waiting != 0 || len(s.running) != 0 {
			t.Errorf("%d starts, %d wait, running %v", started, s.waiting, s.running)
		}
	})
}

func TestOnlySoManyRequestsWaitForAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s starts
		var ref rbee.ModelRef
		refusal := rbee.Errorf(rbee.CodeInsufficientRAM, "no room")
		codes := make(chan rbee.Code, maxFrontWaiting+2)
		for range maxFrontWaiting + 2 {
			go func() {
				_, err := s.share(t.Context(), ref, func() (spawned, error) {
					time.Sleep(time.Second)
					return spawned{}, refusal
				})
				codes <- rbee.CodeOf(err)
			}()
		}
		count := map[rbee.Code]int{}
		for range maxFrontWaiting + 2 {
			count[<-codes]++
		}
		if count[rbee.CodeQueueFull] != 1 || count[rbee.CodeInsufficientRAM] != maxFrontWaiting+1 {
			t.Errorf("ended: %v", count)
		}
	})
}
