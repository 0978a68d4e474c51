package keeper

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rbee"
	"rbee/internal/sse"
)

// hiveWith answers like a hive that is well, and as the test says.
func hiveWith(t *testing.T, routes map[string]http.HandlerFunc) string {
	t.Helper()
	all := map[string]http.HandlerFunc{
		"GET /v1/health":       reply(rbee.Alive()),
		"GET /v1/workers/list": reply(rbee.WorkerList{Workers: []rbee.Worker{}}),
	}
	for pattern, h := range routes {
		all[pattern] = h
	}
	return serve(t, all)
}

// events answers with a stream.
func events[T any](list ...T) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		s := sse.NewWriter(w)
		for _, e := range list {
			_ = s.JSON(e) // the client notices
		}
		_ = s.Done()
	}
}

func refuse(e *rbee.Error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(e.Code.Status())
		_ = json.NewEncoder(w).Encode(rbee.ErrorBody{Error: e}) // the client notices
	}
}

// recorded keeps the body of the request.
func recorded(body *string, then http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			b = []byte(err.Error())
		}
		*body = strings.TrimSpace(string(b))
		then(w, r)
	}
}

func mustRef(t *testing.T, s string) rbee.ModelRef {
	t.Helper()
	ref, err := rbee.ParseModelRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// want compares what a command did with what it should do.
func want(t *testing.T, code int, stdout, stderr string, wantCode int, wantOut, wantErr string) {
	t.Helper()
	if code != wantCode {
		t.Errorf("exit code %d, want %d", code, wantCode)
	}
	if diff := cmp.Diff(wantOut, stdout); diff != "" {
		t.Errorf("stdout:\n%s", diff)
	}
	if diff := cmp.Diff(wantErr, stderr); diff != "" {
		t.Errorf("stderr:\n%s", diff)
	}
}

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.Local)

func TestModelsShow(t *testing.T) {
	details := rbee.ModelDetails{
		Model: rbee.Model{
			Provider: rbee.ProviderHF, Reference: "a/b:Q8_0", LocalPath: "/m/1.gguf", SizeBytes: 4_100_000_000, Name: "Bee",
			Parts:        []rbee.ModelFile{{Path: "/m/1.gguf", SizeBytes: 1, SHA256: "aa"}, {Path: "/m/2.gguf", SizeBytes: 2, SHA256: "bb"}},
			Architecture: "llama", Quantisation: "Q8_0", Parameters: 3_800_000_000, ContextLength: 4096, DownloadedAt: noon, UseCount: 1, LastUsed: noon,
		},
		ChatTemplate: true, Layers: 22, Embedding: 2048, Vocabulary: 32000,
		Memory: []rbee.MemoryEstimate{
			{ContextTokens: 2048, Slots: 1, Device: "cuda0", MemoryBytes: 4_500_000_000, Fits: true},
			{ContextTokens: 4096, Slots: 1, Device: "cuda0", MemoryBytes: 14_500_000_000},
		},
	}
	hive := hiveWith(t, map[string]http.HandlerFunc{"GET /v1/models/hf:a/b:Q8_0": reply(details)})
	code, stdout, stderr := run(t, "models", "show", "a/b:Q8_0", "--node", hive)
	want(t, code, stdout, stderr, 0, `Model:         hf:a/b:Q8_0
Name:          Bee
Part 1 of 2:   /m/1.gguf
SHA-256:       aa
Part 2 of 2:   /m/2.gguf
SHA-256:       bb
Size:          4.1 GB
Architecture:  llama
Quantisation:  Q8_0
Parameters:    3.8B
Context:       4096 tokens
Layers:        22
Embedding:     2048
Vocabulary:    32000
Chat template: yes
On disk since: 2026-07-01 12:00:00
Last used:     2026-07-01 12:00:00 (1 time)

CONTEXT  MEMORY   DEVICE  FITS
2048     4.5 GB   cuda0   yes
4096     14.5 GB  cuda0   no
`, "")
	code, stdout, _ = run(t, "models", "info", "a/b:Q8_0", "--node", hive, "--json")
	var got rbee.ModelDetails
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v: %s", code, err, stdout)
	}
	got.DownloadedAt, got.LastUsed = noon, noon
	if diff := cmp.Diff(details, got); diff != "" {
		t.Error(diff)
	}
}

