package provision_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rbee"
	"rbee/hive/provision"
	"rbee/hive/store"
	"rbee/internal/gguf"
	"rbee/internal/hub"
	"rbee/internal/hub/hubtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what should happen at once.
const patience = 60 * time.Second

const repoName = "org/name"

// rig is a store whose models come from a hub.
type rig struct {
	*store.Store
	t        *testing.T
	hub      *hubtest.Server
	home     string // what lies beside models/ is no business of the store
	cache    string // of the hub's own programs
	provider *provision.Provider

	mu   sync.Mutex
	told []rbee.DownloadProgress
}

// options change a rig.
type options struct {
	free  int64 // memory of the machine; 0 is plenty
	quota int64
	stall time.Duration
	inUse func(rbee.Model) string
}

func newRig(t *testing.T, o options) *rig {
	t.Helper()
	if o.free == 0 {
		o.free = 1 << 40
	}
	home := filepath.Join(t.TempDir(), "home")
	r := &rig{t: t, hub: hubtest.New(), home: home, cache: filepath.Join(home, "cache", "hub")}
	must(t, os.MkdirAll(home, 0o700))
	files := store.FilesAt(filepath.Join(home, "models"))
	r.provider = provision.New(provision.Config{
		Hub: hub.New(hub.Config{Endpoint: r.hub.URL, CacheDir: r.cache}), Files: files, Stall: o.stall,
		Row: func(f gguf.File) rbee.Model { return rbee.Model{SizeBytes: f.SizeBytes, Architecture: f.Architecture} },
		Machine: func(context.Context) provision.Machine {
			return provision.Machine{FreeBytes: o.free, Need: func(f gguf.File) int64 { return 2 * f.SizeBytes }}
		},
		Catalogued: func(ctx context.Context, path string) (bool, error) { return r.Catalogued(ctx, path) },
		MakeRoom: func(ctx context.Context, need int64, except rbee.ModelRef) ([]rbee.SpareFile, error) {
			return r.MakeRoom(ctx, need, except)
		},
	})
	s, closer, err := store.Open(context.Background(), filepath.Join(home, "models.db"), store.Config{
		Dir: filepath.Join(home, "models"), Providers: []store.Provider{r.provider, store.NewFiles(inspect)},
		Inspect: inspect, QuotaBytes: o.quota, InUse: o.inUse,
		Downloading: func(d rbee.Download) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.told = append(r.told, d.DownloadProgress)
		},
		Log: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	r.Store = s
	t.Cleanup(func() {
		must(t, closer.Close())
		r.provider.Close()
		r.hub.Close()
	})
	return r
}

func inspect(path string) (rbee.Model, error) {
	f, err := gguf.Read(path)
	m := rbee.Model{LocalPath: path, SizeBytes: f.SizeBytes, Architecture: f.Architecture}
	if len(f.Parts) > 1 {
		for _, part := range f.Parts {
			info, err := os.Stat(part)
			if err != nil {
				return m, err
			}
			m.Parts = append(m.Parts, rbee.ModelFile{Path: part, SizeBytes: info.Size()})
		}
	}
	return m, err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// put makes the repository have models of these names.
func (r *rig) put(files ...hubtest.File) (commit string) {
	return r.hub.Put(hubtest.Repo{Name: repoName, Files: files})
}

func model(path string, seed uint64, size int64) hubtest.File {
	return hubtest.File{Path: path, Content: hubtest.GGUF(seed, size)}
}

func hf(reference string) rbee.ModelRef {
	return rbee.ModelRef{Provider: rbee.ProviderHF, Reference: reference}
}

// pull fetches a model.
func (r *rig) pull(ref rbee.ModelRef) (rbee.Model, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return r.Resolve(ctx, ref)
}

// pulled fetches a model and looks whether all is as it should be then.
func (r *rig) pulled(ref rbee.ModelRef) rbee.Model {
	r.t.Helper()
	m, err := r.pull(ref)
	if err != nil {
		r.t.Fatalf("%s: %v (%s)", ref, err, rbee.AsError(err).Suggestion())
	}
	for _, fault := range r.faults() {
		r.t.Error(fault)
	}
	return m
}

// notes are what happened, as the progress told it.
func (r *rig) notes() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var notes []string
	for _, p := range r.told {
		if p.Note != "" && !slices.Contains(notes, p.Note) {
			notes = append(notes, p.Note)
		}
	}
	return strings.Join(notes, "\n")
}

// faults says what is not as it should be at any time: a file of a row with
// another digest, a file that gc does not name, anything outside the store.
func (r *rig) faults() (faults []string) {
	known := map[string]bool{}
	rows, err := r.Models(context.Background())
	if err != nil {
		return []string{err.Error()}
	}
	for _, m := range rows {
		known[m.LocalPath+".json"] = true // the note of its rows
		for _, f := range m.Files() {
			known[f.Path] = true
			if got := digestOf(r.t, f.Path); got != f.SHA256 || f.SHA256 == "" {
				faults = append(faults, m.Ref().String()+" has the digest "+f.SHA256+" and its file "+got)
			}
		}
	}
	gc, err := r.GC(context.Background(), rbee.GCRequest{DryRun: true})
	if err != nil {
		return append(faults, err.Error())
	}
	for _, f := range gc.Removed {
		known[f.Path] = true
		if stem, ok := strings.CutSuffix(f.Path, ".part"); ok && f.Kind == rbee.SparePartial {
			for _, beside := range []string{".json", ".live", ".lock"} {
				known[stem+beside] = true // goes with it
			}
		}
	}
	for _, path := range r.files() {
		rel, _ := filepath.Rel(r.home, path)
		switch top, rest, _ := strings.Cut(rel, string(filepath.Separator)); {
		case top == "models" && !known[path] && !strings.HasPrefix(rest, "."):
			faults = append(faults, "gc does not name "+rel)
		case top != "models" && top != "cache" && !strings.HasPrefix(top, "models.db"):
			faults = append(faults, rel+" is outside the store")
		}
	}
	return faults
}

// files are all files of the state directory, and of the one around it.
func (r *rig) files() (paths []string) {
	err := filepath.WalkDir(filepath.Dir(r.home), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		r.t.Error(err)
	}
	return paths
}

func digestOf(t *testing.T, path string) string {
	f, err := os.Open(path)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer f.Close() //nolint:errcheck // nothing was written
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Error(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// sent is how many bytes of files the hub has sent.
func (r *rig) sent() (n int64) {
	for _, q := range r.hub.Requests() {
		if q.Host == hubtest.CDN {
			n += q.Bytes
		}
	}
	return n
}

func write(t *testing.T, path string, c *hubtest.Content) string {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	f, err := os.Create(path)
	must(t, err)
	_, err = c.WriteTo(f)
	must(t, err)
	must(t, f.Close())
	return path
}

func TestAModelArrivesWholeUnderItsDigest(t *testing.T) {
	r := newRig(t, options{})
	file := model("dir/noise.Q8_0.gguf", 1, 10<<20)
	commit := r.put(file, hubtest.File{Path: "README.md", Content: hubtest.Bytes([]byte("# Noise\n")), Plain: true})
	m := r.pulled(hf(repoName))
	want := filepath.Join(r.home, "models", "sha256", file.Content.SHA256()+".gguf")
	if m.LocalPath != want || m.SizeBytes != file.Content.Size() || m.SHA256 != file.Content.SHA256() || m.Architecture != "llama" ||
		m.Revision != commit || m.FileName != file.Path || m.Ref() != hf(repoName) || len(m.Parts) != 0 {
		t.Errorf("row: %+v", m)
	}
	if r.sent() != file.Content.Size() {
		t.Errorf("the hub sent %d bytes of %d", r.sent(), file.Content.Size())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.told[len(r.told)-1]
	if last.Stage != rbee.DownloadComplete || last.LocalPath != want || last.BytesTotal != m.SizeBytes || last.Files != 1 {
		t.Errorf("told last: %+v", last)
	}
	for i, p := range r.told {
		if i > 0 && p.BytesDownloaded < r.told[i-1].BytesDownloaded || p.BytesDownloaded > m.SizeBytes {
			t.Errorf("progress goes from %+v to %+v", r.told[max(0, i-1)], p)
		}
	}
}

func TestASplitModelIsOneModel(t *testing.T) {
	r := newRig(t, options{})
	parts := []hubtest.File{
		model("noise-q8_0-00001-of-00003.gguf", 1, 30_000), model("noise-q8_0-00002-of-00003.gguf", 2, 20_000), model("noise-q8_0-00003-of-00003.gguf", 3, 10_000),
	}
	r.put(parts...)
	m := r.pulled(hf(repoName + ":Q8_0"))
	if len(m.Parts) != 3 || m.SizeBytes != 60_000 || m.LocalPath != m.Parts[0].Path || m.SHA256 != "" {
		t.Fatalf("row: %+v", m)
	}
	for i, part := range m.Parts {
		if part.SHA256 != parts[i].Content.SHA256() || filepath.Dir(part.Path) != filepath.Dir(m.LocalPath) {
			t.Errorf("part %d: %+v", i+1, part)
		}
	}
	// Of a part that is lost only that part comes again.
	must(t, os.Remove(m.Parts[1].Path))
	before := r.sent()
	if again := r.pulled(hf(repoName + ":Q8_0")); len(again.Parts) != 3 || r.sent()-before != 20_000 {
		t.Errorf("%+v; the hub sent %d bytes", again, r.sent()-before)
	}
}

func TestASplitModelWithTheSamePartTwiceIsRefused(t *testing.T) {
	r := newRig(t, options{})
	r.put(model("noise-00001-of-00002.gguf", 1, 2000), model("noise-00002-of-00002.gguf", 1, 2000))
	_, err := r.pull(hf(repoName))
	if e := rbee.AsError(err); e == nil || e.Code != rbee.CodeInvalidRequest || e.Suggestion() == "" || r.sent() != 0 {
		t.Errorf("ended with %v, %d bytes were sent", err, r.sent())
	}
}

func TestAPartThatIsCollectedWhileOthersArriveComesAgain(t *testing.T) {
	r := newRig(t, options{})
	first, second := model("noise-00001-of-00002.gguf", 1, 20_000), model("noise-00002-of-00002.gguf", 2, 60_000)
	r.put(first, second)
	write(t, filepath.Join(r.cache, "models--org--name", "blobs", first.Content.SHA256()), first.Content)
	r.hub.Fault(repoName, second.Path, hubtest.Fault{Kind: hubtest.Throttle, Bytes: 100_000})
	w := r.Want(hf(repoName), 0)
	defer w.Release()
	eventually(t, "bytes of the second part", func() bool { return r.sent() > 0 })
	gc, err := r.GC(t.Context(), rbee.GCRequest{})
	if err != nil || len(gc.Removed) != 1 || gc.Removed[0].SizeBytes != 20_000 {
		t.Fatalf("gc: %+v, %v", gc, err)
	}
	_, err = w.Wait(t.Context())
	must(t, err)
	for _, fault := range r.faults() {
		t.Error(fault)
	}
}

func TestTheBestQuantisationThatFitsIsTaken(t *testing.T) {
	files := []hubtest.File{model("noise.Q4_K_M.gguf", 1, 40_000), model("noise.Q8_0.gguf", 2, 60_000), model("noise.Q2_K.gguf", 3, 20_000)}
	for name, c := range map[string]struct {
		reference string
		free      int64
		file      string
		code      rbee.Code
	}{
		"all fit":                   {repoName, 1 << 30, "noise.Q4_K_M.gguf", ""},
		"only the smallest fits":    {repoName, 41_000, "noise.Q2_K.gguf", ""},
		"none fits":                 {repoName, 39_000, "", rbee.CodeInsufficientRAM},
		"what is named need not":    {repoName + ":q8_0", 1, "noise.Q8_0.gguf", ""},
		"a file need not":           {repoName + "::noise.Q8_0.gguf", 1, "noise.Q8_0.gguf", ""},
		"a quantisation is missing": {repoName + ":Q6_K", 1 << 30, "", rbee.CodeModelNotFound},
		"a file is missing":         {repoName + "::x.gguf", 1 << 30, "", rbee.CodeModelNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, options{free: c.free})
			r.put(files...)
			m, err := r.pull(hf(c.reference))
			if m.FileName != c.file && c.code == "" || rbee.CodeOf(err) != c.code || c.code != "" && rbee.AsError(err).Suggestion() == "" {
				t.Errorf("took %q, %v", m.FileName, err)
			}
			list, err := r.provider.Variants(t.Context(), hf(c.reference))
			if err != nil || len(list.Variants) != 3 {
				t.Fatalf("variants: %+v, %v", list, err)
			}
			for _, v := range list.Variants {
				chosen := c.file != "" && v.Files[0] == c.file
				if v.Chosen != chosen || v.OnDisk != chosen || v.Fits != (2*v.SizeBytes <= c.free) || v.MemoryBytes != 2*v.SizeBytes {
					t.Errorf("variant: %+v", v)
				}
			}
		})
	}
}

func TestAHubThatIsSlowWithAHeaderDoesNotHoldUpTheChoice(t *testing.T) {
	r := newRig(t, options{stall: 300 * time.Millisecond})
	r.put(model("noise.Q4_K_M.gguf", 1, 40_000), model("noise.Q8_0.gguf", 2, 60_000))
	r.hub.Fault(repoName, "noise.Q4_K_M.gguf", hubtest.Fault{Kind: hubtest.Stall, After: 100, Times: 1})
	if m := r.pulled(hf(repoName)); m.FileName != "noise.Q4_K_M.gguf" {
		t.Errorf("took %q", m.FileName)
	}
}

func TestTheSameBytesAreDownloadedOnce(t *testing.T) {
	r := newRig(t, options{})
	file := model("noise.Q8_0.gguf", 1, 1<<20)
	r.put(file)
	r.hub.Put(hubtest.Repo{Name: "other/copy", Files: []hubtest.File{{Path: "copy.gguf", Content: file.Content}}})
	var pulls sync.WaitGroup
	for _, ref := range []string{repoName, repoName + ":Q8_0", repoName + "::noise.Q8_0.gguf", "other/copy"} {
		pulls.Go(func() {
			if m, err := r.pull(hf(ref)); err != nil || m.SHA256 != file.Content.SHA256() {
				t.Errorf("%s: %+v, %v", ref, m, err)
			}
		})
	}
	pulls.Wait()
	r.pulled(hf("other/copy"))
	if r.sent() != file.Content.Size() {
		t.Errorf("the hub sent %d bytes of %d", r.sent(), file.Content.Size())
	}
	usage, err := r.Usage(t.Context())
	if err != nil || len(usage.Files) != 1 || len(usage.Files[0].Models) != 4 || len(usage.Spare) != 0 {
		t.Errorf("usage: %+v, %v", usage, err)
	}
	r.hub.Reset()
	r.pulled(hf(repoName))
	if c := r.hub.Counts(); c.Connections != 0 || c.Requests != 0 {
		t.Errorf("what is there was asked for: %+v", c)
	}
}

func TestTheHubsOwnCacheIsShared(t *testing.T) {
	file := model("noise.Q8_0.gguf", 1, 1<<20)
	for name, c := range map[string]struct {
		cached *hubtest.Content
		sent   int64
	}{
		"by a link":                      {file.Content, 0},
		"not when its digest is another": {hubtest.GGUF(2, 1<<20), 1 << 20},
		"nor when somebody cut it":       {hubtest.GGUF(1, 1<<19), 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, options{})
			r.put(file)
			blob := write(t, filepath.Join(r.cache, "models--org--name", "blobs", file.Content.SHA256()), c.cached)
			m := r.pulled(hf(repoName))
			a, err := os.Stat(blob)
			must(t, err)
			b, err := os.Stat(m.LocalPath)
			must(t, err)
			if os.SameFile(a, b) != (c.sent == 0) || r.sent() != c.sent {
				t.Errorf("same file: %t; the hub sent %d bytes", os.SameFile(a, b), r.sent())
			}
			if got := digestOf(t, blob); got != c.cached.SHA256() {
				t.Error("the cache was changed")
			}
		})
	}
}

