package keeper

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
)

// colonyStatus is the JSON form of rbee status.
type colonyStatus struct {
	Queen   queenStatus         `json:"queen"`
	Hives   []rbee.ColonyHive   `json:"hives"`
	Workers []rbee.PlacedWorker `json:"workers"`
	Local   *hiveStatus         `json:"local_hive,omitempty"` // without a queen
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the queen, the hives of all machines and their workers",
		Long: `Show the queen of this machine, the hives of her colony and their workers: memory,
models, slots and measured speeds. Without a queen it shows the hive of this
machine, and exits with code 1.`,
		Example: "  rbee status\n  rbee status --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			cfg, err := a.config()
			if err != nil {
				return err
			}
			c, err := openQueen(ctx, cfg)
			if err != nil {
				return err
			}
			if c == nil {
				return a.statusWithoutQueen(ctx, cfg)
			}
			c.close(ctx)
			return a.withQueen(cmd, a.showColony)
		},
	}
}

func (a *app) showColony(ctx context.Context, cfg conf.Config, c *colony) error {
	queen, err := c.client.QueenStatus(ctx)
	if err != nil {
		return err
	}
	hives, err := c.client.Hives(ctx)
	if err != nil {
		return err
	}
	workers, err := c.client.ColonyWorkers(ctx)
	if err != nil {
		return err
	}
	if a.out.json {
		status, err := lookForQueen(ctx, cfg)
		status.Status = &queen
		a.out.emit(colonyStatus{Queen: status, Hives: hives, Workers: workers})
		return err
	}
	a.printQueen(c, queen)
	a.out.line("")
	a.printHives(hives)
	if len(workers) > 0 {
		a.out.line("")
		a.printWorkers(workers)
	}
	return nil
}

func (a *app) statusWithoutQueen(ctx context.Context, cfg conf.Config) error {
	local, err := lookForHive(ctx, cfg)
	if err != nil {
		return err
	}
	switch {
	case a.out.json:
		a.out.emit(colonyStatus{Queen: queenStatus{Home: string(cfg.Home)}, Hives: []rbee.ColonyHive{}, Workers: []rbee.PlacedWorker{}, Local: &local})
	case local.Running:
		a.out.line("No queen is running on this machine. Its hive runs at %s (pid %d, %s)", local.URL, local.PID, plural(local.Workers, "worker"))
		a.printMembership(ctx, cfg)
	default:
		a.out.line("Nothing is running on this machine")
	}
	a.out.note("'rbee up' starts a queen and a hive; 'rbee hive start --join TOKEN' joins the colony of another machine.")
	return errReported
}

// printMembership says how the hive of this machine stands with its colony.
func (a *app) printMembership(ctx context.Context, cfg conf.Config) {
	if s, err := askStatus(ctx, cfg); err == nil && s.Colony != nil {
		a.out.line("It %s", colonyText(*s.Colony))
	}
}

// colonyText says how a hive stands with its colony.
func colonyText(c rbee.HiveColony) string {
	switch {
	case c.Connected:
		return "is in a colony"
	case c.Error != nil:
		return "is not in its colony: " + c.Error.Message
	}
	return "is about to join its colony"
}

// printQueen says how a queen is.
func (a *app) printQueen(c *colony, s rbee.QueenStatus) {
	strong := a.out.outStyles.strong
	a.out.line("The queen runs at %s (version %s, since %s)", c.base, s.Version, when(s.StartedAt))
	bus := busText(s.Bus)
	if !s.Bus.Connected {
		bus += "; " + a.out.outStyles.warn("not connected") + after(": ", s.Bus.Reason)
	}
	a.out.line("%s    %s", strong("bus:"), bus)
	a.out.line("%s %d", strong("models:"), s.Models)
	hives := strconv.Itoa(s.Hives[rbee.HivePresent])
	if lost := s.Hives[rbee.HiveLost]; lost > 0 {
		hives += fmt.Sprintf(", and %d lost", lost)
	}
	a.out.line("%s  %s; %s", strong("hives:"), hives, localHiveText(s.LocalHive))
}

// busText says where hives join.
func busText(b rbee.BusStatus) string {
	if b.Addr == "" {
		return "that of another"
	}
	host, port, err := net.SplitHostPort(b.Addr)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return "hives join at port " + port
	}
	return "hives join at " + b.Addr
}