func TestModelsSearch(t *testing.T) {
	found := rbee.HubModelList{Models: []rbee.HubModel{
		{ModelRef: mustRef(t, "a/b"), Downloads: 1234567, Likes: 89, UpdatedAt: noon},
		{ModelRef: mustRef(t, "c/d"), Gated: true},
	}}
	var query string
	hive := hiveWith(t, map[string]http.HandlerFunc{"GET /v1/models/search": func(w http.ResponseWriter, r *http.Request) {
		query = r.URL.RawQuery
		if r.FormValue("q") == "nothing" {
			found.Models = nil
		}
		reply(found)(w, r)
	}})
	code, stdout, stderr := run(t, "models", "search", "bee", "tiny", "--limit", "5", "--node", hive)
	want(t, code, stdout, stderr, 0, "MODEL   DOWNLOADS  LIKES  UPDATED     GATED\nhf:a/b  1234567    89     2026-07-01  no\nhf:c/d  0          0      -           yes\n", "")
	if query != "limit=5&q=bee+tiny" {
		t.Errorf("asked for %s", query)
	}
	code, stdout, stderr = run(t, "models", "search", "nothing", "--node", hive)
	want(t, code, stdout, stderr, 0, "", "The hub has no models for \"nothing\".\n")
	code, stdout, _ = run(t, "models", "search", "nothing", "--node", hive, "--json")
	want(t, code, stdout, "", 0, "{\"models\":[]}\n", "")
	code, stdout, stderr = run(t, "models", "search", "x", "--limit", "0")
	want(t, code, stdout, stderr, 2, "", "Error: --limit must be from 1 to 100\nSuggestion: see 'rbee models search --help'\n")
}

func TestModelsVerify(t *testing.T) {
	a, b := mustRef(t, "hf:a/b"), mustRef(t, "hf:c/d")
	steps := []rbee.StoreProgress{
		{Stage: rbee.StoreReading, ModelRef: &a, BytesDone: 0, BytesTotal: 2e9},
		{Stage: rbee.StoreReading, ModelRef: &a, BytesDone: 2e9, BytesTotal: 2e9},
		{Stage: rbee.StoreIntact, ModelRef: &a, Path: "/m/a"},
		{Stage: rbee.StoreReading, ModelRef: &b, BytesDone: 1000, BytesTotal: 2000},
		{Stage: rbee.StoreDamaged, ModelRef: &b, Path: "/m/b", Error: rbee.Errorf(rbee.CodeChecksumMismatch, "the digest differs; the file is /q/b now")},
	}
	var body string
	hive := hiveWith(t, map[string]http.HandlerFunc{"POST /v1/models/verify": recorded(&body, events(steps...))})
	code, stdout, stderr := run(t, "models", "verify", "a/b", "c/d", "--node", hive)
	want(t, code, stdout, stderr, 1, "intact   hf:a/b\ndamaged  hf:c/d: the digest differs; the file is /q/b now\n",
		"  verifying: 0% (0.0 MB of 2.0 GB)\n  verifying: 100% (2.0 GB of 2.0 GB)\n1 intact, 1 damaged. 'rbee models pull REF' fetches a damaged model again.\n")
	if body != `{"model_refs":["hf:a/b","hf:c/d"]}` {
		t.Errorf("asked for %s", body)
	}
	code, stdout, stderr = run(t, "models", "verify", "--node", hive, "--json")
	want(t, code, stdout, stderr, 1, `{"event":"progress","label":"verifying","done":0,"total":2000000000,"unit":"bytes"}
{"event":"progress","label":"verifying","done":2000000000,"total":2000000000,"unit":"bytes"}
{"event":"intact","stage":"intact","model_ref":"hf:a/b","path":"/m/a","bytes_done":0,"bytes_total":0}
{"event":"progress","label":"verifying","done":1000,"total":2000,"unit":"bytes"}
{"event":"damaged","stage":"damaged","model_ref":"hf:c/d","path":"/m/b","bytes_done":0,"bytes_total":0,"error":{"code":"CHECKSUM_MISMATCH","message":"the digest differs; the file is /q/b now"}}
{"event":"done","intact":1,"damaged":1,"skipped":0}
`, "")

	hive = hiveWith(t, map[string]http.HandlerFunc{"POST /v1/models/verify": events(steps[2])})
	code, stdout, stderr = run(t, "models", "verify", "--node", hive)
	want(t, code, stdout, stderr, 0, "intact   hf:a/b\n", "")

	hive = hiveWith(t, map[string]http.HandlerFunc{"POST /v1/models/verify": events(steps[0], rbee.StoreProgress{
		Error: rbee.Errorf(rbee.CodeInternalError, "cannot read the catalog").Suggest("see the log"),
	})})
	code, stdout, stderr = run(t, "models", "verify", "--node", hive)
	want(t, code, stdout, stderr, 1, "", "  verifying: 0% (0.0 MB of 2.0 GB)\nError: cannot read the catalog\nSuggestion: see the log\n")
}

