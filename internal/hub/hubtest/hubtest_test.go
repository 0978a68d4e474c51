package hubtest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rbee/internal/gguf"
	"rbee/internal/hub/hubtest"
)

const (
	repoName = "org/name"
	fileName = "dir/model.gguf"
)

// start serves one repository with a large file and a small one.
func start(t *testing.T, content *hubtest.Content) *hubtest.Server {
	t.Helper()
	srv := hubtest.New()
	t.Cleanup(srv.Close)
	srv.Put(hubtest.Repo{Name: repoName, Downloads: 5, Likes: 2, Updated: time.Unix(1700000000, 0), Files: []hubtest.File{
		{Path: fileName, Content: content},
		{Path: "README.md", Content: hubtest.Bytes([]byte("hello")), Plain: true},
		{Path: "../../evil.gguf", Content: hubtest.Bytes([]byte("x"))},
	}})
	return srv
}

type answer struct {
	*http.Response
	body []byte
	err  error // of the body
}

// ask makes a request and follows no redirect.
func ask(t *testing.T, method, url string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp, body, err}
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func TestTheListingHasWhatTheHubsHas(t *testing.T) {
	data := []byte("some bytes")
	srv := start(t, hubtest.Bytes(data))
	type sibling struct {
		Path   string `json:"rfilename"`
		Size   int64  `json:"size"`
		BlobID string `json:"blobId"`
		LFS    *struct {
			SHA256 string `json:"sha256"`
			Size   int64  `json:"size"`
		} `json:"lfs"`
	}
	var doc struct {
		ID       string    `json:"id"`
		SHA      string    `json:"sha"`
		Gated    any       `json:"gated"`
		Siblings []sibling `json:"siblings"`
	}
	a := ask(t, "GET", srv.URL+"/api/models/org/name/revision/main?blobs=true")
	if err := json.Unmarshal(a.body, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.ID != repoName || len(doc.SHA) != 40 || doc.Gated != false || len(doc.Siblings) != 3 {
		t.Fatalf("the listing is %s", a.body)
	}
	big, plain, evil := doc.Siblings[0], doc.Siblings[1], doc.Siblings[2]
	if big.Path != fileName || big.Size != 10 || len(big.BlobID) != 40 || big.LFS == nil || big.LFS.SHA256 != sum(data) || big.LFS.Size != 10 {
		t.Errorf("the large file is listed as %+v", big)
	}
	// git hash-object of "hello"
	if plain.LFS != nil || plain.Size != 5 || plain.BlobID != "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0" {
		t.Errorf("the small file is listed as %+v", plain)
	}
	if evil.Path != "../../evil.gguf" {
		t.Errorf("the hostile name is listed as %q", evil.Path)
	}
	byCommit := ask(t, "GET", srv.URL+"/api/models/org/name/revision/"+doc.SHA+"?blobs=true")
	if !bytes.Equal(byCommit.body, a.body) {
		t.Error("the listing of the commit is another than that of main")
	}
}

func TestALargeFileComesFromTheOtherPort(t *testing.T) {
	data := []byte("0123456789")
	srv := start(t, hubtest.Bytes(data))
	a := ask(t, "HEAD", srv.URL+"/org/name/resolve/main/"+fileName)
	location := a.Header.Get("Location")
	if a.StatusCode != http.StatusFound || !strings.HasPrefix(location, srv.CDN+"/") {
		t.Fatalf("the hub answered %d with the location %q", a.StatusCode, location)
	}
	for name, want := range map[string]string{
		"X-Linked-Size": "10", "X-Linked-Etag": `"` + sum(data) + `"`, "Accept-Ranges": "bytes",
	} {
		if got := a.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if len(a.Header.Get("X-Repo-Commit")) != 40 {
		t.Errorf("X-Repo-Commit is %q", a.Header.Get("X-Repo-Commit"))
	}
	etag := ask(t, "HEAD", location).Header.Get("ETag")
	for _, tt := range []struct {
		name, method string
		header       []string
		status       int
		body         string
		contentRange string
	}{
		{"all of it", "GET", nil, 200, "0123456789", ""},
		{"a range", "GET", []string{"Range", "bytes=2-4"}, 206, "234", "bytes 2-4/10"},
		{"a range from the beginning", "GET", []string{"Range", "bytes=0-9"}, 206, "0123456789", "bytes 0-9/10"},
		{"a range that begins behind the end", "GET", []string{"Range", "bytes=10-12"}, 416, "invalid range: failed to overlap\n", "bytes */10"},
		{"a range of the same file", "GET", []string{"Range", "bytes=2-4", "If-Range", etag}, 206, "234", "bytes 2-4/10"},
		{"a range of another file", "GET", []string{"Range", "bytes=2-4", "If-Range", `"other"`}, 200, "0123456789", ""},
		{"the header", "HEAD", []string{"Range", "bytes=2-4"}, 206, "", "bytes 2-4/10"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := ask(t, tt.method, location, tt.header...)
			if a.StatusCode != tt.status || string(a.body) != tt.body || a.Header.Get("Content-Range") != tt.contentRange {
				t.Errorf("got %d %q %q", a.StatusCode, a.body, a.Header.Get("Content-Range"))
			}
		})
	}
	if a := ask(t, "GET", srv.CDN+"/repos/org/name/"+fileName); a.StatusCode != http.StatusForbidden {
		t.Errorf("an address without a signature answers %d", a.StatusCode)
	}
}

func TestASmallFileComesFromTheHub(t *testing.T) {
	srv := start(t, hubtest.Bytes([]byte("x")))
	a := ask(t, "GET", srv.URL+"/org/name/resolve/main/README.md")
	if a.StatusCode != http.StatusTemporaryRedirect || !strings.HasPrefix(a.Header.Get("Location"), "/api/resolve-cache/") {
		t.Fatalf("the hub answered %d with the location %q", a.StatusCode, a.Header.Get("Location"))
	}
	a = ask(t, "GET", srv.URL+a.Header.Get("Location"))
	if a.StatusCode != http.StatusOK || string(a.body) != "hello" || a.Header.Get("ETag") != `"b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"` {
		t.Errorf("got %d %q with the tag %s", a.StatusCode, a.body, a.Header.Get("ETag"))
	}
}

func TestAccessIsRefusedAsTheHubRefuses(t *testing.T) {
	srv := start(t, hubtest.Bytes([]byte("x")))
	files := []hubtest.File{{Path: fileName, Content: hubtest.Bytes([]byte("x"))}}
	srv.Put(hubtest.Repo{Name: "org/gated", Access: hubtest.Gated, Files: files})
	srv.Put(hubtest.Repo{Name: "org/private", Access: hubtest.Private, Files: files})
	srv.Accept("member", "org/gated", "org/private")
	srv.Accept("other")
	const listing, file = "/api/models/org/%/revision/main", "/org/%/resolve/main/" + fileName
	for _, tt := range []struct {
		name, path, repo, token string
		status                  int
		code                    string
	}{
		{"no such repository, no token", listing, "none", "", 401, "RepoNotFound"},
		{"no such repository", listing, "none", "other", 404, "RepoNotFound"},
		{"token that is not known", listing, "name", "stolen", 401, ""},
		{"private, no token", listing, "private", "", 401, "RepoNotFound"},
		{"private, another's token", listing, "private", "other", 404, "RepoNotFound"},
		{"private, member", listing, "private", "member", 200, ""},
		{"gated listing", listing, "gated", "", 200, ""},
		{"gated file, no token", file, "gated", "", 401, "GatedRepo"},
		{"gated file, terms not accepted", file, "gated", "other", 403, "GatedRepo"},
		{"gated file, member", file, "gated", "member", 302, ""},
		{"no such revision", "/api/models/org/%/revision/v9", "name", "", 404, "RevisionNotFound"},
		{"no such file", "/org/%/resolve/main/none.gguf", "name", "", 404, "EntryNotFound"},
		{"no such page", "/about", "", "", 404, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var header []string
			if tt.token != "" {
				header = []string{"Authorization", "Bearer " + tt.token}
			}
			a := ask(t, "GET", srv.URL+strings.Replace(tt.path, "%", tt.repo, 1), header...)
			if a.StatusCode != tt.status || a.Header.Get("X-Error-Code") != tt.code {
				t.Errorf("got %d %q", a.StatusCode, a.Header.Get("X-Error-Code"))
			}
		})
	}
}

