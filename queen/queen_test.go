package queen_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"rbee"
	"rbee/client"
	"rbee/internal/conf"
	"rbee/queen"
)

// programEnv makes the test binary the program itself, wired as in cmd/queen-rbee.
const programEnv = "RBEE_TEST_QUEEN_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(programEnv) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		context.AfterFunc(ctx, stop)
		os.Exit(queen.Main(ctx, os.Args[1:], os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

// start runs a queen on a free port until the test ends. The function ends it
// and returns what Run said.
func start(t *testing.T, key conf.Secret) (addr string, end func() error) {
	t.Helper()
	q, err := queen.New(queen.Config{Addr: "127.0.0.1:0", Key: key, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { err = q.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		run.Wait()
	})
	return q.Addr(), func() error {
		run.Wait()
		return err
	}
}

func newClient(t *testing.T, addr string, key string) *client.Client {
	t.Helper()
	c := client.New("http://"+addr, client.Key(key))
	t.Cleanup(c.Close)
	return c
}

func TestHealthIsPublicAndTheRestWantsTheKey(t *testing.T) {
	addr, _ := start(t, "sesame")
	stranger, friend := newClient(t, addr, ""), newClient(t, addr, "sesame")
	for _, c := range []*client.Client{stranger, friend} {
		if h, err := c.Health(t.Context()); err != nil || h != rbee.Alive() {
			t.Errorf("health is %+v, %v", h, err)
		}
	}
	calls := map[string]func(*client.Client) error{
		"metrics":  func(c *client.Client) error { _, err := c.Metrics(t.Context()); return err },
		"openapi":  func(c *client.Client) error { _, err := c.OpenAPI(t.Context()); return err },
		"shutdown": func(c *client.Client) error { _, err := c.Shutdown(t.Context()); return err },
	}
	for _, name := range []string{"metrics", "openapi", "shutdown"} {
		if err := calls[name](stranger); rbee.CodeOf(err) != rbee.CodeMissingAPIKey {
			t.Errorf("%s without a key gives %v", name, err)
		}
		if err := calls[name](newClient(t, addr, "wrong")); rbee.CodeOf(err) != rbee.CodeInvalidAPIKey {
			t.Errorf("%s with a wrong key gives %v", name, err)
		}
		if err := calls[name](friend); err != nil {
			t.Errorf("%s with the key gives %v", name, err)
		}
	}
}

func TestHealthIsTheExactJSON(t *testing.T) {
	addr, _ := start(t, "")
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	for _, path := range []string{"/health", "/v1/health"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := `{"status":"alive","version":"0.1.0","api_version":"v1"}`; err != nil || strings.TrimSpace(string(b)) != want {
			t.Errorf("%s: %s, %v; want %s", path, b, err, want)
		}
	}
}

func TestShutdownEndsTheQueenAndFreesThePort(t *testing.T) {
	addr, end := start(t, "")
	c := newClient(t, addr, "")
	m, err := c.Shutdown(t.Context())
	if err != nil || m.Message == "" {
		t.Errorf("got %+v, %v", m, err)
	}
	if err := end(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, err := c.Health(t.Context()); rbee.CodeOf(err) != rbee.CodeConnectionTimeout {
		t.Errorf("after the end: %v", err)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("the port is still taken: %v", err)
	}
	ln.Close()
}

func TestMetricsNameTheVersion(t *testing.T) {
	addr, _ := start(t, "")
	text, err := newClient(t, addr, "").Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`rbee_queen_build_info{api_version="v1",version="0.1.0"} 1`, "go_goroutines "} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in %s", want, text)
		}
	}
}

func TestTheDocumentHoldsEveryRouteAndNoOther(t *testing.T) {
	addr, _ := start(t, "")
	text, err := newClient(t, addr, "").OpenAPI(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct{ Summary string }
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"/health": "get", "/v1/health": "get", "/metrics": "get", "/openapi.json": "get", "/v1/shutdown": "post"}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if want[path] != method || op.Summary == "" {
				t.Errorf("the document holds %s %s with the summary %q", method, path, op.Summary)
			}
		}
	}
	if len(doc.Paths) != len(want) || !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("OpenAPI %s with %d paths, want 3.1 with %d", doc.OpenAPI, len(doc.Paths), len(want))
	}
}