func TestAHiveThatDiesWhileItVerifiesIsToldOf(t *testing.T) {
	hive := hiveWith(t, map[string]http.HandlerFunc{"POST /v1/models/verify": func(w http.ResponseWriter, _ *http.Request) {
		_ = sse.NewWriter(w).JSON(rbee.StoreProgress{Stage: rbee.StoreReading, BytesTotal: 10}) // the client notices
	}})
	code, stdout, stderr := run(t, "models", "verify", "--node", hive)
	if code != rbee.ExitFailed || stdout != "" || !strings.Contains(stderr, "Error: ") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestModelsCollect(t *testing.T) {
	ref := mustRef(t, "hf:a/b")
	answer := rbee.GCReply{
		Removed:    []rbee.SpareFile{{Path: "/m/x.part", SizeBytes: 250e6, Kind: rbee.SparePartial}, {Path: "/m/y", SizeBytes: 4.1e9, Kind: rbee.SpareEvicted, ModelRef: &ref}},
		FreedBytes: 4.35e9, StoreBytes: 10e9, QuotaBytes: 12e9, Kept: []rbee.Kept{{ModelRef: mustRef(t, "hf:c/d"), Reason: "a worker uses it"}},
	}
	var body string
	hive := hiveWith(t, map[string]http.HandlerFunc{"POST /v1/models/gc": func(w http.ResponseWriter, r *http.Request) {
		recorded(&body, func(http.ResponseWriter, *http.Request) {})(w, r)
		answer.DryRun = strings.Contains(body, "dry_run")
		reply(answer)(w, r)
	}})
	table := "KIND     SIZE    WHAT\npartial  250 MB  /m/x.part\nevicted  4.1 GB  hf:a/b\n"
	code, stdout, stderr := run(t, "models", "gc", "--max-size", "12GB", "--node", hive)
	want(t, code, stdout, stderr, 0, table, "Kept hf:c/d: a worker uses it\nFreed 4.3 GB; the store holds 10.0 GB of 12.0 GB.\n")
	if body != `{"max_bytes":12000000000}` {
		t.Errorf("asked for %s", body)
	}
	code, stdout, stderr = run(t, "models", "gc", "--dry-run", "--node", hive)
	want(t, code, stdout, stderr, 0, table, "Kept hf:c/d: a worker uses it\nWould free 4.3 GB; the store would hold 10.0 GB of 12.0 GB.\n")
	answer = rbee.GCReply{StoreBytes: 5e6}
	code, stdout, stderr = run(t, "models", "gc", "--node", hive)
	want(t, code, stdout, stderr, 0, "", "Nothing to remove; the store holds 5.0 MB.\n")
	code, stdout, stderr = run(t, "models", "gc", "--max-size", "50")
	want(t, code, stdout, stderr, 2, "", "Error: --max-size must be a number with a unit, such as 50GB or 500MB\nSuggestion: see 'rbee models gc --help'\n")
}

func TestSizesAreReadWithTheirUnit(t *testing.T) {
	for text, bytes := range map[string]int64{"0": 0, "50GB": 50e9, "1.5 tb": 1.5e12, "512MiB": 512 << 20, "7B": 7, "0.5kB": 500} {
		if got, err := parseSize(text); err != nil || got != bytes {
			t.Errorf("%q is %d, %v; want %d", text, got, err, bytes)
		}
	}
	for _, text := range []string{"", "50", "GB", "-1GB", "NaNGB", "infGB", "1e300TB", "5XB", "5GG", "1.2.3MB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q was taken as %d", text, got)
		}
	}
}

