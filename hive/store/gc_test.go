package store_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofrs/flock"

	"rbee"
	"rbee/hive/store"
)

// named are the files of a list as "KIND NAME", in order.
func named(list []rbee.SpareFile) []string {
	names := []string{}
	for _, f := range list {
		names = append(names, string(f.Kind)+" "+filepath.Base(f.Path))
	}
	slices.Sort(names)
	return names
}

func collect(t *testing.T, s *store.Store, req rbee.GCRequest) rbee.GCReply {
	t.Helper()
	reply, err := s.GC(t.Context(), req)
	must(t, err)
	return reply
}

func TestGCNamesAndRemovesEveryFileThatNoModelNeeds(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	resolve(t, s, beeRef)
	inPlace := h.file("in place.gguf", "GGUF in place")
	resolve(t, s, inPlace)
	imported(t, s, rbee.ImportRequest{Path: h.file("a.gguf", "GGUF a").Reference})
	imported(t, s, rbee.ImportRequest{Path: h.split("big", "GGUF one", "GGUF two").Reference})
	bad := imported(t, s, rbee.ImportRequest{Path: h.file("bad.gguf", "GGUF bad").Reference})
	scribble(t, bad.LocalPath)
	verify(t, s, bad.Ref())
	at := func(rel ...string) string { return filepath.Join(append([]string{h.models()}, rel...)...) }
	for _, path := range []string{
		at("partial", "k1.part"), at("partial", "k1.json"), at("partial", "k1.live"), at("partial", "k1.lock"),
		at("partial", "k2.part"), at("partial", "strange"),
		at("sha256", ".part-1-x.gguf"), at(".part-2"), at("sha256", sum("no row")+".gguf"), at("sha256", sum("no row")+".gguf.json"),
		at("sha256", sum("gone")+".gguf.json"), at("sha256", sum("half"), "model-00002-of-00002.gguf"), at("mine", "deep", "notes.txt"),
	} {
		write(t, path, "0123456789")
	}
	must(t, os.Symlink("nowhere", at("link.gguf")))
	// A download that runs is no spare file.
	running := flock.New(at("partial", "k2.lock"))
	must(t, running.Lock())
	defer running.Unlock() //nolint:errcheck // the test is over

	want := []string{
		"orphan " + sum("gone") + ".gguf.json", "orphan " + sum("no row") + ".gguf", "orphan " + sum("no row") + ".gguf.json",
		"orphan link.gguf", "orphan model-00002-of-00002.gguf", "orphan notes.txt", "orphan strange",
		"partial k1.part", "temporary .part-1-x.gguf", "temporary .part-2",
	}
	slices.Sort(want)
	without := func(got []string) []string { // the one in quarantine, which has the time in its name
		i := slices.IndexFunc(got, func(s string) bool { return strings.HasPrefix(s, "quarantine "+bad.SHA256) })
		if i < 0 {
			t.Fatalf("the damaged file is not named: %q", got)
		}
		return slices.Delete(got, i, i+1)
	}
	u, err := s.Usage(t.Context())
	must(t, err)
	if got := without(named(u.Spare)); !slices.Equal(got, want) {
		t.Errorf("usage names %q, want %q", got, want)
	}
	before := filesOf(t, h.models())
	dry := collect(t, s, rbee.GCRequest{DryRun: true})
	if got := without(named(dry.Removed)); !slices.Equal(got, want) || !dry.DryRun {
		t.Errorf("the dry run names %q, want %q", got, want)
	}
	if after := filesOf(t, h.models()); !slices.Equal(before, after) {
		t.Errorf("the dry run left %q of %q", after, before)
	}
	done := collect(t, s, rbee.GCRequest{})
	if got := without(named(done.Removed)); !slices.Equal(got, want) || done.FreedBytes != dry.FreedBytes {
		t.Errorf("removed %q (%d bytes), want %q (%d bytes)", got, done.FreedBytes, want, dry.FreedBytes)
	}
	if got := collect(t, s, rbee.GCRequest{DryRun: true}).Removed; len(got) != 0 {
		t.Errorf("left: %v", named(got))
	}
	if exists(at("sha256", sum("half"))) {
		t.Error("an empty directory is left")
	}
	if got := refs(t, s); len(got) != 4 {
		t.Errorf("models left: %v", got)
	}
	if !exists(at("partial", "k2.part")) {
		t.Error("the part of a running download is gone")
	}
}

