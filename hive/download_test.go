package hive_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"rbee"
	"rbee/internal/hub/hubtest"
)

const (
	repoName  = "org/name"
	hubModel  = "hf:" + repoName + ":Q8_0"
	modelFile = "noise.Q8_0.gguf"
)

// newHub is a hub with one model of that many bytes.
func newHub(t *testing.T, size int64) *hubtest.Server {
	t.Helper()
	h := hubtest.New()
	t.Cleanup(h.Close)
	h.Put(hubtest.Repo{Name: repoName, Downloads: 7, Files: []hubtest.File{{Path: modelFile, Content: hubtest.GGUF(1, size)}}})
	return h
}

// withHub is the environment of a hive that knows a hub.
func withHub(h *hubtest.Server) string { return "HF_ENDPOINT=" + h.URL }

// slow makes a hub send so few bytes a second that a test can look on.
func slow(h *hubtest.Server, bytes int64) {
	h.Fault(repoName, modelFile, hubtest.Fault{Kind: hubtest.Throttle, Bytes: bytes})
}

// sent is how many bytes of files a hub has sent, and how often it was asked for a list of them.
func sent(h *hubtest.Server) (bytes int64, lists int) {
	for _, q := range h.Requests() {
		if q.Host == hubtest.CDN {
			bytes += q.Bytes
		} else if strings.HasPrefix(q.Path, "/api/models/") {
			lists++
		}
	}
	return bytes, lists
}

// download begins a download.
func (r *running) download() rbee.DownloadReply {
	r.t.Helper()
	reply, err := r.Download(r.t.Context(), rbee.DownloadRequest{ModelRef: hubModel})
	if err != nil {
		r.t.Fatalf("Download: %v (%v)", err, rbee.AsError(err).Details)
	}
	return reply
}

// follow watches a download to its end.
func (r *running) follow(id rbee.DownloadID) (all []rbee.DownloadProgress) {
	r.t.Helper()
	for p, err := range r.DownloadProgress(r.t.Context(), id) {
		if err != nil {
			r.t.Errorf("progress: %v", err)
		}
		all = append(all, p)
	}
	if len(all) == 0 || !all[len(all)-1].Stage.Final() {
		r.t.Fatalf("the progress ends with %+v", all)
	}
	return all
}

// arrived waits until a download has so many bytes.
func (r *running) arrived(id rbee.DownloadID, bytes int64) {
	r.t.Helper()
	for p, err := range r.DownloadProgress(r.t.Context(), id) {
		if err != nil || p.Stage.Final() {
			r.t.Fatalf("ended with %+v, %v", p, err)
		}
		if p.BytesDownloaded >= bytes {
			return
		}
	}
}

// downloads are those that run, as a new reader of the events is told.
func (r *running) downloads() []rbee.Download {
	r.t.Helper()
	for e, err := range r.Events(r.t.Context()) {
		must(r.t, err)
		return e.Downloads
	}
	return nil
}

func TestOneDownloadServesAllPullsAndSpawns(t *testing.T) {
	const size = 12 << 20
	h := newHub(t, size)
	r := start(t, withHub(h))
	var all sync.WaitGroup
	var mu sync.Mutex
	var workers []rbee.WorkerID
	for range 16 {
		all.Go(func() {
			reply, err := r.Download(t.Context(), rbee.DownloadRequest{ModelRef: hubModel})
			if err != nil {
				t.Error(err)
				return
			}
			if end := r.follow(reply.DownloadID); end[len(end)-1].Error != nil || end[len(end)-1].LocalPath != reply.LocalPath {
				t.Errorf("ended with %+v, was to be at %s", end[len(end)-1], reply.LocalPath)
			}
		})
		all.Go(func() {
			reply, err := r.Spawn(t.Context(), rbee.SpawnRequest{ModelRef: hubModel})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			workers = append(workers, reply.WorkerID)
		})
	}
	all.Wait()
	for _, id := range workers {
		r.wait(id, rbee.WorkerIdle)
	}
	if bytes, lists := sent(h); len(workers) != 16 || bytes != size || lists != 1 {
		t.Errorf("%d workers; the hub sent %d bytes of %d and %d lists", len(workers), bytes, size, lists)
	}
	if u, err := r.Usage(t.Context()); err != nil || len(u.Files) != 1 || len(u.Spare) != 0 || u.StoreBytes != size {
		t.Errorf("usage: %+v, %v", u, err)
	}
	if m, err := r.Model(t.Context(), hubModel); err != nil || m.UseCount != 16 {
		t.Errorf("model: %+v, %v", m, err)
	}
	h.Reset()
	end := r.follow(r.download().DownloadID)
	if len(end) != 1 || end[0].Stage != rbee.DownloadCached || end[0].LocalPath == "" || end[0].BytesTotal != size {
		t.Errorf("what is there: %+v", end)
	}
	if c := h.Counts(); c.Connections != 0 || c.Requests != 0 {
		t.Errorf("the hub was asked for what is there: %+v", c)
	}
}

