package download

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestSpansAgreeWithASetOfBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 40
		var l spans
		var set [size]bool
		for range rapid.IntRange(0, 12).Draw(t, "adds") {
			from := rapid.Int64Range(0, size).Draw(t, "from")
			to := rapid.Int64Range(0, size).Draw(t, "to")
			l = l.add(span{from, to})
			for i := from; i < to; i++ {
				set[i] = true
			}
		}
		if !l.within(size) {
			t.Fatalf("%v are not in order", l)
		}
		total, front, gap := int64(0), int64(size), span{size, size}
		for i := int64(size) - 1; i >= 0; i-- {
			if set[i] {
				total++
				continue
			}
			front = i
			to := i + 1
			if gap.From == i+1 && gap.size() > 0 {
				to = gap.To
			}
			gap = span{i, to}
		}
		if l.total() != total || l.front() != front || l.gap(size) != gap {
			t.Errorf("%v: total %d, front %d, gap %v; want %d, %d, %v", l, l.total(), l.front(), l.gap(size), total, front, gap)
		}
	})
}

func TestSpansOutsideAreRefused(t *testing.T) {
	for _, l := range []spans{{{-1, 2}}, {{0, 11}}, {{2, 2}}, {{5, 3}}, {{3, 5}, {0, 1}}, {{0, 3}, {3, 5}}} {
		if l.within(10) {
			t.Errorf("%v are taken", l)
		}
	}
	if l := (spans{{0, 3}, {4, 10}}); !l.within(10) || !slices.Equal(l, l.add(span{7, 7})) {
		t.Errorf("%v are refused or changed", l)
	}
}
