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

// javaScript runs the official JavaScript client, which most of the world uses,
// against a base URL that knows bee-tiny, and not the unknown model.
func javaScript(t *testing.T, base, unknown string) {
	t.Helper()
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
	run := exec.CommandContext(t.Context(), "node", "openai.mjs", base+"/v1", unknown)
	run.Dir = dir
	if out, err := run.CombinedOutput(); err != nil || !strings.HasSuffix(string(out), "done\n") {
		t.Errorf("%v\n%s", err, out)
	}
}

// The client works with a worker, through its hive.
func TestTheOfficialJavaScriptClientWorks(t *testing.T) {
	c := newColony(t)
	daemon, hive := c.daemon()
	w := c.spawn(hive, rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})
	javaScript(t, w.URL, "gpt-4o")
	if _, err := hive.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	daemon.mustExit("exit status 0")
}
