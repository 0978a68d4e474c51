// Package netns gives programs on one machine the places of several: network
// namespaces of Linux, each with an address of its own, joined by a bridge. It is for
// tests and benchmarks of a colony, needs the system's ip and the rights of root, and
// has addresses of loopback for those who lack them. It does not know what runs there.
package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"rbee/internal/supervise"
)

// Network is a bridge and the places that it joins, or addresses of loopback.
type Network struct {
	Gate   string // address under which the places reach the process that made it
	Places []Place

	pid int   // of that process, 0 for one on loopback
	why error // it is on loopback
}

// Place is where programs run. The zero value is where everybody is.
type Place struct {
	Addr string

	space string // name of its namespace, "" on loopback
	cable string // device by which it is joined to the others
}

// prefix begins the names of what a network is made of. The pid of the process that
// made it follows: so what a killed one left is known, and removed by the next.
const prefix = "rbns"

// New removes what killed processes left and makes a network of so many places, on
// loopback where namespaces cannot be made: Where says why. A process has one at a
// time, which it removes.
func New(places int) *Network {
	err := removeStrays()
	if err == nil {
		var n *Network
		if n, err = build(os.Getpid(), places); err == nil {
			return n
		}
		err = errors.Join(err, remove(os.Getpid()))
	}
	n := Loopback(places)
	n.why = err
	return n
}

// Loopback makes a network without namespaces.
func Loopback(places int) *Network {
	n := &Network{Gate: "127.0.0.1"}
	for i := range places {
		p := Place{Addr: n.Gate}
		if runtime.GOOS == "linux" { // elsewhere loopback has one address
			p.Addr = fmt.Sprintf("127.0.0.%d", 11+i)
		}
		n.Places = append(n.Places, p)
	}
	return n
}

// build makes the bridge, and a namespace for each place. What it made before it
// fails is left.
func build(pid, places int) (*Network, error) {
	name := prefix + strconv.Itoa(pid)
	subnet := fmt.Sprintf("10.%d.%d.", 77+pid%100, pid/100%250)
	n := &Network{Gate: subnet + "1", pid: pid}
	bridge := name + "b"
	lines := []string{
		"link add " + bridge + " type bridge",
		"addr add " + n.Gate + "/24 dev " + bridge,
		"link set " + bridge + " up",
	}
	for i := range places {
		p := Place{Addr: fmt.Sprintf("%s%d", subnet, 11+i), space: fmt.Sprintf("%sn%d", name, i), cable: fmt.Sprintf("%sv%d", name, i)}
		lines = append(lines,
			"netns add "+p.space,
			"link add "+p.cable+" type veth peer name eth0 netns "+p.space,
			"link set "+p.cable+" master "+bridge+" up",
			"-n "+p.space+" addr add "+p.Addr+"/24 dev eth0",
			"-n "+p.space+" link set eth0 up",
			"-n "+p.space+" link set lo up",
			"netns exec "+p.space+" true",
		)
		n.Places = append(n.Places, p)
	}
	for _, line := range lines {
		if _, err := ip(strings.Fields(line)...); err != nil {
			return nil, fmt.Errorf("cannot make network namespaces: %w", err)
		}
	}
	return n, nil
}

// Apart says whether the places are in namespaces.
func (n *Network) Apart() bool { return n.pid != 0 }

// Where says where the places are, and why they are not in namespaces, in one line.
func (n *Network) Where() string {
	switch {
	case n.Apart():
		return "in network namespaces"
	case n.why != nil:
		return "on loopback: " + strings.Join(strings.Fields(n.why.Error()), " ")
	default:
		return "on loopback"
	}
}

// Remove removes the network.
func (n *Network) Remove() error {
	if !n.Apart() {
		return nil
	}
	return remove(n.pid)
}

// Command is a program that will run at the place, with the pid of its process.
func (p Place) Command(program string, args ...string) *exec.Cmd {
	line := append([]string{program}, args...)
	if p.space != "" {
		line = append([]string{"ip", "netns", "exec", p.space}, line...)
	}
	return exec.Command(line[0], line[1:]...)
}

// Cut takes the cable of a place in a namespace out, or puts it back in.
func (p Place) Cut(out bool) error {
	state := "up"
	if out {
		state = "down"
	}
	_, err := ip("link", "set", p.cable, state)
	return err
}

// ip runs the system's program for networks.
func ip(args ...string) (said string, err error) {
	if runtime.GOOS != "linux" {
		return "", errors.New("only Linux has them")
	}
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err == nil {
		return string(out), nil
	}
	if text := bytes.TrimSpace(out); len(text) > 0 {
		err = errors.New(string(text))
	}
	return "", fmt.Errorf("ip %s: %w", strings.Join(args, " "), err)
}

// made lists the namespaces and devices of networks, with the pids of who made them.
// Without ip there are none.
func made() (spaces, devices map[string]int) {
	find := func(args ...string) map[string]int {
		found := map[string]int{}
		said, _ := ip(args...) // says why when it is to make something
		for _, m := range regexp.MustCompile(`\b`+prefix+`(\d+)[bnv]\d*`).FindAllStringSubmatch(said, -1) {
			if pid, err := strconv.Atoi(m[1]); err == nil {
				found[m[0]] = pid
			}
		}
		return found
	}
	return find("netns", "list"), find("-o", "link", "show")
}

// removeStrays removes what processes made that run no more. One of them may have had
// the pid of this one.
func removeStrays() error {
	var pids []int
	spaces, devices := made()
	for _, found := range []map[string]int{spaces, devices} {
		for _, pid := range found {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	var errs []error
	for _, pid := range slices.Compact(pids) {
		_, err := supervise.StartTime(pid)
		if pid != os.Getpid() && !errors.Is(err, supervise.ErrNoProcess) {
			continue
		}
		if err := remove(pid); err != nil {
			errs = append(errs, fmt.Errorf("cannot remove the network of process %d, which runs no more: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// remove removes what a process made.
func remove(pid int) error {
	var errs []error
	spaces, devices := made()
	for name, of := range spaces {
		if of == pid {
			_, err := ip("netns", "del", name)
			errs = append(errs, err)
		}
	}
	for name, of := range devices {
		if of != pid {
			continue
		}
		if _, err := ip("link", "del", name); err != nil && !strings.Contains(err.Error(), "Cannot find device") { // gone with its namespace
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
