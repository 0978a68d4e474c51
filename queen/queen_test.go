package queen_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"rbee"
	"rbee/client"
	"rbee/internal/conf"
	"rbee/internal/daemon"
	"rbee/queen"
)

func newClient(t *testing.T, addr string, key string) *client.Client {
	t.Helper()
	c := client.New(addr, client.Key(key))
	t.Cleanup(c.Close)
	return c
}

func TestHealthIsPublicAndTheRestWantsTheKey(t *testing.T) {
	q := start(t, "RBEE_QUEEN_KEY=sesame")
	stranger, friend := newClient(t, q.Base(), ""), q.Client
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
		if err := calls[name](newClient(t, q.Base(), "wrong")); rbee.CodeOf(err) != rbee.CodeInvalidAPIKey {
			t.Errorf("%s with a wrong key gives %v", name, err)
		}
		if err := calls[name](friend); err != nil {
			t.Errorf("%s with the key gives %v", name, err)
		}
	}
}

func TestHealthIsTheExactJSON(t *testing.T) {
	q := start(t)
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	for _, path := range []string{"/health", "/v1/health"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, q.Base()+path, nil)
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

func TestShutdownEndsTheQueenAndFreesWhatShePlaced(t *testing.T) {
	q := start(t)
	gate := q.status().Bus.Addr
	m, err := q.Shutdown(t.Context())
	if err != nil || m.Message == "" {
		t.Errorf("got %+v, %v", m, err)
	}
	if err := q.wait(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, err := q.Health(t.Context()); rbee.CodeOf(err) != rbee.CodeConnectionTimeout {
		t.Errorf("after the end: %v", err)
	}
	for _, addr := range []string{strings.TrimPrefix(q.Base(), "http://"), gate} {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatalf("the port is still taken: %v", err)
		}
		ln.Close()
	}
	if _, alive := daemon.ReadNote(conf.Home(q.home), "queen"); alive {
		t.Error("run/queen.json is still there")
	}
}

func TestMetricsNameTheVersion(t *testing.T) {
	text, err := start(t).Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`rbee_queen_build_info{api_version="v1",version="0.1.0"} 1`, "go_goroutines "} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in %s", want, text)
		}
	}
}

var update = flag.Bool("update", false, "write docs/openapi-queen.json anew")

func TestTheOpenAPIDocumentIsCheckedIn(t *testing.T) {
	text, err := start(t).OpenAPI(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const path = "../docs/openapi-queen.json"
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || string(want) != text {
		t.Errorf("%s is not what the code says (%v); run 'make generate'", path, err)
	}
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct{ Summary string }
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"get /health", "get /v1/hives", "post /v1/tokens", "delete /v1/tokens/{id}", "post /v1/shutdown"} {
		method, path, _ := strings.Cut(want, " ")
		if doc.Paths[path][method].Summary == "" {
			t.Errorf("the document has no summary of %s", want)
		}
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("OpenAPI %s, want 3.1", doc.OpenAPI)
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
		{"port of the bus taken", "", 0, []string{"daemon", "--addr", "127.0.0.1:0", "--bus-addr", taken.Addr().String()}, 1, "", "cannot open the gate of the colony"},
		{"port taken", "", 0, []string{"daemon", "--addr", taken.Addr().String()}, 1, "", "the port is taken"},
		{"unknown setting", "queen:\n  adr: x\n", 0o600, []string{"daemon"}, 1, "", "Suggestion: did you mean queen.addr?"},
		{"loose permissions", "queen: {}\n", 0o644, []string{"daemon"}, 1, "", "Suggestion: chmod 600 "},
		{"missing key file", "queen:\n  key_file: /nonexistent/key\n", 0o600, []string{"daemon"}, 1, "", "does not exist"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			home := t.TempDir()
			t.Setenv("RBEE_HOME", home)
			t.Setenv("RBEE_QUEEN_BUS_ADDR", "127.0.0.1:0")
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
			said := slices.DeleteFunc(strings.Split(strings.TrimSpace(stderr.String()), "\n"), func(line string) bool { return strings.HasPrefix(line, "{") }) // the log
			if code != 0 && (len(said) < 1 || len(said) > 2) {
				t.Errorf("an error of %d lines: %s", len(said), &stderr)
			}
		})
	}
}

func TestSignalsEndTheProgramInOrder(t *testing.T) {
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			p := exec.CommandContext(t.Context(), os.Args[0], "daemon", "--addr", "127.0.0.1:0")
			p.Env = append(os.Environ(), programEnv+"=1", "RBEE_HOME="+t.TempDir(), "RBEE_QUEEN_KEY=sesame",
				"RBEE_QUEEN_BUS_ADDR=127.0.0.1:0", "RBEE_QUEEN_HIVE=off", "RBEE_LOG_FORMAT=json")
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
			if h, err := newClient(t, "http://"+addr, "sesame").Health(t.Context()); err != nil || h != rbee.Alive() {
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
