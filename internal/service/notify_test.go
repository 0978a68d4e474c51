//go:build unix

package service_test

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"rbee/internal/service"
)

// listen is a service manager that listens on a real socket.
func listen(t *testing.T) (*net.UnixConn, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, path
}

func heard(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := conn.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func environment(pairs ...string) func(string) string {
	return func(name string) string {
		if i := slices.Index(pairs, name); i >= 0 && i%2 == 0 {
			return pairs[i+1]
		}
		return ""
	}
}

func TestTheManagerHearsWhatTheServiceSays(t *testing.T) {
	conn, path := listen(t)
	n, err := service.NewNotifier(environment("NOTIFY_SOCKET", path, "WATCHDOG_USEC", "60000000", "WATCHDOG_PID", strconv.Itoa(os.Getpid())))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Close() }()
	if got := n.Watchdog(); got != time.Minute {
		t.Errorf("watchdog = %s", got)
	}
	for _, say := range []struct {
		what func() error
		want string
	}{
		{n.Ready, "READY=1"},
		{n.Alive, "WATCHDOG=1"},
		{func() error { return n.Status("2 workers\nREADY=1") }, "STATUS=2 workers READY=1"},
		{n.Stopping, "STOPPING=1\nSTATUS=Shutting down"},
	} {
		if err := say.what(); err != nil {
			t.Fatal(err)
		}
		if got := heard(t, conn); got != say.want {
			t.Errorf("heard %q, want %q", got, say.want)
		}
	}
	// The same status again is no news.
	for _, text := range []string{"2 workers\nREADY=1", "3 workers"} {
		if err := n.Status(text); err != nil {
			t.Fatal(err)
		}
	}
	if got := heard(t, conn); got != "STATUS=3 workers" {
		t.Errorf("heard %q", got)
	}
}

func TestTheWatchdogOfAnotherProcessIsNotFed(t *testing.T) {
	for name, env := range map[string][]string{
		"another's": {"WATCHDOG_USEC", "1000", "WATCHDOG_PID", "1"},
		"none":      {},
		"nonsense":  {"WATCHDOG_USEC", "-5"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, path := listen(t)
			n, err := service.NewNotifier(environment(append(env, "NOTIFY_SOCKET", path)...))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = n.Close() }()
			if n.Watchdog() != 0 {
				t.Errorf("watchdog = %s", n.Watchdog())
			}
			if err := n.Alive(); err != nil {
				t.Error(err)
			}
			if err := n.Ready(); err != nil {
				t.Error(err)
			}
			if got := heard(t, conn); got != "READY=1" {
				t.Errorf("heard %q before READY", got)
			}
		})
	}
}

func TestWithoutAManagerNothingIsSaid(t *testing.T) {
	n, err := service.NewNotifier(environment())
	if n != nil || err != nil {
		t.Fatalf("notifier %v, %v", n, err)
	}
	for _, say := range []func() error{n.Ready, n.Alive, n.Stopping, n.Close, func() error { return n.Status("x") }} {
		if err := say(); err != nil {
			t.Error(err)
		}
	}
	if _, err := service.NewNotifier(environment("NOTIFY_SOCKET", "/no/such/socket")); err == nil {
		t.Error("a socket that is not there was reached")
	}
}

func TestWhatIsForTheMainProcessAlone(t *testing.T) {
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		if !service.Own(name) {
			t.Errorf("%s would reach the workers", name)
		}
	}
	if service.Own("PATH") {
		t.Error("PATH is for all")
	}
}
