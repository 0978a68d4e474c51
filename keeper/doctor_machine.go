package keeper

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"rbee"
	"rbee/internal/conf"
)

const (
	// A hive with 500 open streams needs two files for each, and some.
	fewFiles = 4096
	// Below this a hive with some workers and clients has not enough.
	tooFewFiles = 256
	// smiTime bounds nvidia-smi, which hangs where a driver does.
	smiTime = 5 * time.Second
	// clockSlack is what clocks may differ by.
	clockSlack = 2 * time.Second
	// firstYear is before any machine that runs this.
	firstYear = 2025
)

// graphicsChecks looks at the drivers that the engine's backends need beside
// their libraries, which the checks of the backends name.
func graphicsChecks(ctx context.Context) []check {
	switch runtime.GOOS {
	case "darwin":
		return []check{{"graphics", fine, "Metal is a part of macOS", ""}}
	case "linux":
		cards := graphicsCards(os.DirFS("/sys/bus/pci/devices"))
		return []check{nvidiaCheck(ctx, slices.Contains(cards, "NVIDIA")), vulkanCheck(cards, vulkanDrivers())}
	}
	return []check{nvidiaCheck(ctx, false)}
}

// graphicsCards are the makers of the machine's graphics cards, as the PCI bus
// tells: class 03 is a display controller.
func graphicsCards(devices fs.FS) []string {
	makers := map[string]string{"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
	entries, err := fs.ReadDir(devices, ".")
	if err != nil {
		return nil
	}
	var cards []string
	for _, e := range entries {
		class, _ := fs.ReadFile(devices, path.Join(e.Name(), "class")) // "" is no display
		vendor, _ := fs.ReadFile(devices, path.Join(e.Name(), "vendor"))
		if maker := makers[strings.TrimSpace(string(vendor))]; maker != "" && bytes.HasPrefix(class, []byte("0x03")) {
			cards = append(cards, maker)
		}
	}
	return cards
}

// nvidiaCheck asks the tool that comes with NVIDIA's driver.
func nvidiaCheck(ctx context.Context, card bool) check {
	const name = "nvidia driver"
	tool, err := exec.LookPath("nvidia-smi")
	if err != nil {
		if card {
			return check{
				name, warning, "a card of NVIDIA is there, but not its driver (nvidia-smi is not in PATH)",
				"install the driver of NVIDIA for this card, then 'rbee engine install --backend cuda'",
			}
		}
		return check{name, note, "no card of NVIDIA found", ""}
	}
	ctx, cancel := context.WithTimeout(ctx, smiTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	text := strings.Join(strings.FieldsFunc(withoutControls(string(out)), func(r rune) bool { return r == '\n' }), "; ")
	if err != nil {
		return check{
			name, warning, fmt.Sprintf("nvidia-smi fails (%v): %s", err, orDash(text)),
			"restart the machine if the driver was updated since it started, else install the driver anew",
		}
	}
	return check{name, fine, text, ""}
}

// vulkanDrivers are the drivers that the Vulkan loader finds.
func vulkanDrivers() []string {
	var found []string
	for _, list := range []string{"VK_DRIVER_FILES", "VK_ICD_FILENAMES"} {
		if files := os.Getenv(list); files != "" {
			return filepath.SplitList(files)
		}
	}
	for _, dir := range []string{"/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"} {
		files, _ := filepath.Glob(filepath.Join(dir, "*.json")) // the pattern is well
		found = append(found, files...)
	}
	return found
}

func vulkanCheck(cards, drivers []string) check {
	const name = "vulkan driver"
	switch {
	case len(drivers) > 0:
		var names []string
		for _, d := range drivers {
			names = append(names, strings.TrimSuffix(filepath.Base(d), ".json"))
		}
		return check{name, fine, strings.Join(names, ", "), ""}
	case len(cards) > 0:
		return check{
			name, warning, "a card of " + cards[0] + " is there, but no driver for Vulkan",
			"on Debian or Ubuntu: 'apt-get install libvulkan1 mesa-vulkan-drivers'",
		}
	}
	return check{name, note, "no graphics card found", ""}
}

// threadCheck compares the CPUs of the machine with those that a quota leaves,
// and with the configuration.
func threadCheck(cpus, usable, configured int) check {
	text := fmt.Sprintf("%d of %s", usable, plural(cpus, "CPU"))
	if usable < cpus {
		text += " may be used (cgroup quota, or GOMAXPROCS)"
	} else {
		text += " can be used"
	}
	if configured > usable {
		return check{
			"threads", warning, fmt.Sprintf("%s, and worker.threads is %d: threads that wait for a CPU make it many times slower", text, configured),
			"set worker.threads to 0, which chooses, or raise the quota",
		}
	}
	return check{"threads", fine, text, ""}
}

// filesCheck looks at how many files and connections a process may have open;
// 0 is not known.
func filesCheck(limit uint64) check {
	const name = "open files"
	fix := "raise it, such as with 'ulimit -n 8192' or LimitNOFILE= of the service"
	text := fmt.Sprintf("at most %d", limit)
	switch {
	case limit == 0:
		return check{name, note, "there is no limit that could be read", ""}
	case limit < tooFewFiles:
		return check{name, broken, text, fix}
	case limit < fewFiles:
		return check{name, warning, text + ", too few for hundreds of streams", fix}
	}
	return check{name, fine, text, ""}
}

// newest is when something in the state directory was written last.
func newest(home conf.Home) time.Time {
	var last time.Time
	for _, name := range []string{home.ModelsDB(), home.ModelsDB() + "-wal", home.ConfigFile(), filepath.Join(home.LogsDir(), "hive.log")} {
		if info, err := os.Stat(name); err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last
}

// clockCheck compares the clock with what is known without a network: the
// monotonic clock between two moments, the files of before, the calendar, and
// what jump the hive has met, if it has.
func clockCheck(began, now, written time.Time, met *rbee.ClockJump) check {
	const name = "clock"
	fix := "set the clock, or let the system do it: 'timedatectl set-ntp true'"
	jump := now.Round(0).Sub(began.Round(0)) - now.Sub(began)
	switch {
	case now.Year() < firstYear:
		return check{name, broken, "it is the year " + fmt.Sprint(now.Year()) + " by the clock, and certificates will not be valid", fix}
	case jump.Abs() > clockSlack:
		return check{name, warning, "it jumped by " + jump.Round(time.Second).String() + " while it was looked at", fix}
	case written.Sub(now) > clockSlack:
		return check{name, warning, "the state directory was written to in the future, at " + written.Local().Format(time.DateTime), fix}
	}
	text := now.Local().Format(time.DateTime + " MST")
	if met == nil {
		return check{name, fine, text, ""}
	}
	by, at := time.Duration(met.BySeconds*float64(time.Second)), met.At.Local().Format(time.DateTime)
	if by < 0 {
		return check{name, warning, fmt.Sprintf("%s, and while the hive ran it was set back by %s, to %s", text, -by, at), fix}
	}
	return check{name, note, fmt.Sprintf("%s; while the hive ran it went ahead by %s, to %s: it was set, or the machine slept", text, by, at), ""}
}