func TestModelsUsage(t *testing.T) {
	usage := rbee.Usage{
		Directory: "/m", StoreBytes: 4.35e9, SpareBytes: 250e6, OutsideBytes: 1e6, QuotaBytes: 50e9, FreeBytes: 200e9,
		Files: []rbee.UsedFile{{ModelFile: rbee.ModelFile{Path: "/m/a", SizeBytes: 4.1e9}, InStore: true, Models: []rbee.ModelRef{mustRef(t, "hf:a/b"), mustRef(t, "file:/x.gguf")}}},
		Spare: []rbee.SpareFile{{Path: "/m/x.part", SizeBytes: 250e6, Kind: rbee.SparePartial}},
	}
	hive := hiveWith(t, map[string]http.HandlerFunc{"GET /v1/models/usage": func(w http.ResponseWriter, r *http.Request) { reply(usage)(w, r) }})
	code, stdout, stderr := run(t, "models", "du", "--node", hive)
	want(t, code, stdout, stderr, 0, `SIZE    MODELS                FILE
4.1 GB  hf:a/b, file:/x.gguf  /m/a
250 MB  (partial)             /m/x.part

Store:         4.3 GB in /m
Spare:         250 MB ('rbee models gc' removes it)
Outside:       1.0 MB
Quota:         50.0 GB
Free:          200 GB
`, "")
	usage = rbee.Usage{Directory: "/m", FreeBytes: 2e12}
	code, stdout, stderr = run(t, "models", "disk-usage", "--node", hive)
	want(t, code, stdout, stderr, 0, "Store:         0.0 MB in /m\nSpare:         0.0 MB\nOutside:       0.0 MB\nQuota:         none\nFree:          2.0 TB\n", "")
}

