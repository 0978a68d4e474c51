//go:build linux

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var story = []string{"infer", "--model", "builtin:bee-tiny", "--prompt", "Once upon a time", "--max-tokens", "20", "--seed", "7"}

func TestBehaviourEphemeralPrintsItsPhasesInOrder(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	r := c.run("rbee", story...)
	r.mustExit("exit status 0")
	rest := r.stderr()
	for _, want := range []string{
		"[Phase 1] Skipped (ephemeral mode - no worker reuse)\n",
		"[Phase 2]", "[Phase 3]", "[Phase 4]", "[Phase 5]", "[Phase 6]", "[Phase 7]", "[Phase 8]",
	} {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("%q is missing or out of order in\n%s", want, r.stderr())
		}
		rest = after
	}
	if strings.Contains(r.stderr(), "\x1b") {
		t.Errorf("colours without a terminal: %q", r.stderr())
	}
}

func TestBehaviourEphemeralTellsThatThePoolIsHealthy(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	r := c.run("rbee", story...)
	r.mustExit("exit status 0")
	if !strings.Contains(r.stderr(), "Pool health: healthy (alive, version 0.1.0)\n") {
		t.Errorf("stderr:\n%s", r.stderr())
	}
}

// The check itself is colony.verify, which runs after each test; this one makes
// sure that there was something to leave.
func TestBehaviourEphemeralLeavesNoProcessPortOrFile(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	r := c.start("rbee", story...)
	worker := c.find("the worker", isWorker)
	eventually(t, "hive and worker listen", func() bool {
		c.procs()
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.ports) >= 2 || !runs(r.pid())
	})
	r.mustExit("exit status 0")
	if runs(worker.pid) {
		t.Errorf("the keeper ended before its worker: %s", worker)
	}
	if left := c.procs(); len(left) > 0 {
		t.Errorf("the keeper ended before: %v", left)
	}
	if left, _ := os.ReadDir(filepath.Join(c.home, "run")); len(left) > 0 {
		t.Errorf("left in run: %v", left)
	}
	if left, _ := os.ReadDir(c.work); len(left) > 0 {
		t.Errorf("left in the working directory: %v", left)
	}
}

// ps sees processes whatever their environment is.
func TestBehaviourEphemeralLeavesPsEmpty(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	r := c.start("rbee", story...)
	worker := c.find("the worker", isWorker)
	id := worker.flag("--worker-id")
	r.mustExit("exit status 0")
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(entries) == 0 {
		t.Fatalf("cannot list processes: %v", err)
	}
	for _, e := range entries {
		if cmdline, err := os.ReadFile(e); err == nil && strings.Contains(string(cmdline), id) {
			t.Errorf("left: %q", cmdline)
		}
	}
}

func TestTokensAloneGoToStandardOutput(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	first := c.run("rbee", story...)
	first.mustExit("exit status 0")
	if text := first.stdout(); strings.TrimSpace(text) == "" || strings.Contains(text, "Phase") {
		t.Errorf("stdout = %q", text)
	}
	again := c.run("rbee", story...)
	again.mustExit("exit status 0")
	if first.stdout() != again.stdout() {
		t.Errorf("the same seed gave %q and %q", first.stdout(), again.stdout())
	}
	stdin, err := os.CreateTemp(c.work, "prompt")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdin.Close() }()
	if _, err := stdin.WriteString("Once upon a time"); err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	piped := c.startWith(stdin, "rbee", "infer", "--model", "builtin:bee-tiny", "--max-tokens", "20", "--seed", "7")
	piped.mustExit("exit status 0")
	if first.stdout() != piped.stdout() {
		t.Errorf("the prompt as a flag gave %q and on stdin %q", first.stdout(), piped.stdout())
	}
}

func TestJSONOutputIsOneObjectPerLine(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	r := c.run("rbee", append([]string{"--json"}, story...)...)
	r.mustExit("exit status 0")
	lines := strings.Split(strings.TrimSpace(r.stdout()), "\n")
	if len(lines) < 20 {
		t.Errorf("%d lines for 20 tokens:\n%s", len(lines), r.stdout())
	}
	for _, line := range lines {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
}
