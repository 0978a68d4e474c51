package keeper

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/client"
	"rbee/internal/conf"
)

// drainLook is how often a drain is looked at.
const drainLook = 250 * time.Millisecond

func (a *app) hiveCordonCommand() *cobra.Command {
	return a.standingCommand("cordon", "Have the hive start no more workers; those it has go on",
		"Have the hive start no more workers, until 'rbee hive uncordon'. The workers it\nhas go on and take requests.", (*client.Client).Cordon)
}

func (a *app) hiveUncordonCommand() *cobra.Command {
	return a.standingCommand("uncordon", "Take cordon or drain back",
		"Take 'rbee hive cordon' or 'rbee hive drain' back: the hive starts workers again,\nas far as its policy allows.", (*client.Client).Uncordon)
}

// standingCommand changes what a hive takes on.
func (a *app) standingCommand(name, short, long string, order func(*client.Client, context.Context) (rbee.HiveStanding, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: name, Short: short, Long: long, Args: cobra.NoArgs,
		Example: "  rbee hive " + name + "\n  rbee hive " + name + " --node big",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withHive(cmd, false, func(ctx context.Context, _ conf.Config, c *colony) error {
				standing, err := order(c.client, ctx)
				if err != nil {
					return err
				}
				if a.out.json {
					a.out.emit(standing)
					return nil
				}
				a.out.line("The hive on %s is %s", c.host, standingText(standing))
				return nil
			})
		},
	}
	nodeFlag(cmd)
	return cmd
}

func standingText(s rbee.HiveStanding) string {
	if s.Reason == "" {
		return string(s.State)
	}
	return string(s.State) + ": " + s.Reason
}

