//go:build unix

package logfile_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rbee/internal/logfile"
)

// The test binary is a program with a log, too: with this variable set it
// writes to that log, and then to its standard error by itself.
const logEnv = "LOGFILE_TEST_LOG"

func TestMain(m *testing.M) {
	path := os.Getenv(logEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	l, ok := logfile.Adopt(os.Stderr, path, logfile.Limits{Bytes: 100, Old: 1})
	if !ok {
		os.Exit(1)
	}
	for i := range 100 {
		if _, err := fmt.Fprintf(l, "line %d\n", i); err != nil {
			os.Exit(1)
		}
	}
	_ = l.Close() // the stream stays open
	panic("the last words")
}

func TestAStandardStreamIsLedToTheCurrentFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.log")
	stream, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), logEnv+"="+path)
	cmd.Stderr = stream
	if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("the program ended with %v", err)
	}
	got := contents(t, filepath.Dir(path))
	if !strings.Contains(got["a.log"], "line 99\npanic: the last words") || len(got["a.log.1"]) > 100 || len(got) != 2 {
		t.Errorf("files = %q", got)
	}
}