func TestADownloadThatNobodyKnows(t *testing.T) {
	r := start(t, withHub(newHub(t, 2000)))
	for _, err := range r.DownloadProgress(t.Context(), "d-nobody") {
		if e := rbee.AsError(err); e == nil || e.Code != rbee.CodeModelNotFound || e.Suggestion() == "" {
			t.Errorf("progress: %v", err)
		}
	}
	must(t, r.CancelDownload(t.Context(), "d-nobody"))
	for reference, code := range map[string]rbee.Code{
		"hf:org/other": rbee.CodeModelNotFound, hubModel + "X": rbee.CodeModelNotFound, "nonsense": rbee.CodeInvalidRequest,
		"file:/nowhere.gguf": rbee.CodeModelNotFound, "builtin:wasp": rbee.CodeModelNotFound,
	} {
		_, err := r.Download(t.Context(), rbee.DownloadRequest{ModelRef: reference})
		if e := rbee.AsError(err); e == nil || e.Code != code || e.Suggestion() == "" {
			t.Errorf("%s: %v", reference, err)
		}
	}
}

func TestWatchersOfADownloadSeeTheSame(t *testing.T) {
	const size = 6 << 20
	h := newHub(t, size)
	slow(h, 8<<20)
	r := start(t, withHub(h))
	reply := r.download()
	if want := filepath.Join(r.home, "models", "sha256", hubtest.GGUF(1, size).SHA256()+".gguf"); reply.LocalPath != want {
		t.Errorf("is going to be at %s", reply.LocalPath)
	}
	var early, late []rbee.DownloadProgress
	var watching sync.WaitGroup
	watching.Go(func() { early = r.follow(reply.DownloadID) })
	other := r.download()
	r.arrived(other.DownloadID, size/3)
	late = r.follow(other.DownloadID)
	watching.Wait()
	if first := late[0]; first.Stage != rbee.DownloadDownloading || first.BytesDownloaded < size/3 || first.BytesTotal != size || first.Files != 1 {
		t.Errorf("a late watcher first sees %+v", first)
	}
	if n := len(early) - len(late); n < 0 || !slices.Equal(early[n:], late) {
		t.Errorf("one saw %+v\nthe other %+v", early, late)
	}
	if last := late[len(late)-1]; last.Stage != rbee.DownloadComplete || last.BytesDownloaded != size || last.LocalPath != reply.LocalPath {
		t.Errorf("ended with %+v", last)
	}
}

func TestADownloadEndsWithItsLastWishAndIsResumed(t *testing.T) {
	const size = 20 << 20
	h := newHub(t, size)
	slow(h, 10<<20)
	r := start(t, withHub(h))
	first, second := r.download(), r.download()
	must(t, r.CancelDownload(t.Context(), first.DownloadID))
	must(t, r.CancelDownload(t.Context(), first.DownloadID))
	r.arrived(second.DownloadID, 9<<20)
	must(t, r.CancelDownload(t.Context(), second.DownloadID))
	all := r.follow(second.DownloadID)
	end := all[len(all)-1]
	if end.Error == nil || end.Error.Code != rbee.CodeRequestCanceled || end.Error.Suggestion() == "" || end.BytesDownloaded < 9<<20 {
		t.Fatalf("ended with %+v", end)
	}
	if list := r.downloads(); len(list) != 0 {
		t.Errorf("downloads: %v", list)
	}
	if u, err := r.Usage(t.Context()); err != nil || len(u.Spare) != 1 || u.Spare[0].Kind != rbee.SparePartial {
		t.Errorf("usage: %+v, %v", u, err)
	}
	r.resumes(h, size, end.BytesDownloaded)
}

