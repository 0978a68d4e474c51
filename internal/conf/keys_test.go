package conf_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rbee"
	"rbee/internal/conf"
)

func TestAFileThatOthersMayUseIsRefused(t *testing.T) {
	home := t.TempDir()
	file := filepath.Join(home, "config.yaml")
	for _, mode := range []fs.FileMode{0o644, 0o640, 0o604, 0o620, 0o602, 0o601} {
		write(t, file, "hive:\n  key: topsecret\n", mode)
		_, err := conf.Load(conf.Options{Home: home, Environ: []string{"HOME=/h"}})
		e := rbee.AsError(err)
		if err == nil || e.Code != rbee.CodeInvalidRequest || e.Suggestion() != "chmod 600 "+file || !strings.Contains(e.Message, fmt.Sprintf("%04o", mode)) {
			t.Errorf("mode %o: %v, suggestion %q", mode, err, e.Suggestion())
		}
		if _, err := conf.ReadKeyFile("hive", file); err == nil || rbee.AsError(err).Suggestion() != "chmod 600 "+file {
			t.Errorf("mode %o of a key file: %v", mode, err)
		}
	}
	for _, mode := range []fs.FileMode{0o600, 0o400} {
		write(t, file, "hive:\n  key: topsecret\n", 0o600)
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := conf.Load(conf.Options{Home: home, Environ: []string{"HOME=/h"}}); err != nil {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}

func TestAConfigFileThatIsNoFileIsRefused(t *testing.T) {
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, "config.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := conf.Load(conf.Options{Home: home, Environ: []string{"HOME=/h"}})
	if err == nil || !strings.Contains(err.Error(), "it is not a file") {
		t.Errorf("a directory: %v", err)
	}
	file := filepath.Join(home, "file")
	write(t, file, "x", 0o600)
	_, err = conf.Load(conf.Options{Home: file, Environ: []string{"HOME=/h"}})
	if rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("a state directory that is a file: %v", err)
	}
	big := t.TempDir()
	write(t, filepath.Join(big, "config.yaml"), strings.Repeat("# comment\n", 200_000), 0o600)
	_, err = conf.Load(conf.Options{Home: big, Environ: []string{"HOME=/h"}})
	if err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a huge file: %v", err)
	}
}

func TestKeysAreReadFromTheirFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "key")
	write(t, file, "  topsecret \r\n\n", 0o600)
	c := mustLoad(t, "nodes:\n  a:\n    url: http://a:1\n    key_file: "+file+"\n", "RBEE_HIVE_KEY_FILE="+file, "RBEE_QUEEN_KEY=plain")
	hive, err1 := c.Hive.ReadKey()
	queen, err2 := c.Queen.ReadKey()
	node, err3 := c.Nodes["a"].ReadKey()
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err1, err2, err3)
	}
	if hive.Reveal() != "topsecret" || queen.Reveal() != "plain" || node.Reveal() != "topsecret" {
		t.Errorf("got %q, %q, %q", hive.Reveal(), queen.Reveal(), node.Reveal())
	}
	if key, err := (conf.Hive{}).ReadKey(); err != nil || key != "" {
		t.Errorf("without a key: %q, %v", key.Reveal(), err)
	}
}

