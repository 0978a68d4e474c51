package catalog_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"rbee"
	"rbee/hive/catalog"
)

func TestLoadsAreRememberedAcrossRestarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "models.db")
	db, _ := open(t, path)
	key := catalog.LoadKey{Model: "digest", Backend: rbee.BackendCUDA, Device: "cuda0", Context: 512, KVTokens: 2048, Slots: 4}
	if _, err := db.Load(t.Context(), key); !errors.Is(err, catalog.ErrNoRow) {
		t.Fatalf("before: %v", err)
	}
	now := time.Now()
	must(t, db.PutLoad(t.Context(), key, catalog.Load{Memory: rbee.Memory{"cuda0": 1}}, now))
	want := catalog.Load{Memory: rbee.Memory{"cuda0": 1 << 40, rbee.MainMemory: 7}, Mapped: 5}
	must(t, db.PutLoad(t.Context(), key, want, now))
	again, _ := open(t, path)
	got, err := again.Load(t.Context(), key)
	if diff := gocmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
	for _, other := range []func(*catalog.LoadKey){
		func(k *catalog.LoadKey) { k.Model = "another" }, func(k *catalog.LoadKey) { k.Backend = rbee.BackendCPU },
		func(k *catalog.LoadKey) { k.Device = "cuda1" }, func(k *catalog.LoadKey) { k.Context++ },
		func(k *catalog.LoadKey) { k.KVTokens++ }, func(k *catalog.LoadKey) { k.Slots++ },
	} {
		k := key
		other(&k)
		if _, err := again.Load(t.Context(), k); !errors.Is(err, catalog.ErrNoRow) {
			t.Errorf("%+v: %v", k, err)
		}
	}
}

func TestOnlyTheNewestLoadsAreKept(t *testing.T) {
	t.Run("while the clock is right", func(t *testing.T) { keepsTheNewest(t, time.Second) })
	t.Run("while the clock is set back each time", func(t *testing.T) { keepsTheNewest(t, -time.Hour) })
}

func keepsTheNewest(t *testing.T, step time.Duration) {
	db, _ := open(t, filepath.Join(t.TempDir(), "models.db"))
	begin := time.Now()
	key := func(i int) catalog.LoadKey { return catalog.LoadKey{Model: fmt.Sprint(i)} }
	const most = 1000
	for i := range most + 2 {
		must(t, db.PutLoad(t.Context(), key(i), catalog.Load{}, begin.Add(time.Duration(i)*step)))
	}
	for i, there := range map[int]bool{0: false, 1: false, 2: true, most + 1: true} {
		if _, err := db.Load(t.Context(), key(i)); (err == nil) != there {
			t.Errorf("load %d: %v", i, err)
		}
	}
}
