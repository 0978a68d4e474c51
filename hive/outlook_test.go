package hive

import (
	"slices"
	"testing"

	"rbee"
)

func TestACacheIsToldNewestFirstAndWithinBounds(t *testing.T) {
	var c cached
	c.add([]uint32{1, 2, 3}, 10)
	c.add([]uint32{1, 2, 4}, 10)
	if got := newest(c.all(), 10); !slices.Equal(got, []uint32{1, 2, 4, 3}) {
		t.Errorf("two that begin alike: %v", got)
	}
	if got := newest(c.all(), 2); !slices.Equal(got, []uint32{1, 2}) {
		t.Errorf("the two newest: %v", got)
	}
	for i := range uint32(1000) {
		c.add([]uint32{1, 1000 + i}, 10)
	}
	if n := len(c.stamps); n > 20 {
		t.Errorf("%d hashes are kept", n)
	}
	if got := newest(c.all(), 3); !slices.Equal(got, []uint32{1, 1999, 1998}) {
		t.Errorf("after many: %v", got)
	}
	var long cached
	long.add(make([]uint32, 5000), mostCached)
	long.add([]uint32{7, 8}, 1)
	if _, kept := long.stamps[8]; kept {
		t.Error("more of a prompt is kept than fits")
	}
}

func TestTheLossOfAWorkerFadesWithIdleness(t *testing.T) {
	held := func(idle int64) rbee.Held { return rbee.Held{ReloadMS: 4000, IdleMS: idle} }
	if now, later, long := loss(held(0)), loss(held(60_000)), loss(held(3_600_000)); now != 4000 || later != 2000 || long > 100 {
		t.Errorf("%d, %d after a minute, %d after an hour", now, later, long)
	}
	for in, want := range map[float64]float64{0: 0, 7: 7, 1234: 1200, 98_765: 99_000, 0.0456: 0.046} {
		if got := roughly(in); got < want*0.999 || got > want*1.001 {
			t.Errorf("%g is roughly %g, not %g", in, got, want)
		}
	}
}

func TestALoadTakesWhatTheLastOneTook(t *testing.T) {
	h := &Hive{traffic: newTraffic()}
	ref := rbee.ModelRef{Provider: rbee.ProviderBuiltin, Reference: "a"}
	if d := h.loadTime(ref, 5_000*megabyte); d.Seconds() < 5 || d.Seconds() > 30 {
		t.Errorf("5 GB that were never loaded take %s", d)
	}
	h.traffic.loaded(rbee.Worker{ModelRef: ref, LoadMS: 1500})
	if d := h.loadTime(ref, 5_000*megabyte); d.Milliseconds() != 1500 {
		t.Errorf("as measured: %s", d)
	}
}
