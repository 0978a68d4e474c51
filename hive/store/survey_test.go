package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"rbee"
)

// tree is a directory that a test fills.
type tree struct {
	t   *testing.T
	dir string
}

func (d tree) file(rel, content string) string {
	d.t.Helper()
	return write(d.t, filepath.Join(d.dir, filepath.FromSlash(rel)), content)
}

func (d tree) link(to, rel string) {
	d.t.Helper()
	path := filepath.Join(d.dir, filepath.FromSlash(rel))
	must(d.t, os.MkdirAll(filepath.Dir(path), 0o700))
	must(d.t, os.Symlink(to, path))
}

// cached makes a file of a Hugging Face cache.
func (d tree) cached(repo, commit, file, content string) {
	d.t.Helper()
	d.file(repo+"/blobs/"+sum(content), content)
	up := strings.Repeat("../", 2+strings.Count(file, "/"))
	d.link(up+"blobs/"+sum(content), repo+"/snapshots/"+commit+"/"+file)
}

func hubCache(d tree, below string) {
	repo := below + "models--Org--Repo-GGUF"
	d.cached(repo, "c2", "a-q4.gguf", "GGUF a of main")
	d.cached(repo, "c1", "a-q4.gguf", "GGUF a of old")
	d.cached(repo, "c1", "sub/b.gguf", "GGUF b")
	d.cached(repo, "c2", "sub/b.gguf", "GGUF b")
	d.cached(repo, "c2", "config.json", "{}")
	d.cached(repo, "c2", "s-00001-of-00002.gguf", "GGUF one")
	d.cached(repo, "c2", "s-00002-of-00002.gguf", "GGUF two")
	d.cached(repo, "c2", "mmproj.gguf", "clip")
	d.file(repo+"/refs/main", "c2")
	d.file(repo+"/snapshots/c2/broken.gguf", "GGUF under a wrong name")
	must(d.t, os.Rename(filepath.Join(d.dir, repo, "snapshots/c2/broken.gguf"), filepath.Join(d.dir, repo, "blobs", sum("another"))))
	d.link("../../blobs/"+sum("another"), repo+"/snapshots/c2/broken.gguf")
	d.link("../../blobs/none", repo+"/snapshots/c2/dangling.gguf")
}

var hubEnds = []string{
	"imported hf:Org/Repo-GGUF::a-q4.gguf",
	"imported hf:Org/Repo-GGUF::s-00001-of-00002.gguf",
	"imported hf:Org/Repo-GGUF::sub/b.gguf",
	"imported hf:Org/Repo-GGUF@c1::a-q4.gguf",
	"skipped hf:Org/Repo-GGUF::broken.gguf",   // its digest is not its name
	"skipped hf:Org/Repo-GGUF::dangling.gguf", // it is gone
	"skipped hf:Org/Repo-GGUF::mmproj.gguf",   // it is no model
}

func ollamaStore(d tree, below string) {
	manifest := func(at string, layers ...string) {
		var list []string
		for _, l := range layers {
			kind, content, _ := strings.Cut(l, "=")
			list = append(list, fmt.Sprintf(`{"mediaType":"application/vnd.ollama.image.%s","digest":"sha256:%s","size":1}`, kind, sum(content)))
			d.file(below+"blobs/sha256-"+sum(content), content)
		}
		d.file(below+"manifests/"+at, `{"schemaVersion":2,"layers":[`+strings.Join(list, ",")+`]}`)
	}
	manifest("registry.ollama.ai/library/bee/8b", "license=free", "model=GGUF bee8", "template=t")
	manifest("registry.ollama.ai/library/bee/latest", "model=GGUF bee8")
	manifest("registry.ollama.ai/me/mine/q4", "model=GGUF mine", "projector=clip")
	manifest("registry.ollama.ai/library/remote/cloud", "license=free")
	d.file(below+"manifests/registry.ollama.ai/library/cut/off", `{"layers":[`)
	manifest("registry.ollama.ai/library/rotten/1b", "model=GGUF rotten")
	scribble(d.t, filepath.Join(d.dir, below, "blobs", "sha256-"+sum("GGUF rotten")))
}

