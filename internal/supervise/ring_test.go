package supervise_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"rbee/internal/supervise"
)

func TestRingKeepsTheLastLines(t *testing.T) {
	tests := map[string]struct {
		writes []string
		want   []string
	}{
		"nothing":              {nil, []string{}},
		"no line end":          {[]string{"a"}, []string{}},
		"line in pieces":       {[]string{"a", "b", "c\nd"}, []string{"abc"}},
		"empty lines":          {[]string{"\n\n"}, []string{"", ""}},
		"carriage return":      {[]string{"a\r\nb\r\n"}, []string{"a", "b"}},
		"more than it holds":   {[]string{"1\n2\n3\n", "4\n5\n"}, []string{"3", "4", "5"}},
		"no UTF-8":             {[]string{"a\xffb\n"}, []string{"a\uFFFDb"}},
		"character in pieces":  {[]string{"\xc3", "\xa9\n"}, []string{"é"}},
		"exactly a line":       {[]string{strings.Repeat("x", supervise.MaxLineBytes) + "\n"}, []string{strings.Repeat("x", supervise.MaxLineBytes)}},
		"longer than a line":   {[]string{strings.Repeat("x", supervise.MaxLineBytes) + "yz\n"}, []string{strings.Repeat("x", supervise.MaxLineBytes), "yz"}},
		"character at the cut": {[]string{strings.Repeat("x", supervise.MaxLineBytes-1) + "éz\n"}, []string{strings.Repeat("x", supervise.MaxLineBytes-1), "éz"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := supervise.NewRing(3)
			for _, w := range test.writes {
				if n, err := r.Write([]byte(w)); n != len(w) || err != nil {
					t.Fatalf("write = %d, %v", n, err)
				}
			}
			if got := r.Lines(); !slices.Equal(got, test.want) {
				t.Errorf("lines = %.200q, want %.200q", got, test.want)
			}
		})
	}
}

func TestRingFollowGivesASnapshotThenTheTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := supervise.NewRing(10)
		fmt.Fprint(r, "old\n")
		var got []string
		var follow sync.WaitGroup
		follow.Go(func() {
			for line := range r.Follow(t.Context()) {
				got = append(got, line)
			}
		})
		synctest.Wait()
		fmt.Fprint(r, "new\nhalf")
		synctest.Wait()
		fmt.Fprint(r, " and half")
		r.Close()
		r.Close()
		follow.Wait()
		if want := []string{"old", "new", "half and half"}; !slices.Equal(got, want) {
			t.Errorf("lines = %q, want %q", got, want)
		}
	})
}

func TestRingFollowEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := supervise.NewRing(10)
		ctx, cancel := context.WithCancel(t.Context())
		var follow sync.WaitGroup
		follow.Go(func() {
			for range r.Follow(ctx) {
				t.Error("a line came out of nothing")
			}
		})
		synctest.Wait()
		cancel()
		follow.Wait()
	})
}

func TestRingTellsASlowFollowerWhatItLost(t *testing.T) {
	r := supervise.NewRing(2)
	fmt.Fprint(r, "1\n")
	var got []string
	for line := range r.Follow(t.Context()) {
		got = append(got, line)
		if line == "1" { // while the reader is busy with it
			fmt.Fprint(r, "2\n3\n4\n5\n")
			r.Close()
		}
	}
	if want := []string{"1", "[2 lines lost: the reader was too slow]", "4", "5"}; !slices.Equal(got, want) {
		t.Errorf("lines = %q, want %q", got, want)
	}
}

func TestRingServesManyFollowers(t *testing.T) {
	const lines = 200
	r := supervise.NewRing(lines)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			n := 0
			for line := range r.Follow(t.Context()) {
				if want := fmt.Sprint("line ", n); line != want {
					t.Errorf("line = %q, want %q", line, want)
				}
				n++
			}
			if n != lines {
				t.Errorf("%d lines, want %d", n, lines)
			}
		})
	}
	for i := range lines {
		fmt.Fprintln(r, "line", i)
	}
	r.Close()
	all.Wait()
}