func TestAFileThatTheHubKnowsNoDigestOfIsCheckedByGitsID(t *testing.T) {
	for name, faulty := range map[string]bool{"intact": false, "damaged": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, options{})
			file := model("noise.gguf", 1, 20_000)
			file.Plain = true
			r.put(file)
			if faulty {
				r.hub.Fault(repoName, file.Path, hubtest.Fault{Kind: hubtest.Corrupt, After: 15_000})
			}
			m, err := r.pull(hf(repoName))
			e := rbee.AsError(err)
			switch {
			case !faulty && (err != nil || m.SHA256 != file.Content.SHA256()):
				t.Errorf("row: %+v, %v", m, err)
			case faulty && (rbee.CodeOf(err) != rbee.CodeChecksumMismatch || e.Suggestion() == "" || !strings.Contains(e.Message, "hf:"+repoName)):
				t.Errorf("ended with %v", err)
			}
			for _, fault := range r.faults() {
				t.Error(fault)
			}
			if list := r.parts(); len(list) != 0 {
				t.Errorf("left: %v", list)
			}
		})
	}
}

// parts are the files of downloads on their way.
func (r *rig) parts() []string {
	list, err := filepath.Glob(filepath.Join(r.home, "models", "partial", "*"))
	must(r.t, err)
	return list
}

