package keeper

import (
	"context"
	"fmt"
	"net"
	"runtime"

	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/mem"
	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
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
		Long:  "Check what rbee needs on this machine, and say how to fix it. Exit code 1 if something is broken.",
		Args:  cobra.NoArgs,
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
	checks := []check{versionCheck()}
	for _, name := range []string{"rbee-hive", "llm-worker-rbee"} {
		checks = append(checks, programCheck(name))
	}
	home, err := conf.FindHome(nil)
	if err != nil {
		return append(checks, failed("state directory", err))
	}
	checks = append(checks, homeCheck(home))
	cfg, err := conf.Load(conf.Options{})
	if err != nil {
		return append(checks, failed("configuration", err), memoryCheck(), diskCheck(home))
	}
	checks = append(checks, configCheck(cfg))
	checks = append(checks, engineChecks(cfg)...)
	return append(checks, hiveCheck(ctx, cfg), memoryCheck(), diskCheck(home))
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
	path, err := findProgram(name)
	if err != nil {
		return failed("program "+name, err)
	}
	return check{"program " + name, fine, path, ""}
}

func homeCheck(home conf.Home) check {
	if err := home.Create(); err != nil {
		return failed("state directory", err)
	}
	return check{"state directory", fine, string(home) + " can be written", ""}
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

// hiveCheck says whether the hive runs or could.
func hiveCheck(ctx context.Context, cfg conf.Config) check {
	status, err := lookForHive(ctx, cfg)
	if err != nil {
		return failed("hive", err)
	}
	if status.Running {
		return check{"hive", fine, fmt.Sprintf("runs at %s (pid %d)", status.URL, status.PID), ""}
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", cfg.Hive.Addr)
	if err != nil {
		return check{
			"hive", warning, fmt.Sprintf("is not running, and its address %s cannot be had: %v", cfg.Hive.Addr, err),
			"stop the program that has the port, or set another hive.addr in " + cfg.Home.ConfigFile(),
		}
	}
	_ = ln.Close() // it served its purpose
	return check{"hive", note, "is not running; its address " + cfg.Hive.Addr + " is free", ""}
}

func memoryCheck() check {
	m, err := mem.VirtualMemory()
	if err != nil {
		return check{"memory", warning, "cannot be measured: " + err.Error(), ""}
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
		return check{"disk", warning, "cannot be measured: " + err.Error(), ""}
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
