package external

import (
	"net"
	"os/exec"
	"testing"
)

func TestTheMemoryOfWhoListensIsSeen(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", ":0"} {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		port := ln.Addr().(*net.TCPAddr).Port
		var l listener
		own, mapped := l.memory(port)
		if own <= 0 || mapped <= 0 || own%grain != 0 {
			t.Errorf("%s: %d and %d bytes", addr, own, mapped)
		}
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
		if own, mapped := l.memory(port); own+mapped != 0 {
			t.Errorf("%s, closed: %d and %d bytes", addr, own, mapped)
		}
	}
}

func TestChildrenOfAServerCount(t *testing.T) {
	child := exec.CommandContext(t.Context(), "cat")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, list := range childrenOf() {
		for _, pid := range list {
			found = found || pid == child.Process.Pid
		}
	}
	if !found {
		t.Error("a child is nobody's")
	}
	_ = in.Close()
	_ = child.Wait()
}

func TestAddressesOfTheKernelsTables(t *testing.T) {
	for in, want := range map[string]string{
		"0100007F:1F90":                         "127.0.0.1:8080",
		"00000000:0050":                         "0.0.0.0:80",
		"00000000000000000000000001000000:0050": "[::1]:80",
		"0000000000000000FFFF00000100007F:0050": "127.0.0.1:80",
	} {
		if got, ok := parseAddr(in); !ok || got.String() != want {
			t.Errorf("%s is %v, %v, want %s", in, got, ok, want)
		}
	}
	for _, in := range []string{"", "x:1", "01:1F90", "0100007F", "0100007F:x"} {
		if got, ok := parseAddr(in); ok {
			t.Errorf("%q is %v", in, got)
		}
	}
}
