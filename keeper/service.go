package keeper

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
	"rbee/internal/daemon"
	"rbee/internal/service"
)

// serviceTime bounds what a service manager may take: a hive that starts
// sweeps, opens its catalog and listens before it says that it is ready.
const serviceTime = 3 * time.Minute

// serviceCommands are those of the hive as a service of the machine.
func (a *app) serviceCommands() []*cobra.Command {
	return []*cobra.Command{a.hiveInstallCommand(), a.hiveUninstallCommand(), a.hiveServiceCommand()}
}

// serviceFlags say which service is meant, and whether to do anything.
type serviceFlags struct {
	scope   string
	dryRun  bool
	keyFile string
}

func (f *serviceFlags) add(cmd *cobra.Command, acts bool) {
	cmd.Flags().StringVar(&f.scope, "scope", "", "user, for you alone, or system, for the machine (default system for root)")
	if acts {
		cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "say what would be written and run, and do nothing")
	}
}

// manager finds the service manager that is meant.
func (f *serviceFlags) manager(cmd *cobra.Command) (m *service.Manager, system bool, err error) {
	switch f.scope {
	case "user":
	case "system":
		system = true
	case "":
		system = os.Geteuid() == 0
	default:
		return nil, false, usagef(cmd, "--scope must be user or system")
	}
	m, err = service.Find(cmd.Context(), system, service.Surroundings{Env: os.Getenv, UID: os.Geteuid()})
	return m, system, err
}

func (a *app) hiveInstallCommand() *cobra.Command {
	var f serviceFlags
	var there remoteInstall
	cmd := &cobra.Command{
		Use:   "install [HOST]",
		Short: "Make the hive a service of this machine, or of another, which starts by itself",
		Long: `Make the hive a service of systemd or launchd, start it, and have it started
whenever you log in, or, as root, whenever the machine starts. The service of
root runs as a user of its own, with its state in ` + service.SystemHome + `.
Doing it again renews the service and changes nothing else.

With HOST, as in 'ssh HOST', it does this on another machine: it copies the
programs and the engine there, starts the hive, in the background where no
service manager serves you, and has it join the colony of the queen of this
machine. What is there already is not copied again. With --json each line of
standard output is an object with the field "event": phase, progress, note, and
at last done or error.`,
		Example: `  rbee hive install --dry-run
  sudo rbee hive install --key-file /etc/rbee/hive.key
  rbee hive install bee@big-machine
  rbee queen token | rbee hive install big-machine --join -`,
		Args: maybeHost,
		RunE: func(cmd *cobra.Command, hosts []string) error {
			if err := errors.Join(onlyHere(cmd, hosts, "dry-run", "key-file"), onlyThere(cmd, hosts, "from", "join")); err != nil {
				return err
			}
			if len(hosts) > 0 {
				there.scope = f.scope
				return a.installOn(cmd, hosts[0], there)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), serviceTime)
			defer cancel()
			m, system, err := f.manager(cmd)
			if err != nil {
				return err
			}
			cfg, err := a.config()
			if err != nil {
				return err
			}
			spec, err := serviceSpec(cfg, system, f.keyFile)
			if err != nil {
				return err
			}
			if err := roomForService(ctx, m, cfg, spec); err != nil {
				return err
			}
			steps, err := m.Install(spec)
			if err != nil || f.dryRun {
				return a.showSteps(steps, err)
			}
			if !system {
				if err := cfg.Home.Create(); err != nil { // launchd wants the directory of the log
					return err
				}
			}
			if err := carryOut(ctx, m, steps); err != nil {
				return err
			}
			return a.mustRun(ctx, m)
		},
	}
	f.add(cmd, true)
	cmd.Flags().StringVar(&f.keyFile, "key-file", "", "file with the key of the hive, which the service manager hands over")
	cmd.Flags().StringVar(&there.from, "from", "", "with HOST: directory with the programs for it (default those beside this rbee)")
	cmd.Flags().StringVar(&there.join, "join", "", "with HOST: token of its colony, or - for one on standard input (default one of the queen of this machine)")
	return cmd
}

// serviceSpec is the service of this program's hive.
func serviceSpec(cfg conf.Config, system bool, keyFile string) (service.Spec, error) {
	program, err := daemon.Program("rbee-hive")
	if err != nil {
		return service.Spec{}, err
	}
	spec := service.Spec{Program: program, Home: string(cfg.Home), System: system}
	if keyFile != "" {
		if spec.KeyFile, err = filepath.Abs(keyFile); err != nil {
			return spec, err
		}
		if _, err := conf.ReadKeyFile("hive", spec.KeyFile); err != nil {
			return spec, err
		}
	}
	if system {
		spec.Home, spec.Groups = service.SystemHome, service.DeviceGroups("/etc/group")
		return spec, service.Reachable(program)
	}
	return spec, nil
}

