package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rbee"
	"rbee/internal/engines/enginestest"
	"rbee/internal/sse"
)

// downloading is a hive that downloads as the test says.
func downloading(t *testing.T, body *string, progress http.HandlerFunc, more map[string]http.HandlerFunc) string {
	t.Helper()
	routes := map[string]http.HandlerFunc{
		"POST /v1/models/download":         recorded(body, reply(rbee.DownloadReply{DownloadID: "d1", LocalPath: "/m/a.gguf"})),
		"GET /v1/models/download/progress": progress,
	}
	for pattern, h := range more {
		routes[pattern] = h
	}
	return hiveWith(t, routes)
}

func arrived(done, total int64) rbee.DownloadProgress {
	return rbee.DownloadProgress{Stage: rbee.DownloadDownloading, BytesDownloaded: done, BytesTotal: total, SpeedMBps: 87.4, ETASeconds: 34, Connections: 8}
}

func TestPull(t *testing.T) {
	const total = 4_100_000_000
	resumed := arrived(1_763_000_000, total)
	resumed.Note = "resumed at 43 %"
	again := arrived(2_050_000_000, total)
	again.Note = "attempt 3 of 6: the connection broke"
	later := arrived(3_100_000_000, total)
	later.Note = again.Note
	complete := rbee.DownloadProgress{Stage: rbee.DownloadComplete, BytesDownloaded: total, BytesTotal: total, LocalPath: "/m/a.gguf"}
	var body string
	hive := downloading(t, &body, events(
		rbee.DownloadProgress{Stage: rbee.DownloadResolving}, resumed, again, later,
		rbee.DownloadProgress{Stage: rbee.DownloadVerifying, BytesDownloaded: total, BytesTotal: total}, complete,
	), nil)

	code, stdout, stderr := run(t, "models", "pull", "a/b", "--limit", "2.5", "--node", hive)
	want(t, code, stdout, stderr, 0, "hf:a/b\n", `  looking for the model
  resumed at 43 %
  downloading: 43% (1.8 GB of 4.1 GB, 87.4 MB/s on 8 connections, 34 s left)
  attempt 3 of 6: the connection broke
  downloading: 50% (2.0 GB of 4.1 GB, 87.4 MB/s on 8 connections, 34 s left)
  downloading: 75% (3.1 GB of 4.1 GB, 87.4 MB/s on 8 connections, 34 s left)
  verifying
Downloaded /m/a.gguf (4.1 GB) in 1 s
`)
	if body != `{"model_ref":"hf:a/b","limit_mbps":2.5}` {
		t.Errorf("asked for %s", body)
	}

	code, stdout, stderr = run(t, "models", "download", "a/b", "--node", hive, "--json")
	want(t, code, stdout, stderr, 0, `{"event":"progress","label":"looking for the model","done":0,"total":0,"unit":""}
{"event":"note","text":"resumed at 43 %"}
{"event":"progress","label":"downloading","done":1763000000,"total":4100000000,"unit":"bytes","speed_mbps":87.4,"eta_seconds":34,"connections":8}
{"event":"note","text":"attempt 3 of 6: the connection broke"}
{"event":"progress","label":"downloading","done":2050000000,"total":4100000000,"unit":"bytes","speed_mbps":87.4,"eta_seconds":34,"connections":8}
{"event":"progress","label":"downloading","done":3100000000,"total":4100000000,"unit":"bytes","speed_mbps":87.4,"eta_seconds":34,"connections":8}
{"event":"progress","label":"verifying","done":0,"total":0,"unit":""}
{"event":"done","model_ref":"hf:a/b","cached":false,"local_path":"/m/a.gguf","size_bytes":4100000000}
`, "")
}

func TestPullOfWhatIsThere(t *testing.T) {
	var body string
	hive := downloading(t, &body, events(rbee.DownloadProgress{Stage: rbee.DownloadCached, BytesDownloaded: 5e6, BytesTotal: 5e6}), nil)
	code, stdout, stderr := run(t, "models", "pull", "qwen", "--node", hive)
	ref := "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF::qwen2.5-0.5b-instruct-q4_k_m.gguf"
	want(t, code, stdout, stderr, 0, ref+"\n", "  looking for the model\nAlready here: /m/a.gguf (5.0 MB)\n")
	code, stdout, _ = run(t, "models", "pull", "qwen", "--node", hive, "--json")
	if code != 0 || !strings.HasSuffix(stdout, `{"event":"done","model_ref":"`+ref+`","cached":true,"local_path":"/m/a.gguf","size_bytes":5000000}`+"\n") {
		t.Errorf("exit code %d: %s", code, stdout)
	}
}

