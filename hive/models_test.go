package hive_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rbee"
	"rbee/internal/hub/hubtest"
)

// pulled downloads a model and returns its row.
func (r *running) pulled(reference string) rbee.Model {
	r.t.Helper()
	reply, err := r.Download(r.t.Context(), rbee.DownloadRequest{ModelRef: reference})
	must(r.t, err)
	if all := r.follow(reply.DownloadID); all[len(all)-1].Error != nil {
		r.t.Fatalf("%s: %v", reference, all[len(all)-1].Error)
	}
	m, err := r.Model(r.t.Context(), reference)
	must(r.t, err)
	return m.Model
}

// steps collects what a stream of work on the store tells.
func steps(t *testing.T, stream func(func(rbee.StoreProgress, error) bool)) (all []rbee.StoreProgress) {
	t.Helper()
	for p, err := range stream {
		must(t, err)
		if p.Stage != rbee.StoreReading {
			all = append(all, p)
		}
	}
	return all
}

func TestAModelIsShownByEachFormOfItsReference(t *testing.T) {
	h := newHub(t, 20_000)
	h.Put(hubtest.Repo{Name: "org/deep", Files: []hubtest.File{{Path: "a b/c/deep.gguf", Content: hubtest.GGUF(2, 20_000)}}})
	home := t.TempDir()
	must(t, os.WriteFile(filepath.Join(home, "config.yaml"), []byte("aliases:\n  noise: "+hubModel+"\n"), 0o600))
	r := startAt(t, home, withHub(h))
	for pulled, asked := range map[string]string{
		"noise": hubModel, repoName + "::" + modelFile: "hf:" + repoName + "::" + modelFile, "hf:org/name@main": "org/name@main", "org/deep::a b/c/deep.gguf": "hf:org/deep::a b/c/deep.gguf",
	} {
		m := r.pulled(pulled)
		got, err := r.Model(t.Context(), asked)
		if err != nil || got.LocalPath != m.LocalPath || got.Architecture != "llama" || got.ContextLength != 2048 || got.Layers != 1 || got.ChatTemplate {
			t.Errorf("%s: %+v, %v", asked, got, err)
		}
		if n := len(got.Memory); n != 1 || got.Memory[0].ContextTokens != 2048 || got.Memory[0].Slots != 1 || got.Memory[0].MemoryBytes < 20_000 || !got.Memory[0].Fits {
			t.Errorf("memory: %+v", got.Memory)
		}
	}
	for reference, code := range map[string]rbee.Code{"hf:org/other": rbee.CodeModelNotFound, "nobody": rbee.CodeInvalidRequest, "hf:org/../x": rbee.CodeInvalidRequest} {
		if _, err := r.Model(t.Context(), reference); rbee.CodeOf(err) != code || rbee.AsError(err).Suggestion() == "" {
			t.Errorf("%s: %v", reference, err)
		}
	}
	if u, err := r.Usage(t.Context()); err != nil || len(u.Files) != 2 || u.StoreBytes != 40_000 || u.Directory != filepath.Join(home, "models") || u.FreeBytes == 0 {
		t.Errorf("usage: %+v, %v", u, err)
	}
	must(t, r.RemoveModel(t.Context(), "noise"))
	if u, err := r.Usage(t.Context()); err != nil || len(u.Files) != 2 || u.StoreBytes != 40_000 {
		t.Errorf("what others have went with it: %+v, %v", u, err)
	}
}