// filesOf lists the files below a directory.
func filesOf(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, path)
		}
		return err
	}))
	return files
}

func TestUsageCountsASharedFileOnce(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	a, b := h.file("a.gguf", "GGUF same"), h.file("b.gguf", "GGUF same")
	for _, ref := range []rbee.ModelRef{a, b} {
		imported(t, s, rbee.ImportRequest{Path: ref.Reference})
	}
	resolve(t, s, h.file("in place.gguf", "GGUF in place"))
	u, err := s.Usage(t.Context())
	must(t, err)
	if u.StoreBytes != 9 || u.OutsideBytes != 13 || u.SpareBytes != 0 || len(u.Files) != 2 || len(u.Files[1].Models) != 2 || u.FreeBytes == 0 {
		t.Errorf("usage: %+v", u)
	}
	must(t, s.Remove(t.Context(), a))
	if got := resolve(t, s, b); !exists(got.LocalPath) {
		t.Error("the removal of one reference took the file of the other")
	}
	if u, err := s.Usage(t.Context()); err != nil || u.StoreBytes != 9 || len(u.Spare) != 0 {
		t.Errorf("after a removal: %+v, %v", u, err)
	}
}

// aged is a store with models of ten bytes each, the first used longest ago, of
// which the third is a builtin and the fourth has two references.
func aged(t *testing.T, h *home) (*store.Store, []rbee.ModelRef) {
	t.Helper()
	s, _ := h.open()
	var all []rbee.ModelRef
	at := time.Now()
	use := func(ref rbee.ModelRef) {
		at = at.Add(time.Minute)
		must(t, s.Used(t.Context(), ref, at))
		all = append(all, ref)
	}
	for i := range 2 {
		use(imported(t, s, rbee.ImportRequest{Path: h.file(fmt.Sprintf("%d.gguf", i), fmt.Sprintf("GGUF    %02d", i)).Reference}).Ref())
	}
	use(resolve(t, s, beeRef).Ref())
	for _, name := range []string{"x", "y"} {
		ref := imported(t, s, rbee.ImportRequest{Path: h.file(name+".gguf", "GGUF  both").Reference}).Ref()
		if name == "x" {
			all = append(all, ref) // never used under this name
		} else {
			use(ref)
		}
	}
	return s, all
}

func TestTheQuotaEvictsWhatWasNotUsedForLongest(t *testing.T) {
	upTo := func(n int64) rbee.GCRequest { return rbee.GCRequest{MaxBytes: &n} }
	for name, c := range map[string]struct {
		req   rbee.GCRequest
		quota int64
		inUse int // index of a model that is in use, -1 for none
		gone  []int
		kept  []int
	}{
		"enough room":           {upTo(38), 0, -1, nil, nil},
		"the oldest":            {upTo(37), 0, -1, []int{0}, nil},
		"the two oldest":        {upTo(20), 0, -1, []int{0, 1}, nil},
		"not the builtin":       {upTo(15), 0, -1, []int{0, 1, 3, 4}, []int{2}},
		"not what is in use":    {upTo(28), 0, 0, []int{1}, []int{0}},
		"not what half is used": {upTo(0), 0, 3, []int{0, 1}, []int{2, 3}},
		"the quota":             {rbee.GCRequest{}, 30, -1, []int{0}, nil},
		"no quota":              {rbee.GCRequest{}, 0, -1, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			h.quota = c.quota
			var busy rbee.ModelRef
			h.inUse = func(m rbee.Model) string {
				if m.Ref() == busy {
					return "worker 7 has it"
				}
				return ""
			}
			s, all := aged(t, h)
			if c.inUse >= 0 {
				busy = all[c.inUse]
			}
			dry := c.req
			dry.DryRun = true
			want := collect(t, s, dry)
			if len(refs(t, s)) != len(all) {
				t.Fatal("the dry run removed models")
			}
			got := collect(t, s, c.req)
			if a, b := named(want.Removed), named(got.Removed); !slices.Equal(a, b) {
				t.Errorf("removed %v, and the dry run said %v", b, a)
			}
			var gone, kept []int
			for _, f := range got.Removed {
				if f.Kind != rbee.SpareEvicted {
					t.Errorf("removed %v", f)
				}
				gone = append(gone, slices.Index(all, *f.ModelRef))
			}
			for _, k := range got.Kept {
				kept = append(kept, slices.Index(all, k.ModelRef))
			}
			slices.Sort(gone)
			if !slices.Equal(gone, c.gone) || !slices.Equal(kept, c.kept) {
				t.Errorf("evicted %v and kept %v, want %v and %v", gone, kept, c.gone, c.kept)
			}
			if u, err := s.Usage(t.Context()); err != nil || u.StoreBytes != got.StoreBytes || len(u.Spare) != 0 || u.StoreBytes != 38-got.FreedBytes {
				t.Errorf("after it: %+v, %v; told %d bytes", u, err, got.StoreBytes)
			}
			if got := refs(t, s); len(got) != len(all)-len(c.gone) {
				t.Errorf("left: %v", got)
			}
		})
	}
}