func TestWhatIsNoModelIsRefusedByItsName(t *testing.T) {
	r := newRig(t, options{})
	r.put(hubtest.File{Path: "dir/noise.Q8_0.gguf", Content: hubtest.Random(1, 20_000)})
	_, err := r.pull(hf(repoName))
	e := rbee.AsError(err)
	if e == nil || e.Code != rbee.CodeInvalidRequest || !strings.Contains(e.Message, "hf:"+repoName+" (noise.Q8_0.gguf)") ||
		strings.Contains(e.Message, r.home) || e.Suggestion() == "" {
		t.Errorf("ended with %v, %q", err, e.Suggestion())
	}
	if list := r.parts(); len(list) != 0 {
		t.Errorf("left: %v", list)
	}
	for _, fault := range r.faults() {
		t.Error(fault)
	}
}

func TestRoomIsMadeForWhatIsMissing(t *testing.T) {
	r := newRig(t, options{quota: 100_000})
	for i, name := range []string{"org/one", "org/two", "org/three"} {
		r.hub.Put(hubtest.Repo{Name: name, Files: []hubtest.File{model("m.gguf", uint64(i), 40_000)}})
	}
	r.pulled(hf("org/one"))
	r.pulled(hf("org/two"))
	r.pulled(hf("org/three"))
	if notes := r.notes(); !strings.Contains(notes, "removed hf:org/one") || strings.Contains(notes, "org/two") {
		t.Errorf("told %q", notes)
	}
	rows, err := r.Models(t.Context())
	if err != nil || len(rows) != 2 {
		t.Errorf("models: %+v, %v", rows, err)
	}
	r.hub.Put(hubtest.Repo{Name: "org/large", Files: []hubtest.File{model("m.gguf", 9, 100_001)}})
	_, err = r.pull(hf("org/large"))
	e := rbee.AsError(err)
	if e == nil || e.Code != rbee.CodeInsufficientDisk || e.Details["required"] == nil || e.Details["available"] == nil || e.Suggestion() == "" {
		t.Errorf("more than the quota: %v", err)
	}
	if rows, err := r.Models(t.Context()); err != nil || len(rows) != 2 {
		t.Errorf("models went for nothing: %+v, %v", rows, err)
	}
	// A model under another reference needs no room.
	r.hub.Put(hubtest.Repo{Name: "org/again", Files: []hubtest.File{model("m.gguf", 2, 40_000)}})
	r.pulled(hf("org/again"))
	if rows, err := r.Models(t.Context()); err != nil || len(rows) != 3 {
		t.Errorf("models went for what is there: %+v, %v", rows, err)
	}
}

