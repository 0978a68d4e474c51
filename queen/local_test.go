package queen_test

import (
	"bufio"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"rbee"
	"rbee/client"
	"rbee/internal/bus"
	"rbee/internal/conf"
	"rbee/internal/daemon"
	"rbee/internal/supervise"
)

// withHiveProgram makes queens find a program rbee-hive: this one.
func withHiveProgram(t *testing.T, manners string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "rbee-hive")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	t.Setenv(hiveEnv, manners)
}

// endsWithTest kills what a failed test leaves.
func endsWithTest(t *testing.T, pid int) {
	t.Helper()
	start, err := supervise.StartTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if now, err := supervise.StartTime(pid); err == nil && now == start {
			t.Errorf("process %d still runs", pid)
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill()
			}
		}
	})
}

func (r *running) localHive() (s rbee.LocalHiveStatus) {
	r.t.Helper()
	eventually(r.t, "the hive of this machine", func() bool {
		s = r.status().LocalHive
		return s.State == rbee.LocalHiveRunning && s.ID != ""
	})
	return s
}

func runs(pid int) bool {
	_, err := supervise.StartTime(pid)
	return err == nil
}

func TestTheHiveThatTheQueenStartedJoinsAndEndsWithHer(t *testing.T) {
	withHiveProgram(t, "polite")
	q := start(t, "RBEE_QUEEN_HIVE=on")
	local := q.localHive()
	endsWithTest(t, local.PID)
	if h := q.present(local.ID); !h.ByQueen || h.URL != local.URL {
		t.Errorf("the hive is told as %+v, the status as %+v", h, local)
	}
	if _, err := q.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := q.wait(); err != nil {
		t.Fatal(err)
	}
	if runs(local.PID) {
		t.Error("the queen has ended before her hive")
	}
	if good, bad := q.q.HiveShutdowns("true"), q.q.HiveShutdowns("false"); good != 1 || bad != 0 {
		t.Errorf("%g hives ended in order, %g did not", good, bad)
	}
}

func TestAHiveThatTakesNoOrdersIsEndedAllTheSame(t *testing.T) {
	withHiveProgram(t, "rude")
	q := start(t, "RBEE_QUEEN_HIVE=on")
	local := q.localHive()
	endsWithTest(t, local.PID)
	q.end()
	if err := q.wait(); err != nil {
		t.Fatal(err)
	}
	if good, bad := q.q.HiveShutdowns("true"), q.q.HiveShutdowns("false"); good != 0 || bad != 1 {
		t.Errorf("%g hives ended in order, %g did not", good, bad)
	}
}

func TestAHiveThatSheDidNotStartStays(t *testing.T) {
	withHiveProgram(t, "polite")
	first := start(t, "RBEE_QUEEN_HIVE=on")
	local := first.localHive()
	endsWithTest(t, local.PID)
	other := start(t, "RBEE_QUEEN_HIVE=off", "RBEE_QUEEN_JOIN="+first.token(rbee.JoinQueen).Token)
	other.present(local.ID)
	other.end()
	if err := other.wait(); err != nil {
		t.Fatal(err)
	}
	if !runs(local.PID) {
		t.Error("a queen ended the hive of another")
	}
	first.end()
	if err := first.wait(); err != nil {
		t.Fatal(err)
	}
}

func TestWithoutTheProgramTheQueenServesAndSaysWhy(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	q := start(t, "RBEE_QUEEN_HIVE=on")
	eventually(t, "the failure", func() bool {
		s := q.status().LocalHive
		return s.State == rbee.LocalHiveFailed && s.Reason != ""
	})
}