// roomForService refuses a service whose state directory another hive uses.
func roomForService(ctx context.Context, m *service.Manager, cfg conf.Config, spec service.Spec) error {
	state, err := m.State(ctx)
	if err != nil || state.Running {
		return err
	}
	cfg.Home = conf.Home(spec.Home)
	if record, alive := readHiveRecord(cfg.Home); alive {
		status, err := lookForHive(ctx, cfg)
		if err != nil || status.Running {
			return rbee.Errorf(rbee.CodeConflict, "a hive runs already for %s (pid %d), and it is no service", spec.Home, record.PID).
				WithCause(err).Suggest("stop it with 'rbee hive stop', and install then")
		}
	}
	return nil
}

func (a *app) hiveUninstallCommand() *cobra.Command {
	var f serviceFlags
	var models bool
	cmd := &cobra.Command{
		Use:   "uninstall [HOST]",
		Short: "Take back what 'rbee hive install' did",
		Long: `Stop the service of the hive and take it away. Models, settings and logs stay.
A service that is not there is no error.

With HOST the programs go there, too, and the hive leaves its colony.`,
		Example: "  rbee hive uninstall\n  rbee hive uninstall bee@big-machine --models",
		Args:    maybeHost,
		RunE: func(cmd *cobra.Command, hosts []string) error {
			if err := errors.Join(onlyHere(cmd, hosts, "dry-run"), onlyThere(cmd, hosts, "models")); err != nil {
				return err
			}
			if len(hosts) > 0 {
				return a.uninstallOn(cmd, hosts[0], f.scope, models)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), serviceTime)
			defer cancel()
			m, _, err := f.manager(cmd)
			if err != nil {
				return err
			}
			steps := m.Uninstall()
			if f.dryRun {
				return a.showSteps(steps, nil)
			}
			if err := carryOut(ctx, m, steps); err != nil {
				return err
			}
			switch {
			case a.out.json:
				_, err := a.showService(ctx, m)
				return err
			case len(steps) == 0:
				a.out.note("The hive is not installed as a service.")
			default:
				a.out.line("The hive is no service any more. Its models stay.")
			}
			return nil
		},
	}
	f.add(cmd, true)
	cmd.Flags().BoolVar(&models, "models", false, "with HOST: remove the models and the engine there, too")
	return cmd
}

func (a *app) hiveServiceCommand() *cobra.Command {
	var f serviceFlags
	cmd := &cobra.Command{
		Use:     "service",
		Short:   "Say whether the hive is installed as a service, and how it is; exit code 1 if it does not run",
		Example: "  rbee hive service --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, _, err := f.manager(cmd)
			if err != nil {
				return err
			}
			return a.mustRun(cmd.Context(), m)
		},
	}
	f.add(cmd, false)
	return cmd
}

// carryOut does one step after the other, and says where to look when one fails.
func carryOut(ctx context.Context, m *service.Manager, steps []service.Step) error {
	for _, s := range steps {
		if err := s.Do(ctx); err != nil {
			if len(s.Run) == 0 || ctx.Err() != nil {
				return err
			}
			return rbee.AsError(err).Suggest("see '%s', and take the service away with 'rbee hive uninstall'", m.Logs())
		}
	}
	return nil
}

// showSteps prints what would be done.
func (a *app) showSteps(steps []service.Step, err error) error {
	switch {
	case err != nil:
		return err
	case a.out.json:
		a.out.emit(struct {
			Steps []service.Step `json:"steps"`
		}{append([]service.Step{}, steps...)})
		return nil
	case len(steps) == 0:
		a.out.note("There is nothing to do.")
	}
	for _, s := range steps {
		a.out.line("%s", s)
		if s.Content != "" {
			a.out.line("    %s", strings.ReplaceAll(strings.TrimRight(s.Content, "\n"), "\n", "\n    "))
		}
	}
	return nil
}

// mustRun prints how the service is, and fails if it does not run.
func (a *app) mustRun(ctx context.Context, m *service.Manager) error {
	s, err := a.showService(ctx, m)
	if err == nil && !s.Running {
		return errReported
	}
	return err
}

// showService prints how the service is.
func (a *app) showService(ctx context.Context, m *service.Manager) (service.State, error) {
	s, err := m.State(ctx)
	if err != nil {
		return s, err
	}
	switch {
	case a.out.json:
		a.out.emit(s)
	case !s.Installed:
		a.out.line("The hive is not installed as a service")
	case !s.Running:
		a.out.line("The hive is installed (%s, %s), but does not run; see '%s'", s.Manager, s.Scope, m.Logs())
	default:
		a.out.line("The hive runs as a service (%s, %s, pid %d)%s", s.Manager, s.Scope, s.PID, after(": ", s.Status))
		if s.Manager == "systemd" && s.Scope == "user" {
			a.out.note("It runs while you are logged in; 'loginctl enable-linger' keeps it running.")
		}
	}
	return s, nil
}

// after puts a mark before a text that is not empty.
func after(mark, text string) string {
	if text == "" {
		return ""
	}
	return mark + text
}
