package hive

import (
	"os"
	"path/filepath"
	"testing"

	"rbee"
	"rbee/hive/external"
	"rbee/internal/conf"
)

func TestServersAreThoseOfTheSettingsAndOnRequestTheUsualOnes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	settings := conf.Config{External: map[string]conf.Node{
		"gpu":      {URL: "http://192.168.1.20:8000/v1", KeyFile: conf.Path(file)},
		"mine":     {URL: "http://localhost:11434/"}, // a usual port
		"lmstudio": {URL: "http://127.0.0.1:9999"},   // a usual name
	}}
	names := func(own string) (names map[string]external.Server) {
		t.Helper()
		list, err := externalServers(settings)
		if err != nil {
			t.Fatal(err)
		}
		names = map[string]external.Server{}
		for _, s := range others(list, own) {
			names[s.Name] = s
		}
		return names
	}
	if got := names("http://127.0.0.1:8080/x"); len(got) != 3 || got["gpu"].Key != "sesame" || got["mine"].Guess {
		t.Errorf("without discovery: %v", got)
	}
	settings.Hive.Discover = "on"
	got := names("http://127.0.0.1:8080/v1/workers/ready")
	for _, name := range []string{"gpu", "mine", "lmstudio", "port8000", "port8081"} {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is not watched: %v", name, got)
		}
	}
	if len(got) != 5 { // the hive is at 8080 itself
		t.Errorf("watched are %v", got)
	}
	if got := names("http://127.0.0.1:7000/v1/workers/ready"); !got["port8080"].Guess {
		t.Errorf("a hive elsewhere does not look at 8080: %v", got)
	}
	settings.External["gpu"] = conf.Node{URL: "http://192.168.1.20:8000", KeyFile: "/nowhere/key"}
	if _, err := externalServers(settings); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("a key file that is not there: %v", err)
	}
}
