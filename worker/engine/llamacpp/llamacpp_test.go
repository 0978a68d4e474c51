package llamacpp_test

import (
	"bytes"
	"cmp"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rbee"
	"rbee/internal/engines/enginestest"
	"rbee/models"
	"rbee/worker/engine"
	"rbee/worker/engine/enginetest"
	"rbee/worker/engine/llamacpp"
)

// options are those of bee-tiny on one thread: more would fight over the CPUs
// with the other packages' tests.
func options(t testing.TB) engine.Options {
	t.Helper()
	return engine.Options{ModelPath: write(t, models.BeeTiny()), LibDir: enginestest.LibDir(t), Threads: 1}
}

func write(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestContract(t *testing.T) { enginetest.Run(t, llamacpp.Load, options(t)) }

func TestContractWithKVCellsForEachSlot(t *testing.T) {
	load := func(ctx context.Context, o engine.Options, progress func(rbee.LoadProgress)) (engine.Engine, error) {
		if o.KVTokens == 0 && o.Context%256 == 0 {
			o.KVTokens = o.Slots * cmp.Or(o.Context, 1024) // what bee-tiny was trained with
		}
		return llamacpp.Load(ctx, o, progress)
	}
	enginetest.Run(t, load, options(t))
}

func TestBrokenModelsAreRefusedWithTheReason(t *testing.T) {
	whole := models.BeeTiny()
	for name, c := range map[string]struct {
		content []byte
		says    string
	}{
		"empty":        {nil, ""},
		"no GGUF":      {[]byte("#!/bin/sh\necho hello, I am a script and no model\n"), "GGUF"},
		"cut short":    {whole[:len(whole)/2], ""},
		"cut header":   {whole[:100], ""},
		"architecture": {bytes.ReplaceAll(whole, []byte("llama"), []byte("lxama")), "lxama"},
		"tensor names": {bytes.ReplaceAll(whole, []byte("attn_norm"), []byte("attn_worm")), "attn_norm"},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			o.ModelPath = write(t, c.content)
			e, err := llamacpp.Load(t.Context(), o, nil)
			if err == nil {
				_ = e.Close()
			}
			if rbee.CodeOf(err) != rbee.CodeInvalidRequest || !strings.Contains(err.Error(), o.ModelPath) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want INVALID_REQUEST that names the file and says %q", err, c.says)
			}
		})
	}
}

func TestAnotherDirectoryOfLibrariesIsRefused(t *testing.T) {
	o := options(t)
	if _, err := llamacpp.Devices(o.LibDir, nil); err != nil {
		t.Fatal(err)
	}
	o.LibDir = t.TempDir()
	if _, err := llamacpp.Load(t.Context(), o, nil); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("got %v, want INVALID_REQUEST", err)
	}
}

// noLibraries tells a copy of the test program to open an empty directory.
const noLibraries = "RBEE_TEST_NO_LIBRARIES"

func TestMissingLibrariesAreExplained(t *testing.T) {
	if dir := os.Getenv(noLibraries); dir != "" {
		_, err := llamacpp.Devices(dir, nil)
		if rbee.CodeOf(err) != rbee.CodeBackendUnavailable || !strings.Contains(err.Error(), dir) ||
			!strings.Contains(rbee.AsError(err).Suggestion(), "rbee engine install") {
			t.Errorf("got %v", err)
		}
		return
	}
	// Once open, the libraries stay: only a fresh process has none.
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMissingLibrariesAreExplained$")
	cmd.Env = append(os.Environ(), noLibraries+"="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestDevicesHaveTheCPUAndSayWhyOthersAreNotUsable(t *testing.T) {
	list, err := llamacpp.Devices(enginestest.LibDir(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	cpus := 0
	for _, d := range list.Devices {
		if d.ID == "cpu" && d.Kind == rbee.BackendCPU && d.Name != "" && d.MemoryFree > 0 && d.MemoryFree < d.MemoryTotal {
			cpus++
		}
	}
	if cpus != 1 {
		t.Errorf("devices are %+v, want the CPU once", list.Devices)
	}
	if len(list.Backends) != len(rbee.Backends()) {
		t.Errorf("backends are %+v", list.Backends)
	}
	for _, b := range list.Backends {
		if b.Available == (b.Reason != "") || b.Backend == rbee.BackendCPU && !b.Available {
			t.Errorf("a backend is %+v", b)
		}
	}
}

func TestTheEngineLogsItsOwnLinesAtDebugOnly(t *testing.T) {
	o := options(t)
	var log bytes.Buffer
	for _, level := range []slog.Level{slog.LevelInfo, slog.LevelDebug} {
		log.Reset()
		o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: level}))
		e, err := llamacpp.Load(t.Context(), o, nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = e.Close()
		if got := strings.Contains(log.String(), "bee-tiny"); got != (level == slog.LevelDebug) || level == slog.LevelInfo && log.Len() > 0 {
			t.Errorf("at level %v the log is %q", level, log.String())
		}
	}
}

func TestAContextBeyondTheTrainedOneIsCutWithAWarning(t *testing.T) {
	o := options(t)
	var log bytes.Buffer
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	o.Context = 5000
	e, err := llamacpp.Load(t.Context(), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	if e.Info().Context != 1024 || !strings.Contains(log.String(), "asked_tokens=5000") {
		t.Errorf("the context is %d, the log %q", e.Info().Context, log.String())
	}
}

func TestANULInATextIsRefused(t *testing.T) {
	e, err := llamacpp.Load(t.Context(), options(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	_, tokenize := e.Tokenize("a\x00b", false)
	_, generate := e.Generate(t.Context(), engine.Request{Prompt: "a\x00b", MaxTokens: 1}, func(engine.Piece) bool { return true })
	for field, err := range map[string]error{"text": tokenize, "prompt": generate} {
		if rbee.CodeOf(err) != rbee.CodeInvalidRequest || !strings.Contains(err.Error(), field+" must not contain") {
			t.Errorf("got %v, want INVALID_REQUEST of the %s", err, field)
		}
	}
}