// localHiveText says how the hive of the queen's machine is.
func localHiveText(h rbee.LocalHiveStatus) string {
	switch h.State {
	case rbee.LocalHiveRunning:
		return fmt.Sprintf("that of this machine runs (pid %d)", h.PID)
	case rbee.LocalHiveStarting:
		return "that of this machine starts"
	case rbee.LocalHiveFailed:
		return "that of this machine does not run" + after(": ", h.Reason)
	}
	return "this machine has none"
}

func (a *app) queenHivesCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "hives",
		Short:   "List the hives of the colony",
		Example: "  rbee queen hives --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withQueen(cmd, func(ctx context.Context, _ conf.Config, c *colony) error {
				hives, err := c.client.Hives(ctx)
				switch {
				case err != nil:
					return err
				case a.out.json:
					a.out.emit(rbee.HiveList{Hives: hives})
				default:
					a.printHives(hives)
				}
				return nil
			})
		},
	}
}

func (a *app) printHives(hives []rbee.ColonyHive) {
	if len(hives) == 0 {
		a.out.note("No hive is in the colony; 'rbee queen token' prints how one joins.")
		return
	}
	rows := [][]string{{"HIVE", "ID", "STATE", "DEVICES", "MEMORY FREE", "MODELS", "WORKERS", "DOWNLOAD", "HEARD"}}
	for _, h := range hives {
		download := "-"
		if h.DownloadMBps > 0 {
			download = fmt.Sprintf("%.0f MB/s", h.DownloadMBps)
		}
		rows = append(rows, []string{
			h.Name, string(h.ID), hiveStateText(h), devicesText(h.Devices), memoryText(h.Memory),
			strconv.Itoa(len(h.Models)), strconv.Itoa(len(h.Workers)), download, agoText(time.Since(h.LastHeard)),
		})
	}
	a.out.table(rows)
	for _, h := range hives {
		if h.Reason != "" {
			a.out.note("%s: %s", h.Name, h.Reason)
		}
	}
}

// hiveStateText is a word or two about what a hive takes on.
func hiveStateText(h rbee.ColonyHive) string {
	if h.Presence != rbee.HivePresent {
		return string(h.Presence)
	}
	return string(h.Standing.State)
}

func devicesText(devices []rbee.Device) string {
	var names []string
	for _, d := range devices {
		names = append(names, string(d.ID))
	}
	return orDash(strings.Join(names, ", "))
}

func memoryText(memory []rbee.DeviceMemory) string {
	var parts []string
	for _, m := range memory {
		text := size(m.FreeBytes) + " of " + size(m.TotalBytes)
		if len(memory) > 1 {
			text = string(m.Device) + " " + text
		}
		parts = append(parts, text)
	}
	return orDash(strings.Join(parts, ", "))
}

// agoText is how long something is past.
func agoText(d time.Duration) string {
	if d < 2*time.Second {
		return "now"
	}
	return span(d) + " ago"
}

func (a *app) printWorkers(workers []rbee.PlacedWorker) {
	slices.SortStableFunc(workers, func(a, b rbee.PlacedWorker) int { return strings.Compare(a.HiveName, b.HiveName) })
	rows := [][]string{{"WORKER", "HIVE", "MODEL", "STATE", "DEVICE", "SLOTS FREE", "WAITING", "MEMORY", "PREFILL", "SPEED"}}
	for _, w := range workers {
		state := string(w.State)
		if w.State == rbee.WorkerLoading && w.LoadedFraction > 0 {
			state += fmt.Sprintf(" %.0f%%", 100*w.LoadedFraction)
		}
		if w.External {
			state += ", external"
		}
		prefill, speed := "-", "-"
		if w.PrefillPerSec > 0 {
			prefill = fmt.Sprintf("%.0f tokens/s", w.PrefillPerSec)
		}
		if w.TokenMS > 0 {
			speed = fmt.Sprintf("%.1f tokens/s", 1000/w.TokenMS)
		}
		rows = append(rows, []string{
			string(w.ID), w.HiveName, w.ModelRef.String(), state, orDash(string(w.Device)),
			fmt.Sprintf("%d/%d", max(0, w.SlotsTotal-w.SlotsBusy), w.SlotsTotal), strconv.Itoa(w.Waiting), size(w.MemoryBytes), prefill, speed,
		})
	}
	a.out.table(rows)
}