func TestVariantsAndSearchOverHTTP(t *testing.T) {
	h := newHub(t, 20_000)
	h.Put(hubtest.Repo{Name: "org/many", Downloads: 99, Access: hubtest.Public, Files: []hubtest.File{
		{Path: "many.Q2_K.gguf", Content: hubtest.GGUF(2, 10_000)},
		{Path: "many.Q4_K_M.gguf", Content: hubtest.GGUF(3, 30_000)},
		{Path: "mmproj.gguf", Content: hubtest.GGUF(4, 2000)},
	}})
	r := start(t, withHub(h))
	r.pulled("hf:org/many:Q2_K")
	list, err := r.Variants(t.Context(), "org/many")
	must(t, err)
	var got []string
	for _, v := range list.Variants {
		got = append(got, v.ModelRef.String())
		if v.OnDisk != (v.Quantisation == "Q2_K") || v.Chosen != (v.Quantisation == "Q4_K_M") || !v.Fits || v.MemoryBytes < v.SizeBytes {
			t.Errorf("variant: %+v", v)
		}
	}
	if list.Repository != "org/many" || len(list.Revision) != 40 || !slices.Equal(got, []string{"hf:org/many:Q4_K_M", "hf:org/many:Q2_K"}) {
		t.Errorf("variants of %s at %s: %v", list.Repository, list.Revision, got)
	}
	for reference, code := range map[string]rbee.Code{"org/other": rbee.CodeModelNotFound, "file:/m.gguf": rbee.CodeInvalidRequest, "nobody": rbee.CodeInvalidRequest} {
		if _, err := r.Variants(t.Context(), reference); rbee.CodeOf(err) != code || rbee.AsError(err).Suggestion() == "" {
			t.Errorf("%s: %v", reference, err)
		}
	}
	found, err := r.SearchModels(t.Context(), "org", 10)
	if err != nil || len(found) != 2 || found[0].ModelRef.String() != "hf:org/many" || found[0].Downloads != 99 || found[1].ModelRef.String() != "hf:org/name" {
		t.Errorf("found %+v, %v", found, err)
	}
	if found, err := r.SearchModels(t.Context(), "org", 1); err != nil || len(found) != 1 {
		t.Errorf("found %+v, %v", found, err)
	}
	if found, err := r.SearchModels(t.Context(), "nothing", 1); err != nil || found == nil || len(found) != 0 {
		t.Errorf("found %+v, %v", found, err)
	}
}

func TestVerifyImportAndExportOverHTTP(t *testing.T) {
	h := newHub(t, 20_000)
	r := start(t, withHub(h))
	m := r.pulled(hubModel)

	out := filepath.Join(t.TempDir(), "out.gguf")
	all := steps(t, r.ExportModel(t.Context(), rbee.ExportRequest{ModelRef: hubModel, Path: out}))
	if len(all) != 1 || all[0].Stage != rbee.StoreExported || all[0].Path != out {
		t.Fatalf("export: %+v", all)
	}
	all = steps(t, r.ImportModels(t.Context(), rbee.ImportRequest{Path: out, SHA256: m.SHA256, ModelRef: "hf:mine/own"}))
	if len(all) != 1 || all[0].Stage != rbee.StoreImported || all[0].Model.LocalPath != m.LocalPath {
		t.Fatalf("import: %+v", all)
	}
	all = steps(t, r.VerifyModels(t.Context(), rbee.VerifyRequest{}))
	if len(all) != 2 || all[0].Stage != rbee.StoreIntact || all[1].Stage != rbee.StoreIntact {
		t.Fatalf("verify: %+v", all)
	}

	b, err := os.ReadFile(m.LocalPath)
	must(t, err)
	b[len(b)-1] ^= 1
	must(t, os.WriteFile(m.LocalPath, b, 0o600))
	all = steps(t, r.VerifyModels(t.Context(), rbee.VerifyRequest{ModelRefs: []string{hubModel}}))
	if len(all) == 0 || all[0].Stage != rbee.StoreDamaged || all[0].Error == nil || all[0].Error.Suggestion() == "" {
		t.Fatalf("verify: %+v", all)
	}
	if _, err := os.Stat(m.LocalPath); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the damaged file is still in its place: %v", err)
	}
	h.Reset()
	if again := r.pulled(hubModel); again.SHA256 != m.SHA256 {
		t.Errorf("again: %+v", again)
	}
	if bytes, _ := sent(h); bytes != 20_000 {
		t.Errorf("the hub sent %d bytes", bytes)
	}
	for name, stream := range map[string]func(func(rbee.StoreProgress, error) bool){
		"verify": r.VerifyModels(t.Context(), rbee.VerifyRequest{ModelRefs: []string{"hf:org/other"}}),
		"export": r.ExportModel(t.Context(), rbee.ExportRequest{ModelRef: "hf:org/other", Path: out}),
		"import": r.ImportModels(t.Context(), rbee.ImportRequest{Path: "/nowhere"}),
	} {
		failed := false
		for p, err := range stream {
			if err == nil && p.Error != nil {
				err = p.Error
			}
			failed = failed || rbee.CodeOf(err) == rbee.CodeModelNotFound || rbee.CodeOf(err) == rbee.CodeInvalidRequest
		}
		if !failed {
			t.Errorf("%s of what is not there does not fail", name)
		}
	}
}