func TestWhyTheHiveEndedAtOnceIsTold(t *testing.T) {
	withHiveProgram(t, "polite")
	for _, ephemeral := range []bool{false, true} {
		home := t.TempDir()
		if err := conf.Home(home).Create(); err != nil {
			t.Fatal(err)
		}
		place, err := daemon.Claim(conf.Home(home), "hive") // nobody answers there
		if err != nil {
			t.Fatal(err)
		}
		q := startWith(t, home, ephemeral, "RBEE_QUEEN_HIVE=on")
		eventually(t, "the failure", func() bool {
			s := q.status().LocalHive
			return s.State == rbee.LocalHiveFailed && strings.Contains(s.Reason, "a hive already runs")
		})
		if err := place.Release(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestATokenThatSomebodyElseLeftForTheHiveStays(t *testing.T) {
	home := t.TempDir()
	file := filepath.Join(home, "join")
	if err := os.WriteFile(file, []byte("rbee1.other"), 0o600); err != nil {
		t.Fatal(err)
	}
	q := startAt(t, home)
	eventually(t, "the word about it", func() bool { return q.status().LocalHive.State == rbee.LocalHiveOff && q.log.String() != "" })
	q.end()
	if err := q.wait(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "rbee1.other" {
		t.Errorf("the file holds %q, %v", b, err)
	}
}

func TestTheTokenForTheHiveIsMadeOnceForAnAddress(t *testing.T) {
	home, port := t.TempDir(), "RBEE_QUEEN_BUS_ADDR="+freeAddr(t)
	var texts []string
	for _, env := range []string{port, port, "RBEE_QUEEN_BUS_ADDR=127.0.0.1:0"} {
		q := startAt(t, home, env)
		var text []byte
		eventually(t, "the token", func() bool {
			text, _ = os.ReadFile(filepath.Join(home, "join"))
			return len(text) > 0 && (len(texts) < 2 || string(text) != texts[1])
		})
		texts = append(texts, string(text))
		list, err := q.Tokens(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		valid := 0
		for _, token := range list {
			if token.RevokedAt.IsZero() {
				valid++
			}
		}
		if valid != 1 {
			t.Errorf("%d tokens are valid: %+v", valid, list)
		}
		q.end()
		if err := q.wait(); err != nil {
			t.Fatal(err)
		}
	}
	if texts[0] != texts[1] || texts[1] == texts[2] {
		t.Errorf("the tokens are the same: %t, and with another port: %t", texts[0] == texts[1], texts[1] == texts[2])
	}
}

// startProgram runs a queen as a program that can be killed.
func startProgram(t *testing.T, home string, args ...string) (*exec.Cmd, *client.Client) {
	t.Helper()
	p := exec.CommandContext(t.Context(), os.Args[0], append([]string{"daemon", "--addr", "127.0.0.1:0"}, args...)...)
	p.Env = append(os.Environ(), programEnv+"=1", "RBEE_HOME="+home, "RBEE_LOG_FORMAT=json")
	stderr, err := p.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	addr, err := listening(bufio.NewScanner(stderr))
	if err != nil {
		t.Fatal(err)
	}
	return p, newClient(t, "http://"+addr, "")
}

// localPID waits for the hive of a state directory that has joined.
func localPID(t *testing.T, c *client.Client) (pid int) {
	t.Helper()
	eventually(t, "the hive of this machine", func() bool {
		s, err := c.QueenStatus(t.Context())
		pid = s.LocalHive.PID
		return err == nil && s.LocalHive.State == rbee.LocalHiveRunning && s.LocalHive.ID != ""
	})
	return pid
}

func TestTheHiveOfAnEphemeralQueenEndsWhenSheIsKilled(t *testing.T) {
	withHiveProgram(t, "polite")
	home := t.TempDir()
	p, c := startProgram(t, home, "--bus-addr", "127.0.0.1:0", "--ephemeral")
	pid := localPID(t, c)
	endsWithTest(t, pid)
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait() // it was killed
	eventually(t, "the end of the hive", func() bool { return !runs(pid) })
	eventually(t, "the end of its place", func() bool { _, alive := daemon.ReadNote(conf.Home(home), "hive"); return !alive })
}

func TestTheHiveOfAKilledQueenServesOnAndTheNextOneEndsIt(t *testing.T) {
	withHiveProgram(t, "polite")
	home, addr := t.TempDir(), freeAddr(t)
	p, c := startProgram(t, home, "--bus-addr", addr)
	pid := localPID(t, c)
	endsWithTest(t, pid)
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait() // it was killed
	if !runs(pid) {
		t.Fatal("the hive has ended with the queen")
	}
	q := startAt(t, home, "RBEE_QUEEN_HIVE=on", "RBEE_QUEEN_BUS_ADDR="+addr)
	if local := q.localHive(); local.PID != pid {
		t.Errorf("she started another hive: %d, not %d", local.PID, pid)
	}
	q.end()
	if err := q.wait(); err != nil {
		t.Fatal(err)
	}
	if good := q.q.HiveShutdowns("true"); good != 1 || runs(pid) {
		t.Errorf("%g hives ended in order; it runs: %t", good, runs(pid))
	}
}

func TestAProcessThatHasThePidOfAHiveThatWasKilledIsLeftAlone(t *testing.T) {
	q := start(t)
	stranger := exec.Command("sleep", "60")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stranger.Process.Kill()
		_ = stranger.Wait()
	}()
	conn, err := bus.Join(bus.JoinConfig{Join: q.token(rbee.JoinHive).Token, Kind: rbee.JoinHive, ID: secondHive, Name: "bee", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	killed := &fakeHive{id: secondHive, url: "http://127.0.0.1:1", conn: conn}
	about := killed.about()
	about.ByQueen = true
	ctx, cancel := context.WithCancel(context.Background())
	var lives sync.WaitGroup
	defer lives.Wait()
	defer cancel()
	lives.Go(func() { _ = conn.Run(ctx) })
	lives.Go(func() { tell(ctx, conn, about, killed.now) })
	q.present(killed.id)
	note, err := json.Marshal(daemon.Note{PID: stranger.Process.Pid, URL: killed.url})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(q.home, "run", "hive.json"), note, 0o600); err != nil {
		t.Fatal(err)
	}
	q.end()
	if err := q.wait(); err != nil {
		t.Fatal(err)
	}
	if !runs(stranger.Process.Pid) {
		t.Error("it was ended in place of the hive")
	}
}
