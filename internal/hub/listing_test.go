package hub_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rbee/internal/hub"
	"rbee/internal/hub/hubtest"
)

const (
	digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	gitID  = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"
)

var hostileNames = []string{
	"../../x.gguf", "/etc/x.gguf", "a/../../x.gguf", "a/..", "..", ".", "", "a//b.gguf", "./x.gguf", "a/./x.gguf", "x.gguf/",
	"a\x00.gguf", "a\n.gguf", "a\x7f.gguf", "a\u0085.gguf", `..\x.gguf`, `C:\x.gguf`, "C:x.gguf", "a:b.gguf",
	strings.Repeat("n", 4096), strings.Repeat("n/", 512) + "x",
	"CON.gguf", "con", "aux/NUL.gguf", "a/Com1.gguf", "LPT¹.gguf", "CONIN$", "nul .gguf", "nul.tar.gguf", "a. ", "a/...", "x.gguf.",
}

func TestNamesThatCouldLeaveADirectoryAreLeftOut(t *testing.T) {
	good := []string{"x.gguf", "a/b/x-00001-of-00003.gguf", "..x.gguf", "a..b/x.gguf", ".gitattributes", "console.gguf", "COM10.gguf", "名前.gguf", "a b.gguf", strings.Repeat("n", 1024)}
	srv := hubtest.New()
	defer srv.Close()
	content := hubtest.Bytes([]byte("x"))
	r := hubtest.Repo{Name: repo}
	for _, name := range slices.Concat(hostileNames, good) {
		r.Files = append(r.Files, hubtest.File{Path: name, Content: content})
	}
	srv.Put(r)
	c := newClient(t, hub.Config{Endpoint: srv.URL})
	got, err := c.Repository(t.Context(), repo, "")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range got.Files {
		names = append(names, f.Path)
	}
	if !slices.Equal(names, good) {
		t.Errorf("got %q", names)
	}
	for _, f := range got.Files {
		if body, err := fetch(t, c.Source(repo, got.Revision, f), 0, 1); err != nil || string(body) != "x" {
			t.Errorf("%q cannot be fetched: %q, %v", f.Path, body, err)
		}
	}
}

func TestAListingIsRefusedForWhatItSaysOfAFile(t *testing.T) {
	const lfs = `"lfs":{"sha256":"` + digest + `","size":5}`
	for _, tt := range []struct{ name, doc, says string }{
		{"fine", `{"sha":"` + gitID + `","siblings":[{"rfilename":"a","size":5,"blobId":"` + gitID + `",` + lfs + `}]}`, ""},
		{"no commit, no files", `{}`, ""},
		{"files that are null", `{"siblings":null}`, ""},
		{"the size of the blob alone", `{"siblings":[{"rfilename":"a",` + lfs + `}]}`, ""},
		{"wrong about a file that is left out", `{"siblings":[{"rfilename":"../a","size":-1}]}`, ""},
		{"a commit that is none", `{"sha":"main"}`, "its commit"},
		{"an upper-case commit", `{"sha":"` + strings.ToUpper(gitID) + `"}`, "its commit"},
		{"a negative size", `{"siblings":[{"rfilename":"a","size":-1}]}`, "no file has such a size"},
		{"a huge size", `{"siblings":[{"rfilename":"a","size":9000000000000000000}]}`, "no file has such a size"},
		{"a size beyond all numbers", `{"siblings":[{"rfilename":"a","size":99999999999999999999999}]}`, "wrong kind"},
		{"half a byte", `{"siblings":[{"rfilename":"a","size":1.5}]}`, "wrong kind"},
		{"no size", `{"siblings":[{"rfilename":"a"}]}`, "there is no size"},
		{"two sizes", `{"siblings":[{"rfilename":"a","size":6,` + lfs + `}]}`, "two sizes"},
		{"an empty digest", `{"siblings":[{"rfilename":"a","size":6,"lfs":{}}]}`, "SHA-256"},
		{"a short digest", `{"siblings":[{"rfilename":"a","size":6,"lfs":{"sha256":"ab"}}]}`, "SHA-256"},
		{"an upper-case digest", `{"siblings":[{"rfilename":"a","size":6,"lfs":{"sha256":"` + strings.ToUpper(digest) + `"}}]}`, "SHA-256"},
		{"a digest that is a path", `{"siblings":[{"rfilename":"a","size":6,"lfs":{"sha256":"` + strings.Repeat("../", 21) + `x"}}]}`, "SHA-256"},
		{"a blob that is none", `{"siblings":[{"rfilename":"a","size":6,"blobId":"../../x"}]}`, "id of the blob"},
		{"files that are none", `{"siblings":{"a":1}}`, "where a list belongs"},
		{"too many files", `{"siblings":[` + strings.Repeat("{},", 100_000) + `{}]}`, "more than 100000"},
		{"a list", `[]`, "wrong kind"},
		{"nothing", ``, "no JSON"},
		{"more than one", `{}{}`, "no JSON"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := hub.DecodeRepository([]byte(tt.doc), repo, "asked")
			if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("got %+v, %v", r, err)
			}
		})
	}
	if r, err := hub.DecodeRepository([]byte(`{"id":"../x"}`), repo, "asked"); err != nil || r.ID != repo || r.Revision != "asked" || r.Files == nil {
		t.Errorf("of a listing that says nothing: %+v, %v", r, err)
	}
}