func TestModelsImport(t *testing.T) {
	model := func(path string) *rbee.Model {
		return &rbee.Model{Provider: rbee.ProviderFile, Reference: path, LocalPath: "/store" + path, SizeBytes: 5e6}
	}
	var body string
	hive := hiveWith(t, map[string]http.HandlerFunc{"POST /v1/models/import": func(w http.ResponseWriter, r *http.Request) {
		recorded(&body, func(http.ResponseWriter, *http.Request) {})(w, r)
		var req rbee.ImportRequest
		_ = json.Unmarshal([]byte(body), &req) // a fault leaves it empty, and the test fails
		skip := func(path, why string) rbee.StoreProgress {
			return rbee.StoreProgress{Stage: rbee.StoreSkipped, Path: path, Error: rbee.Errorf(rbee.CodeInvalidRequest, "%s", why).Suggest("try --copy")}
		}
		switch req.Path {
		case "/dir":
			events(rbee.StoreProgress{Stage: rbee.StoreImported, Path: "/dir/a.gguf", Model: model("/dir/a.gguf")}, skip("/dir/b.gguf", "it is cut short"))(w, r)
		case "/bad.gguf":
			events(skip("/bad.gguf", "it lies on another disk"))(w, r)
		default:
			events(rbee.StoreProgress{Stage: rbee.StoreImported, Path: req.Path, Model: model(req.Path)})(w, r)
		}
	}})
	cases := []struct {
		name               string
		args               []string
		code               int
		stdout, stderr, at string
	}{
		{"a file", []string{"/a.gguf"}, 0, "file:/a.gguf\n", "Imported /a.gguf (5.0 MB)\n", `{"path":"/a.gguf"}`},
		{
			"a file under a reference",
			[]string{"/a.gguf", "--as", "me/story", "--sha256", strings.Repeat("0", 64), "--copy"},
			0, "file:/a.gguf\n", "Imported /a.gguf (5.0 MB)\n",
			`{"path":"/a.gguf","sha256":"` + strings.Repeat("0", 64) + `","model_ref":"hf:me/story","copy":true}`,
		},
		{
			"a directory",
			[]string{"/dir"},
			0, "file:/dir/a.gguf\n",
			"Imported /dir/a.gguf (5.0 MB)\nSkipped /dir/b.gguf: it is cut short\n", `{"path":"/dir"}`,
		},
		{"a file that is skipped", []string{"/bad.gguf"}, 1, "", "Error: it lies on another disk\nSuggestion: try --copy\n", `{"path":"/bad.gguf"}`},
		{"several", []string{"/dir", "/c.gguf"}, 0, "file:/dir/a.gguf\nfile:/c.gguf\n", "Imported /dir/a.gguf (5.0 MB)\nSkipped /dir/b.gguf: it is cut short\nImported /c.gguf (5.0 MB)\n", `{"path":"/c.gguf"}`},
		{"nothing named", nil, 2, "", "Error: the path is missing, and LLORCH_MODEL_BASE_DIR is not set\nSuggestion: see 'rbee models import --help'\n", ""},
		{"one name for two", []string{"/a.gguf", "/b.gguf", "--as", "me/x"}, 2, "", "Error: --as and --sha256 are for one file\nSuggestion: see 'rbee models import --help'\n", ""},
		{
			"with JSON",
			[]string{"/dir", "--json"},
			0,
			`{"event":"imported","stage":"imported","path":"/dir/a.gguf","bytes_done":0,"bytes_total":0,"model":{"reference":"/dir/a.gguf","provider":"file","local_path":"/store/dir/a.gguf","size_bytes":5000000,"downloaded_at":"0001-01-01T00:00:00Z","use_count":0}}
{"event":"skipped","stage":"skipped","path":"/dir/b.gguf","bytes_done":0,"bytes_total":0,"error":{"code":"INVALID_REQUEST","message":"it is cut short","details":{"suggestion":"try --copy"}}}
`, "", `{"path":"/dir"}`,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			body = ""
			t.Setenv("LLORCH_MODEL_BASE_DIR", "")
			code, stdout, stderr := run(t, append([]string{"models", "import", "--node", hive}, c.args...)...)
			want(t, code, stdout, stderr, c.code, c.stdout, c.stderr)
			if body != c.at {
				t.Errorf("asked for %s, want %s", body, c.at)
			}
		})
	}
	t.Run("the directory of the older script", func(t *testing.T) {
		t.Setenv("LLORCH_MODEL_BASE_DIR", "/dir")
		code, stdout, _ := run(t, "models", "import", "--node", hive)
		want(t, code, stdout, "", 0, "file:/dir/a.gguf\n", "")
	})
}