func TestCollectingOverHTTP(t *testing.T) {
	h := newHub(t, 20_000)
	h.Put(hubtest.Repo{Name: "org/idle", Files: []hubtest.File{{Path: "m.gguf", Content: hubtest.GGUF(2, 30_000)}}})
	r := start(t, withHub(h))
	used, idle := r.pulled(hubModel), r.pulled("hf:org/idle")
	reply := r.spawn(func(s *rbee.SpawnRequest) { s.ModelRef = hubModel })
	r.wait(reply.WorkerID, rbee.WorkerIdle)
	spare := filepath.Join(r.home, "models", "sha256", "spare.gguf")
	must(t, os.WriteFile(spare, []byte("spare"), 0o600))
	nothing := int64(0)
	for _, dry := range []bool{true, false} {
		got, err := r.CollectModels(t.Context(), rbee.GCRequest{DryRun: dry, MaxBytes: &nothing})
		must(t, err)
		var gone []string
		for _, f := range got.Removed {
			gone = append(gone, string(f.Kind)+" "+f.Path)
		}
		if !slices.Equal(gone, []string{"orphan " + spare, "evicted " + idle.LocalPath}) || got.DryRun != dry || got.FreedBytes != 30_005 {
			t.Errorf("removed %v: %+v", gone, got)
		}
		if len(got.Kept) != 1 || got.Kept[0].ModelRef.String() != hubModel || !strings.Contains(got.Kept[0].Reason, string(reply.WorkerID)) {
			t.Errorf("kept: %+v", got.Kept)
		}
		for path, there := range map[string]bool{used.LocalPath: true, idle.LocalPath: dry, spare: dry} {
			if _, err := os.Stat(path); (err == nil) != there {
				t.Errorf("dry run %t: %s: %v", dry, path, err)
			}
		}
	}
	if list, err := r.Models(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("models: %+v, %v", list, err)
	}
}

func TestTheQuotaMakesRoomButNotOfWhatIsInUse(t *testing.T) {
	h := newHub(t, 60_000)
	for i, name := range []string{"org/two", "org/three"} {
		h.Put(hubtest.Repo{Name: name, Files: []hubtest.File{{Path: "m.gguf", Content: hubtest.GGUF(uint64(i)+2, 60_000)}}})
	}
	r := start(t, withHub(h), "RBEE_MODELS_QUOTA_GB=0.0001")
	reply := r.spawn(func(s *rbee.SpawnRequest) { s.ModelRef = hubModel })
	r.wait(reply.WorkerID, rbee.WorkerIdle)
	_, err := r.Download(t.Context(), rbee.DownloadRequest{ModelRef: "org/two"})
	e := rbee.AsError(err)
	if e == nil || e.Code != rbee.CodeInsufficientDisk || e.Suggestion() == "" {
		t.Errorf("with the other model in use: %v", err)
	}
	must(t, r.StopWorker(t.Context(), reply.WorkerID))
	two, err := r.Download(t.Context(), rbee.DownloadRequest{ModelRef: "org/two"})
	must(t, err)
	all := r.follow(two.DownloadID)
	if end := all[len(all)-1]; end.Stage != rbee.DownloadComplete || !strings.Contains(end.Note, "removed "+hubModel) {
		t.Errorf("ended with %+v", end)
	}
	if u, err := r.Usage(t.Context()); err != nil || u.StoreBytes != 60_000 || u.QuotaBytes != 100_000 {
		t.Errorf("usage: %+v, %v", u, err)
	}
}