func TestADiskThatCannotHoldItIsNotFilled(t *testing.T) {
	r := newRig(t, options{})
	r.put(hubtest.File{Path: "vast.gguf", Content: hubtest.Random(1, 2000), Plain: true})
	r.hub.Fault(repoName, "vast.gguf", hubtest.Fault{Kind: hubtest.WrongLength, Bytes: 1 << 43}) // more than any disk here
	_, err := r.pull(hf(repoName))
	if e := rbee.AsError(err); e == nil || e.Code != rbee.CodeInsufficientDisk || e.Details["required"] == nil || e.Suggestion() == "" || r.sent() != 0 {
		t.Errorf("ended with %v", err)
	}
	if list := r.parts(); len(list) != 0 {
		t.Errorf("left: %v", list)
	}
}

func TestAFileWithoutARowIsReadBeforeItIsServed(t *testing.T) {
	for name, damaged := range map[string]bool{"intact": false, "damaged": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, options{})
			file := model("noise.gguf", 1, 1<<20)
			r.put(file)
			left, size := file.Content, int64(0)
			if damaged {
				left, size = hubtest.GGUF(2, 1<<20), 1<<20
			}
			// As a program leaves it that is killed before it sets a damaged file aside.
			write(t, filepath.Join(r.home, "models", "sha256", file.Content.SHA256()+".gguf"), left)
			r.pulled(hf(repoName))
			if r.sent() != size {
				t.Errorf("the hub sent %d bytes", r.sent())
			}
		})
	}
}
