package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rbee"
	"rbee/client"
	"rbee/internal/sse"
)

// run runs a command line in this process, with a state directory of its own.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("RBEE_HOME", t.TempDir())
	return runHere(t.Context(), args...)
}

// runHere is run with the state directory that is set.
func runHere(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errOut bytes.Buffer
	code = Main(ctx, args, Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
	return code, out.String(), errOut.String()
}

// serve answers like a hive, with the handlers of a test.
func serve(t *testing.T, routes map[string]http.HandlerFunc) string {
	t.Helper()
	mux := http.NewServeMux()
	for pattern, h := range routes {
		mux.HandleFunc(pattern, h)
	}
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL
}

func reply(v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v) // the client notices
	}
}

func TestEC8VersionDiffers(t *testing.T) {
	for name, tc := range map[string]struct {
		health rbee.Health
		want   []string
	}{
		"newer hive": {
			rbee.Health{Status: "alive", Version: "0.2.0", APIVersion: "v1"},
			[]string{"0.2.0", "0.1.0", "Suggestion: upgrade rbee on this machine\n"},
		},
		"older hive": {
			rbee.Health{Status: "alive", Version: "0.0.9", APIVersion: "v1"},
			[]string{"0.0.9", "0.1.0", "Suggestion: upgrade rbee-hive on 127.0.0.1:"},
		},
		"other API": {
			rbee.Health{Status: "alive", Version: "1.0.0", APIVersion: "v2"},
			[]string{"1.0.0 (API v2)", "0.1.0 (API v1)", "Suggestion: upgrade rbee on this machine\n"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			hive := serve(t, map[string]http.HandlerFunc{"GET /v1/health": reply(tc.health)})
			code, stdout, stderr := run(t, "infer", "--node", hive, "--model", "builtin:bee-tiny", "--prompt", "x")
			if code != rbee.ExitFailed || stdout != "" {
				t.Errorf("exit code %d, stdout %q", code, stdout)
			}
			for _, want := range tc.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("stderr has no %q:\n%s", want, stderr)
				}
			}
		})
	}
	t.Run("as JSON", func(t *testing.T) {
		hive := serve(t, map[string]http.HandlerFunc{"GET /v1/health": reply(rbee.Health{Status: "alive", Version: "0.2.0", APIVersion: "v1"})})
		code, stdout, stderr := run(t, "chat", "--node", hive, "--json")
		if code != rbee.ExitFailed || !strings.Contains(stdout, `"event":"error","error":{"code":"VERSION_MISMATCH"`) ||
			!strings.Contains(stdout, `"hive_version":"0.2.0","keeper_version":"0.1.0"`) {
			t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
		}
	})
	t.Run("a later patch is fine", func(t *testing.T) {
		c := &colony{target: target{host: "h:1"}, health: rbee.Health{Version: "0.1.7", APIVersion: "v1"}}
		if err := c.checkVersion(); err != nil {
			t.Error(err)
		}
	})
}

// workerOf makes an inference by a worker that does what the test says.
func workerOf(t *testing.T, out *bytes.Buffer, generate http.HandlerFunc) (*inference, *bytes.Buffer) {
	t.Helper()
	base := serve(t, map[string]http.HandlerFunc{
		"GET /v1/health":                   reply(rbee.Alive()),
		"POST /v1/workers/w1/v1/inference": generate,
		"GET /v1/workers/w1":               reply(rbee.Worker{ID: "w1", State: rbee.WorkerIdle, ModelRef: rbee.ModelRef{Provider: "builtin", Reference: "x"}}),
	})
	var notes bytes.Buffer
	target, err := newTarget(base)
	if err != nil {
		t.Fatal(err)
	}
	req := rbee.InferRequest{Prompt: "x", RequestID: "req-test"}
	req.Normalize()
	r := &inference{
		app:    &app{out: newOutput(Streams{Out: out, Err: &notes})},
		flags:  inferFlags{attempts: defaultAttempts},
		req:    req,
		colony: &colony{target: target, client: client.New(base)},
		worker: "w1",
		pause:  func(context.Context, time.Duration) error { return nil },
	}
	t.Cleanup(r.colony.client.Close)
	return r, &notes
}