func TestEC2DownloadThatFailsIsToldWithItsCause(t *testing.T) {
	failed := rbee.DownloadProgress{
		Stage: rbee.DownloadError, BytesDownloaded: 10, BytesTotal: 100,
		Error: rbee.Errorf(rbee.CodeDownloadFailed, "cannot download hf:a/b after 6 attempts: the hub answers 503").Suggest("try again later: what has arrived is kept"),
	}
	var body string
	hive := downloading(t, &body, events(failed), nil)
	for _, command := range [][]string{
		{"models", "pull", "a/b"},
		{"infer", "--model", "a/b", "--prompt", "x"},
	} {
		hive := hive
		if command[0] == "infer" {
			hive = downloading(t, &body, events(failed), map[string]http.HandlerFunc{"GET /v1/models": reply(rbee.ModelList{Models: []rbee.Model{}})})
		}
		code, stdout, stderr := run(t, append(command, "--node", hive)...)
		if code != rbee.ExitFailed || stdout != "" ||
			!strings.HasSuffix(stderr, "Error: cannot download hf:a/b after 6 attempts: the hub answers 503\nSuggestion: try again later: what has arrived is kept\n") {
			t.Errorf("%v: exit code %d, stdout %q, stderr:\n%s", command, code, stdout, stderr)
		}
	}
	code, stdout, _ := run(t, "models", "pull", "a/b", "--node", hive, "--json")
	if code != rbee.ExitFailed || !strings.Contains(stdout, `{"event":"error","error":{"code":"DOWNLOAD_FAILED",`) {
		t.Errorf("exit code %d: %s", code, stdout)
	}
}

func TestPullOfWhatTheHubDoesNotHave(t *testing.T) {
	hive := hiveWith(t, map[string]http.HandlerFunc{"POST /v1/models/download": refuse(rbee.Errorf(rbee.CodeModelNotFound, "the hub has no repository a/b").Suggest("search it"))})
	code, stdout, stderr := run(t, "models", "pull", "a/b", "--node", hive)
	want(t, code, stdout, stderr, 1, "", "  looking for the model\nError: the hub has no repository a/b\nSuggestion: search it\n")
	for _, limit := range []string{"-1", "NaN", "+Inf", "much"} {
		if code, _, _ := run(t, "models", "pull", "a/b", "--limit", limit); code != rbee.ExitUsage {
			t.Errorf("--limit %s: exit code %d", limit, code)
		}
	}
}

func TestFeedOfADownloadThatBreaksOffIsTakenUpAgain(t *testing.T) {
	var body string
	calls := 0
	hive := downloading(t, &body, func(w http.ResponseWriter, r *http.Request) {
		if calls++; calls < 5 { // each with an event, so that it is never given up
			_ = sse.NewWriter(w).JSON(arrived(int64(calls)*1e6, 10e6)) // the client notices
			return
		}
		events(rbee.DownloadProgress{Stage: rbee.DownloadComplete, BytesTotal: 10e6, LocalPath: "/m/a.gguf"})(w, r)
	}, nil)
	code, stdout, stderr := run(t, "models", "pull", "a/b", "--node", hive)
	if code != 0 || stdout != "hf:a/b\n" || calls != 5 || strings.Count(stderr, "downloading: ") != 2 {
		t.Errorf("exit code %d, %d calls, stdout %q, stderr:\n%s", code, calls, stdout, stderr)
	}
}

func TestFeedOfADownloadThatStaysSilentIsGivenUp(t *testing.T) {
	var body string
	calls := 0
	hive := downloading(t, &body, func(w http.ResponseWriter, _ *http.Request) {
		calls++
		_ = sse.NewWriter(w).Comment("nothing") // the client notices
	}, nil)
	code, _, stderr := run(t, "models", "pull", "a/b", "--node", hive)
	if code != rbee.ExitFailed || calls != followTries || !strings.Contains(stderr, "Error: ") {
		t.Errorf("exit code %d, %d calls, stderr:\n%s", code, calls, stderr)
	}
}

// interrupter is a user who interrupts when some text has been written.
type interrupter struct {
	bytes.Buffer
	at        string
	interrupt func()
}

func (i *interrupter) Write(b []byte) (int, error) {
	n, err := i.Buffer.Write(b)
	if strings.Contains(i.String(), i.at) {
		i.interrupt()
	}
	return n, err
}

