package conf_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"rbee"
	"rbee/internal/conf"
)

// load reads the settings of a state directory whose config.yaml holds text
// ("" makes none) under the given variables.
func load(t *testing.T, text string, environ ...string) (conf.Config, error) {
	t.Helper()
	home := t.TempDir()
	if text != "" {
		write(t, filepath.Join(home, "config.yaml"), text, 0o600)
	}
	return conf.Load(conf.Options{Home: home, Environ: append(environ, "HOME=/home/bee")})
}

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func mustLoad(t *testing.T, text string, environ ...string) conf.Config {
	t.Helper()
	c, err := load(t, text, environ...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var sameSettings = cmp.Options{cmpopts.IgnoreUnexported(conf.Config{}), cmpopts.IgnoreFields(conf.Config{}, "Home")}

func TestAMissingFileMeansTheDefaults(t *testing.T) {
	if diff := cmp.Diff(conf.Defaults(), mustLoad(t, ""), sameSettings); diff != "" {
		t.Error(diff)
	}
}

func TestTheReferenceFileSaysExactlyTheDefaults(t *testing.T) {
	c := mustLoad(t, conf.Reference())
	if diff := cmp.Diff(conf.Defaults(), c, sameSettings); diff != "" {
		t.Errorf("the reference file and the defaults differ:\n%s", diff)
	}
	for _, s := range c.Settings() {
		if s.Origin == "default" {
			t.Errorf("the reference file does not name %s", s.Key)
		}
	}
}

func TestTheReferenceFileDescribesNodesAndServers(t *testing.T) {
	var lines []string
	for line := range strings.Lines(conf.Reference()) {
		if entry, ok := strings.CutPrefix(line, "#   "); ok {
			lines = append(lines, "  "+entry)
		}
	}
	c := mustLoad(t, "nodes:\n"+strings.Join(lines, ""))
	want := map[string]conf.Node{
		"big":    {URL: "http://192.168.1.20:8080", KeyFile: "/home/bee/.rbee/big.key"},
		"ollama": {URL: "http://127.0.0.1:11434", KeyFile: "/home/bee/.rbee/ollama.key"},
	}
	if diff := cmp.Diff(want, c.Nodes); diff != "" {
		t.Error(diff)
	}
}

func TestEverySettingCanBeSetInTheFileAndInTheEnvironment(t *testing.T) {
	values := map[string]string{
		"hive.addr": "10.0.0.1:81", "hive.url": "https://hive.example/x", "hive.key": "filekey",
		"hive.key_file": "/keys/hive", "hive.memory_limit_mb": "9000",
		"worker.program": "/bin/w", "worker.threads": "3", "worker.slots": "7", "worker.context": "4096",
		"worker.queue": "0", "worker.keep_alive": "forever", "worker.load_timeout": "90s",
		"hive.leave_free_mb": "1", "hive.leave_free_vram_mb": "0", "hive.hours": "22:00-08:00", "hive.on_battery": "never",
		"hive.preload": "qwen, hf:a/b", "hive.warm_up": "off", "hive.discover": "on", "hive.name": "attic", "hive.join": "rbee1.xyz", "hive.join_file": "/keys/join",
		"worker.keep_alive_of": "qwen=1h, hf:a/b=0", "worker.rest_after": "forever",
		"queen.addr": ":9", "queen.key": "queenkey", "queen.key_file": "/keys/queen",
		"queen.bus_addr": ":10", "queen.join": "rbee1.abc", "queen.names": "bee.example, 10.0.0.1", "queen.hive": "off", "queen.queue": "0",
		"engine.dir": "/engines", "models.quota_gb": "0.5", "download.connections": "2", "download.limit_mbps": "12.5",
		"download.quiet_hours": "22:30-06:00", "download.quiet_limit_mbps": "1000000", "log.level": "debug", "log.format": "json",
	}
	for _, s := range conf.Defaults().Settings() {
		if strings.HasPrefix(s.Key, "aliases.") {
			continue
		}
		value, ok := values[s.Key]
		if !ok {
			t.Errorf("the test has no value for %s", s.Key)
			continue
		}
		section, name, _ := strings.Cut(s.Key, ".")
		fromFile := mustLoad(t, section+":\n  "+name+": "+value+"\n")
		fromEnv := mustLoad(t, "", s.Variable+"="+value)
		if diff := cmp.Diff(fromFile, fromEnv, sameSettings); diff != "" {
			t.Errorf("%s in the file and %s differ:\n%s", s.Key, s.Variable, diff)
		}
		for _, c := range []conf.Config{fromFile, fromEnv} {
			i := slices.IndexFunc(c.Settings(), func(x conf.Setting) bool { return x.Key == s.Key })
			got := c.Settings()[i]
			want := value
			if name == "key" || name == "join" {
				want = "***"
			}
			if s.Key == "worker.load_timeout" {
				want = "1m30s"
			}
			if got.Value != want || got.Origin == "default" {
				t.Errorf("%s is %q from %s, want %q", s.Key, got.Value, got.Origin, want)
			}
		}
	}
}

func TestLaterLayersWin(t *testing.T) {
	home := t.TempDir()
	write(t, filepath.Join(home, "config.yaml"), "hive:\n  addr: 127.0.0.1:1\nworker:\n  slots: 2\n  queue: 3\n", 0o600)
	c, err := conf.Load(conf.Options{
		Home:     home,
		Environ:  []string{"RBEE_HIVE_ADDR=127.0.0.1:2", "RBEE_WORKER_SLOTS=5", "RBEE_LOG_LEVEL="},
		Override: func(c *conf.Config) { c.Hive.Addr = "127.0.0.1:3" },
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Hive.Addr != "127.0.0.1:3" || c.Worker.Slots != 5 || c.Worker.Queue != 3 || c.Log.Level != "info" {
		t.Errorf("got %+v", c)
	}
	origin := map[string]string{}
	for _, s := range c.Settings() {
		origin[s.Key] = s.Origin
	}
	want := map[string]string{
		"hive.addr": "flag", "worker.slots": "RBEE_WORKER_SLOTS", "log.level": "default",
		"worker.queue": filepath.Join(home, "config.yaml") + ":5:3",
	}
	for key, o := range want {
		if origin[key] != o {
			t.Errorf("%s comes from %s, want %s", key, origin[key], o)
		}
	}
}

func TestFaultsOfTheFile(t *testing.T) {
	cases := []struct {
		name, text   string
		line, column int
		key          string
		says         string
		suggests     string
	}{
		{"misspelt key", "hive:\n  adr: 127.0.0.1:1\n", 2, 3, "hive.adr", "is not a setting", "did you mean hive.addr?"},
		{"misspelt section", "\nhives:\n  addr: 127.0.0.1:1\n", 2, 1, "hives", "is not a setting", "did you mean hive?"},
		{"setting without its section", "keep_alive: 5m\n", 1, 1, "keep_alive", "is not a setting", "did you mean worker.keep_alive?"},
		{"nothing alike", "log:\n  banana: 1\n", 2, 3, "log.banana", "is not a setting", "known here: level, format"},
		{"misspelt key of a node", "nodes:\n  a:\n    ulr: http://a:1\n", 3, 5, "nodes.a.ulr", "is not a setting", "did you mean nodes.a.url?"},
		{"number for a word", "worker:\n  slots: many\n", 2, 10, "worker.slots", "must be a whole number", "config check"},
		{"fraction", "worker:\n  slots: 1.5\n", 2, 10, "worker.slots", "must be a whole number", "config check"},
		{"quoted number", "worker:\n  slots: '4'\n", 2, 10, "worker.slots", "must be a whole number", "config check"},
		{"huge number", "worker:\n  slots: 99999999999999999999\n", 2, 10, "worker.slots", "must be a whole number", "config check"},
		{"list for a text", "hive:\n  addr: [a]\n", 2, 9, "hive.addr", "must be a text", "quotes"},
		{"map for a text", "hive:\n  addr:\n    a: b\n", 3, 6, "hive.addr", "must be a text", "quotes"},
		{"text for a section", "hive: yes\n", 1, 7, "hive", "must be a list of settings", "reference"},
		{"list for the file", "- a\n- b\n", 1, 1, "", "must be a list of settings", "reference"},
		{"duration without a unit", "worker:\n  load_timeout: 30\n", 2, 17, "worker.load_timeout", "must be a duration with a unit", "5m"},
		{"keep-alive without a unit", "worker:\n  keep_alive: 300\n", 2, 15, "worker.keep_alive", "must be a duration with a unit, or 0, or forever", "5m"},
		{"negative keep-alive", "worker:\n  keep_alive: -5m\n", 2, 15, "worker.keep_alive", "or forever", "5m"},
		{"no value", "hive:\n  addr:\n  url: http://a\n", 2, 3, "hive.addr", "has no value", "remove the line"},
		{"address without a port", "hive:\n  addr: localhost\n", 2, 3, "hive.addr", "must be HOST:PORT", "127.0.0.1:8080"},
		{"port that is none", "queen:\n  addr: 127.0.0.1:99999\n", 2, 3, "queen.addr", "must be HOST:PORT", "127.0.0.1:8080"},
		{"URL without a scheme", "hive:\n  url: gpu:8080\n", 2, 3, "hive.url", "must be a URL", "http://"},
		{"too many slots", "worker:\n  slots: 65\n", 2, 3, "worker.slots", "must be at most 64", "config check"},
		{"context too short", "worker:\n  context: 5\n", 2, 3, "worker.context", "must be at least 64", "config check"},
		{"unknown level", "log:\n  level: loud\n", 2, 3, "log.level", "must be one of debug, info, warn, error", "config check"},
		{"key with a space", "hive:\n  key: \"top secret\"\n", 2, 3, "hive.key", "printable ASCII", "openssl"},
		{"word for a number", "models:\n  quota_gb: big\n", 2, 13, "models.quota_gb", "must be a number", "config check"},
		{"quoted fraction", "models:\n  quota_gb: '1.5'\n", 2, 13, "models.quota_gb", "must be a number", "config check"},
		{"infinity", "models:\n  quota_gb: .inf\n", 2, 13, "models.quota_gb", "must be a number", "config check"},
		{"more than there is", "models:\n  quota_gb: 1000001\n", 2, 3, "models.quota_gb", "must be at most 1000000", "config check"},
		{"negative limit", "download:\n  limit_mbps: -0.5\n", 2, 3, "download.limit_mbps", "must be at least 0", "config check"},
		{"no connection", "download:\n  connections: 0\n", 2, 3, "download.connections", "must be at least 1", "config check"},
		{"too many connections", "download:\n  connections: 9\n", 2, 3, "download.connections", "must be at most 8", "config check"},
		{"hours that are none", "download:\n  quiet_hours: at night\n", 2, 3, "download.quiet_hours", "must be two different times", "08:00-18:00"},
		{"hour for hours", "download:\n  quiet_hours: 8\n", 2, 3, "download.quiet_hours", "must be two different times", "08:00-18:00"},
		{"both keys", "hive:\n  key: topsecret\n  key_file: /k\n", 2, 3, "hive.key", "exclude one another", "remove"},
		{"relative path", "engine:\n  dir: engines\n", 2, 3, "engine.dir", "must be an absolute path", "~/"},
		{"node without a URL", "nodes:\n  a:\n    key: topsecret\n", 2, 3, "nodes.a.url", "is missing", "url:"},
		{"node with a bad name", "nodes:\n  a/b:\n    url: http://a:1\n", 2, 3, "nodes.a/b", "has a name", "another"},
		{"bad alias", "aliases:\n  mine: ../x\n", 2, 3, "aliases.mine", "must be a model reference", "hf:"},
		{"alias without a value", "aliases:\n  mine:\n", 2, 3, "aliases.mine", "has no value", "remove"},
		{"key twice", "hive:\n  addr: 127.0.0.1:1\n  addr: 127.0.0.1:2\n", 3, 3, "", "addr", "indent"},
		{"no YAML", "hive: {addr: \n", 1, 12, "", "is not valid YAML", "indent"},
		{"two documents", "log:\n  level: info\n---\nlog:\n  level: warn\n", 3, 1, "", "must be one document", "---"},
		{"alias of YAML", "hive:\n  addr: *x\n", 2, 9, "hive.addr", "must be a text", "quotes"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(t, c.text)
			var e *rbee.Error
			if !errors.As(err, &e) || e.Code != rbee.CodeInvalidRequest {
				t.Fatalf("got %v, want %s", err, rbee.CodeInvalidRequest)
			}
			if e.Details["line"] != c.line || e.Details["column"] != c.column || e.Details["key"] != c.key {
				t.Errorf("at %v:%v %v, want %d:%d %s (%v)", e.Details["line"], e.Details["column"], e.Details["key"], c.line, c.column, c.key, e)
			}
			place := fmt.Sprintf("%s:%d:%d: ", e.Details["file"], c.line, c.column)
			if !strings.Contains(e.Message, place) || !strings.Contains(e.Message, c.says) {
				t.Errorf("message %q, want %q and %q", e.Message, place, c.says)
			}
			if strings.Contains(e.Message, "\n") {
				t.Errorf("message of several lines: %q", e.Message)
			}
			if !strings.Contains(e.Suggestion(), c.suggests) {
				t.Errorf("suggestion %q, want %q", e.Suggestion(), c.suggests)
			}
			b, _ := json.Marshal(e)
			if strings.Contains(string(b), "secret") {
				t.Errorf("the error tells the key: %s", b)
			}
		})
	}
}

func TestAllFaultsOfTheFileAreListed(t *testing.T) {
	_, err := load(t, "hive:\n  adr: x\nworker:\n  slots: many\n  keep_alive: soon\n")
	e := rbee.AsError(err)
	faults, _ := e.Details["faults"].([]rbee.Fault)
	if len(faults) != 3 || !strings.Contains(e.Message, "(and 2 more)") || !strings.Contains(e.Suggestion(), "rbee config check") {
		t.Errorf("got %v with %v, suggestion %q", e, faults, e.Suggestion())
	}
}

func TestAnEmptySectionKeepsItsDefaults(t *testing.T) {
	for _, text := range []string{"hive:\n", "hive:\nworker:\n", "# nothing\n", "---\n", "hive: {}\nnodes:\naliases:\n"} {
		if diff := cmp.Diff(conf.Defaults(), mustLoad(t, text), sameSettings); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

func TestAKeyOfDigitsIsTakenAsItIsWritten(t *testing.T) {
	for _, key := range []string{"0123", "1e5", "0x1F", "true", "1_000", "~", "'0123'"} {
		c, err := load(t, "hive:\n  key: "+key+"\n")
		if key == "~" { // null of YAML
			if err == nil {
				t.Error("~ was taken as a key")
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		if got := c.Hive.Key.Reveal(); got != strings.Trim(key, "'") {
			t.Errorf("key %s became %s", key, got)
		}
	}
}

func TestFaultsOfTheEnvironmentNameTheVariable(t *testing.T) {
	cases := []struct{ name, variable, says, key string }{
		{"no number", "RBEE_WORKER_SLOTS=many", "must be a whole number", "worker.slots"},
		{"no fraction", "RBEE_MODELS_QUOTA_GB=1,5", "must be a number", "models.quota_gb"},
		{"not a number", "RBEE_DOWNLOAD_LIMIT_MBPS=NaN", "must be at least 0", "download.limit_mbps"},
		{"no hours", "RBEE_DOWNLOAD_QUIET_HOURS=18:00", "must be two different times", "download.quiet_hours"},
		{"out of range", "RBEE_WORKER_SLOTS=0", "must be at least 1", "worker.slots"},
		{"no duration", "RBEE_WORKER_LOAD_TIMEOUT=30", "must be a duration", "worker.load_timeout"},
		{"no keep-alive", "RBEE_WORKER_KEEP_ALIVE=soon", "or forever", "worker.keep_alive"},
		{"no address", "RBEE_HIVE_ADDR=nonsense", "must be HOST:PORT", "hive.addr"},
		{"no pair", "RBEE_ALIASES=mine", "name=value", "aliases"},
		{"no reference", "RBEE_ALIASES=mine=..", "must be a model reference", "aliases.mine"},
		{"no URL", "RBEE_NODES=big=nonsense", "must be a URL", "nodes.big.url"},
		{"bad key", "RBEE_QUEEN_KEY=top secret", "printable ASCII", "queen.key"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(t, "", c.variable)
			e := rbee.AsError(err)
			name, value, _ := strings.Cut(c.variable, "=")
			if err == nil || e.Code != rbee.CodeInvalidRequest || !strings.Contains(e.Message, name+": "+c.key) || !strings.Contains(e.Message, c.says) {
				t.Errorf("got %v, want %s and %q", err, name, c.says)
			}
			if len(value) > 4 && strings.Contains(e.Message, value) {
				t.Errorf("the error tells the value: %v", e)
			}
		})
	}
}

func TestFaultsOfFlagsSaySo(t *testing.T) {
	_, err := conf.Load(conf.Options{Home: t.TempDir(), Environ: []string{"HOME=/h"}, Override: func(c *conf.Config) { c.Hive.Addr = "nonsense" }})
	if err == nil || !strings.Contains(err.Error(), "flag: hive.addr must be HOST:PORT") {
		t.Errorf("got %v", err)
	}
}

func TestNodesAndAliasesOfTheEnvironmentJoinThoseOfTheFile(t *testing.T) {
	file := "nodes:\n  big-1:\n    url: http://a:1\n    key: old\n  small:\n    url: http://b:1\naliases:\n  mine: file:/m/a.gguf\n"
	c := mustLoad(t, file, "RBEE_NODES=new=https://c:2", "RBEE_NODES_BIG_1_KEY=new", "RBEE_ALIASES=qwen=file:/m/q.gguf, other=file:/m/o.gguf")
	want := map[string]conf.Node{
		"big-1": {URL: "http://a:1", Key: "new"},
		"small": {URL: "http://b:1"},
		"new":   {URL: "https://c:2"},
	}
	if diff := cmp.Diff(want, c.Nodes, cmp.Comparer(func(a, b conf.Secret) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	for alias, path := range map[string]string{"mine": "/m/a.gguf", "qwen": "/m/q.gguf", "other": "/m/o.gguf"} {
		ref, err := c.Resolve(alias)
		if err != nil || ref.Provider != rbee.ProviderFile || ref.Reference != path {
			t.Errorf("%s is %v, %v; want file:%s", alias, ref, err, path)
		}
	}
	if len(c.Aliases) != len(conf.Defaults().Aliases)+2 {
		t.Errorf("%d aliases: %v", len(c.Aliases), c.Aliases)
	}
}

func TestResolve(t *testing.T) {
	c := conf.Defaults()
	for alias := range c.Aliases {
		if ref, err := c.Resolve(alias); err != nil || ref.Provider != rbee.ProviderHF {
			t.Errorf("%s is %v, %v", alias, ref, err)
		}
	}
	if ref, err := c.Resolve("builtin:bee-tiny"); err != nil || ref.String() != "builtin:bee-tiny" {
		t.Errorf("got %v, %v", ref, err)
	}
	if _, err := c.Resolve("nothing"); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("an unknown word gives %v", err)
	}
}

func TestTheKeyOfAHigherLayerReplacesThatOfALowerOne(t *testing.T) {
	c := mustLoad(t, "hive:\n  key: old\nqueen:\n  key_file: /old\nnodes:\n  a:\n    url: http://a:1\n    key: old\n",
		"RBEE_HIVE_KEY_FILE=/new", "RBEE_QUEEN_KEY=new", "RBEE_NODES_A_KEY_FILE=~/new")
	if c.Hive.Key != "" || c.Hive.KeyFile != "/new" || c.Queen.Key != "new" || c.Queen.KeyFile != "" {
		t.Errorf("got %v %v %v %v", c.Hive.Key.Reveal(), c.Hive.KeyFile, c.Queen.Key.Reveal(), c.Queen.KeyFile)
	}
	if n := c.Nodes["a"]; n.Key != "" || n.KeyFile != "/home/bee/new" {
		t.Errorf("got %+v", n)
	}
	if _, err := load(t, "", "RBEE_HIVE_KEY=a", "RBEE_HIVE_KEY_FILE=/b"); err == nil {
		t.Error("both in the environment were taken")
	}
}

func TestExternalServersAreSetLikeNodes(t *testing.T) {
	c := mustLoad(t, "external:\n  gpu:\n    url: http://127.0.0.1:8000/v1\n    key: topsecret\n",
		"RBEE_EXTERNAL=ollama=http://127.0.0.1:11434", "RBEE_EXTERNAL_GPU_KEY_FILE=~/gpu.key", "RBEE_HIVE_DISCOVER=on")
	if n := c.External["gpu"]; n.URL != "http://127.0.0.1:8000/v1" || n.Key != "" || n.KeyFile != "/home/bee/gpu.key" {
		t.Errorf("of the file, with a key of the environment: %+v", n)
	}
	if n := c.External["ollama"]; n.URL != "http://127.0.0.1:11434" || c.Hive.Discover != "on" || len(c.Nodes) != 0 {
		t.Errorf("of the environment: %+v", n)
	}
	for _, text := range []string{"external:\n  a:\n    key: topsecret\n", "external:\n  a/b:\n    url: http://a:1\n", "hive:\n  discover: maybe\n"} {
		if _, err := load(t, text); rbee.CodeOf(err) != rbee.CodeInvalidRequest || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestPathsOfTheEnvironmentMayBeRelative(t *testing.T) {
	t.Chdir(t.TempDir())
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	c := mustLoad(t, "worker:\n  program: ~/bin/w\n", "RBEE_ENGINE_DIR=engines")
	if got, want := c.EnginesDir(), filepath.Join(wd, "engines"); got != want {
		t.Errorf("engine.dir is %s, want %s", got, want)
	}
	if c.Worker.Program != "/home/bee/bin/w" {
		t.Errorf("worker.program is %s", c.Worker.Program)
	}
}

func TestTheStateDirectory(t *testing.T) {
	cases := []struct {
		name    string
		options conf.Options
		want    conf.Home
	}{
		{"flag", conf.Options{Home: "/flag", Environ: []string{"RBEE_HOME=/env", "HOME=/home/bee"}}, "/flag"},
		{"variable", conf.Options{Environ: []string{"RBEE_HOME=/env", "HOME=/home/bee"}}, "/env"},
		{"home", conf.Options{Environ: []string{"HOME=/home/bee"}}, "/home/bee/.rbee"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := conf.Load(c.options)
			if err != nil || got.Home != c.want {
				t.Errorf("got %s, %v; want %s", got.Home, err, c.want)
			}
			if home, err := conf.FindHome(c.options.Environ); c.options.Home == "" && (err != nil || home != c.want) {
				t.Errorf("FindHome: %s, %v; want %s", home, err, c.want)
			}
			if got.EnginesDir() != filepath.Join(string(c.want), "engines") {
				t.Errorf("engines are in %s", got.EnginesDir())
			}
		})
	}
	if _, err := conf.Load(conf.Options{Environ: []string{"X=1"}}); err == nil || !strings.Contains(rbee.AsError(err).Suggestion(), "RBEE_HOME") {
		t.Errorf("without a home: %v", err)
	}
}

func TestCreateMakesAPrivateStateDirectory(t *testing.T) {
	home := conf.Home(filepath.Join(t.TempDir(), "a", "b"))
	for range 2 {
		if err := home.Create(); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	err := filepath.WalkDir(string(home), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
		names = append(names, d.Name())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"b", "logs", "models", "run"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestCreateExplainsAStateDirectoryThatCannotBeUsed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "x", 0o600)
	for _, dir := range []string{file, filepath.Join(file, "below"), "/proc/rbee"} {
		err := conf.Home(dir).Create()
		e := rbee.AsError(err)
		if err == nil || e.Code != rbee.CodeInvalidRequest || !strings.Contains(e.Message, dir) || !strings.Contains(e.Suggestion(), "RBEE_HOME") {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestKeepAlive(t *testing.T) {
	for text, want := range map[string]conf.KeepAlive{
		"0": 0, "0s": 0, "5m": conf.KeepAlive(5 * time.Minute), "90s": conf.KeepAlive(90 * time.Second), "2h": conf.KeepAlive(2 * time.Hour), "forever": conf.Forever,
	} {
		var k conf.KeepAlive
		if err := k.Set(text); err != nil || k != want {
			t.Errorf("%s is %d, %v; want %d", text, k, err, want)
		}
		if again, err := conf.ParseKeepAlive(k.String()); err != nil || again != k {
			t.Errorf("%s prints as %s, which reads as %d, %v", text, k, again, err)
		}
		c := mustLoad(t, "worker:\n  keep_alive: "+text+"\n")
		if c.Worker.KeepAlive != want {
			t.Errorf("%s in the file is %s", text, c.Worker.KeepAlive)
		}
	}
	for _, text := range []string{"", "5", "-1", "-5m", "never", "Forever", "-1ns"} {
		if k, err := conf.ParseKeepAlive(text); err == nil {
			t.Errorf("%q was taken as %s", text, k)
		}
	}
	if d, ends := conf.KeepAlive(time.Minute).Duration(); d != time.Minute || !ends {
		t.Errorf("got %v, %v", d, ends)
	}
	if _, ends := conf.Forever.Duration(); ends {
		t.Error("forever ends")
	}
}

func TestASecretNeverPrints(t *testing.T) {
	c := mustLoad(t, "hive:\n  key: topsecret\nnodes:\n  a:\n    url: http://a:1\n    key: topsecret\n")
	if c.Hive.Key.Reveal() != "topsecret" {
		t.Fatalf("the key is %q", c.Hive.Key.Reveal())
	}
	var prints []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10s"} {
		prints = append(prints, fmt.Sprintf(verb, c), fmt.Sprintf(verb, &c), fmt.Sprintf(verb, c.Hive.Key), fmt.Sprintf(verb, []any{c.Hive.Key, c.Nodes}))
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var logged strings.Builder
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "hive", c.Hive, "node", c.Nodes, "secret", c.Hive.Key)
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "hive", c.Hive, "node", c.Nodes, "secret", c.Hive.Key)
	prints = append(prints, string(b), string(y), logged.String(), fmt.Sprint(c.Settings()))
	for _, p := range prints {
		if strings.Contains(p, "topsecret") || strings.Contains(strings.ToLower(p), "746f70") {
			t.Errorf("the key shows in %s", p)
		}
	}
	if !strings.Contains(string(b), `"***"`) || fmt.Sprint(conf.Secret("")) != "" {
		t.Error("a key must show as ***, and no key as nothing")
	}
}
