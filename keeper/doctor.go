package keeper

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/mem"
	psnet "github.com/shirou/gopsutil/v4/net"
	"github.com/shirou/gopsutil/v4/process"
	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
	"rbee/internal/daemon"
	"rbee/internal/engines"
)

const (
	// A small model and its parts need about this much.
	littleDisk   = 5_000_000_000
	littleMemory = 1_000_000_000
	// Below this not even the catalog and the logs are safe.
	noDisk = 200_000_000
)

// verdict is how a check of doctor ended.
type verdict string

const (
	fine    verdict = "ok"
	note    verdict = "note" // something that is not there and need not be
	warning verdict = "warning"
	broken  verdict = "broken"
)

// check is a line of doctor.
type check struct {
	Name    string  `json:"name"`
	Verdict verdict `json:"verdict"`
	Text    string  `json:"text"`
	Fix     string  `json:"fix,omitempty"`
}

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check what rbee needs on this machine, and say how to fix it",
		Long: `Check what rbee needs on this machine, and say how to fix it: programs, state
directory and configuration, engine, libraries and graphics drivers, ports, clock,
memory, disk and limits. Exit code 1 if something is broken; warnings are none.`,
		Example: "  rbee doctor\n  rbee doctor --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks := examine(cmd.Context())
			healthy := true
			for _, c := range checks {
				healthy = healthy && c.Verdict != broken
			}
			if a.out.json {
				a.out.emit(struct {
					OK     bool    `json:"ok"`
					Checks []check `json:"checks"`
				}{healthy, checks})
			} else {
				a.printChecks(checks)
			}
			if !healthy {
				return errReported
			}
			return nil
		},
	}
}

func (a *app) printChecks(checks []check) {
	s := a.out.outStyles
	marks := map[verdict]string{fine: s.good("✓"), note: s.dim("-"), warning: s.warn("!"), broken: s.bad("✗")}
	for _, c := range checks {
		a.out.line("%s %s: %s", marks[c.Verdict], c.Name, c.Text)
		if c.Fix != "" {
			a.out.line("    fix: %s", c.Fix)
		}
	}
}

// examine makes all checks. One that needs the configuration is left out where
// there is none that can be used.
func examine(ctx context.Context) []check {
	began := time.Now()
	checks := []check{versionCheck()}
	for _, name := range []string{"rbee-hive", "llm-worker-rbee", "queen-rbee"} {
		checks = append(checks, programCheck(name))
	}
	home, err := conf.FindHome(nil)
	if err != nil {
		return append(checks, failed("state directory", err))
	}
	checks = append(checks, homeCheck(home))
	var met *rbee.ClockJump
	cfg, err := conf.Load(conf.Options{})
	if err != nil {
		checks = append(checks, failed("configuration", err))
	} else {
		checks = append(checks, configCheck(cfg))
		checks = append(checks, engineChecks(cfg)...)
		var hive check
		hive, met = hiveCheck(ctx, cfg)
		checks = append(append(checks, hive), queenChecks(ctx, cfg)...)
		checks = append(checks, threadCheck(runtime.NumCPU(), runtime.GOMAXPROCS(0), cfg.Worker.Threads))
	}
	checks = append(checks, graphicsChecks(ctx)...)
	return append(checks, memoryCheck(), diskCheck(home), filesCheck(openFilesLimit()),
		clockCheck(began, time.Now(), newest(home), met))
}

// failed makes a check of an error.
func failed(name string, err error) check {
	e := asError(err)
	return check{name, broken, e.Message, e.Suggestion()}
}

func versionCheck() check {
	return check{"version", fine, fmt.Sprintf("rbee %s on %s/%s", rbee.Version, runtime.GOOS, runtime.GOARCH), ""}
}

func programCheck(name string) check {
	path, err := daemon.Program(name)
	switch {
	case err != nil && name == "queen-rbee":
		return check{"program " + name, note, "is not installed; a machine with a hive alone needs none", ""}
	case err != nil:
		return failed("program "+name, err)
	}
	return check{"program " + name, fine, path, ""}
}

