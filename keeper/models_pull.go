package keeper

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
)

func (a *app) modelsPullCommand() *cobra.Command {
	var (
		limit float64
		list  bool
	)
	cmd := &cobra.Command{
		Use:     "pull REF",
		Aliases: []string{"download"},
		Short:   "Download a model, or go on with a download",
		Long: `Download a model to the disk of the hive, and print its reference. A model that
is there is not fetched again, and a download that was broken off goes on from
where it was. Without a quantisation the hive takes the best that fits the
machine; --list shows what there is.

HF_TOKEN (of the hive) opens gated repositories, HF_ENDPOINT names another hub.

With --json each line of standard output is an object with the field "event":
  progress  label, done, total, unit, speed_mbps (10^6 bytes per second),
            eta_seconds, connections
  note      text: the download was resumed, or tried again
  done      model_ref, cached (nothing was fetched), local_path, size_bytes
  error     error: code, message, details
The last line is a done or an error. With --list it is one object: repository,
revision, and variants with model_ref, quantisation, files, size_bytes,
memory_bytes, fits, on_disk, chosen.`,
		Example: `  rbee models pull tinyllama
  rbee models pull Qwen/Qwen2.5-0.5B-Instruct-GGUF --list
  rbee models pull hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0 --limit 5`,
		Args: one("model"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case !(limit >= 0 && limit <= 1e6): // NaN is neither
				return usagef(cmd, "--limit must be from 0 to 1000000")
			case list && cmd.Flags().Changed("limit"):
				return usagef(cmd, "--list downloads nothing; leave --limit out")
			}
			return a.withHive(cmd, true, func(ctx context.Context, cfg conf.Config, c *colony) error {
				ref, err := modelRef(cfg, args[0], c.local)
				switch {
				case err != nil:
					return err
				case list:
					return a.listVariants(ctx, c, ref)
				}
				return a.pull(ctx, c, ref, limit)
			})
		},
	}
	cmd.Flags().Float64Var(&limit, "limit", 0, "most MB per second of this download (default download.limit_mbps of the hive)")
	cmd.Flags().BoolVar(&list, "list", false, "show the variants of the model, and download nothing")
	return cmd
}

// pulledEvent is the JSON form of the end of pull.
type pulledEvent struct {
	Event     string        `json:"event"`
	ModelRef  rbee.ModelRef `json:"model_ref"`
	Cached    bool          `json:"cached"`
	LocalPath string        `json:"local_path"`
	SizeBytes int64         `json:"size_bytes"`
}

func (a *app) pull(ctx context.Context, c *colony, ref rbee.ModelRef, limit float64) error {
	began := time.Now()
	p, err := a.download(ctx, c, rbee.DownloadRequest{ModelRef: ref.String(), LimitMBps: limit}, 0)
	if err != nil {
		return err
	}
	cached := p.Stage == rbee.DownloadCached
	switch {
	case a.out.json:
		a.out.emit(pulledEvent{"done", ref, cached, p.LocalPath, p.BytesTotal})
		return nil
	case cached:
		a.out.note("Already here: %s%s", p.LocalPath, sizeOf(p))
	default:
		a.out.note("Downloaded %s%s in %s", p.LocalPath, sizeOf(p), span(time.Since(began)))
	}
	a.out.line("%s", ref)
	return nil
}

func (a *app) listVariants(ctx context.Context, c *colony, ref rbee.ModelRef) error {
	list, err := c.client.Variants(ctx, ref.String())
	if err != nil {
		return err
	}
	if a.out.json {
		a.out.emit(list)
		return nil
	}
	a.out.note("%s at revision %s", list.Repository, list.Revision)
	rows := [][]string{{"", "QUANTISATION", "SIZE", "MEMORY", "FITS", "ON DISK", "FILES"}}
	chosen := false
	for _, v := range list.Variants {
		mark := ""
		if v.Chosen {
			mark, chosen = "*", true
		}
		rows = append(rows, []string{
			mark, orDash(v.Quantisation), size(v.SizeBytes), size(v.MemoryBytes), yesNo(v.Fits), yesNo(v.OnDisk), filesOf(v),
		})
	}
	a.out.table(rows)
	if chosen {
		a.out.note("* is what 'rbee models pull %s' takes; add :QUANTISATION or ::FILE to the repository for another.", ref)
	}
	return nil
}

func filesOf(v rbee.Variant) string {
	switch len(v.Files) {
	case 0:
		return "-"
	case 1:
		return v.Files[0]
	}
	return fmt.Sprintf("%s and %d more", v.Files[0], len(v.Files)-1)
}

func (a *app) modelsSearchCommand() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "search WORD...",
		Short: "Search the hub for models that rbee can run",
		Long: `Search the hub for repositories with GGUF files, the most downloaded first. The
terms of a gated one must be accepted on the hub, and HF_TOKEN set for the hive.

With --json standard output holds {"models":[...]} with model_ref, downloads,
likes, gated and updated_at.`,
		Example: `  rbee models search qwen2.5 instruct
  rbee models search tinyllama --limit 5`,
		Args: atLeastOne("word"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 || limit > 100 {
				return usagef(cmd, "--limit must be from 1 to 100")
			}
			return a.withHive(cmd, true, func(ctx context.Context, _ conf.Config, c *colony) error {
				words := strings.Join(args, " ")
				found, err := c.client.SearchModels(ctx, words, limit)
				if err != nil {
					return err
				}
				if a.out.json {
					a.out.emit(rbee.HubModelList{Models: append([]rbee.HubModel{}, found...)})
					return nil
				}
				if len(found) == 0 {
					a.out.note("The hub has no models for %q.", words)
					return nil
				}
				rows := [][]string{{"MODEL", "DOWNLOADS", "LIKES", "UPDATED", "GATED"}}
				for _, m := range found {
					updated := "-"
					if !m.UpdatedAt.IsZero() {
						updated = m.UpdatedAt.Local().Format(time.DateOnly)
					}
					rows = append(rows, []string{
						m.ModelRef.String(), strconv.FormatInt(m.Downloads, 10), strconv.FormatInt(m.Likes, 10), updated, yesNo(m.Gated),
					})
				}
				a.out.table(rows)
				return nil
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "most repositories to list")
	return cmd
}