// resumes downloads what is missing of the model, and no more.
func (r *running) resumes(h *hubtest.Server, size, had int64) {
	r.t.Helper()
	h.Heal()
	h.Reset()
	all := r.follow(r.download().DownloadID)
	if end := all[len(all)-1]; end.Stage != rbee.DownloadComplete {
		r.t.Errorf("ended with %+v", end)
	}
	if bytes, _ := sent(h); bytes > size-had || bytes == 0 {
		r.t.Errorf("%d of %d bytes were there, and the hub sent %d", had, size, bytes)
	}
	if !slices.ContainsFunc(all, func(p rbee.DownloadProgress) bool { return strings.HasPrefix(p.Note, "resumed at ") }) {
		r.t.Errorf("it does not say that it was resumed: %+v", all)
	}
}

func TestEventsTellOfDownloads(t *testing.T) {
	h := newHub(t, 4<<20)
	slow(h, 6<<20)
	r := start(t, withHub(h))
	reply := r.download()
	r.arrived(reply.DownloadID, 1)
	var downloading, ended int
	for e, err := range r.Events(t.Context()) {
		must(t, err)
		switch e.Kind {
		case rbee.EventSnapshot:
			if len(e.Downloads) != 1 || e.Downloads[0].ModelRef.String() != hubModel || e.Downloads[0].BytesTotal != 4<<20 {
				t.Fatalf("snapshot: %+v", e.Downloads)
			}
		case rbee.EventDownload:
			if e.Download.ModelRef.String() != hubModel {
				t.Errorf("event: %+v", e.Download)
			}
			if downloading++; e.Download.Stage.Final() {
				ended++
			}
		case rbee.EventModel:
			if e.Model.LocalPath != reply.LocalPath {
				t.Errorf("event: %+v", e.Model)
			}
			downloading += 100
		}
		if ended > 0 {
			break
		}
	}
	if downloading < 102 || ended != 1 {
		t.Errorf("events: %d, of the end: %d", downloading, ended)
	}
	if list := r.downloads(); len(list) != 0 {
		t.Errorf("snapshot at the end: %v", list)
	}
}

func TestASpawnOfAMissingModelReturnsAtOnce(t *testing.T) {
	h := newHub(t, 4<<20)
	slow(h, 1<<20)
	r := start(t, withHub(h))
	reply := r.spawn(func(s *rbee.SpawnRequest) { s.ModelRef = hubModel })
	if reply.DownloadID == "" || reply.State != rbee.WorkerLoading {
		t.Fatalf("reply: %+v", reply)
	}
	r.arrived(reply.DownloadID, 1)
	if w := r.wait(reply.WorkerID, rbee.WorkerStarting); w.PID != 0 || w.ModelRef.String() != hubModel {
		t.Errorf("worker: %+v", w)
	}
	_, err := r.WorkerLogs(t.Context(), reply.WorkerID, true)
	if e := rbee.AsError(err); e == nil || e.Code != rbee.CodeWorkerNotReady || e.Suggestion() == "" {
		t.Errorf("logs of a worker that waits: %v", err)
	}
	if _, _, err := infer(t.Context(), r.At(reply.URL), 1); rbee.CodeOf(err) != rbee.CodeWorkerNotReady {
		t.Errorf("inference: %v", err)
	}
	if err := r.RemoveModel(t.Context(), hubModel); rbee.CodeOf(err) != rbee.CodeConflict {
		t.Errorf("removed: %v", err)
	}
	// The worker is all who wants the model.
	must(t, r.StopWorker(t.Context(), reply.WorkerID))
	all := r.follow(reply.DownloadID)
	if end := all[len(all)-1]; end.Error == nil || end.Error.Code != rbee.CodeRequestCanceled {
		t.Errorf("the download ended with %+v", end)
	}
	if w, err := r.Worker(t.Context(), reply.WorkerID); err != nil || w.State != rbee.WorkerStopped {
		t.Errorf("worker: %+v, %v", w, err)
	}
}