func homeCheck(home conf.Home) check {
	if err := home.Create(); err != nil {
		return failed("state directory", err)
	}
	return modeCheck(string(home), home.ModelsDir(), home.EnginesDir(), home.LogsDir(), home.RunDir())
}

// modeCheck looks at who else may use the state directory, the first of dirs,
// and what is in it. Windows has other means.
func modeCheck(dirs ...string) check {
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil || runtime.GOOS == "windows" {
			continue
		}
		mode, fix := info.Mode().Perm(), "run 'chmod go-rwx "+dir+"'"
		switch {
		case mode&0o002 != 0:
			return check{"state directory", broken, fmt.Sprintf("everybody can write to %s (mode %04o), and so run programs as you", dir, mode), fix}
		case mode&0o020 != 0:
			return check{"state directory", warning, fmt.Sprintf("your group can write to %s (mode %04o)", dir, mode), fix}
		case mode&0o055 != 0 && dir == dirs[0]:
			return check{"state directory", warning, fmt.Sprintf("others can look into %s (mode %04o)", dir, mode), fix}
		}
	}
	return check{"state directory", fine, dirs[0] + " can be written, by nobody else", ""}
}

func configCheck(cfg conf.Config) check {
	if _, err := cfg.Hive.ReadKey(); err != nil {
		return failed("configuration", err)
	}
	host, _, err := net.SplitHostPort(cfg.Hive.Addr)
	if err == nil && !loopback(host) && cfg.Hive.Key == "" && cfg.Hive.KeyFile == "" {
		return check{
			"configuration", broken, fmt.Sprintf("hive.addr is %s, which others reach, and there is no key", cfg.Hive.Addr),
			"set hive.key in " + cfg.Home.ConfigFile() + ", or listen on 127.0.0.1:" + hivePort,
		}
	}
	return check{"configuration", fine, cfg.Home.ConfigFile() + " can be used", ""}
}

func engineChecks(cfg conf.Config) []check {
	store := engines.Open(cfg.EnginesDir())
	var checks []check
	if _, err := engines.Find(store.LibDir()); err != nil {
		checks = append(checks, failed("engine", err))
	} else if damage := store.Verify(); len(damage) > 0 {
		checks = append(checks, check{"engine", broken, damage[0].String(), "run 'rbee engine install'"})
	} else {
		checks = append(checks, check{"engine", fine, "llama.cpp " + engines.Version + " in " + store.LibDir(), ""})
	}
	if err := engines.CheckFFI(); err != nil {
		checks = append(checks, failed("libffi", err))
	} else {
		checks = append(checks, check{"libffi", fine, "can be called", ""})
	}
	for _, b := range store.Status() {
		name := "backend " + string(b.Backend)
		switch {
		case b.Available:
			checks = append(checks, check{name, fine, "usable", ""})
		case b.Backend == rbee.BackendCPU:
			checks = append(checks, check{name, broken, b.Reason, "run 'rbee engine install'"})
		default:
			checks = append(checks, check{name, note, b.Reason, ""})
		}
	}
	return checks
}

// hiveCheck says whether the hive runs or could, and what jump of the clock it met.
func hiveCheck(ctx context.Context, cfg conf.Config) (check, *rbee.ClockJump) {
	status, err := lookForHive(ctx, cfg)
	if err != nil {
		return failed("hive", err), nil
	}
	if !status.Running {
		return portCheck(ctx, "hive", "hive.addr", cfg.Hive.Addr, cfg.Home), nil
	}
	text := fmt.Sprintf("runs at %s (pid %d)", status.URL, status.PID)
	s, err := askStatus(ctx, cfg)
	switch {
	case err != nil:
		return check{"hive", fine, text, ""}, nil
	case s.Colony != nil && s.Colony.Error != nil:
		fix := s.Colony.Error.Suggestion()
		if fix == "" {
			fix = "look whether the queen runs, and whether this machine reaches the port of her bus"
		}
		return check{"hive", warning, text + ", and is not in its colony: " + s.Colony.Error.Message, fix}, s.ClockJump
	case s.Colony != nil && s.Colony.Connected:
		text += ", in a colony"
	}
	return check{"hive", fine, text, ""}, s.ClockJump
}