func (a *app) hiveDrainCommand() *cobra.Command {
	var noWait bool
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Have the hive finish what it does and end its workers",
		Long: `Have the hive take no more requests, finish what runs and end its workers. The
hive itself goes on; 'rbee hive uncordon' opens it again. It returns when the last
worker is gone; Ctrl-C ends the waiting, not the drain.`,
		Example: "  rbee hive drain && rbee hive stop\n  rbee hive drain --node big --no-wait",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withHive(cmd, false, func(ctx context.Context, _ conf.Config, c *colony) error {
				standing, err := c.client.Drain(ctx)
				if err != nil {
					return err
				}
				if !noWait {
					if err := a.awaitDrain(ctx, c); err != nil {
						return err
					}
				}
				switch {
				case a.out.json:
					a.out.emit(standing)
				case noWait:
					a.out.line("The hive on %s is %s", c.host, standingText(standing))
				default:
					a.out.line("The hive on %s has no workers any more", c.host)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return while workers still finish what they do")
	nodeFlag(cmd)
	return cmd
}

// awaitDrain blocks until a hive has no worker left.
func (a *app) awaitDrain(ctx context.Context, c *colony) error {
	b := a.out.bar(0, "draining", "")
	defer b.clear()
	for {
		status, err := c.client.Status(ctx)
		if err != nil {
			return err
		}
		workers := 0
		for _, n := range status.Workers {
			workers += n
		}
		if workers == 0 {
			return nil
		}
		b.relabel(fmt.Sprintf("draining: %s, %s", plural(workers, "worker"), plural(status.RequestsInFlight, "request")), "")
		b.set(0, 0)
		if err := pause(ctx, drainLook); err != nil {
			return err
		}
	}
}

func (a *app) hiveDecisionsCommand() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "decisions",
		Aliases: []string{"why"},
		Short:   "Say what the hive decided about its memory, and why",
		Long: `Say what the hive decided about its memory, and why: which worker it started,
which idle ones ended for it, and what did not fit. The newest is first. With
--json each has all figures that it was made of.`,
		Example: "  rbee hive decisions\n  rbee hive why --limit 1 --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usagef(cmd, "--limit must be 0 or more")
			}
			return a.withHive(cmd, false, func(ctx context.Context, _ conf.Config, c *colony) error {
				decisions, err := c.client.Decisions(ctx)
				if err != nil {
					return err
				}
				if limit > 0 {
					decisions = decisions[:min(limit, len(decisions))]
				}
				a.printDecisions(c, decisions)
				return nil
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "most decisions to print; 0 for all")
	nodeFlag(cmd)
	return cmd
}

func (a *app) printDecisions(c *colony, decisions []rbee.Decision) {
	if a.out.json {
		a.out.emit(rbee.DecisionList{Decisions: append([]rbee.Decision{}, decisions...)})
		return
	}
	if len(decisions) == 0 {
		a.out.note("The hive on %s has not decided anything so far.", c.host)
		return
	}
	rows := [][]string{{"TIME", "VERDICT", "MODEL", "NEEDS", "FREE", "WHY"}}
	for _, d := range decisions {
		rows = append(rows, []string{
			d.Time.Local().Format(time.TimeOnly), string(d.Verdict), d.Request.ModelRef.String(),
			size(d.RequiredBytes), size(d.FreeBytes), d.Sentence,
		})
	}
	a.out.table(rows)
}

// printStatus says what a hive takes on, and how its memory is used.
func (a *app) printStatus(s rbee.HiveStatus) {
	strong := a.out.outStyles.strong
	a.out.line("%s %s", strong("state:  "), standingText(s.HiveStanding))
	a.out.line("%s %s", strong("workers:"), workersText(s))
	a.out.line("%s %s", strong("policy: "), policyText(s.Policy))
	for _, m := range s.Memory {
		text := fmt.Sprintf("%s: %s of %s free", m.Device, size(m.FreeBytes), size(m.TotalBytes))
		for _, part := range []struct {
			bytes int64
			what  string
		}{{m.PromisedBytes, "promised to workers"}, {m.LeaveBytes, "left to other programs"}} {
			if part.bytes > 0 {
				text += fmt.Sprintf(", %s of it %s", size(part.bytes), part.what)
			}
		}
		a.out.line("%s %s; workers hold %s", strong("memory: "), text, size(m.WorkersBytes))
	}
	if s.Colony != nil {
		a.out.line("%s %s", strong("colony: "), strings.TrimPrefix(colonyText(*s.Colony), "is "))
	}
	if s.ClockJump != nil {
		a.out.line("%s %s", a.out.outStyles.warn("clock:  "), jumpText(*s.ClockJump))
	}
	for _, l := range s.CrashLoops {
		why := ""
		if l.Last != nil {
			why = ": " + l.Last.Message
		}
		a.out.line("%s %s failed %s in a row, and may start again at %s%s", a.out.outStyles.warn("crashes:"),
			l.ModelRef, plural(l.Failures, "time"), l.RetryAt.Local().Format(time.TimeOnly), why)
	}
}

// jumpText says how the clock of a hive's machine jumped.
func jumpText(j rbee.ClockJump) string {
	by, at := time.Duration(j.BySeconds*float64(time.Second)), j.At.Local().Format(time.DateTime)
	if by < 0 {
		return fmt.Sprintf("was set back by %s while the hive ran, to %s", -by, at)
	}
	return fmt.Sprintf("went ahead by %s while the hive ran, to %s: it was set, or the machine slept", by, at)
}

func workersText(s rbee.HiveStatus) string {
	var parts []string
	for _, state := range rbee.WorkerStates() {
		if n := s.Workers[state]; n > 0 {
			parts = append(parts, strconv.Itoa(n)+" "+string(state))
		}
	}
	if parts == nil {
		parts = append(parts, "none")
	}
	if s.External > 0 {
		parts = append(parts, fmt.Sprintf("%d external", s.External))
	}
	parts = append(parts, plural(s.RequestsInFlight, "request")+" running")
	if s.Waiting > 0 {
		parts = append(parts, fmt.Sprintf("%d to start when memory is free", s.Waiting))
	}
	return strings.Join(parts, ", ")
}

func policyText(p rbee.HivePolicy) string {
	parts := []string{"starts workers at any time"}
	if p.Hours != "" {
		parts[0] = "starts workers " + p.Hours
	}
	if p.OnBattery == "never" {
		parts = append(parts, "not on battery")
	}
	if p.LeaveFreeMB > 0 {
		parts = append(parts, "leaves "+size(int64(p.LeaveFreeMB)*1e6)+" of main memory free")
	}
	if p.LeaveFreeVRAMMB > 0 {
		parts = append(parts, "leaves "+size(int64(p.LeaveFreeVRAMMB)*1e6)+" of each accelerator free")
	}
	if p.MemoryLimitMB > 0 {
		parts = append(parts, "at most "+size(int64(p.MemoryLimitMB)*1e6)+" for all workers")
	}
	return strings.Join(parts, ", ")
}

// pinCommand is workers pin or unpin.
func (a *app) pinCommand(name, short, is string, order func(*client.Client, context.Context, rbee.WorkerID) (rbee.Worker, error)) *cobra.Command {
	return &cobra.Command{
		Use: name + " ID...", Short: short, Args: atLeastOne("id of the worker"),
		Example: "  rbee workers " + name + " w-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withHive(cmd, false, func(ctx context.Context, _ conf.Config, c *colony) error {
				for _, id := range args {
					w, err := order(c.client, ctx, rbee.WorkerID(id))
					if err != nil {
						return err
					}
					if a.out.json {
						a.out.emit(w)
					} else {
						a.out.line("Worker %s is %s", w.ID, is)
					}
				}
				return nil
			})
		},
	}
}

func (a *app) workersPinCommand() *cobra.Command {
	return a.pinCommand("pin", "Keep workers from ending for another model or for idleness", "pinned", (*client.Client).Pin)
}

func (a *app) workersUnpinCommand() *cobra.Command {
	return a.pinCommand("unpin", "Let pinned workers end again for another model or for idleness", "not pinned any more", (*client.Client).Unpin)
}
