//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rbee"
)

// TestTheOfficialJavaScriptClientWorks runs the client that most of the world
// uses against a worker, through its hive.
func TestTheOfficialJavaScriptClientWorks(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "openai.mjs"} {
		text, err := os.ReadFile(filepath.Join("testdata/openai", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The lock file has the digest; what npm has in its cache is not fetched again.
	install := exec.CommandContext(t.Context(), "npm", "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("cannot install the client: %v\n%s", err, out)
	}
	c := newColony(t)
	daemon, hive := c.daemon()
	w := c.spawn(hive, rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})
	run := exec.CommandContext(t.Context(), "node", "openai.mjs", w.URL+"/v1")
	run.Dir = dir
	if out, err := run.CombinedOutput(); err != nil || !strings.HasSuffix(string(out), "done\n") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := hive.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	daemon.mustExit("exit status 0")
}
