package keeper

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
)

func (a *app) modelsCommand() *cobra.Command {
	g := group("models", "Download, list, check and remove the models of a hive",
		a.modelsPullCommand(), a.modelsListCommand(), a.modelsShowCommand(), a.modelsRemoveCommand(),
		a.modelsVerifyCommand(), a.modelsCollectCommand(), a.modelsUsageCommand(),
		a.modelsImportCommand(), a.modelsExportCommand(), a.modelsAliasCommand(), a.modelsSearchCommand())
	g.Long = `Download, list, check and remove the models of a hive.

Without --node the hive of this machine is used, or a private one is started
for the command if none runs. A model is named as hf:ORG/REPO[@REV][:QUANT] or
hf:ORG/REPO::FILE, by an alias ('rbee models alias' lists them), or as the path
of a file that was imported.

The names of the llorch-models script work as well: catalog, download, info,
delete and disk-usage.`
	g.Example = `  rbee models pull tinyllama
  rbee models list
  rbee models du`
	nodeFlag(g)
	return g
}

func (a *app) modelsListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"catalog"},
		Short:   "List the models on disk",
		Long: `List the models on disk.

With --json standard output holds {"models":[...]}, with the rows of the
catalog.`,
		Example: "  rbee models list",
		Args:    cobra.NoArgs,
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
					a.out.note("No models in the catalog yet. 'rbee infer --model builtin:bee-tiny' needs none, 'rbee models pull REF' fetches one.")
					return nil
				}
				rows := [][]string{{"MODEL", "SIZE", "QUANTISATION", "ARCHITECTURE", "PARAMETERS", "CONTEXT", "LAST USED"}}
				for _, m := range models {
					rows = append(rows, []string{
						m.Ref().String(), size(m.SizeBytes), orDash(m.Quantisation), orDash(m.Architecture),
						parameters(m.Parameters), numberOrDash(m.ContextLength), when(m.LastUsed),
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

func numberOrDash(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
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
		Use:     "show REF",
		Aliases: []string{"info"},
		Short:   "Show what is known of a model on disk, and the memory that it takes",
		Long: `Show what is known of a model on disk, and the memory that a worker with one
slot takes at several contexts.

With --json standard output holds one object: the row of the catalog and
chat_template, layers, embedding, vocabulary, and memory with context_tokens,
slots, device, memory_bytes and fits.`,
		Example: `  rbee models show tinyllama`,
		Args:    one("model"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withHive(cmd, true, func(ctx context.Context, cfg conf.Config, c *colony) error {
				ref, err := modelRef(cfg, args[0], c.local)
				if err != nil {
					return err
				}
				m, err := c.client.Model(ctx, ref.String())
				if err != nil {
					return err
				}
				a.printModel(m)
				return nil
			})
		},
	}
}

func (a *app) printModel(m rbee.ModelDetails) {
	if a.out.json {
		a.out.emit(m)
		return
	}
	a.facts([][2]string{
		{"Model", m.Ref().String()},
		{"Name", m.Name},
		{"Came as", m.FileName},
		{"Revision", m.Revision},
	})
	for i, f := range m.Files() {
		label := "File"
		if len(m.Parts) > 0 {
			label = fmt.Sprintf("Part %d of %d", i+1, len(m.Parts))
		}
		a.facts([][2]string{{label, f.Path}, {"SHA-256", f.SHA256}})
	}
	a.facts([][2]string{
		{"Size", size(m.SizeBytes)},
		{"Architecture", orDash(m.Architecture)},
		{"Quantisation", orDash(m.Quantisation)},
		{"Parameters", parameters(m.Parameters)},
		{"Context", fmt.Sprintf("%d tokens", m.ContextLength)},
		{"Layers", numberOrDash(m.Layers)},
		{"Embedding", numberOrDash(m.Embedding)},
		{"Vocabulary", numberOrDash(m.Vocabulary)},
		{"Chat template", yesNo(m.ChatTemplate)},
		{"On disk since", when(m.DownloadedAt)},
		{"Last used", fmt.Sprintf("%s (%s)", when(m.LastUsed), plural(int(m.UseCount), "time"))},
	})
	if len(m.Memory) == 0 {
		return
	}
	a.out.line("")
	rows := [][]string{{"CONTEXT", "MEMORY", "DEVICE", "FITS"}}
	for _, e := range m.Memory {
		rows = append(rows, []string{strconv.Itoa(e.ContextTokens), size(e.MemoryBytes), orDash(string(e.Device)), yesNo(e.Fits)})
	}
	a.out.table(rows)
}

// facts prints names and values below one another. One without a value is left out.
func (a *app) facts(facts [][2]string) {
	for _, f := range facts {
		if f[1] != "" {
			a.out.line("%-14s %s", f[0]+":", f[1])
		}
	}
}

func (a *app) modelsRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm REF...",
		Aliases: []string{"remove", "delete"},
		Short:   "Remove models from the catalog and from the disk",
		Long: `Remove models from the catalog, and their files from the store of the hive.
A file outside the store is left alone, and so is one that another model of the
catalog shares. The names of models are printed as they go; with --json as
{"removed":"REF"}.`,
		Example: `  rbee models rm tinyllama`,
		Args:    atLeastOne("model"),
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
