package conf_test

import (
	"slices"
	"testing"
	"time"

	"rbee"
	"rbee/internal/conf"
)

func TestListsOfModelsAreRead(t *testing.T) {
	c := mustLoad(t, "hive:\n  preload: qwen , file:/m/a.gguf,\n", "RBEE_WORKER_KEEP_ALIVE_OF=qwen=1h, file:/m/a.gguf=forever,a/b=0")
	if got := c.Hive.Preload.Items(); !slices.Equal(got, []string{"qwen", "file:/m/a.gguf"}) {
		t.Errorf("to preload: %q", got)
	}
	for model, want := range map[string]conf.KeepAlive{
		"qwen": conf.KeepAlive(time.Hour), "file:/m/a.gguf": conf.Forever, "hf:a/b": 0, "phi3": conf.KeepAlive(5 * time.Minute),
	} {
		ref, err := c.Resolve(model)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.KeepAliveOf(ref); got != want {
			t.Errorf("%s is kept for %s, want %s", model, got, want)
		}
	}
}

func TestListsOfModelsThatCannotBeRead(t *testing.T) {
	for _, text := range []string{
		"hive: {preload: 'a b'}", "hive: {preload: 'qwen, ../x'}",
		"worker: {keep_alive_of: qwen}", "worker: {keep_alive_of: qwen=soon}", "worker: {keep_alive_of: 'qwen=1h, =2h'}",
		"hive: {on_battery: perhaps}", "hive: {hours: always}", "queen: {names: 'bee.example:7834'}", "queen: {hive: perhaps}",
	} {
		if _, err := load(t, text+"\n"); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
			t.Errorf("%s: %v", text, err)
		}
	}
}