func TestTheSearchFindsGGUFByWordsMostDownloadedFirst(t *testing.T) {
	srv := start(t, hubtest.Bytes([]byte("x")))
	gguf := []hubtest.File{{Path: "a.gguf", Content: hubtest.Bytes(nil)}}
	srv.Put(hubtest.Repo{Name: "org/Name-popular", Downloads: 9, Files: gguf})
	srv.Put(hubtest.Repo{Name: "org/name-secret", Access: hubtest.Private, Files: gguf})
	srv.Put(hubtest.Repo{Name: "org/name-torch", Files: []hubtest.File{{Path: "a.bin", Content: hubtest.Bytes(nil)}}})
	srv.Put(hubtest.Repo{Name: "org/else", Files: gguf})
	for limit, want := range map[string]string{"5": "org/Name-popular org/name", "1": "org/Name-popular"} {
		a := ask(t, "GET", srv.URL+"/api/models?search=NAME+org&filter=gguf&sort=downloads&direction=-1&limit="+limit)
		var found []struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(a.body, &found); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range found {
			names = append(names, f.ID)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("of %s the search found %q, want %q", limit, got, want)
		}
	}
}

func TestFaultsSpoilWhatIsSent(t *testing.T) {
	const all = "0123456789"
	for _, tt := range []struct {
		name   string
		fault  hubtest.Fault
		status int
		body   string // of bytes=2-8
		ok     bool   // the answer ends as it should
		header string
		value  string
	}{
		{"cut", hubtest.Fault{Kind: hubtest.Cut, After: 3}, 206, "234", false, "", ""},
		{"cut at once", hubtest.Fault{Kind: hubtest.Cut}, 206, "", false, "", ""},
		{"short", hubtest.Fault{Kind: hubtest.Short, After: 3}, 206, "234", true, "Content-Length", ""},
		{"longer", hubtest.Fault{Kind: hubtest.Longer, Bytes: 2}, 206, "2345678  ", true, "Content-Length", ""},
		{"throttled", hubtest.Fault{Kind: hubtest.Throttle, Bytes: 1000}, 206, "2345678", true, "", ""},
		{"slow", hubtest.Fault{Kind: hubtest.Slow, Wait: time.Millisecond}, 206, "2345678", true, "", ""},
		{"corrupt", hubtest.Fault{Kind: hubtest.Corrupt, After: 3}, 206, "2\xcc45678", true, "", ""},
		{"no ranges", hubtest.Fault{Kind: hubtest.NoRanges}, 200, all, true, "Accept-Ranges", ""},
		{"expired", hubtest.Fault{Kind: hubtest.Expired}, 403, "", true, "", ""},
		{"wrong begin", hubtest.Fault{Kind: hubtest.WrongBegin, Bytes: 1}, 206, "2345678", true, "Content-Range", "bytes 3-8/10"},
		{"wrong total", hubtest.Fault{Kind: hubtest.WrongTotal, Bytes: 5}, 206, "2345678", true, "Content-Range", "bytes 2-8/15"},
		{"status", hubtest.Fault{Kind: hubtest.Status, Status: 503, RetryAfter: "7"}, 503, "", true, "Retry-After", "7"},
		{"not yet", hubtest.Fault{Kind: hubtest.Status, Status: 503, Skip: 1}, 206, "2345678", true, "", ""},
	} {
		for _, place := range []string{"memory", "disk"} {
			t.Run(tt.name+" from "+place, func(t *testing.T) {
				content := hubtest.Bytes([]byte(all))
				if place == "disk" {
					path := filepath.Join(t.TempDir(), "f")
					if err := os.WriteFile(path, []byte(all), 0o600); err != nil {
						t.Fatal(err)
					}
					var err error
					if content, err = hubtest.OnDisk(path); err != nil {
						t.Fatal(err)
					}
				}
				srv := start(t, content)
				location := ask(t, "GET", srv.URL+"/org/name/resolve/main/"+fileName).Header.Get("Location")
				srv.Fault(repoName, fileName, tt.fault)
				a := ask(t, "GET", location, "Range", "bytes=2-8")
				if a.StatusCode != tt.status || (a.err == nil) != tt.ok {
					t.Errorf("got %d and %v", a.StatusCode, a.err)
				}
				if a.StatusCode < 300 && string(a.body) != tt.body {
					t.Errorf("got %q, want %q", a.body, tt.body)
				}
				if tt.header != "" && a.Header.Get(tt.header) != tt.value {
					t.Errorf("%s is %q, want %q", tt.header, a.Header.Get(tt.header), tt.value)
				}
			})
		}
	}
}

