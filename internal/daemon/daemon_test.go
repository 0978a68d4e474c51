//go:build unix

package daemon_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rbee"
	"rbee/internal/conf"
	"rbee/internal/daemon"
)

const patience = 30 * time.Second

func TestAStateDirectoryHasOneDaemonOfARole(t *testing.T) {
	home := conf.Home(t.TempDir())
	if _, err := daemon.Claim(home, "hive"); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Fatalf("without a directory: %v", err)
	}
	if err := home.Create(); err != nil {
		t.Fatal(err)
	}
	place, err := daemon.Claim(home, "hive")
	if err != nil {
		t.Fatal(err)
	}
	if note, alive := daemon.ReadNote(home, "hive"); alive {
		t.Errorf("before anything is announced there is %+v", note)
	}
	if err := place.Announce("http://127.0.0.1:8080"); err != nil {
		t.Fatal(err)
	}
	note, alive := daemon.ReadNote(home, "hive")
	if !alive || note.PID != os.Getpid() || note.URL != "http://127.0.0.1:8080" || note.Started.IsZero() {
		t.Errorf("the note is %+v, alive %t", note, alive)
	}
	_, err = daemon.Claim(home, "hive")
	if rbee.CodeOf(err) != rbee.CodeConflict || !strings.Contains(err.Error(), "at http://127.0.0.1:8080") {
		t.Errorf("a second one: %v", err)
	}
	other, err := daemon.Claim(home, "queen")
	if err != nil {
		t.Fatalf("another role: %v", err)
	}
	if err := errors.Join(other.Release(), place.Release()); err != nil {
		t.Fatal(err)
	}
	if _, alive := daemon.ReadNote(home, "hive"); alive {
		t.Error("after the release the note is still there")
	}
	if place, err = daemon.Claim(home, "hive"); err != nil {
		t.Fatalf("after the release: %v", err)
	}
	if err := place.Release(); err != nil {
		t.Fatal(err)
	}
}

func TestTheEndOfTheTerminalEndsTheDaemonUnlessSomebodyWantsThatIgnored(t *testing.T) {
	nohup := signal.Ignored(syscall.SIGHUP) // the tests themselves may run under it
	var cause error
	err := daemon.Daemon{Log: slog.New(slog.DiscardHandler), Run: func(ctx context.Context) error {
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			return err
		}
		if !nohup {
			<-ctx.Done()
		}
		cause = context.Cause(ctx)
		return nil
	}}.Serve(t.Context())
	if err != nil || errors.Is(cause, daemon.ErrHungUp) == nohup {
		t.Errorf("it ended with %v because of %v", err, cause)
	}
}

func TestTheServiceManagerHearsWhenItIsReadyAndWhenItEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ending := make(chan struct{})
	asked := 0
	d := daemon.Daemon{
		Log:     slog.New(slog.DiscardHandler),
		Answers: func(context.Context) bool { asked++; return asked > 2 },
		Summary: func() string { return "all is well" },
		Ending:  func(context.Context) { <-ending },
		Run: func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		},
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = d.Serve(ctx) })
	for _, want := range []string{"READY=1", "STATUS=all is well", "STOPPING=1"} {
		if err := socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1000)
		n, err := socket.Read(b)
		if err != nil || !strings.HasPrefix(string(b[:n]), want) {
			t.Errorf("the manager hears %q, %v; want %s", b[:n], err, want)
		}
		if want == "STATUS=all is well" {
			close(ending)
		}
	}
	cancel()
	serving.Wait()
	if asked < 3 {
		t.Errorf("it was ready after %d answers", asked)
	}
}

func TestTheLastWordsOfAProgramAreItsError(t *testing.T) {
	for name, c := range map[string]struct{ output, message, suggestion string }{
		"an error":        {"log\nError: cannot x\nSuggestion: do y\n", "cannot x", "do y"},
		"the last error":  {"Error: a\nSuggestion: do a\nError: b\n", "b", "see 'rbee doctor'"},
		"another program": {"what\n\n", "it ended (exit status 1): what", "see 'rbee doctor'"},
		"nothing":         {"", "it ended (exit status 1)", "see 'rbee doctor'"},
	} {
		t.Run(name, func(t *testing.T) {
			e := daemon.LastWords("it ended", "exit status 1", strings.Split(c.output, "\n"))
			if e.Message != c.message || e.Suggestion() != c.suggestion {
				t.Errorf("%q, %q; want %q, %q", e.Message, e.Suggestion(), c.message, c.suggestion)
			}
		})
	}
}

func TestProgramsAreFoundInThePath(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if _, err := daemon.Program("rbee-something"); rbee.CodeOf(err) != rbee.CodeInternalError {
		t.Errorf("one that is not there: %v", err)
	}
	want := filepath.Join(dir, "rbee-something")
	if err := os.WriteFile(want, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := daemon.Program("rbee-something"); err != nil || got != want {
		t.Errorf("found %s, %v", got, err)
	}
}
