package netns

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// dialing makes the test's program one that dials an address and says how it went.
const dialing = "NETNS_TEST_DIAL"

func TestMain(m *testing.M) {
	addr := os.Getenv(dialing)
	if addr == "" {
		os.Exit(m.Run())
	}
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_ = conn.Close()
}

// dials reports whether a program at a place reaches an address.
func dials(t *testing.T, p Place, addr string) bool {
	t.Helper()
	cmd := p.Command(os.Args[0])
	cmd.Env = append(os.Environ(), dialing+"="+addr)
	out, err := cmd.CombinedOutput()
	t.Logf("%s dials %s: %v %s", p.Addr, addr, err, out)
	return err == nil
}

// left reports whether anything is left of what a process made.
func left(pid int) bool {
	spaces, devices := made()
	for _, found := range []map[string]int{spaces, devices} {
		for _, of := range found {
			if of == pid {
				return true
			}
		}
	}
	return false
}

// Where namespaces cannot be made this shows the same of loopback, but for the cables.
func TestPlacesReachTheGateUntilTheirCableIsOut(t *testing.T) {
	n := New(2)
	t.Cleanup(func() {
		if err := n.Remove(); err != nil || left(os.Getpid()) {
			t.Errorf("something is left: %v", err)
		}
	})
	t.Log("the places are " + n.Where())
	if len(n.Places) != 2 || n.Apart() && n.Places[0].Addr == n.Places[1].Addr {
		t.Fatalf("the places are %+v", n.Places)
	}
	if n.Apart() != left(os.Getpid()) {
		t.Error("it is not known by the pid of who made it")
	}
	l, err := net.Listen("tcp", n.Gate+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, p := range n.Places {
		if !dials(t, p, l.Addr().String()) {
			t.Errorf("%s does not reach the gate", p.Addr)
		}
	}
	if !n.Apart() {
		return
	}
	if err := n.Places[0].Cut(true); err != nil {
		t.Fatal(err)
	}
	if dials(t, n.Places[0], l.Addr().String()) || !dials(t, n.Places[1], l.Addr().String()) {
		t.Error("who reaches the gate does not depend on its cable")
	}
	if err := n.Places[0].Cut(false); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); !dials(t, n.Places[0], l.Addr().String()); {
		if time.Now().After(deadline) {
			t.Fatal("the cable is back in, and the gate is not reached")
		}
	}
}

func TestTheNextProcessRemovesWhatAKilledOneLeft(t *testing.T) {
	gone := exec.Command(os.Args[0], "-test.list", "nothing")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	pid := gone.Process.Pid
	_, err := build(pid, 1) // as far as it comes
	if err == nil && !left(pid) {
		t.Error("nothing was made")
	}
	n := New(1)
	if err := n.Remove(); err != nil {
		t.Error(err)
	}
	if left(pid) {
		t.Error("what the killed one made is left")
	}
}

func TestWhoMayNotMakeNamespacesGetsLoopbackAndIsToldWhy(t *testing.T) {
	t.Setenv("PATH", "")
	n := New(3)
	if n.Apart() || len(n.Places) != 3 || n.Gate != "127.0.0.1" || !strings.HasPrefix(n.Places[2].Addr, "127.") {
		t.Errorf("got %+v", n)
	}
	if where := n.Where(); !strings.HasPrefix(where, "on loopback: cannot make network namespaces: ") {
		t.Errorf("they are %s", where)
	}
	if err := n.Remove(); err != nil {
		t.Error(err)
	}
}