func TestEC5InterruptedDownloadIsCancelledAndKept(t *testing.T) {
	for name, command := range map[string][]string{
		"pull":          {"models", "pull", "a/b"},
		"infer":         {"infer", "--model", "a/b", "--prompt", "x"},
		"workers spawn": {"workers", "spawn", "--model", "a/b"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var body, canceled, stopped string
			hive := downloading(t, &body, func(w http.ResponseWriter, r *http.Request) {
				_ = sse.NewWriter(w).JSON(arrived(1.2e9, 4.1e9)) // the client notices
				<-r.Context().Done()
			}, map[string]http.HandlerFunc{
				"GET /v1/models": reply(rbee.ModelList{Models: []rbee.Model{}}),
				"DELETE /v1/models/download/{id}": func(w http.ResponseWriter, r *http.Request) {
					canceled = r.PathValue("id")
					w.WriteHeader(http.StatusNoContent)
				},
				"POST /v1/workers/spawn": reply(rbee.SpawnReply{WorkerID: "w1", State: rbee.WorkerLoading, DownloadID: "d1"}),
				"DELETE /v1/workers/{id}": func(w http.ResponseWriter, r *http.Request) {
					stopped = r.PathValue("id")
					w.WriteHeader(http.StatusNoContent)
				},
			})
			t.Setenv("RBEE_HOME", t.TempDir())
			t.Setenv("RBEE_ENGINE_DIR", enginestest.Dir(t))
			var stdout bytes.Buffer
			stderr := &interrupter{at: "downloading: ", interrupt: cancel}
			code := Main(ctx, append(command, "--node", hive), Streams{In: strings.NewReader(""), Out: &stdout, Err: stderr})
			if code != rbee.ExitInterrupted || stdout.Len() > 0 || canceled != "d1" {
				t.Errorf("exit code %d, stdout %q, canceled %q", code, stdout.String(), canceled)
			}
			if !strings.HasSuffix(stderr.String(), "What has arrived (1.2 GB) is kept; the same command goes on from there.\nCanceled.\n") {
				t.Errorf("stderr:\n%s", stderr.String())
			}
			if (name == "workers spawn") != (stopped == "w1") {
				t.Errorf("stopped worker %q", stopped)
			}
		})
	}
}

func TestInferDownloadsItsModelInPhase3(t *testing.T) {
	t.Setenv("RBEE_ENGINE_DIR", enginestest.Dir(t))
	var body string
	for stage, line := range map[rbee.DownloadStage]string{
		rbee.DownloadComplete: "  ✓ Model downloaded (10 MB)\n",
		rbee.DownloadCached:   "  ✓ Model in catalog, download skipped (10 MB)\n",
	} {
		hive := downloading(t, &body, events(
			arrived(5e6, 10e6), rbee.DownloadProgress{Stage: stage, BytesTotal: 10e6, LocalPath: "/m/a.gguf"},
		), map[string]http.HandlerFunc{
			"GET /v1/models":         reply(rbee.ModelList{Models: []rbee.Model{}}),
			"POST /v1/workers/spawn": refuse(rbee.Errorf(rbee.CodeInsufficientRAM, "too big")),
		})
		code, _, stderr := run(t, "infer", "--model", "a/b", "--prompt", "x", "--node", hive)
		_, phase3, _ := strings.Cut(stderr, "[Phase 3]")
		wantPhase := " Model hf:a/b\n  looking for the model\n  downloading: 50% (5.0 MB of 10 MB, 87.4 MB/s on 8 connections, 34 s left)\n" + line + "[Phase 4] Memory and backend\n"
		if code != rbee.ExitFailed || !strings.HasPrefix(phase3, wantPhase) {
			t.Errorf("exit code %d:\n%s", code, cmp.Diff(wantPhase, phase3))
		}
	}
}

