package keeper

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
)

func (a *app) planCommand() *cobra.Command {
	var model, prompt, node string
	cmd := &cobra.Command{
		Use:   "plan --model REF [--prompt TEXT | -]",
		Short: "Say where the queen would send a request, and why; nothing is sent",
		Long: `Say where the queen would send a request, and why: the ways that there are, what
the first token is expected to take on each, in seconds and by its parts, and the
one that she would take, marked with *. Nothing is sent. Exit code 1 if no hive
can serve it now.`,
		Example: `  rbee plan --model qwen
  rbee plan --model builtin:bee-tiny --prompt "Once upon a time" --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case model == "":
				return usagef(cmd, "--model is missing, such as --model builtin:bee-tiny")
			case len(args) == 1 && args[0] != "-":
				return usagef(cmd, "the argument may only be -, which reads the prompt from standard input; a prompt goes to --prompt")
			}
			if len(args) == 1 || prompt == "-" {
				var err error
				if prompt, err = readPrompt(a.in); err != nil {
					return err
				}
			}
			return a.withQueen(cmd, func(ctx context.Context, cfg conf.Config, c *colony) error {
				ref, err := modelRef(cfg, model, true)
				if err != nil {
					return err
				}
				plan, err := c.client.Plan(ctx, planned{ref.String(), prompt}, node)
				if err != nil {
					return err
				}
				if a.out.json {
					a.out.emit(plan)
				} else {
					a.printRoutes(plan.RouteDecision)
				}
				if plan.Chosen == nil {
					return errReported
				}
				return nil
			})
		},
	}
	modelFlag(cmd.Flags(), &model)
	cmd.Flags().StringVar(&prompt, "prompt", "", "prompt, whose length and beginning count; - reads standard input")
	cmd.Flags().StringVar(&node, "node", "", "name or id of a hive that must serve it")
	a.completeNode(cmd)
	return cmd
}

// planned is what of a request a plan depends on.
type planned struct {
	Model  string `json:"model"`
	Prompt string `json:"prompt"`
}

// printRoutes prints a decision: the ways there were, and the reason.
func (a *app) printRoutes(d rbee.RouteDecision) {
	rows := [][]string{{"", "HIVE", "WORKER", "MODEL", "TOTAL", "QUEUE", "LOAD", "EVICT", "DOWNLOAD", "PREFILL", "GUARD", "NOT TAKEN"}}
	add := func(mark string, r rbee.Route) {
		c := r.Cost
		row := []string{mark, r.HiveName, orDash(string(r.Worker)), kindText(r.Kind)}
		if r.Excluded != "" {
			row = append(row, "-", "-", "-", "-", "-", "-", "-", r.Excluded)
		} else {
			row = append(row, secondsText(c.Total), secondsText(c.Queue), secondsText(c.Load), secondsText(c.Evict),
				secondsText(c.Download), secondsText(c.Prefill), secondsText(c.Guard), "")
		}
		rows = append(rows, row)
	}
	if d.Chosen != nil {
		add("*", *d.Chosen)
	}
	for _, r := range d.Others {
		add("", r)
	}
	if len(rows) > 1 {
		a.out.table(withoutDashes(rows))
		a.out.line("")
	}
	a.out.line("It %s.", d.Sentence)
}

// withoutDashes leaves out columns that say nothing in any row.
func withoutDashes(rows [][]string) [][]string {
	out := make([][]string, len(rows))
	for column := range rows[0] {
		says := false
		for _, row := range rows[1:] {
			says = says || row[column] != "-" && row[column] != ""
		}
		if !says {
			continue
		}
		for i := range rows {
			out[i] = append(out[i], rows[i][column])
		}
	}
	return out
}

func kindText(k rbee.RouteKind) string {
	switch k {
	case rbee.RouteReady:
		return "loaded"
	case rbee.RouteLoading:
		return "loads"
	case rbee.RouteStart:
		return "on disk"
	case rbee.RouteDownload:
		return "to fetch"
	}
	return string(k)
}

// secondsText is a part of a cost, in seconds.
func secondsText(s float64) string {
	switch {
	case s == 0:
		return "-"
	case s < 0.0005:
		return "<0.001"
	case s < 100:
		return fmt.Sprintf("%.3f", s)
	}
	return fmt.Sprintf("%.0f", s)
}

func (a *app) whyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "why [ID]",
		Short: "Say where a request went, and why; without ID the last one",
		Long: `Say where a request of the queen went, and why: the ways that there were, what the
first token was expected to take on each, in seconds, and how it ended. ID is what
the header X-Request-Id of the reply says; without it the last request is meant.
With --json all that the decision was made of is told.`,
		Example: "  rbee why\n  rbee why req-3k2fa7b5x6qzt4mw --json",
		Args:    cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeWith(func(ctx context.Context, c *colony) (ids []string) {
			list, err := c.client.RouteDecisions(ctx, 20)
			if err != nil {
				return nil
			}
			for _, d := range list {
				ids = append(ids, d.RequestID+"\t"+d.Time.Local().Format(time.TimeOnly))
			}
			return ids
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withQueen(cmd, func(ctx context.Context, _ conf.Config, c *colony) error {
				if len(args) == 0 {
					list, err := c.client.RouteDecisions(ctx, 1)
					if err != nil {
						return err
					}
					if len(list) == 0 {
						return rbee.Errorf(rbee.CodeInvalidRequest, "the queen has sent no request anywhere since she started").
							Suggest("see where one would go with 'rbee plan --model builtin:bee-tiny'")
					}
					args = []string{list[0].RequestID}
				}
				d, err := c.client.RouteDecision(ctx, args[0])
				if err != nil {
					return err
				}
				if a.out.json {
					a.out.emit(d)
				} else {
					a.printDecision(d)
				}
				return nil
			})
		},
	}
}

func (a *app) printDecision(d rbee.DecisionRecord) {
	model := ""
	if len(d.Attempts) > 0 {
		model = " for " + d.Attempts[0].Request.ModelRef.String()
	}
	a.out.line("%s%s at %s: %s", a.out.outStyles.strong(d.RequestID), model, d.Time.Local().Format(time.TimeOnly), outcomeText(d.Outcome))
	for i, at := range d.Attempts {
		a.out.line("")
		if len(d.Attempts) > 1 {
			a.out.line("%s", a.out.outStyles.strong(fmt.Sprintf("Attempt %d", i+1)))
		}
		a.printRoutes(at.RouteDecision)
		if at.Failed != nil {
			a.out.line("That failed: %s", at.Failed.Message)
		}
	}
}

func outcomeText(o *rbee.Outcome) string {
	switch {
	case o == nil:
		return "runs"
	case o.Error != nil:
		return fmt.Sprintf("failed after %s: %s", millis(o.TotalMS), o.Error.Message)
	}
	return fmt.Sprintf("first token after %s, all after %s", millis(o.FirstMS), millis(o.TotalMS))
}

func millis(ms int64) string { return fmt.Sprintf("%.3f s", float64(ms)/1000) }