func TestAFaultHappensAsOftenAsItShould(t *testing.T) {
	srv := start(t, hubtest.Bytes([]byte("x")))
	srv.Fault(repoName, "", hubtest.Fault{Kind: hubtest.Status, Status: 500, Skip: 1, Times: 2})
	var got []int
	for range 4 {
		got = append(got, ask(t, "GET", srv.URL+"/api/models/org/name/revision/main").StatusCode)
	}
	if want := []int{200, 500, 500, 200}; !slices.Equal(got, want) {
		t.Errorf("the answers were %v, want %v", got, want)
	}
	srv.Fault(repoName, "", hubtest.Fault{Kind: hubtest.Status, Status: 500})
	srv.Heal()
	if got := ask(t, "GET", srv.URL+"/api/models/org/name/revision/main").StatusCode; got != 200 {
		t.Errorf("after Heal the answer was %d", got)
	}
}

func TestAFileCanChangeHalfWay(t *testing.T) {
	srv := start(t, hubtest.Random(1, 5000))
	before := ask(t, "GET", srv.URL+"/org/name/resolve/main/"+fileName)
	srv.Fault(repoName, fileName, hubtest.Fault{Kind: hubtest.Changed, Skip: 1, Times: 1})
	one := ask(t, "GET", before.Header.Get("Location"))
	two := ask(t, "GET", before.Header.Get("Location"))
	after := ask(t, "GET", srv.URL+"/org/name/resolve/main/"+fileName)
	for name, same := range map[string]bool{
		"bytes":       bytes.Equal(one.body, two.body),
		"tag":         one.Header.Get("ETag") == two.Header.Get("ETag"),
		"linked tag":  before.Header.Get("X-Linked-ETag") == after.Header.Get("X-Linked-ETag"),
		"commit":      before.Header.Get("X-Repo-Commit") == after.Header.Get("X-Repo-Commit"),
		"wrong bytes": sum(two.body) != strings.Trim(after.Header.Get("X-Linked-ETag"), `"`),
	} {
		if same {
			t.Errorf("the %s did not change", name)
		}
	}
}