func TestImportOfADirectoryTellsStoresByWhatIsInThem(t *testing.T) {
	for name, c := range map[string]struct {
		make func(d tree)
		want func(dir string) []string
	}{
		"Hugging Face hub":            {func(d tree) { hubCache(d, "") }, func(string) []string { return hubEnds }},
		"Hugging Face a level higher": {func(d tree) { hubCache(d, "hub/") }, func(string) []string { return hubEnds }},
		"Ollama":                      {func(d tree) { ollamaStore(d, "") }, ollamaEnds("")},
		"Ollama a level higher":       {func(d tree) { ollamaStore(d, "models/") }, ollamaEnds("models/")},
		"LM Studio":                   {func(d tree) { studio(d, "") }, func(string) []string { return studioEnds }},
		"LM Studio a level higher":    {func(d tree) { studio(d, "models/"); d.file("settings.json", "{}") }, func(string) []string { return studioEnds }},
		"llorch": {func(d tree) {
			d.file("tiny/a.gguf", "GGUF a")
			d.file("qwen/b.Q4.gguf", "GGUF b")
			d.file("qwen/README.md", "")
		}, func(dir string) []string {
			return []string{"imported file:" + dir + "/qwen/b.Q4.gguf named qwen", "imported file:" + dir + "/tiny/a.gguf named tiny"}
		}},
		"anything": {func(d tree) {
			d.file("a.gguf", "GGUF a")
			d.file("x/y/z/B.GGUF", "GGUF b")
			d.file("x/text.gguf", "text")
			d.file("s-00001-of-00002.gguf", "GGUF one")
			d.file("s-00002-of-00002.gguf", "GGUF two")
			d.file("lost-00002-of-00002.gguf", "GGUF lost")
			d.file("odd, name.gguf", "GGUF odd")
			must(t, syscall.Mkfifo(filepath.Join(d.dir, "pipe.gguf"), 0o600))
			d.link("loop.gguf", "loop.gguf")
			d.link(".", "x/again")
			d.link("a.gguf", "second name.gguf")
			d.file(strings.Repeat("d/", 18)+"deep.gguf", "GGUF deep")
		}, func(dir string) []string {
			return []string{
				"imported file:" + dir + "/a.gguf", "imported file:" + dir + "/s-00001-of-00002.gguf", "imported file:" + dir + "/second name.gguf",
				"imported file:" + dir + "/x/y/z/B.GGUF", "skipped " + dir + "/lost-00002-of-00002.gguf", "skipped " + dir + "/odd, name.gguf",
				"skipped " + dir + strings.Repeat("/d", 17),
				"skipped file:" + dir + "/loop.gguf", "skipped file:" + dir + "/pipe.gguf", "skipped file:" + dir + "/x/text.gguf named x",
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			s, _ := h.open()
			d := tree{t, filepath.Join(h.dir, "theirs")}
			must(t, os.Mkdir(d.dir, 0o700))
			c.make(d)
			e := &ends{}
			must(t, s.Import(t.Context(), rbee.ImportRequest{Path: d.dir}, e.report))
			var got []string
			for _, p := range e.all {
				switch {
				case p.Stage == rbee.StoreImported && p.Model.Name != "":
					got = append(got, "imported "+p.ModelRef.String()+" named "+p.Model.Name)
				case p.Stage == rbee.StoreImported:
					got = append(got, "imported "+p.ModelRef.String())
				case p.Stage == rbee.StoreSkipped && p.ModelRef != nil:
					got = append(got, "skipped "+p.ModelRef.String())
				case p.Stage == rbee.StoreSkipped:
					got = append(got, "skipped "+p.Path)
				}
				if p.Stage == rbee.StoreSkipped && (p.Error == nil || p.Error.Code == rbee.CodeInternalError) {
					t.Errorf("%s is skipped without a word: %v", p.Path, p.Error)
				}
			}
			slices.Sort(got)
			want := c.want(d.dir)
			for i, w := range want {
				if strings.HasPrefix(w, "skipped") {
					want[i], _, _ = strings.Cut(w, " named ")
				}
			}
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("ended as\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if u, err := s.Usage(t.Context()); err != nil || len(u.Spare) != 0 {
				t.Errorf("left in the store: %v, %v", named(u.Spare), err)
			}
		})
	}
}

func ollamaEnds(below string) func(dir string) []string {
	return func(dir string) []string {
		blob := func(content string) string {
			return "file:" + filepath.Join(dir, below, "blobs", "sha256-"+sum(content))
		}
		manifest := func(rel string) string { return filepath.Join(dir, below, "manifests", "registry.ollama.ai", rel) }
		return []string{
			"imported " + blob("GGUF bee8") + " named bee:8b", "imported " + blob("GGUF mine") + " named me/mine:q4",
			"skipped " + blob("clip"), "skipped " + blob("GGUF rotten"),
			"skipped " + manifest("library/remote/cloud"), "skipped " + manifest("library/cut/off"),
		}
	}
}

func studio(d tree, below string) {
	d.file(below+"lmstudio-community/Qwen-GGUF/qwen-Q4_K_M.gguf", "GGUF qwen")
	d.file(below+"lmstudio-community/Qwen-GGUF/mmproj-qwen.gguf", "clip")
	d.file(below+"me/Mine/mine.gguf", "GGUF mine")
}

var studioEnds = []string{
	"imported hf:lmstudio-community/Qwen-GGUF::qwen-Q4_K_M.gguf", "imported hf:me/Mine::mine.gguf",
	"skipped hf:lmstudio-community/Qwen-GGUF::mmproj-qwen.gguf",
}

func TestImportKeepsWhatAStoreKnows(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	d := tree{t, filepath.Join(h.dir, "hub")}
	d.cached("models--Org--Repo", "c0ffee", "q/a.gguf", "GGUF a")
	must(t, s.Import(t.Context(), rbee.ImportRequest{Path: d.dir}, nobody))
	m := resolve(t, s, rbee.ModelRef{Provider: rbee.ProviderHF, Reference: "Org/Repo::q/a.gguf"})
	if m.Revision != "c0ffee" || m.FileName != "q/a.gguf" || m.SHA256 != sum("GGUF a") {
		t.Errorf("row: %+v", m)
	}
	blob, err := os.Stat(filepath.Join(d.dir, "models--Org--Repo", "blobs", sum("GGUF a")))
	must(t, err)
	ours, err := os.Lstat(m.LocalPath)
	must(t, err)
	if !os.SameFile(blob, ours) {
		t.Error("the store has a copy, or a link to the link")
	}
	// Python removes its cache; the model stays.
	must(t, os.RemoveAll(d.dir))
	verify(t, s)
	if got := refs(t, s); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
}

func TestImportOfADirectoryLooksPastTheStoreItself(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	resolve(t, s, beeRef)
	ref := h.file("theirs.gguf", "GGUF theirs")
	must(t, s.Import(t.Context(), rbee.ImportRequest{Path: h.dir}, nobody))
	if got := refs(t, s); !slices.Equal(got, []string{beeRef.String(), ref.String()}) {
		t.Errorf("catalog: %v", got)
	}
}

func TestImportOfADirectoryThatCannotBe(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	empty := filepath.Join(h.dir, "empty")
	must(t, os.Mkdir(empty, 0o700))
	for name, c := range map[string]struct {
		req  rbee.ImportRequest
		code rbee.Code
	}{
		"nothing in it": {rbee.ImportRequest{Path: empty}, rbee.CodeModelNotFound},
		"a reference":   {rbee.ImportRequest{Path: h.dir, ModelRef: "hf:a/b"}, rbee.CodeInvalidRequest},
		"a digest":      {rbee.ImportRequest{Path: h.dir, SHA256: sum("x")}, rbee.CodeInvalidRequest},
		"not there":     {rbee.ImportRequest{Path: filepath.Join(h.dir, "none")}, rbee.CodeModelNotFound},
		"no path":       {rbee.ImportRequest{Path: "models"}, rbee.CodeInvalidRequest},
		"no reference":  {rbee.ImportRequest{Path: h.file("a.gguf", "GGUF a").Reference, ModelRef: "nonsense"}, rbee.CodeInvalidRequest},
		"a builtin":     {rbee.ImportRequest{Path: h.file("a.gguf", "GGUF a").Reference, ModelRef: "builtin:bee"}, rbee.CodeInvalidRequest},
		"no GGUF":       {rbee.ImportRequest{Path: h.file("text.gguf", "text").Reference}, rbee.CodeInvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.Import(t.Context(), c.req, nobody)
			if rbee.CodeOf(err) != c.code {
				t.Errorf("error is %v, want %s", err, c.code)
			}
		})
	}
}