// queenChecks say whether the queen runs or could, and how her bus is.
func queenChecks(ctx context.Context, cfg conf.Config) []check {
	c, err := openQueen(ctx, cfg)
	if err != nil {
		return []check{failed("queen", err)}
	}
	if c == nil {
		checks := []check{portCheck(ctx, "queen", "queen.addr", cfg.Queen.Addr, cfg.Home)}
		if cfg.Queen.Join == "" {
			checks = append(checks, portCheck(ctx, "bus", "queen.bus_addr", cfg.Queen.BusAddr, cfg.Home))
		}
		return checks
	}
	defer c.close(ctx)
	ask, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	if err := c.preflight(ask, 1); err != nil {
		return []check{failed("queen", err)}
	}
	s, err := c.client.QueenStatus(ask)
	if err != nil {
		return []check{failed("queen", err)}
	}
	return []check{{"queen", fine, "runs at " + c.base + ", version " + s.Version, ""}, busCheck(s)}
}

// busCheck says how a queen stands with her bus, and who is on it.
func busCheck(s rbee.QueenStatus) check {
	present, lost := s.Hives[rbee.HivePresent], s.Hives[rbee.HiveLost]
	text := busText(s.Bus) + "; " + plural(present, "hive")
	switch {
	case !s.Bus.Connected:
		return check{"bus", broken, text + "; not connected" + after(": ", s.Bus.Reason), "see 'rbee queen logs'; hives cannot be heard until that is well"}
	case lost > 0:
		return check{"bus", warning, fmt.Sprintf("%s, %d lost", text, lost), "see which with 'rbee status', and look whether they run and reach this machine"}
	case s.LocalHive.State == rbee.LocalHiveFailed:
		return check{"bus", warning, text + "; the hive of this machine does not run" + after(": ", s.LocalHive.Reason), "see 'rbee hive logs'"}
	}
	return check{"bus", fine, text, ""}
}

// portCheck says whether a daemon that does not run could listen, and who is in
// the way.
func portCheck(ctx context.Context, name, setting, addr string, home conf.Home) check {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return check{
			name, warning, fmt.Sprintf("is not running, and its address %s cannot be had: %v%s", addr, err, holder(ctx, addr)),
			"stop the program that has the port, or set another " + setting + " in " + home.ConfigFile(),
		}
	}
	_ = ln.Close() // it served its purpose
	return check{name, note, "is not running; its address " + addr + " is free", ""}
}

// holder names the program that listens on a port, as far as this user may know.
func holder(ctx context.Context, addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	connections, err := psnet.ConnectionsWithContext(ctx, "tcp")
	if err != nil {
		return ""
	}
	for _, c := range connections {
		if c.Status != "LISTEN" || strconv.Itoa(int(c.Laddr.Port)) != port {
			continue
		}
		p, err := process.NewProcessWithContext(ctx, c.Pid)
		if c.Pid == 0 || err != nil {
			return "; a program of another user has it"
		}
		name, err := p.NameWithContext(ctx)
		if err != nil {
			name = "a program"
		}
		return fmt.Sprintf("; %s has it (pid %d)", name, c.Pid)
	}
	return ""
}

func memoryCheck() check {
	m, err := mem.VirtualMemory()
	if err != nil {
		return check{"memory", warning, "cannot be measured: " + err.Error(), "look at it with the tools of the system"}
	}
	text := fmt.Sprintf("%.1f GB of %.1f GB available", float64(m.Available)/1e9, float64(m.Total)/1e9)
	if m.Available < littleMemory {
		return check{"memory", warning, text, "end other programs, or use small models"}
	}
	return check{"memory", fine, text, ""}
}

func diskCheck(home conf.Home) check {
	u, err := disk.Usage(string(home))
	if err != nil {
		return check{"disk", warning, "cannot be measured: " + err.Error(), "look at it with the tools of the system"}
	}
	text := fmt.Sprintf("%.1f GB free for %s", float64(u.Free)/1e9, home)
	fix := "free some space, or set RBEE_HOME to a directory on a larger disk"
	switch {
	case u.Free < noDisk:
		return check{"disk", broken, text, fix}
	case u.Free < littleDisk:
		return check{"disk", warning, text, fix}
	}
	return check{"disk", fine, text, ""}
}