func busy(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusServiceUnavailable)
	_ = json.NewEncoder(w).Encode(rbee.ErrorBody{Error: rbee.Errorf(rbee.CodeAllSlotsBusy, "all slots are busy")})
}

func TestEC6BusyWorkerIsAskedAgainAfterOneTwoAndFourSeconds(t *testing.T) {
	var out bytes.Buffer
	r, notes := workerOf(t, &out, busy)
	var pauses []time.Duration
	r.pause = func(_ context.Context, d time.Duration) error {
		pauses = append(pauses, d)
		return nil
	}
	err := r.generate(t.Context())
	if rbee.CodeOf(err) != rbee.CodeAllSlotsBusy || rbee.AsError(err).Suggestion() == "" {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff([]time.Duration{time.Second, 2 * time.Second, 4 * time.Second}, pauses); diff != "" {
		t.Error(diff)
	}
	for _, want := range []string{
		"Worker is busy, retrying in 1 second...\n", "Worker is busy, retrying in 2 seconds...\n", "Worker is busy, retrying in 4 seconds...\n",
	} {
		if !strings.Contains(notes.String(), want) {
			t.Errorf("no %q in:\n%s", want, notes)
		}
	}
}

func TestEC6AsJSONIsANote(t *testing.T) {
	var out bytes.Buffer
	r, notes := workerOf(t, &out, busy)
	r.out.json = true
	if err := r.generate(t.Context()); rbee.CodeOf(err) != rbee.CodeAllSlotsBusy {
		t.Errorf("error %v", err)
	}
	want := `{"event":"phase","phase":8,"text":"Inference"}` + "\n" +
		`{"event":"note","phase":8,"text":"Worker is busy, retrying in 1 second..."}` + "\n" +
		`{"event":"note","phase":8,"text":"Worker is busy, retrying in 2 seconds..."}` + "\n" +
		`{"event":"note","phase":8,"text":"Worker is busy, retrying in 4 seconds..."}` + "\n"
	if diff := cmp.Diff(want, out.String()); diff != "" || notes.Len() > 0 {
		t.Errorf("stderr %q, stdout:\n%s", notes, diff)
	}
}

func TestNothingIsTriedTwiceAfterTheFirstToken(t *testing.T) {
	t.Chdir(t.TempDir())
	var out bytes.Buffer
	calls := 0
	r, _ := workerOf(t, &out, func(w http.ResponseWriter, _ *http.Request) {
		calls++
		s := sse.NewWriter(w)
		_ = s.JSON(rbee.InferEvent{Token: "Once"}) // the client notices
		_ = s.JSON(rbee.ErrorBody{Error: rbee.Errorf(rbee.CodeAllSlotsBusy, "all slots are busy")})
		_ = s.Done()
	})
	if err := r.generate(t.Context()); rbee.CodeOf(err) != rbee.CodeAllSlotsBusy {
		t.Errorf("error %v", err)
	}
	if calls != 1 || out.String() != "Once" {
		t.Errorf("%d calls, stdout %q", calls, out.String())
	}
}

func TestEC4PartialResultGoesToTheTemporaryDirectoryIfNeedBe(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(gone, 0o700); err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	t.Chdir(gone)
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	name, err := savePartial("req-1", "Once upon")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(name)
	if err != nil || string(text) != "Once upon" || filepath.Dir(name) != temp {
		t.Errorf("%s holds %q, %v", name, text, err)
	}
}

func TestCanceledGenerationIsLeft(t *testing.T) {
	var out bytes.Buffer
	left := make(chan struct{})
	r, _ := workerOf(t, &out, func(w http.ResponseWriter, req *http.Request) {
		s := sse.NewWriter(w)
		_ = s.Comment("never ends") // the client notices
		<-req.Context().Done()
		close(left)
	})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := r.generate(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	<-left
}

func TestUnknownPathsAreNotTakenForAHive(t *testing.T) {
	other := serve(t, map[string]http.HandlerFunc{"GET /": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "a shop", http.StatusNotFound) }})
	code, _, stderr := run(t, "workers", "list", "--node", other)
	if code != rbee.ExitFailed || !strings.Contains(stderr, "is not a program of rbee") || !strings.Contains(stderr, "Suggestion: ") {
		t.Errorf("exit code %d:\n%s", code, stderr)
	}
}
