//go:build linux

package e2e

import (
	"testing"

	"rbee/internal/netns"
)

// newNetwork makes a network, which is removed with the test. Only one is there
// at a time: tests with one are not parallel.
func newNetwork(t *testing.T, places int) *netns.Network {
	t.Helper()
	n := netns.New(places)
	t.Cleanup(func() {
		if err := n.Remove(); err != nil {
			t.Error(err)
		}
	})
	t.Log("the hives are " + n.Where())
	return n
}

// cut takes the cable of a place out, or puts it back in.
func cut(t *testing.T, p netns.Place, out bool) {
	t.Helper()
	if err := p.Cut(out); err != nil {
		t.Fatal(err)
	}
}
