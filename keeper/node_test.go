package keeper

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rbee"
	"rbee/internal/conf"
)

func testConfig(t *testing.T, environ ...string) conf.Config {
	t.Helper()
	user := t.TempDir()
	t.Setenv("HOME", user)
	cfg, err := conf.Load(conf.Options{Home: filepath.Join(user, "home"), Environ: append(environ, "HOME="+user)})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestNodes(t *testing.T) {
	cfg := testConfig(t, "RBEE_HIVE_KEY=the-key-of-this-machine", "RBEE_HIVE_ADDR=0.0.0.0:9000",
		"RBEE_NODES=big=https://big.example:8443", "RBEE_NODES_BIG_KEY=the-key-of-big-big-big")
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	sshConfig := "Host hut\n  HostName 10.1.2.3\n  User bee\n  Port 2222\nHost *.lab\n  HostName %h.example\n"
	if err := os.WriteFile(filepath.Join(home, ".ssh", "config"), []byte(sshConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	type want struct {
		Base, Key string
		Local     bool
	}
	for node, w := range map[string]want{
		"localhost":              {"http://127.0.0.1:9000", "the-key-of-this-machine", true},
		"big":                    {"https://big.example:8443", "the-key-of-big-big-big", false},
		"hut":                    {"http://10.1.2.3:8080", "", false},
		"x.lab":                  {"http://x.lab.example:8080", "", false},
		"192.168.1.7":            {"http://192.168.1.7:8080", "", false},
		"192.168.1.7:81":         {"http://192.168.1.7:81", "", false},
		"[::1]:81":               {"http://[::1]:81", "the-key-of-this-machine", true},
		"127.0.0.1:7000":         {"http://127.0.0.1:7000", "the-key-of-this-machine", true},
		"http://bee.example:99/": {"http://bee.example:99", "", false},
	} {
		t.Run(node, func(t *testing.T) {
			got, err := findTarget(cfg, node)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(w, want{got.base, got.key.Reveal(), got.local}); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, node := range []string{"what is this", "a/b", "ftp://x", "-oProxyCommand=x", "http://user@host"} {
		if _, err := findTarget(cfg, node); rbee.CodeOf(err) != rbee.CodeInvalidRequest || rbee.AsError(err).Suggestion() == "" {
			t.Errorf("%q: error %v", node, err)
		}
	}
}

func TestRecordOfADeadHiveIsNotBelieved(t *testing.T) {
	cfg := testConfig(t)
	if err := cfg.Home.Create(); err != nil {
		t.Fatal(err)
	}
	write := func(pid int) {
		t.Helper()
		b, err := json.Marshal(hiveRecord{PID: pid, URL: "http://127.0.0.1:7001"})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(cfg.Home.RunDir(), "hive.json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(1 << 30)
	got, err := localTarget(cfg)
	if err != nil || got.ownDaemon || got.base != "http://127.0.0.1:8080" {
		t.Errorf("dead: %+v, %v", got, err)
	}
	write(os.Getpid())
	got, err = localTarget(cfg)
	if err != nil || !got.ownDaemon || got.base != "http://127.0.0.1:7001" {
		t.Errorf("alive: %+v, %v", got, err)
	}
	status, err := lookForHive(t.Context(), cfg)
	if err != nil || status.Running {
		t.Errorf("a pid that is another program's counts as a hive: %+v, %v", status, err)
	}
}

func TestPathsBecomeFileReferences(t *testing.T) {
	cfg := testConfig(t)
	dir := t.TempDir()
	t.Chdir(dir)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for model, want := range map[string]string{
		"./x.gguf":            "file:" + here + "/x.gguf",
		"../x.gguf":           "file:" + filepath.Dir(here) + "/x.gguf",
		"/models/../m/x.gguf": "file:/m/x.gguf",
		"builtin:bee-tiny":    "builtin:bee-tiny",
		"org/repo:Q4_K_M":     "hf:org/repo:Q4_K_M",
		"qwen":                "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF::qwen2.5-0.5b-instruct-q4_k_m.gguf",
	} {
		got, err := modelRef(cfg, model, true)
		if err != nil || got.String() != want {
			t.Errorf("%s: %s, %v; want %s", model, got, err, want)
		}
	}
	if _, err := modelRef(cfg, "./x.gguf", false); rbee.CodeOf(err) != rbee.CodeInvalidRequest || !strings.Contains(err.Error(), "relative path") {
		t.Errorf("relative path for another machine: %v", err)
	}
}
