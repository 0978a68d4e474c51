//go:build linux

package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rbee"
	"rbee/client"
	"rbee/internal/hub/hubtest"
)

// deed is something that changes a store.
type deed struct {
	name  string
	do    func(ctx context.Context, calls *client.Client, step func()) error
	size  int64    // bytes that it may add
	bound int64    // the store may be cut to so many bytes; -1: it is not
	puts  []string // what must be there when it has succeeded
	takes []string // what must be gone then, and may be gone before
	hurts []string // what it may find damaged
	pulls goods    // what goes on after the kill, if there are files
	quiet bool     // it reports nothing
}

// fill puts models on the hub, and files where they can be imported from.
func (k *table) fill() {
	file := func(path string, seed uint64, mib float64) hubtest.File {
		return hubtest.File{Path: path, Content: hubtest.GGUF(seed, int64(mib*(1<<20)))}
	}
	small := file("small.Q4_K_M.gguf", 1, 3)
	twin := small
	twin.Path = "other.Q4_K_M.gguf"
	plain := file("plain.Q8_0.gguf", 2, 1.5)
	plain.Plain = true
	all := []goods{
		k.offer("hf:kill/small::small.Q4_K_M.gguf", "kill/small", small),
		k.offer("hf:kill/twin:Q4_K_M", "kill/twin", twin),
		k.offer("hf:kill/large:Q8_0", "kill/large", file("large.Q8_0.gguf", 3, 72)),
		k.offer("hf:kill/split:F16", "kill/split", file("s-f16-00001-of-00003.gguf", 4, 5), file("s-f16-00002-of-00003.gguf", 5, 9), file("s-f16-00003-of-00003.gguf", 6, 4)),
		k.offer("hf:kill/plain:Q8_0", "kill/plain", plain),
	}
	theirs := k.t.TempDir()
	far := farFrom(k.t)
	place := func(dir, name string, files ...hubtest.File) {
		g := goods{ref: "file:" + filepath.Join(dir, files[0].Path), path: filepath.Join(dir, files[0].Path)}
		for _, f := range files {
			out, err := os.Create(filepath.Join(dir, f.Path))
			k.must(err)
			_, err = f.Content.WriteTo(out)
			k.must(err)
			k.must(out.Close())
			g.files = append(g.files, f.Content)
		}
		if name != "" {
			g.ref = name
		}
		all = append(all, g)
	}
	place(theirs, "", file("solo.gguf", 7, 5))
	place(theirs, "", file("pair-00001-of-00002.gguf", 8, 3), file("pair-00002-of-00002.gguf", 9, 4))
	place(far, "hf:kill/far::far.gguf", file("far.gguf", 10, 40))
	k.all = map[string]goods{}
	for _, g := range all {
		k.all[g.ref] = g
	}
}

