package hive_test

import (
	"path/filepath"
	"strings"
	"testing"

	"rbee"
)

func TestBehaviourDaemonStarts(t *testing.T) {
	d := startDaemon(t, t.TempDir())
	if got, err := d.Health(t.Context()); err != nil || got != rbee.Alive() {
		t.Errorf("%+v, %v", got, err)
	}
	if workers, err := d.Workers(t.Context()); err != nil || len(workers) != 0 {
		t.Errorf("%v, %v", workers, err)
	}
}

// spawnLog spawns bee-tiny and returns what the hive logged meanwhile.
func (r *running) spawnLog() string {
	r.t.Helper()
	before := len(r.log.String())
	r.ready()
	return r.log.String()[before:]
}

func TestBehaviourSpawnConsultsTheCatalog(t *testing.T) {
	r := start(t)
	const asks, has = "Checking model catalog for builtin/bee-tiny", "Model found in catalog"
	if log := r.spawnLog(); !strings.Contains(log, asks) || strings.Contains(log, has) {
		t.Errorf("the first spawn logs\n%s", log)
	}
}

func TestBehaviourCachedPathIsLogged(t *testing.T) {
	r := start(t)
	r.spawnLog()
	log := r.spawnLog()
	asked := strings.Index(log, "Checking model catalog for builtin/bee-tiny")
	found := strings.Index(log, "Model found in catalog: "+filepath.Join(r.home, "models", "builtin", "bee-tiny.gguf"))
	if asked < 0 || found < asked {
		t.Errorf("the second spawn logs\n%s", log)
	}
}

func TestADeviceThatIsNotThereIsRefused(t *testing.T) {
	r := start(t)
	_, err := r.Spawn(t.Context(), rbee.SpawnRequest{ModelRef: "builtin:bee-tiny", Device: "cpu7"})
	if rbee.CodeOf(err) != rbee.CodeBackendUnavailable || !strings.Contains(err.Error(), "cpu7") || len(r.workers()) != 0 {
		t.Errorf("%v, workers: %v", err, r.workers())
	}
}