func TestUsageAndFaultsOfTheProgram(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cases := []struct {
		name   string
		config string
		mode   os.FileMode
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{"version", "", 0, []string{"version"}, 0, "queen-rbee 0.1.0 (api v1)", ""},
		{"help", "", 0, []string{"--help"}, 0, "daemon", ""},
		{"help of a command", "", 0, []string{"daemon", "--help"}, 0, "--addr", ""},
		{"unknown command", "", 0, []string{"dance"}, 2, "", "Suggestion: see queen-rbee --help"},
		{"unknown flag", "", 0, []string{"daemon", "--port", "1"}, 2, "", "Error: unknown flag: --port"},
		{"argument too many", "", 0, []string{"daemon", "now"}, 2, "", "Error: "},
		{"bad address", "", 0, []string{"daemon", "--addr", "here"}, 1, "", "flag: queen.addr must be HOST:PORT"},
		{"network without a key", "", 0, []string{"daemon", "--addr", "0.0.0.0:0"}, 1, "", "without a key"},
		{"port taken", "", 0, []string{"daemon", "--addr", taken.Addr().String()}, 1, "", "the port is taken"},
		{"unknown setting", "queen:\n  adr: x\n", 0o600, []string{"daemon"}, 1, "", "Suggestion: did you mean queen.addr?"},
		{"loose permissions", "queen: {}\n", 0o644, []string{"daemon"}, 1, "", "Suggestion: chmod 600 "},
		{"missing key file", "queen:\n  key_file: /nonexistent/key\n", 0o600, []string{"daemon"}, 1, "", "does not exist"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			home := t.TempDir()
			t.Setenv("RBEE_HOME", home)
			if c.config != "" {
				file := filepath.Join(home, "config.yaml")
				if err := os.WriteFile(file, []byte(c.config), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(file, c.mode); err != nil {
					t.Fatal(err)
				}
			}
			var stdout, stderr bytes.Buffer
			code := queen.Main(t.Context(), c.args, &stdout, &stderr)
			if code != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("exit %d\nstdout: %s\nstderr: %s\nwant %d, %q, %q", code, &stdout, &stderr, c.code, c.stdout, c.stderr)
			}
			if lines := strings.Count(stderr.String(), "\n"); code != 0 && (lines < 1 || lines > 2) {
				t.Errorf("an error of %d lines: %s", lines, &stderr)
			}
		})
	}
}

func TestSignalsEndTheProgramInOrder(t *testing.T) {
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			p := exec.CommandContext(t.Context(), os.Args[0], "daemon", "--addr", "127.0.0.1:0")
			p.Env = append(os.Environ(), programEnv+"=1", "RBEE_HOME="+t.TempDir(), "RBEE_QUEEN_KEY=sesame", "RBEE_LOG_FORMAT=json")
			stderr, err := p.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(stderr)
			addr, err := listening(lines)
			if err != nil {
				t.Fatal(err)
			}
			if h, err := newClient(t, addr, "sesame").Health(t.Context()); err != nil || h != rbee.Alive() {
				t.Errorf("health is %+v, %v", h, err)
			}
			if err := p.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			var rest strings.Builder
			for lines.Scan() {
				rest.WriteString(lines.Text())
			}
			if err := p.Wait(); err != nil {
				t.Errorf("the program ended with %v: %s", err, rest.String())
			}
			if !strings.Contains(rest.String(), "queen ends") || !strings.Contains(rest.String(), "signal") || strings.Contains(rest.String(), "sesame") {
				t.Errorf("the log says %s", rest.String())
			}
		})
	}
}

// listening finds the address in the log of a program that starts.
func listening(lines *bufio.Scanner) (string, error) {
	for lines.Scan() {
		var l struct{ Msg, Addr, Role string }
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return "", fmt.Errorf("cannot read %q: %w", lines.Text(), err)
		}
		if l.Msg == "queen listens" && l.Role == "queen" {
			return l.Addr, nil
		}
	}
	return "", fmt.Errorf("the log ended without an address: %w", lines.Err())
}
