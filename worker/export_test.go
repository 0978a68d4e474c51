package worker

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// HandlerForTest is the API of a worker whose model is loaded.
func HandlerForTest(t testing.TB, cfg Config) http.Handler {
	t.Helper()
	cfg.Options.ModelPath = filepath.Join(t.TempDir(), "model.gguf")
	if err := os.WriteFile(cfg.Options.ModelPath, []byte("not read"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.ModelRef = "builtin:bee-tiny"
	w := New(cfg)
	eng, err := cfg.Load(t.Context(), cfg.Options, nil)
	if err != nil {
		t.Fatal(err)
	}
	if w.served, err = newServed(cfg.ModelRef, eng); err != nil {
		t.Fatal(err)
	}
	w.floor.open(eng)
	return w.api.Handler()
}