func TestModelsExport(t *testing.T) {
	ref := mustRef(t, "hf:a/b")
	var body string
	hive := hiveWith(t, map[string]http.HandlerFunc{"POST /v1/models/export": recorded(&body, events(
		rbee.StoreProgress{Stage: rbee.StoreReading, BytesDone: 5, BytesTotal: 5},
		rbee.StoreProgress{Stage: rbee.StoreExported, ModelRef: &ref, Path: "/out/b.gguf"},
	))})
	code, stdout, stderr := run(t, "models", "export", "a/b", "/out", "--link", "--node", hive)
	want(t, code, stdout, stderr, 0, "/out/b.gguf\n", "")
	if body != `{"model_ref":"hf:a/b","path":"/out","link":true}` {
		t.Errorf("asked for %s", body)
	}
	code, _, stderr = run(t, "models", "export", "a/b")
	want(t, code, "", stderr, 2, "", "Error: give a model and a path\nSuggestion: see 'rbee models export --help'\n")
}

func TestModelsAlias(t *testing.T) {
	home := t.TempDir()
	t.Setenv("RBEE_HOME", home)
	file := filepath.Join(home, "config.yaml")
	if err := os.WriteFile(file, []byte("# mine\nlog: {level: warn} # calm\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"story", "Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0"}, 0, "story is hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0\n", ""},
		{[]string{"story"}, 0, "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0\n", ""},
		{[]string{"qwen", "file:/m/q.gguf", "--json"}, 0, `{"name":"qwen","model_ref":"file:/m/q.gguf","builtin":false,"origin":"` + file + `:5:3"}` + "\n", ""},
		{[]string{"--rm", "qwen"}, 0, "Removed qwen; it is hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF::qwen2.5-0.5b-instruct-q4_k_m.gguf again\n", ""},
		{[]string{"--rm", "qwen"}, 1, "", "Error: cannot remove the alias qwen: it is built in\nSuggestion: give the name to another model with 'rbee models alias qwen REF'\n"},
		{[]string{"other", "story"}, 0, "other is hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0\n", ""},
		{[]string{"--rm", "other", "--json"}, 0, `{"removed":"other"}` + "\n", ""},
		{[]string{"other"}, 1, "", "Error: there is no alias \"other\"\nSuggestion: see 'rbee models alias', or set it with 'rbee models alias other REF'\n"},
		{[]string{"x", "nonsense"}, 1, "", "Error: cannot read the model reference: \"nonsense\" is not an alias of the configuration, and a reference has a ':' or a '/'\nSuggestion: accepted forms: builtin:NAME, file:/absolute/path.gguf, hf:ORG/REPO[@REV][:QUANT | ::FILE], ORG/REPO[:QUANT], external:SERVER/MODEL, or an alias\n"},
		{[]string{"--node", "big"}, 2, "", "Error: aliases are in the configuration of this machine; leave --node out\nSuggestion: see 'rbee models alias --help'\n"},
		{[]string{"story", "--rm", "x"}, 2, "", "Error: --rm takes the name; leave the rest out\nSuggestion: see 'rbee models alias --help'\n"},
	}
	for _, s := range steps {
		code, stdout, stderr := runHere(t.Context(), append([]string{"models", "alias"}, s.args...)...)
		want(t, code, stdout, stderr, s.code, s.stdout, s.stderr)
	}
	text, err := os.ReadFile(file)
	if err != nil || string(text) != "# mine\nlog: {level: warn} # calm\naliases:\n  story: hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0\n" {
		t.Errorf("the file is %q, %v", text, err)
	}
	code, stdout, _ := runHere(t.Context(), "models", "alias")
	if code != 0 || !strings.Contains(stdout, "\nphi3       hf:microsoft/Phi-3-mini-4k-instruct-gguf::Phi-3-mini-4k-instruct-q4.gguf ") ||
		!strings.Contains(stdout, "built in\nstory      hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0 ") || !strings.Contains(stdout, file+":4:3\n") {
		t.Errorf("exit code %d:\n%s", code, stdout)
	}
}
