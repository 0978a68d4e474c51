package slots_test

import (
	"testing"

	"rbee/worker/engine/slots"
)

func TestSequencesReuseOnlyWhatIsOfTheirKind(t *testing.T) {
	for name, shelf := range map[string]int{"in the KV cache": 0, "in main memory": 1 << 20} {
		m := newMemory(t)
		b := slots.NewBook(8, 1000, m, false, shelf)
		tokens := text(200, 0, 1)
		for kind := range uint64(3) {
			if n := b.Reusable(tokens, kind); n != 0 {
				t.Errorf("%s: %d tokens of another kind are reusable", name, n)
			}
			h := b.Start(tokens, kind)
			if n := b.Reuse(h, tokens); n != 0 {
				t.Errorf("%s: %d tokens of another kind were reused", name, n)
			}
			m.compute(b, h, tokens)
			b.Finish(h)
		}
		if shelf > 0 {
			b.Keep(0)
		}
		for kind := range uint64(3) {
			if n := b.Reusable(tokens, kind); n != 199 {
				t.Errorf("%s: %d tokens of the same kind are reusable", name, n)
			}
			h := b.Start(tokens, kind)
			if n := b.Reuse(h, tokens); n != 199 {
				t.Errorf("%s: %d tokens of the same kind were reused", name, n)
			}
			m.holds(h, tokens[:199])
			m.compute(b, h, tokens)
			b.Finish(h)
		}
		if _, kept := b.Used(); kept < 3*199 || kept > 3*201 {
			t.Errorf("%s: %d cells are kept", name, kept)
		}
	}
}

func TestRoomIsReckonedWithWhatIsOfTheKind(t *testing.T) {
	m := newMemory(t)
	b := slots.NewBook(4, 300, m, false, 0)
	tokens := text(200, 0, 1)
	h := b.Start(tokens, 1)
	m.compute(b, h, tokens)
	if !b.Fits(tokens, 1, 50, 0) || b.Fits(tokens, 2, 50, 0) {
		t.Error("a text of the same kind has no room, or one of another kind has")
	}
}