func TestASearchIsReadWithoutWhatNoReferenceCanName(t *testing.T) {
	for _, tt := range []struct{ name, doc, want string }{
		{"fine", `[{"id":"a/b","gated":"manual"},{"id":"c/d"}]`, "hf:a/b hf:c/d"},
		{"names that are none", `[{"id":"gpt2"},{"id":"../../x"},{"id":"a/b:Q4"},{"id":"a/b@v"},{"id":"a/$b"},{},{"id":"c/d"}]`, "hf:c/d"},
		{"more than asked for", `[{"id":"a/b"},{"id":"c/d"},{"id":"e/f"}]`, "hf:a/b hf:c/d"},
		{"less than no downloads", `[{"id":"a/b","downloads":-5,"likes":-5}]`, "hf:a/b"},
		{"null", `null`, ""},
		{"no list", `{"error":"x"}`, "error"},
		{"no time", `[{"id":"a/b","lastModified":"yesterday"}]`, "error"},
		{"too many", `[` + strings.Repeat("{},", 100_000) + `{}]`, "error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			models, err := hub.DecodeSearch([]byte(tt.doc), 2)
			var names []string
			for _, m := range models {
				if m.Downloads < 0 || m.Likes < 0 {
					t.Errorf("got %+v", m)
				}
				names = append(names, m.ModelRef.String())
			}
			got := strings.Join(names, " ")
			if err != nil {
				got = "error"
			}
			if got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func FuzzRepository(f *testing.F) {
	f.Add([]byte(`{"id":"org/name","sha":"` + gitID + `","siblings":[{"rfilename":"a.gguf","size":5,"blobId":"` + gitID + `","lfs":{"sha256":"` + digest + `","size":5,"pointerSize":130}},{"rfilename":"README.md","size":1}]}`))
	for _, name := range hostileNames {
		text, err := json.Marshal(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(fmt.Appendf(nil, `{"siblings":[{"rfilename":%s,"size":1}]}`, text))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := hub.DecodeRepository(body, repo, "main")
		if err != nil {
			return
		}
		for _, f := range r.Files {
			inside := filepath.Join("/store", filepath.FromSlash(f.Path))
			if !hub.UsablePath(f.Path) || !strings.HasPrefix(inside, "/store/") || strings.ContainsAny(f.Path, "\x00\\:") {
				t.Errorf("the name %q was let through", f.Path)
			}
			if f.SizeBytes < 0 || f.SizeBytes > 1<<44 || len(f.SHA256) != 0 && len(f.SHA256) != 64 || len(f.BlobID) != 0 && len(f.BlobID) != 40 {
				t.Errorf("the file %+v was let through", f)
			}
		}
	})
}

func FuzzSearch(f *testing.F) {
	f.Add([]byte(`[{"id":"org/name","downloads":7,"likes":1,"gated":"auto","lastModified":"2024-01-02T03:04:05.000Z"},{"id":"a/b","gated":false}]`))
	f.Add([]byte(`[{"id":"../../x","gated":null},{"id":"a/b:c"}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		models, err := hub.DecodeSearch(body, 10)
		if err == nil && len(models) > 10 {
			t.Errorf("there are %d models", len(models))
		}
		for _, m := range models {
			if org, name, ok := strings.Cut(m.ModelRef.Reference, "/"); !ok || strings.Contains(name, "/") || strings.ContainsAny(org+name, ":@\\") {
				t.Errorf("the name %q was let through", m.ModelRef)
			}
		}
	})
}
