package keeper

import (
	"context"
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
)

func (a *app) modelsCollectCommand() *cobra.Command {
	var (
		req     rbee.GCRequest
		maxSize string
	)
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove files that no model needs, and models that the quota has no room for",
		Long: `Remove files that no model needs: of downloads that were broken off, of programs
that were killed, damaged ones that were set aside, and files without a row in
the catalog. Then, if the store holds more than --max-size or models.quota_gb,
remove models, those first that were not used for longest, but none in use.

With --json standard output holds one object: dry_run, removed with path,
size_bytes, kind (partial, temporary, orphan, quarantine, evicted) and
model_ref, freed_bytes, store_bytes, quota_bytes, and kept with model_ref and
reason.`,
		Example: `  rbee models gc --dry-run
  rbee models gc --max-size 50GB`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("max-size") {
				bytes, err := parseSize(maxSize)
				if err != nil {
					return usagef(cmd, "--max-size %w", err)
				}
				req.MaxBytes = &bytes
			}
			return a.withHive(cmd, true, func(ctx context.Context, _ conf.Config, c *colony) error {
				reply, err := c.client.CollectModels(ctx, req)
				if err != nil {
					return err
				}
				a.printCollected(reply)
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "say what would go, and remove nothing")
	cmd.Flags().StringVar(&maxSize, "max-size", "", "most that the store may hold, such as 50GB (default models.quota_gb of the hive)")
	return cmd
}

func (a *app) printCollected(reply rbee.GCReply) {
	if a.out.json {
		a.out.emit(reply)
		return
	}
	if len(reply.Removed) > 0 {
		rows := [][]string{{"KIND", "SIZE", "WHAT"}}
		for _, f := range reply.Removed {
			what := f.Path
			if f.ModelRef != nil {
				what = f.ModelRef.String()
			}
			rows = append(rows, []string{string(f.Kind), size(f.SizeBytes), what})
		}
		a.out.table(rows)
	}
	for _, k := range reply.Kept {
		a.out.note("Kept %s: %s", k.ModelRef, k.Reason)
	}
	quota := ""
	if reply.QuotaBytes > 0 {
		quota = " of " + size(reply.QuotaBytes)
	}
	switch {
	case len(reply.Removed) == 0:
		a.out.note("Nothing to remove; the store holds %s%s.", size(reply.StoreBytes), quota)
	case reply.DryRun:
		a.out.note("Would free %s; the store would hold %s%s.", size(reply.FreedBytes), size(reply.StoreBytes), quota)
	default:
		a.out.note("Freed %s; the store holds %s%s.", size(reply.FreedBytes), size(reply.StoreBytes), quota)
	}
}

// parseSize reads an amount such as 50GB. A unit is needed, since a number
// alone could mean anything.
func parseSize(s string) (int64, error) {
	text := strings.ToUpper(strings.ReplaceAll(s, " ", ""))
	number := strings.TrimRight(text, "BIKMGT")
	unit, ok := map[string]float64{
		"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
		"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40,
	}[text[len(number):]]
	if s == "0" {
		return 0, nil
	}
	n, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil || !(n >= 0 && n*unit < math.MaxInt64) {
		return 0, errors.New("must be a number with a unit, such as 50GB or 500MB")
	}
	return int64(n * unit), nil
}

func (a *app) modelsUsageCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "du",
		Aliases: []string{"disk-usage"},
		Short:   "Show what the models take on the disk",
		Long: `Show what the models take on the disk. A file that several models share is
counted once; one outside the store is used where it lies.

With --json standard output holds one object: directory, files with path,
size_bytes, sha256, in_store and models, spare with path, size_bytes and kind,
store_bytes, spare_bytes, outside_bytes, quota_bytes and free_bytes.`,
		Example: "  rbee models du",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withHive(cmd, true, func(ctx context.Context, _ conf.Config, c *colony) error {
				usage, err := c.client.Usage(ctx)
				if err != nil {
					return err
				}
				if a.out.json {
					a.out.emit(usage)
				} else {
					a.printUsage(usage)
				}
				return nil
			})
		},
	}
}

func (a *app) printUsage(u rbee.Usage) {
	if len(u.Files)+len(u.Spare) > 0 {
		rows := [][]string{{"SIZE", "MODELS", "FILE"}}
		for _, f := range u.Files {
			var models []string
			for _, ref := range f.Models {
				models = append(models, ref.String())
			}
			rows = append(rows, []string{size(f.SizeBytes), strings.Join(models, ", "), f.Path})
		}
		for _, f := range u.Spare {
			rows = append(rows, []string{size(f.SizeBytes), "(" + string(f.Kind) + ")", f.Path})
		}
		a.out.table(rows)
		a.out.line("")
	}
	quota := "none"
	if u.QuotaBytes > 0 {
		quota = size(u.QuotaBytes)
	}
	spare := size(u.SpareBytes)
	if u.SpareBytes > 0 {
		spare += " ('rbee models gc' removes it)"
	}
	a.facts([][2]string{
		{"Store", size(u.StoreBytes) + " in " + u.Directory},
		{"Spare", spare},
		{"Outside", size(u.OutsideBytes)},
		{"Quota", quota},
		{"Free", size(u.FreeBytes)},
	})
}
