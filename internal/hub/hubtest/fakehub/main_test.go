package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"rbee"
	"rbee/internal/hub"
)

// start runs the program in this process and returns its hub's address and a
// function that ends it and returns what it logged.
func start(t *testing.T, args ...string) (endpoint string, stop func() string) {
	t.Helper()
	stdin, closeStdin := io.Pipe()
	out, stdout := io.Pipe()
	var stderr strings.Builder
	var running sync.WaitGroup
	running.Go(func() {
		defer stdout.Close()
		if err := run(context.Background(), append(args, "--stdin"), stdin, stdout, &stderr); err != nil {
			t.Error(err)
		}
	})
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	endpoint, ok := strings.CutPrefix(strings.TrimSpace(line), "HF_ENDPOINT=")
	if !ok {
		t.Fatalf("the first line is %q", line)
	}
	return endpoint, func() string {
		closeStdin.Close()
		running.Wait()
		return stderr.String()
	}
}

func TestTheProgramServesWhatItsFlagsSay(t *testing.T) {
	onDisk := filepath.Join(t.TempDir(), "small.gguf")
	if err := os.WriteFile(onDisk, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	endpoint, stop := start(t, "--repo", "org/disk="+onDisk, "--random", "org/noise/dir/big.gguf=1.5MiB", "--gated", "org/noise",
		"--token", "hf_x", "--rate", "100MB", "--fault", "kind=status,status=502,times=1,at=listing")
	c := hub.New(hub.Config{Endpoint: endpoint, Token: "hf_x"})
	for name, want := range map[string]hub.File{
		"org/disk":  {Path: "small.gguf", SizeBytes: 5},
		"org/noise": {Path: "dir/big.gguf", SizeBytes: 3 << 19},
	} {
		r, err := c.Repository(t.Context(), name, "")
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Files) != 1 || r.Files[0].Path != want.Path || r.Files[0].SizeBytes != want.SizeBytes {
			t.Fatalf("%s has the files %+v", name, r.Files)
		}
		body, err := c.Source(name, r.Revision, r.Files[0]).Open(t.Context(), 0, want.SizeBytes)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, body)
		if body.Close(); err != nil || n != want.SizeBytes {
			t.Errorf("of %s came %d bytes, %v", name, n, err)
		}
	}
	_, err := hub.New(hub.Config{Endpoint: endpoint}).Source("org/noise", "main", hub.File{Path: "dir/big.gguf", SizeBytes: 3 << 19}).Open(t.Context(), 0, 9)
	if rbee.CodeOf(err) != rbee.CodeDownloadFailed {
		t.Errorf("without a token got %v", err)
	}
	c.Close()
	log := stop()
	for _, part := range []string{
		"hub GET /api/models/org/disk/revision/main?blobs=true range=\"\" authorized=true status=502 bytes=",
		"cdn GET /repos/org/disk/small.gguf?", `range="bytes=0-4" authorized=false status=206 bytes=5`,
		"authorized=false status=401",
	} {
		if !strings.Contains(log, part) {
			t.Errorf("the log has no %q:\n%s", part, log)
		}
	}
}

func TestFlagsThatMakeNoSenseAreRefused(t *testing.T) {
	for name, args := range map[string][]string{
		"no file":           {"--repo", "org/name=/nowhere/x.gguf"},
		"no repository":     {"--repo", "name=/x"},
		"no size":           {"--random", "org/name/f.gguf"},
		"a size that is no": {"--random", "org/name/f.gguf=big"},
		"no kind":           {"--fault", "kind=bad-luck"},
		"no status":         {"--fault", "kind=status"},
		"no such setting":   {"--fault", "kind=cut,now=1"},
		"no rate":           {"--fault", "kind=throttle"},
		"an argument":       {"org/name"},
		"an address":        {"--addr", "nowhere:x:y"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := run(t.Context(), args, strings.NewReader(""), io.Discard, io.Discard); err == nil {
				t.Error("they are taken")
			}
		})
	}
}

func TestSizesHaveUnits(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "4096": 4096, "1.5KiB": 1536, "2MiB": 2 << 20, "1GiB": 1 << 30, "10KB": 10_000, "50MB": 50_000_000, "1GB": 1e9} {
		if got, err := bytes(s); err != nil || got != want {
			t.Errorf("%s is %d, %v", s, got, err)
		}
	}
}