func TestADownloadThatFailsIsTheWorkersFailure(t *testing.T) {
	h := newHub(t, 20_000)
	h.Fault(repoName, modelFile, hubtest.Fault{Kind: hubtest.Corrupt, After: 5000})
	h.Put(hubtest.Repo{Name: "org/gated", Access: hubtest.Gated, Files: []hubtest.File{{Path: modelFile, Content: hubtest.GGUF(2, 2000)}}})
	h.Put(hubtest.Repo{Name: "org/text", Files: []hubtest.File{{Path: "model.gguf", Content: hubtest.Bytes([]byte(strings.Repeat("text", 100)))}}})
	r := start(t, withHub(h))
	for reference, code := range map[string]rbee.Code{
		hubModel: rbee.CodeChecksumMismatch, "hf:org/missing": rbee.CodeModelNotFound, "hf:org/gated": rbee.CodeDownloadFailed, "hf:org/text": rbee.CodeInvalidRequest,
	} {
		reply := r.spawn(func(s *rbee.SpawnRequest) { s.ModelRef = reference })
		w := r.wait(reply.WorkerID, rbee.WorkerFailed)
		all := r.follow(reply.DownloadID)
		end := all[len(all)-1]
		if w.Failure == nil || w.Failure.Code != code || w.Failure.Suggestion() == "" || end.Error == nil || end.Error.Code != code || end.Error.Message != w.Failure.Message {
			t.Errorf("%s: the worker failed with %+v, the download with %+v", reference, w.Failure, end.Error)
		}
	}
	if models, err := r.Models(t.Context()); err != nil || len(models) != 0 {
		t.Errorf("models: %v, %v", models, err)
	}
}

func TestAShutdownEndsADownloadWhichTheNextHiveResumes(t *testing.T) {
	const size = 20 << 20
	h := newHub(t, size)
	slow(h, 10<<20)
	home := t.TempDir()
	r := startAt(t, home, withHub(h))
	reply := r.spawn(func(s *rbee.SpawnRequest) { s.ModelRef = hubModel })
	mine := r.download()
	r.arrived(mine.DownloadID, 9<<20)
	var end rbee.DownloadProgress
	var following sync.WaitGroup
	followed := make(chan struct{})
	following.Go(func() {
		begun := false
		for p, err := range r.DownloadProgress(t.Context(), mine.DownloadID) {
			if err != nil {
				t.Errorf("the stream is cut off: %v", err)
			}
			if end = p; !begun {
				begun = true
				close(followed)
			}
		}
	})
	<-followed
	must(t, r.end())
	following.Wait()
	if end.Error == nil || end.Error.Code != rbee.CodeRequestCanceled || !strings.Contains(end.Error.Message, "shuts down") {
		t.Fatalf("who follows sees last: %+v", end)
	}
	if log := r.log.String(); strings.Contains(log, "worker failed") || !strings.Contains(log, string(reply.WorkerID)) {
		t.Errorf("the worker that waits did not just stop:\n%s", log)
	}
	startAt(t, home, withHub(h)).resumes(h, size, end.BytesDownloaded)
}

func TestTheTokenOfTheHubStaysWithTheHive(t *testing.T) {
	const token = "hf_secretsecret"
	t.Setenv("HF_TOKEN", token)
	h := newHub(t, 20_000)
	h.Accept(token, "org/gated")
	h.Put(hubtest.Repo{Name: "org/gated", Access: hubtest.Gated, Files: []hubtest.File{{Path: modelFile, Content: hubtest.GGUF(2, 20_000)}}})
	r := start(t, withHub(h), "HF_TOKEN="+token)
	reply := r.spawn(func(s *rbee.SpawnRequest) { s.ModelRef = "hf:org/gated" })
	w := r.wait(reply.WorkerID, rbee.WorkerIdle)
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", w.PID))
	must(t, err)
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", w.PID))
	must(t, err)
	if text := string(environ) + string(args) + r.log.String(); strings.Contains(text, token) || !strings.Contains(text, "RBEE_WORKER_KEY") {
		t.Error("the worker or the log has the token")
	}
	for _, q := range h.Requests() {
		if q.Authorized != (q.Host == hubtest.Hub) {
			t.Errorf("authorized: %t at %s", q.Authorized, q.Host)
		}
	}
}
