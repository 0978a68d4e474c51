package keeper

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
)

func (a *app) modelsCommand() *cobra.Command {
	g := group("models", "List, show, import and remove the models of a hive",
		a.modelsListCommand(), a.modelsShowCommand(), a.modelsRemoveCommand(), a.modelsImportCommand())
	nodeFlag(g)
	return g
}

func (a *app) modelsListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the models on disk",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withHive(cmd, true, func(ctx context.Context, _ conf.Config, c *colony) error {
				models, err := c.client.Models(ctx)
				if err != nil {
					return err
				}
				if a.out.json {
					a.out.emit(rbee.ModelList{Models: models})
					return nil
				}
				if len(models) == 0 {
					a.out.note("No models in the catalog yet. 'rbee infer --model builtin:bee-tiny' needs none, 'rbee models import FILE' adds one.")
					return nil
				}
				rows := [][]string{{"MODEL", "SIZE", "QUANTISATION", "ARCHITECTURE", "PARAMETERS", "CONTEXT", "LAST USED"}}
				for _, m := range models {
					rows = append(rows, []string{
						m.Ref().String(), megabytes(m.SizeBytes), orDash(m.Quantisation), orDash(m.Architecture),
						parameters(m.Parameters), strconv.Itoa(m.ContextLength), when(m.LastUsed),
					})
				}
				a.out.table(rows)
				return nil
			})
		},
	}
}

// parameters prints a number of parameters as people say it: 1.1B, 125M.
func parameters(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1fB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1fM", float64(n)/1e6)
	case n > 0:
		return fmt.Sprintf("%.0fK", float64(n)/1e3)
	}
	return "-"
}

func when(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format(time.DateTime)
}

// findModel is the row of the catalog that the user means.
func findModel(ctx context.Context, cfg conf.Config, c *colony, name string) (rbee.Model, error) {
	ref, err := modelRef(cfg, name, c.local)
	if err != nil {
		return rbee.Model{}, err
	}
	models, err := c.client.Models(ctx)
	if err != nil {
		return rbee.Model{}, err
	}
	for _, m := range models {
		if m.Ref() == ref {
			return m, nil
		}
	}
	return rbee.Model{}, rbee.Errorf(rbee.CodeModelNotFound, "the model %s is not in the catalog of %s", ref, c.host).
		Suggest("see 'rbee models list'")
}

func (a *app) modelsShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show REF",
		Short: "Show what the catalog knows of a model",
		Args:  one("model"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withHive(cmd, true, func(ctx context.Context, cfg conf.Config, c *colony) error {
				m, err := findModel(ctx, cfg, c, args[0])
				if err != nil {
					return err
				}
				a.printModel(m)
				return nil
			})
		},
	}
}

func (a *app) printModel(m rbee.Model) {
	if a.out.json {
		a.out.emit(m)
		return
	}
	for _, row := range [][2]string{
		{"Model", m.Ref().String()},
		{"File", m.LocalPath},
		{"Size", megabytes(m.SizeBytes)},
		{"SHA-256", orDash(m.SHA256)},
		{"Architecture", orDash(m.Architecture)},
		{"Quantisation", orDash(m.Quantisation)},
		{"Parameters", parameters(m.Parameters)},
		{"Context", fmt.Sprintf("%d tokens", m.ContextLength)},
		{"On disk since", when(m.DownloadedAt)},
		{"Last used", fmt.Sprintf("%s (%s)", when(m.LastUsed), plural(int(m.UseCount), "time"))},
	} {
		a.out.line("%-14s %s", row[0]+":", row[1])
	}
}

func (a *app) modelsRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm REF...",
		Aliases: []string{"remove"},
		Short:   "Remove models from the catalog",
		Long: `Remove models from the catalog, and their files from the store of the hive.
A file outside the store is left alone.`,
		Args: atLeastOne("model"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withHive(cmd, true, func(ctx context.Context, cfg conf.Config, c *colony) error {
				for _, name := range args {
					m, err := findModel(ctx, cfg, c, name)
					if err != nil {
						return err
					}
					if err := c.client.RemoveModel(ctx, m.Ref().String()); err != nil {
						return err
					}
					if a.out.json {
						a.out.emit(struct {
							Removed rbee.ModelRef `json:"removed"`
						}{m.Ref()})
					} else {
						a.out.line("Removed %s", m.Ref())
					}
				}
				return nil
			})
		},
	}
}

func (a *app) modelsImportCommand() *cobra.Command {
	var sha256 string
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Take a GGUF file into the store of the hive",
		Long: `Take a GGUF file into the store of the hive, by a hard link where that is
possible, so that it stays when the original is removed. Print its reference.`,
		Args: one("file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withHive(cmd, true, func(ctx context.Context, _ conf.Config, c *colony) error {
				path := args[0]
				if !filepath.IsAbs(path) {
					if !c.local {
						return rbee.Errorf(rbee.CodeInvalidRequest, "cannot use a relative path: the hive is on another machine").
							Suggest("give the absolute path of the file on the hive's machine")
					}
					var err error
					if path, err = filepath.Abs(path); err != nil {
						return err
					}
				}
				m, err := c.client.ImportModel(ctx, rbee.ImportRequest{Path: path, SHA256: sha256})
				if err != nil {
					return err
				}
				if a.out.json {
					a.out.emit(m)
				} else {
					a.out.note("Imported %s (%s)", m.LocalPath, megabytes(m.SizeBytes))
					a.out.line("%s", m.Ref())
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&sha256, "sha256", "", "digest that the file must have (64 hex digits)")
	return cmd
}
