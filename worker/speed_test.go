package worker

import (
	"errors"
	"math"
	"testing"
	"time"

	"rbee/worker/engine"
)

func near(a, b float64) bool { return math.Abs(a-b) <= b/20 }

func TestSpeedIsOfTheRequestsThatEndedLast(t *testing.T) {
	var s speed
	if got := s.now(); got.PrefillPerSec != 0 || got.TokenMS != 0 || got.RequestMS != 0 {
		t.Errorf("of none: %+v", got)
	}
	s.ended(engine.Result{PromptTokens: 8, Tokens: 1, Prefill: 10 * time.Millisecond}, nil)
	if got := s.now(); !near(got.PrefillPerSec, 800) || got.TokenMS != 0 || !near(got.RequestMS, 10) {
		t.Errorf("of a short prompt and one token: %+v", got)
	}
	request := engine.Result{PromptTokens: 1000, CachedTokens: 500, Tokens: 101, Prefill: 500 * time.Millisecond, Decode: time.Second}
	s.ended(request, nil)
	if got := s.now(); !near(got.PrefillPerSec, 1000) || !near(got.TokenMS, 10) {
		t.Errorf("of a long one, half of it cached: %+v", got)
	}
	s.ended(engine.Result{PromptTokens: 1000, Tokens: 50, Prefill: time.Minute, Decode: time.Minute}, errors.New("it broke"))
	if got := s.now(); !near(got.PrefillPerSec, 1000) || !near(got.TokenMS, 10) || got.RequestMS < 10_000 {
		t.Errorf("one that failed held its slot and says nothing of speed: %+v", got)
	}
	for range 100 {
		s.ended(engine.Result{PromptTokens: 1000, Tokens: 101, Prefill: time.Second / 4, Decode: 2 * time.Second}, nil)
	}
	if got := s.now(); !near(got.PrefillPerSec, 4000) || !near(got.TokenMS, 20) || !near(got.RequestMS, 2250) {
		t.Errorf("after many others: %+v", got)
	}
	s.ended(engine.Result{PromptTokens: 1000, CachedTokens: 1000, Tokens: 2, Prefill: time.Second, Decode: time.Millisecond}, nil)
	if got := s.now(); !near(got.PrefillPerSec, 4000) {
		t.Errorf("a prompt that was all cached: %+v", got)
	}
}
