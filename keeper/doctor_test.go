package keeper

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"rbee"
	"rbee/internal/conf"
)

func TestDoctorSaysWhatToDoAboutAllThatIsNotWell(t *testing.T) {
	now := time.Now()
	jumped := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC) // it has no monotonic reading
	for name, tc := range map[string]struct {
		got  check
		want verdict
		says string
	}{
		"enough files":                          {filesCheck(20000), fine, "20000"},
		"few files":                             {filesCheck(1024), warning, "1024"},
		"too few files":                         {filesCheck(64), broken, "64"},
		"files not known":                       {filesCheck(0), note, "no limit"},
		"all threads":                           {threadCheck(8, 8, 0), fine, "8 of 8 CPUs can be used"},
		"a quota":                               {threadCheck(8, 2, 0), fine, "2 of 8 CPUs may be used"},
		"a quota is too small":                  {threadCheck(8, 2, 7), warning, "worker.threads is 7"},
		"a clock that is well":                  {clockCheck(now, now.Add(time.Second), now, nil), fine, now.Local().Format("2006-01-02")},
		"a clock of long ago":                   {clockCheck(now, time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC), time.Time{}, nil), broken, "1970"},
		"a clock set back":                      {clockCheck(jumped, jumped, jumped.Add(time.Hour), nil), warning, "in the future"},
		"one that was set back as the hive ran": {clockCheck(now, now, now, &rbee.ClockJump{At: now, BySeconds: -86400}), warning, "set back by 24h0m0s"},
		"a machine that slept":                  {clockCheck(now, now, now, &rbee.ClockJump{At: now, BySeconds: 3600}), note, "ahead by 1h0m0s"},
		"no driver for a card":                  {vulkanCheck([]string{"AMD"}, nil), warning, "a card of AMD"},
		"a Vulkan driver":                       {vulkanCheck(nil, []string{"/usr/share/vulkan/icd.d/lvp_icd.json"}), fine, "lvp_icd"},
		"no graphics":                           {vulkanCheck(nil, nil), note, "no graphics card"},
	} {
		t.Run(name, func(t *testing.T) { isCheck(t, tc.got, tc.want, tc.says) })
	}
}

func isCheck(t *testing.T, got check, want verdict, says string) {
	t.Helper()
	if got.Verdict != want || !strings.Contains(got.Text, says) || (got.Fix == "") != (want == fine || want == note) {
		t.Errorf("got %+v", got)
	}
}

func TestDoctorLooksAtWhoElseMayUseTheStateDirectory(t *testing.T) {
	for name, tc := range map[string]struct {
		home, models os.FileMode
		want         verdict
		says         string
	}{
		"private":         {0o700, 0o700, fine, "by nobody else"},
		"open inside":     {0o700, 0o755, fine, "by nobody else"},
		"readable":        {0o755, 0o700, warning, "(mode 0755)"},
		"of a group":      {0o700, 0o770, warning, "your group can write"},
		"of everybody":    {0o777, 0o700, broken, "everybody can write"},
		"models for all":  {0o700, 0o707, broken, "models (mode 0707)"},
		"only to look at": {0o711, 0o700, warning, "(mode 0711)"},
	} {
		t.Run(name, func(t *testing.T) {
			home := filepath.Join(t.TempDir(), "home")
			models := filepath.Join(home, "models")
			for dir, mode := range map[string]os.FileMode{models: tc.models, home: tc.home} {
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(dir, mode); err != nil {
					t.Fatal(err)
				}
			}
			isCheck(t, modeCheck(home, models, filepath.Join(home, "gone")), tc.want, tc.says)
		})
	}
}

func TestDoctorNamesWhoHasAPort(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	got := portCheck(t.Context(), "queen", "queen.addr", ln.Addr().String(), conf.Home("/h"))
	isCheck(t, got, warning, "keeper.test has it (pid ")
	if !strings.Contains(got.Fix, "queen.addr in /h/config.yaml") {
		t.Errorf("got %+v", got)
	}
	isCheck(t, portCheck(t.Context(), "hive", "hive.addr", "127.0.0.1:0", ""), note, "is free")
}

func TestDoctorAsksNVIDIAsTool(t *testing.T) {
	script := func(t *testing.T, text string) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "nvidia-smi"), []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir)
	}
	t.Run("there", func(t *testing.T) {
		script(t, `echo "RTX 4090, 550.1, 24564 MiB"; echo "RTX 3090, 550.1, 24576 MiB"`)
		isCheck(t, nvidiaCheck(t.Context(), true), fine, "RTX 4090, 550.1, 24564 MiB; RTX 3090, 550.1, 24576 MiB")
	})
	t.Run("broken", func(t *testing.T) {
		script(t, `echo "Driver/library version mismatch"; exit 18`)
		isCheck(t, nvidiaCheck(t.Context(), true), warning, "(exit status 18): Driver/library version mismatch")
	})
	t.Run("a card without it", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		isCheck(t, nvidiaCheck(t.Context(), true), warning, "not its driver")
		isCheck(t, nvidiaCheck(t.Context(), false), note, "no card")
	})
}

func TestGraphicsCardsAreDisplayControllers(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text + "\n")} }
	bus := fstest.MapFS{
		"0000:00:02.0/class": file("0x030000"), "0000:00:02.0/vendor": file("0x8086"),
		"0000:00:1f.3/class": file("0x040300"), "0000:00:1f.3/vendor": file("0x8086"), // sound
		"0000:01:00.0/class": file("0x030200"), "0000:01:00.0/vendor": file("0x10de"),
		"0000:02:00.0/class": file("0x030000"), "0000:02:00.0/vendor": file("0x1234"), // of a virtual machine
		"0000:03:00.0/class": file("0x030000"),
	}
	if diff := cmp.Diff([]string{"Intel", "NVIDIA"}, graphicsCards(bus)); diff != "" {
		t.Error(diff)
	}
	if got := graphicsCards(fstest.MapFS{}); got != nil {
		t.Errorf("no bus has %v", got)
	}
}
