//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// network gives each hive of a colony a machine's place in a network of its own:
// a namespace with an address, joined by a bridge. Where the test may not make
// these, it gives them different addresses of loopback.
type network struct {
	t      *testing.T
	gate   string // address under which hives reach what the test runs
	places []place
	apart  bool // in namespaces
}

// place is where a hive runs.
type place struct {
	addr  string
	enter []string // command that runs another one there
	cable string   // device by which it is joined to the others, "" on loopback
}

// Names of what a network makes begin with netPrefix and the test's pid, so that
// what a killed run left is known by its pid and removed by the next.
const netPrefix = "rbe2e"

func netName(what string) string { return fmt.Sprintf("%s%d%s", netPrefix, os.Getpid(), what) }

// newNetwork makes a network, which is removed with the test. Only one is there
// at a time: tests with one are not parallel.
func newNetwork(t *testing.T, places int) *network {
	t.Helper()
	removeStrayNetworks(t)
	n := &network{t: t}
	t.Cleanup(n.remove)
	if err := n.build(places); err != nil {
		t.Logf("the hives share the network of the test: %v", err)
		n.remove()
		n.gate, n.places, n.apart = "127.0.0.1", nil, false
		for i := range places {
			n.places = append(n.places, place{addr: fmt.Sprintf("127.0.0.%d", 11+i)})
		}
	}
	return n
}

// build makes the bridge, and a namespace for each place.
func (n *network) build(places int) error {
	pid := os.Getpid()
	subnet := fmt.Sprintf("10.%d.%d.", 77+pid%100, pid/100%250)
	bridge := netName("b")
	n.gate, n.apart = subnet+"1", true
	lines := []string{
		"link add " + bridge + " type bridge",
		"addr add " + n.gate + "/24 dev " + bridge,
		"link set " + bridge + " up",
	}
	for i := range places {
		name, cable := netName(fmt.Sprintf("n%d", i)), netName(fmt.Sprintf("v%d", i))
		p := place{addr: fmt.Sprintf("%s%d", subnet, 11+i), cable: cable, enter: []string{"ip", "netns", "exec", name}}
		lines = append(lines,
			"netns add "+name,
			"link add "+cable+" type veth peer name eth0 netns "+name,
			"link set "+cable+" master "+bridge+" up",
			"-n "+name+" addr add "+p.addr+"/24 dev eth0",
			"-n "+name+" link set eth0 up",
			"-n "+name+" link set lo up",
			"netns exec "+name+" true",
		)
		n.places = append(n.places, p)
	}
	for _, line := range lines {
		if err := ip(strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// cut takes the cable of a place out, or puts it back in.
func (n *network) cut(p place, out bool) {
	n.t.Helper()
	state := "up"
	if out {
		state = "down"
	}
	if err := ip("link", "set", p.cable, state); err != nil {
		n.t.Fatal(err)
	}
}

// remove removes what newNetwork made.
func (n *network) remove() { removeNetwork(n.t, os.Getpid()) }

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// networks lists the pids of tests of which there is a namespace or a device.
func networks(t *testing.T) map[int]bool {
	t.Helper()
	pids := map[int]bool{}
	for _, args := range [][]string{{"netns", "list"}, {"-o", "link", "show"}} {
		out, err := exec.Command("ip", args...).Output()
		if err != nil {
			continue // then nothing was made with it either
		}
		for _, found := range regexp.MustCompile(`\b`+netPrefix+`(\d+)[bnv]`).FindAllStringSubmatch(string(out), -1) {
			if pid, err := strconv.Atoi(found[1]); err == nil {
				pids[pid] = true
			}
		}
	}
	return pids
}

// removeStrayNetworks removes those of tests that run no more.
func removeStrayNetworks(t *testing.T) {
	t.Helper()
	for pid := range networks(t) {
		if pid == os.Getpid() || !runs(pid) {
			removeNetwork(t, pid)
		}
	}
}

func removeNetwork(t *testing.T, pid int) {
	t.Helper()
	prefix := fmt.Sprintf("%s%d", netPrefix, pid)
	names, _ := exec.Command("ip", "netns", "list").Output()
	for line := range strings.Lines(string(names)) {
		if f := strings.Fields(line); len(f) > 0 && strings.HasPrefix(f[0], prefix+"n") {
			if err := ip("netns", "del", f[0]); err != nil {
				t.Error(err)
			}
		}
	}
	links, _ := exec.Command("ip", "-o", "link", "show").Output()
	for _, found := range regexp.MustCompile(`\b`+prefix+`[bv]\d*`).FindAllString(string(links), -1) {
		if err := ip("link", "del", found); err != nil && !strings.Contains(err.Error(), "Cannot find device") { // gone with its namespace
			t.Error(err)
		}
	}
}

func TestTheNetworkOfTestsLeavesNothing(t *testing.T) {
	t.Run("made", func(t *testing.T) {
		n := newNetwork(t, 2)
		if len(n.places) != 2 || n.places[0].addr == n.places[1].addr {
			t.Fatalf("the places are %+v", n.places)
		}
		if n.apart && !networks(t)[os.Getpid()] {
			t.Error("it is not found by its name")
		}
	})
	if networks(t)[os.Getpid()] {
		t.Error("the network is left")
	}
}