// farFrom makes a directory in another file system, if there is one; else
// copies are links like the rest.
func farFrom(t *testing.T) string {
	far, err := os.MkdirTemp("/dev/shm", "rbee-e2e-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(far) })
	return far
}

// absent makes sure that a model is not there.
func (k *table) absent(ref string) goods {
	k.t.Helper()
	k.must(k.calls.RemoveModel(k.t.Context(), ref))
	delete(k.have, ref)
	delete(k.hurt, ref)
	return k.all[ref]
}

// present chooses a model that is there, and pulls one if there is none.
func (k *table) present(fit func(goods) bool) string {
	k.t.Helper()
	var refs []string
	for ref := range k.have {
		if fit(k.all[ref]) {
			refs = append(refs, ref)
		}
	}
	if len(refs) == 0 {
		const ref = "hf:kill/small::small.Q4_K_M.gguf"
		k.must(pulled(k.t.Context(), k.calls, ref, unheard))
		served, err := k.calls.Models(k.t.Context())
		k.must(err)
		k.note(served)
		return ref
	}
	slices.Sort(refs)
	return refs[k.rnd.IntN(len(refs))]
}

func (k *table) choose(fit func(goods) bool) goods {
	var refs []string
	for ref, g := range k.all {
		if fit(g) {
			refs = append(refs, ref)
		}
	}
	slices.Sort(refs)
	return k.all[refs[k.rnd.IntN(len(refs))]]
}

// stock brings in what is quick to bring in, and leaves files that are of no model.
func (k *table) stock() {
	k.t.Helper()
	ctx, cancel := k.within()
	defer cancel()
	for _, ref := range slices.Sorted(maps.Keys(k.all)) {
		g := k.all[ref]
		switch {
		case k.have[ref] || g.size() > 20<<20:
		case g.path == "":
			k.must(pulled(ctx, k.calls, ref, unheard))
		default:
			for _, err := range k.calls.ImportModels(ctx, rbee.ImportRequest{Path: g.path}) {
				k.must(err)
			}
		}
	}
	for i, name := range []string{
		"sha256/%064x.gguf", "sha256/%064x.gguf.json", "sha256/%064x/model-00001-of-00002.gguf", "quarantine/%064x.gguf",
		"sha256/.part-%x", "partial/%064x.part", "partial/%064x.json",
	} {
		path := filepath.Join(k.models(), fmt.Sprintf(name, k.rnd.Uint64N(1<<32)))
		k.must(os.MkdirAll(filepath.Dir(path), 0o700))
		k.must(os.WriteFile(path, []byte(strings.Repeat("spare", 1000*i)), 0o600))
	}
	served, err := k.calls.Models(ctx)
	k.must(err)
	k.note(served)
}

// pull is a download of one model, any if it is not named.
func (k *table) pull(ref string) deed {
	g := k.absent(cmp.Or(ref, k.choose(func(g goods) bool { return g.path == "" }).ref))
	return deed{
		name: "pull", size: g.size(), bound: quotaBytes, puts: []string{g.ref}, pulls: g,
		do: func(ctx context.Context, calls *client.Client, step func()) error {
			return pulled(ctx, calls, g.ref, func(rbee.DownloadProgress) { step() })
		},
	}
}

// verify reads all models. With hurting, one of them is damaged.
func (k *table) verify(hurting bool) deed {
	d := deed{name: "verify", bound: -1, do: func(ctx context.Context, calls *client.Client, step func()) error {
		for p, err := range calls.VerifyModels(ctx, rbee.VerifyRequest{}) {
			if err != nil {
				return err
			}
			if p.Error != nil && p.Stage == "" {
				return p.Error
			}
			step()
		}
		return nil
	}}
	if hurting {
		d.hurts = k.damage(k.present(func(g goods) bool { return g.path == "" }))
	}
	return d
}

// damage changes a byte of a model, and returns who has that file.
func (k *table) damage(ref string) (hurt []string) {
	k.t.Helper()
	served, err := k.calls.Models(k.t.Context())
	k.must(err)
	at := slices.IndexFunc(served, func(m rbee.Model) bool { return m.Ref().String() == ref })
	files := served[at].Files()
	path := files[k.rnd.IntN(len(files))].Path
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	k.must(err)
	defer func() { k.must(f.Close()) }()
	one, where := make([]byte, 1), files[0].SizeBytes/2
	_, err = f.ReadAt(one, where)
	k.must(err)
	one[0] ^= 0xff
	_, err = f.WriteAt(one, where)
	k.must(err)
	for _, m := range served {
		if slices.ContainsFunc(m.Files(), func(f rbee.ModelFile) bool { return f.Path == path }) {
			hurt = append(hurt, m.Ref().String())
			k.hurt[m.Ref().String()] = true
		}
	}
	return hurt
}

func (k *table) remove() deed {
	ref := k.present(func(goods) bool { return true })
	return deed{name: "rm", bound: -1, quiet: true, takes: []string{ref}, do: func(ctx context.Context, calls *client.Client, _ func()) error {
		return calls.RemoveModel(ctx, ref)
	}}
}

func (k *table) collect() deed {
	req, bound := rbee.GCRequest{}, int64(quotaBytes)
	if k.rnd.IntN(2) == 0 {
		most := k.rnd.Int64N(quotaBytes / 2)
		req.MaxBytes, bound = &most, most
	}
	return deed{name: "gc", bound: bound, quiet: true, do: func(ctx context.Context, calls *client.Client, _ func()) error {
		_, err := calls.CollectModels(ctx, req)
		return err
	}}
}

// importing takes in one model, by a link or a copy.
func (k *table) importing() deed {
	g := k.choose(func(g goods) bool { return g.path != "" })
	k.absent(g.ref)
	req := rbee.ImportRequest{Path: g.path, Copy: true}
	if !strings.HasPrefix(g.ref, "file:") {
		req.ModelRef = g.ref
	}
	return deed{name: "import", size: g.size(), bound: -1, puts: []string{g.ref}, do: func(ctx context.Context, calls *client.Client, step func()) error {
		for p, err := range calls.ImportModels(ctx, req) {
			if err != nil {
				return err
			}
			if p.Error != nil {
				return p.Error
			}
			step()
		}
		return nil
	}}
}

// rebuild is over when the catalog that was lost has its rows again.
func (k *table) rebuild() deed {
	return deed{name: "rebuild", bound: -1, quiet: true, do: func(ctx context.Context, _ *client.Client, _ func()) error {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			_, made := os.Stat(k.db())
			_, marked := os.Stat(k.db() + ".rebuild")
			if made == nil && marked != nil || !runs(k.hive.pid()) {
				return nil
			}
			<-tick.C
		}
		return context.Cause(ctx)
	}}
}

// loseCatalog deletes the database, with or without its log.
func (k *table) loseCatalog() {
	k.t.Helper()
	k.must(os.Remove(k.db()))
	if k.rnd.IntN(2) == 0 {
		for _, suffix := range []string{"-wal", "-shm"} {
			if err := os.Remove(k.db() + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
				k.t.Error(err)
			}
		}
	}
}