func TestSpawnFollowsTheDownloadOfItsModel(t *testing.T) {
	t.Setenv("RBEE_ENGINE_DIR", enginestest.Dir(t))
	ref := mustRef(t, "a/b")
	worker := func(s rbee.WorkerState) rbee.Worker {
		return rbee.Worker{ID: "w1", State: s, ModelRef: ref, Device: "cpu", SlotsTotal: 4, ContextTokens: 2048}
	}
	var body string
	hive := downloading(t, &body, events(
		arrived(5e6, 10e6), rbee.DownloadProgress{Stage: rbee.DownloadComplete, BytesTotal: 10e6, LocalPath: "/m/a.gguf"},
	), map[string]http.HandlerFunc{
		"POST /v1/workers/spawn":                 reply(rbee.SpawnReply{WorkerID: "w1", State: rbee.WorkerLoading, DownloadID: "d1"}),
		"GET /v1/workers/w1":                     reply(worker(rbee.WorkerIdle)),
		"GET /v1/events":                         events(rbee.Event{Kind: rbee.EventSnapshot, Workers: []rbee.Worker{worker(rbee.WorkerIdle)}}),
		"GET /v1/workers/w1/v1/loading/progress": events(rbee.LoadProgress{Stage: rbee.LoadReady}),
	})
	code, stdout, stderr := run(t, "workers", "spawn", "--model", "a/b", "--node", hive)
	want(t, code, stdout, stderr, 0, "w1\n", "  downloading: 50% (5.0 MB of 10 MB, 87.4 MB/s on 8 connections, 34 s left)\n"+
		"  ✓ Model downloaded (10 MB)\nWorker w1 is idle: hf:a/b on cpu, 4 slots, context of 2048 tokens\n")
	code, stdout, stderr = run(t, "workers", "spawn", "--model", "a/b", "--no-wait", "--node", hive)
	want(t, code, stdout, stderr, 0, "w1\n", "Its model is downloaded first: 'rbee models pull hf:a/b' shows how far that is.\n"+
		"Worker w1 is idle: hf:a/b on cpu, 4 slots, context of 2048 tokens\n")
}

func TestNotesStandAboveTheBarOfATerminal(t *testing.T) {
	o, _, stderr := testOutput()
	o.terminal = true
	f := (&app{out: o}).follower(0)
	f.show(rbee.DownloadProgress{Stage: rbee.DownloadResolving})
	p := arrived(5e6, 10e6)
	p.Note = "resumed at 50 %"
	f.show(p)
	f.bar.clear()
	wantOut := "\r\x1b[K  looking for the model" + "\r\x1b[K" + "  resumed at 50 %\n" +
		"\r\x1b[K  downloading " + strings.Repeat("█", 15) + strings.Repeat("░", 15) + " 5.0 MB of 10 MB, 87.4 MB/s on 8 connections, 34 s left" + "\r\x1b[K"
	if diff := cmp.Diff(wantOut, stderr.String()); diff != "" {
		t.Error(diff)
	}
}

func TestVariantsAreListedWithAMarkAtTheChosenOne(t *testing.T) {
	list := rbee.VariantList{Repository: "a/b", Revision: "1a2b3c", Variants: []rbee.Variant{
		{ModelRef: mustRef(t, "a/b:Q4_K_M"), Quantisation: "Q4_K_M", Files: []string{"b.Q4_K_M.gguf"}, SizeBytes: 4.1e9, MemoryBytes: 4.5e9, Fits: true, OnDisk: true, Chosen: true},
		{ModelRef: mustRef(t, "a/b:F16"), Quantisation: "F16", Files: []string{"f16/b-00001-of-00003.gguf", "f16/b-00002-of-00003.gguf", "f16/b-00003-of-00003.gguf"}, SizeBytes: 14e9, MemoryBytes: 15e9},
	}}
	var query string
	hive := hiveWith(t, map[string]http.HandlerFunc{"GET /v1/models/variants": func(w http.ResponseWriter, r *http.Request) {
		query = r.FormValue("ref")
		reply(list)(w, r)
	}})
	code, stdout, stderr := run(t, "models", "pull", "a/b", "--list", "--node", hive)
	want(t, code, stdout, stderr, 0, `   QUANTISATION  SIZE     MEMORY   FITS  ON DISK  FILES
*  Q4_K_M        4.1 GB   4.5 GB   yes   yes      b.Q4_K_M.gguf
   F16           14.0 GB  15.0 GB  no    no       f16/b-00001-of-00003.gguf and 2 more
`, "a/b at revision 1a2b3c\n* is what 'rbee models pull hf:a/b' takes; add :QUANTISATION or ::FILE to the repository for another.\n")
	if query != "hf:a/b" {
		t.Errorf("asked for %s", query)
	}
	code, stdout, _ = run(t, "models", "pull", "a/b", "--list", "--node", hive, "--json")
	var got rbee.VariantList
	if err := json.NewDecoder(bytes.NewBufferString(stdout)).Decode(&got); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v: %s", code, err, stdout)
	}
	if diff := cmp.Diff(list, got); diff != "" {
		t.Error(diff)
	}
}
