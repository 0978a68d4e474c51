package service

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// The variables with which systemd tells a service how to speak to it, as in
// sd_notify(3) and sd_watchdog_enabled(3).
const (
	socketEnv       = "NOTIFY_SOCKET"
	watchdogEnv     = "WATCHDOG_USEC"
	watchdogUserEnv = "WATCHDOG_PID"
)

// Own says whether a variable is for the service's main process alone, and not
// for its children.
func Own(variable string) bool {
	return variable == socketEnv || variable == watchdogEnv || variable == watchdogUserEnv
}

// Notifier tells systemd how the service is. Where systemd did not start the
// program it is nil, and all methods do nothing.
type Notifier struct {
	conn     *net.UnixConn
	watchdog time.Duration
	status   string // the last one that was told
}

// NewNotifier makes a notifier out of the environment of the process; nil if
// nobody listens.
func NewNotifier(env func(string) string) (*Notifier, error) {
	path := env(socketEnv)
	if path == "" {
		return nil, nil //nolint:nilnil // nobody listens, and that is no error
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("cannot reach the service manager: %w", err)
	}
	n := &Notifier{conn: conn}
	usec, err := strconv.ParseInt(env(watchdogEnv), 10, 64)
	if pid := env(watchdogUserEnv); err == nil && usec > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.watchdog = time.Duration(usec) * time.Microsecond
	}
	return n, nil
}

// Watchdog is how often Alive must be told, at least; 0 if nobody waits for it.
func (n *Notifier) Watchdog() time.Duration {
	if n == nil {
		return 0
	}
	return n.watchdog
}

// Ready says that the service does its work from now on.
func (n *Notifier) Ready() error { return n.tell("READY=1") }

// Stopping says that the service begins to end.
func (n *Notifier) Stopping() error { return n.tell("STOPPING=1\nSTATUS=Shutting down") }

// Alive feeds the watchdog, if there is one.
func (n *Notifier) Alive() error {
	if n.Watchdog() == 0 {
		return nil
	}
	return n.tell("WATCHDOG=1")
}

// Status says in a line what the service does; the same line again is not told.
// It is not safe for concurrent use.
func (n *Notifier) Status(text string) error {
	if n == nil || text == n.status {
		return nil
	}
	n.status = text
	return n.tell("STATUS=" + strings.ReplaceAll(text, "\n", " "))
}

func (n *Notifier) tell(state string) error {
	if n == nil {
		return nil
	}
	// A manager that does not read must not hold us up.
	_ = n.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, err := n.conn.Write([]byte(state))
	return err
}

// Close ends the conversation.
func (n *Notifier) Close() error {
	if n == nil {
		return nil
	}
	return n.conn.Close()
}
