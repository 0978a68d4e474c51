package supervise_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"rbee/internal/supervise"
)

var quiet = slog.New(slog.DiscardHandler)

// stray starts a process that nothing but the sweep ends, and says when it started.
func stray(t *testing.T) (cmd *exec.Cmd, start string) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), partEnv+"=deaf")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	start, err = supervise.StartTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, start
}

// deadPID is the pid of a process that has ended.
func deadPID(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func writeLedger(t *testing.T, dir string, owner int, ownerStart string, child int, childStart string) string {
	t.Helper()
	data, err := json.Marshal([]map[string]any{{"pid": child, "start": childStart, "path": "worker"}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, fmt.Sprintf("ledger-%d-%s.json", owner, ownerStart))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestSweepKillsTheStrayOfADeadOwner(t *testing.T) {
	dir := t.TempDir()
	child, start := stray(t)
	path := writeLedger(t, dir, deadPID(t), "1-x", child.Process.Pid, start)
	if err := supervise.SweepStrays(dir, quiet); err != nil {
		t.Fatal(err)
	}
	if !gone(child.Process.Pid)() {
		t.Error("the stray lives")
	}
	if exists(path) {
		t.Error("the ledger of the dead owner is left")
	}
}

func TestSweepSparesARecycledPID(t *testing.T) {
	dir := t.TempDir()
	child, start := stray(t)
	path := writeLedger(t, dir, deadPID(t), "1-x", child.Process.Pid, start+"0")
	if err := supervise.SweepStrays(dir, quiet); err != nil {
		t.Fatal(err)
	}
	if gone(child.Process.Pid)() {
		t.Error("a process that only has the pid of a stray was killed")
	}
	if exists(path) {
		t.Error("the ledger of the dead owner is left")
	}
}

func TestSweepSparesTheChildrenOfALivingOwner(t *testing.T) {
	dir := t.TempDir()
	child, start := stray(t)
	self, err := supervise.StartTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	path := writeLedger(t, dir, os.Getpid(), self, child.Process.Pid, start)
	if err := supervise.SweepStrays(dir, quiet); err != nil {
		t.Fatal(err)
	}
	if gone(child.Process.Pid)() || !exists(path) {
		t.Error("the sweep took what belongs to a living program")
	}
	// The owner's pid now belongs to another process: the owner is dead.
	old := writeLedger(t, dir, os.Getpid(), self+"0", deadPID(t), "1-x")
	if err := supervise.SweepStrays(dir, quiet); err != nil {
		t.Fatal(err)
	}
	if exists(old) {
		t.Error("the ledger of an owner whose pid was recycled is left")
	}
}

func TestSweepTakesDamagedAndHalfWrittenLedgersAway(t *testing.T) {
	dir := t.TempDir()
	pid := deadPID(t)
	damaged := []string{
		fmt.Sprintf("ledger-%d-1-x.json", pid),
		fmt.Sprintf("ledger-%d-2-x.json.part", pid),
	}
	foreign := []string{"hive.json", "ledger-.json", "ledger-12.json", "ledger-0-1.json", "ledger-x-1.json"}
	for _, name := range append(damaged, foreign...) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(`[{"pid":`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := supervise.SweepStrays(dir, quiet); err != nil {
		t.Fatal(err)
	}
	for _, name := range damaged {
		if exists(filepath.Join(dir, name)) {
			t.Errorf("%s is left", name)
		}
	}
	for _, name := range foreign {
		if !exists(filepath.Join(dir, name)) {
			t.Errorf("%s was taken away", name)
		}
	}
}

func TestSweepOfNoDirectoryDoesNothing(t *testing.T) {
	if err := supervise.SweepStrays(filepath.Join(t.TempDir(), "run"), quiet); err != nil {
		t.Error(err)
	}
}

func TestLedgerListsChildrenAsLongAsTheyLive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	ledger, err := supervise.OpenLedger(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := spawner(t, ledger)
	a, b := begin(t, s, "obey"), begin(t, s, "obey")
	nextLine(t, a)
	nextLine(t, b)
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files = %v, %v", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*supervise.Process{a, b} {
		if !strings.Contains(string(text), `"pid":`+strconv.Itoa(p.PID())+",") {
			t.Errorf("ledger = %s, without %d", text, p.PID())
		}
		p.Stop(t.Context(), 0)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) > 0 {
		t.Errorf("no child lives, but there is %v", files)
	}
}

func TestAnUnwritableLedgerDoesNotPreventAStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	ledger, err := supervise.OpenLedger(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	p := begin(t, spawner(t, ledger), "exit 0")
	if got := p.Exit(); !got.Success() {
		t.Error(got)
	}
}

func TestStartTimeOfNobody(t *testing.T) {
	if !gone(deadPID(t))() {
		t.Error("a process that has ended has a start time")
	}
	zombie := exec.Command("true")
	if err := zombie.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a zombie counts as ended", gone(zombie.Process.Pid))
	if err := zombie.Wait(); err != nil {
		t.Error(err)
	}
}