func TestMakeRoom(t *testing.T) {
	for name, c := range map[string]struct {
		quota, need int64
		except      int
		gone        int
		fails       bool
	}{
		"no quota":           {0, 1 << 40, -1, 0, false},
		"there is room":      {40, 2, -1, 0, false},
		"one goes":           {40, 3, -1, 1, false},
		"two references go":  {40, 30, -1, 4, false},
		"not what is needed": {40, 3, 0, 1, false},
		"too much":           {40, 33, -1, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			h.quota = c.quota
			s, all := aged(t, h)
			var except rbee.ModelRef
			if c.except >= 0 {
				except = all[c.except]
			}
			evicted, err := s.MakeRoom(t.Context(), c.need, except)
			if c.fails {
				e := rbee.AsError(err)
				if e == nil || e.Code != rbee.CodeInsufficientDisk || e.Details["required"] == nil || e.Details["available"] == nil {
					t.Errorf("error is %v", err)
				}
			} else if err != nil {
				t.Error(err)
			}
			left := refs(t, s)
			if len(evicted) != c.gone || len(left) != len(all)-c.gone {
				t.Errorf("evicted %v, left %v", named(evicted), left)
			}
			if c.except >= 0 && !slices.Contains(left, except.String()) {
				t.Errorf("%s was evicted", except)
			}
		})
	}
}

func TestWhatIsBeingWrittenIsNotCollected(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	temp, err := store.FilesAt(h.models()).Temporary(filepath.Join(h.models(), "sha256"))
	must(t, err)
	if got := collect(t, s, rbee.GCRequest{}).Removed; len(got) != 0 {
		t.Errorf("removed %v", named(got))
	}
	h.open() // which sweeps
	if !exists(temp.Name()) {
		t.Fatal("the file is gone")
	}
	must(t, temp.Close())
	if got := named(collect(t, s, rbee.GCRequest{}).Removed); len(got) != 1 {
		t.Errorf("removed %v", got)
	}
}

func TestCollectingWaitsForWriters(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	release, err := store.FilesAt(h.models()).Writing()
	must(t, err)
	done := make(chan error, 1)
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() {
		_, err := s.GC(t.Context(), rbee.GCRequest{})
		done <- err
	})
	select {
	case err := <-done:
		t.Errorf("it did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	must(t, release())
	must(t, <-done)
}

func TestADirectoryOfModelsMayBeALink(t *testing.T) {
	h := newHome(t)
	elsewhere := filepath.Join(h.dir, "elsewhere")
	must(t, os.Mkdir(elsewhere, 0o700))
	must(t, os.Symlink(elsewhere, h.models()))
	s, end := h.open()
	m := imported(t, s, rbee.ImportRequest{Path: h.file("a.gguf", "GGUF a").Reference})
	orphan := write(t, filepath.Join(h.models(), "orphan"), "x")
	if got := named(collect(t, s, rbee.GCRequest{}).Removed); !slices.Equal(got, []string{"orphan orphan"}) || exists(orphan) {
		t.Errorf("removed %v", got)
	}
	end()
	h.loseCatalog()
	s, _ = h.open()
	if got := refs(t, s); len(got) != 1 || !exists(m.LocalPath) {
		t.Errorf("after a rebuild: %v", got)
	}
	if _, err := os.Stat(elsewhere); errors.Is(err, fs.ErrNotExist) {
		t.Error("the directory is gone")
	}
}