func TestAStallLastsUntilTheClientGoes(t *testing.T) {
	srv := start(t, hubtest.Bytes([]byte("0123456789")))
	location := ask(t, "GET", srv.URL+"/org/name/resolve/main/"+fileName).Header.Get("Location")
	srv.Fault(repoName, fileName, hubtest.Fault{Kind: hubtest.Stall, After: 4})
	req, err := http.NewRequestWithContext(t.Context(), "GET", location, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != "0123" {
		t.Fatalf("got %q and %v", got, err)
	}
	resp.Body.Close()
	transport.CloseIdleConnections()
	srv.Close() // waits for the request
	if last := srv.Requests(); last[len(last)-1].Bytes != 4 {
		t.Errorf("the log says %+v", last[len(last)-1])
	}
}

func TestTheLogSaysWhoAskedForWhat(t *testing.T) {
	ended := make(chan hubtest.Request, 9)
	srv := hubtest.New(hubtest.Each(func(r hubtest.Request) { ended <- r }))
	defer srv.Close()
	srv.Put(hubtest.Repo{Name: repoName, Files: []hubtest.File{{Path: fileName, Content: hubtest.Bytes([]byte("0123456789"))}}})
	srv.Accept("t")
	location := ask(t, "GET", srv.URL+"/org/name/resolve/main/"+fileName, "Authorization", "Bearer t").Header.Get("Location")
	ask(t, "GET", location, "Range", "bytes=2-4", "User-Agent", "me")
	<-ended
	<-ended
	log := srv.Requests()
	if len(log) != 2 {
		t.Fatalf("the log has %d lines", len(log))
	}
	if r := log[0]; r.Host != hubtest.Hub || !r.Authorized || r.Status != 302 || r.Path != "/org/name/resolve/main/"+fileName {
		t.Errorf("the first line is %+v", r)
	}
	if r := log[1]; r.Host != hubtest.CDN || r.Authorized || r.Status != 206 || r.Range != "bytes=2-4" || r.Bytes != 3 || r.UserAgent != "me" {
		t.Errorf("the second line is %+v", r)
	}
	if c := srv.Counts(); c.Connections != 2 || c.Requests != 2 || c.Bytes != 3 {
		t.Errorf("the counts are %+v", c)
	}
	srv.Reset()
	if c := srv.Counts(); c != (hubtest.Counts{}) {
		t.Errorf("after Reset the counts are %+v", c)
	}
}

func TestContentIsTheSameFromWhereverItIsRead(t *testing.T) {
	const size = 3<<20 + 17
	for name, make := range map[string]func() *hubtest.Content{
		"random": func() *hubtest.Content { return hubtest.Random(7, size) },
		"gguf":   func() *hubtest.Content { return hubtest.GGUF(7, size) },
	} {
		t.Run(name, func(t *testing.T) {
			var all bytes.Buffer
			if _, err := make().WriteTo(&all); err != nil {
				t.Fatal(err)
			}
			if make().Size() != size || all.Len() != size || make().SHA256() != sum(all.Bytes()) {
				t.Fatalf("the size is %d, the bytes are %d", make().Size(), all.Len())
			}
			srv := start(t, make())
			location := ask(t, "GET", srv.URL+"/org/name/resolve/main/"+fileName).Header.Get("Location")
			for _, span := range []string{"0-99", "1-1", "3-9", "100-400", "1048570-1048590", "1048576-2097151", "1000000-3145744"} {
				var from, to int
				if _, err := fmt.Sscanf(span, "%d-%d", &from, &to); err != nil {
					t.Fatal(err)
				}
				if got := ask(t, "GET", location, "Range", "bytes="+span).body; !bytes.Equal(got, all.Bytes()[from:to+1]) {
					t.Errorf("bytes %s are others than in the whole", span)
				}
			}
			if blocks := all.Bytes(); bytes.Equal(blocks[1<<20:2<<20], blocks[2<<20:3<<20]) {
				t.Error("two blocks are equal")
			}
		})
	}
	if hubtest.Random(1, size).SHA256() == hubtest.Random(2, size).SHA256() {
		t.Error("another seed makes the same bytes")
	}
}

func TestTheRandomModelHasAHeaderThatIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.gguf")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = hubtest.GGUF(1, 1<<20).WriteTo(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if m, err := gguf.Read(path); err != nil || m.Architecture != "llama" {
		t.Errorf("got %+v, %v", m, err)
	}
}

func BenchmarkRandom(b *testing.B) {
	c := hubtest.Random(1, 1<<30)
	b.SetBytes(c.Size())
	for b.Loop() {
		_, _ = c.WriteTo(struct{ io.Writer }{io.Discard})
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