func TestABadKeyFileIsExplained(t *testing.T) {
	dir := t.TempDir()
	cases := map[string]string{"empty": "", "blank": " \n", "two lines": "topsecret\ntwo\n", "binary": "topsecret\x00", "letters": "topsecrét"}
	for name, text := range cases {
		file := filepath.Join(dir, name)
		write(t, file, text, 0o600)
		_, err := conf.ReadKeyFile("hive", file)
		e := rbee.AsError(err)
		if err == nil || e.Code != rbee.CodeInvalidRequest || !strings.Contains(e.Message, "one line") || e.Suggestion() == "" || strings.Contains(e.Message, "topsecret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := conf.ReadKeyFile("hive", filepath.Join(dir, "none"))
	if err == nil || !strings.Contains(err.Error(), "does not exist") || rbee.AsError(err).Suggestion() == "" {
		t.Errorf("a missing file: %v", err)
	}
}

func TestACredentialOfSystemdIsTheKeyOfLastResort(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if c := mustLoad(t, "", "CREDENTIALS_DIRECTORY="+dir); c.Hive.KeyFile != "" {
		t.Errorf("a credential that does not exist became %s", c.Hive.KeyFile)
	}
	write(t, filepath.Join(dir, "rbee-hive-key"), "fromsystemd\n", 0o440)
	write(t, filepath.Join(dir, "rbee-queen-key"), "fromsystemd\n", 0o400)
	c := mustLoad(t, "queen:\n  key: own\n", "CREDENTIALS_DIRECTORY="+dir)
	hive, err := c.Hive.ReadKey()
	if err != nil || hive.Reveal() != "fromsystemd" {
		t.Errorf("got %q, %v", hive.Reveal(), err)
	}
	if queen, err := c.Queen.ReadKey(); err != nil || queen.Reveal() != "own" {
		t.Errorf("got %q, %v", queen.Reveal(), err)
	}
	if err := os.Chmod(filepath.Join(dir, "rbee-hive-key"), 0o444); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Hive.ReadKey(); err == nil {
		t.Error("a credential that all may read was taken")
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(conf.Reference())
	f.Add("hive:\n  key: topsecret\n  adr: x\nnodes: {a: {url: http://a:1}}\n")
	f.Add("a: &x b\nc: *x\n<<: {}\n? [k]\n: v\n")
	f.Fuzz(func(t *testing.T, text string) {
		home := t.TempDir()
		if err := os.WriteFile(filepath.Join(home, "config.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := conf.Load(conf.Options{Home: home, Environ: []string{"HOME=/h"}})
		if err != nil && (rbee.CodeOf(err) != rbee.CodeInvalidRequest || rbee.AsError(err).Suggestion() == "") {
			t.Errorf("%q gives %v", text, err)
		}
	})
}

func TestHowTheHiveFindsItsColony(t *testing.T) {
	home := t.TempDir()
	load := func(environ ...string) conf.Config {
		c, err := conf.Load(conf.Options{Home: home, Environ: append(environ, "HOME="+home)})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if join, err := load().ReadJoin(); join != "" || err != nil {
		t.Errorf("of no colony: %q, %v", join.Reveal(), err)
	}
	write(t, filepath.Join(home, "join"), " rbee1.default\n", 0o600)
	write(t, filepath.Join(home, "named"), "rbee1.named", 0o600)
	for want, environ := range map[string]string{
		"rbee1.default": "RBEE_X=", "rbee1.named": "RBEE_HIVE_JOIN_FILE=~/named", "rbee1.said": "RBEE_HIVE_JOIN=rbee1.said",
	} {
		if join, err := load(environ).ReadJoin(); join.Reveal() != want || err != nil {
			t.Errorf("%s: %q, %v", environ, join.Reveal(), err)
		}
	}
	write(t, filepath.Join(home, "named"), "two words", 0o600)
	for _, file := range []string{"~/named", "~/nothing"} {
		_, err := load("RBEE_HIVE_JOIN_FILE=" + file).ReadJoin()
		if e := rbee.AsError(err); rbee.CodeOf(err) != rbee.CodeInvalidRequest || !strings.Contains(e.Suggestion(), "rbee queen token") || strings.Contains(e.Message, "words") {
			t.Errorf("%s: %v", file, err)
		}
	}
	if _, err := conf.Load(conf.Options{Home: home, Environ: []string{"RBEE_HIVE_JOIN=a", "RBEE_HIVE_JOIN_FILE=/b"}}); err == nil || !strings.Contains(err.Error(), "join_file exclude") {
		t.Errorf("both: %v", err)
	}
}

func TestAJoinIsKeptUnlessTheSettingsNameOne(t *testing.T) {
	home := t.TempDir()
	file := filepath.Join(home, "join")
	load := func(environ ...string) conf.Config {
		c, err := conf.Load(conf.Options{Home: home, Environ: append(environ, "HOME="+home)})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, join := range []conf.Secret{"rbee1.one", "rbee1.two"} {
		if err := load().KeepJoin(join); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(file)
		if got, _ := load().ReadJoin(); got != join || err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%q, %v", got.Reveal(), err)
		}
	}
	named := load("RBEE_HIVE_JOIN=rbee1.named")
	for what, err := range map[string]error{"keep": named.KeepJoin("rbee1.three"), "forget": named.ForgetJoin()} {
		if rbee.CodeOf(err) != rbee.CodeConflict {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got, _ := load().ReadJoin(); got != "rbee1.two" {
		t.Errorf("%q", got.Reveal())
	}
	for range 2 {
		if err := load().ForgetJoin(); err != nil {
			t.Error(err)
		}
	}
	if got, err := load().ReadJoin(); got != "" || err != nil {
		t.Errorf("%q, %v", got.Reveal(), err)
	}
}
