package keeper

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/client"
	"rbee/internal/conf"
)

// chatFlags are the flags of chat as typed.
type chatFlags struct {
	node, model, system string
	backend, device     string
	slots, context      int
}

func (a *app) chatCommand() *cobra.Command {
	var f chatFlags
	s := chatSettings{}
	cmd := &cobra.Command{
		Use:   "chat [--model REF]",
		Short: "Talk with a model",
		Long: `Talk with a model. Answers go to standard output as they come, all else goes to
standard error.

On a terminal lines can be edited, and the arrow keys bring earlier ones back. A
backslash at the end of a line, a paste, or three quotation marks before and
after hold several lines together. Ctrl-C stops the answer, not the program;
Ctrl-D or /quit ends it. /help lists the commands; a line that begins with a
space is never one.

Where standard input is no terminal each line is a question of one conversation,
and an answer ends with a line break.

Where a queen runs ('rbee up') each question goes through her to the hive that
answers soonest. Without one, and with --backend, --device, --slots, --context or
the --node of a hive that she does not know, a hive is asked itself: a worker of
the model that runs already is used; otherwise one is started. On a hive that was
running it stays until it was idle for its keep-alive; a private hive, which is
started if none runs, ends with the chat. Without --model the model is the one
that was used last.

With --json each line of standard output is an object with the field "event":
  phase      phase, text: of the start of a worker
  progress   phase, label, done, total, unit
  note       text
  token      token, index
  reasoning  reasoning: what the model thinks before it answers
  done       worker_id, model, finish_reason, duration_ms, ttft_ms,
             tokens_per_second, prompt_tokens, cached_tokens, total_tokens, and,
             of a queen's, hive
  error      error: code, message, details`,
		Example: `  rbee chat --model qwen
  rbee chat --model ./story.gguf --system "Answer in one sentence." --temperature 0.2
  echo "Why do bees dance?" | rbee chat`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkPlacement(cmd, f.backend, f.slots, f.context); err != nil {
				return err
			}
			for _, name := range chatSettingNames() {
				if flag := cmd.Flags().Lookup(name); flag.Changed {
					if err := s.set(name, flag.Value.String()); err != nil {
						return usagef(cmd, "%w", err)
					}
				}
			}
			return a.chat(cmd.Context(), f, s)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.node, "node", "", "hive to use: one that the queen knows, localhost, a name of config.yaml or ~/.ssh/config, or HOST[:PORT]")
	modelFlag(flags, &f.model)
	flags.StringVar(&f.system, "system", "", "what the model is told before the conversation")
	for _, setting := range chatSettingTable() {
		flags.String(setting.name, "", setting.help)
	}
	placementFlags(flags, &f.backend, &f.device, &f.slots, &f.context)
	a.completeNode(cmd)
	return cmd
}

// chat is one conversation.
type chat struct {
	*app
	cfg      conf.Config
	flags    chatFlags
	settings chatSettings
	colony   *colony
	in       lines
	typed    bool // somebody sits there

	model  rbee.ModelRef
	worker rbee.Worker
	system string
	turns  []client.ChatMessage
	figures

	journey *journey // of the last answer; nil where no queen is in between

	// pause waits between two attempts to get a slot.
	pause func(context.Context, time.Duration) error
}

func (a *app) chat(ctx context.Context, f chatFlags, s chatSettings) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	if f.model != "" && f.node == "" {
		// A reference that cannot be right needs no hive to be refused.
		if _, err := modelRef(cfg, f.model, true); err != nil {
			return err
		}
	}
	c := &chat{app: a, cfg: cfg, flags: f, settings: s, system: f.system, typed: isTerminal(a.in) && a.out.terminal, pause: pause}
	wanted := place{f.node, "", f.model, f.backend, f.device, f.slots, f.context}
	if c.colony, err = a.throughQueen(ctx, cfg, wanted, defaultAttempts); err == nil && c.colony == nil {
		c.colony, err = a.connect(ctx, cfg, access{node: f.node, private: f.node == "", attempts: defaultAttempts})
	}
	if err != nil {
		return err
	}
	defer c.colony.close(ctx)
	if c.model, err = c.choose(ctx, f.model); err != nil {
		return c.colony.explain(err)
	}
	if c.worker, err = c.hire(ctx, c.model); err != nil {
		return c.colony.explain(err)
	}
	if c.typed {
		c.in = newTypedLines(a.in.(*os.File), a.out.stderr.(*os.File), "Ctrl-D or /quit ends the chat.")
		c.introduce()
		a.out.note("%s\n", a.out.styles.dim("/help lists the commands, Ctrl-D ends."))
	} else {
		c.in = newPipedLines(a.in)
	}
	defer c.in.close()
	return c.talk(ctx)
}

// introduce says who answers.
func (c *chat) introduce() {
	w := c.worker
	if c.colony.queen {
		c.out.note("%s %s", c.out.styles.strong(c.model.String()), c.out.styles.dim("(through the queen on "+c.colony.host+after(", by the hive ", c.colony.node)+")"))
		return
	}
	c.out.note("%s on %s %s", c.out.styles.strong(c.model.String()), orDash(string(w.Device)),
		c.out.styles.dim("(worker "+string(w.ID)+", context of "+plural(w.ContextTokens, "token")+")"))
}

// talk reads messages and answers them until there are no more. Whoever sits
// there gets to see a failure and may go on; a program does not.
func (c *chat) talk(ctx context.Context) error {
	dim := c.out.styles.dim
	for c.out.err == nil {
		text, err := readMessage(ctx, c.in, dim("> "), dim("… "))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = c.handle(ctx, text)
		switch {
		case errors.Is(err, errQuit):
			return nil
		case err == nil:
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !c.typed || c.colony.private != nil && !c.colony.alive(ctx):
			return c.colony.explain(err)
		default:
			e := asError(c.colony.explain(err))
			c.out.reportError(e)
			c.out.printError(e)
		}
		if c.typed && text != "" {
			c.out.note("")
		}
	}
	return nil
}

// choose resolves what the user calls the model. Without a name it is the one
// of a running worker, else the one of the catalog, that was used last.
func (c *chat) choose(ctx context.Context, name string) (rbee.ModelRef, error) {
	if name != "" {
		return modelRef(c.cfg, name, c.colony.local)
	}
	if c.colony.queen {
		return c.colony.lastUsed(ctx)
	}
	workers, err := c.colony.client.Workers(ctx)
	if err != nil {
		return rbee.ModelRef{}, err
	}
	var best rbee.Worker
	for _, w := range workers {
		if w.State.Ready() && !w.LastActivity.Before(best.LastActivity) {
			best = w
		}
	}
	if best.ID != "" {
		return best.ModelRef, nil
	}
	models, err := c.colony.client.Models(ctx)
	if err != nil {
		return rbee.ModelRef{}, err
	}
	var last rbee.Model
	for _, m := range models {
		if m.LastUsed.After(last.LastUsed) {
			last = m
		}
	}
	if last.Reference == "" {
		return rbee.ModelRef{}, rbee.Errorf(rbee.CodeModelNotFound, "cannot choose a model: none was used on %s so far", c.colony.host).
			Suggest("name one, such as --model qwen, or --model builtin:bee-tiny to try without a download")
	}
	return last.Ref(), nil
}

// hire finds a worker that has the model, or starts one. A queen does that with
// each question.
func (c *chat) hire(ctx context.Context, model rbee.ModelRef) (rbee.Worker, error) {
	if c.colony.queen {
		return rbee.Worker{ModelRef: model}, nil
	}
	req := rbee.SpawnRequest{
		ModelRef: model.String(), Backend: rbee.Backend(c.flags.backend), Device: rbee.DeviceID(c.flags.device),
		Slots: c.flags.slots, Context: c.flags.context, Reuse: true, Wait: "30s",
	}
	if c.colony.private != nil {
		req.KeepAlive = "forever" // the hive ends with us
	}
	reply, err := c.employ(ctx, c.cfg, c.colony, req)
	if err != nil {
		return rbee.Worker{}, err
	}
	return c.colony.client.Worker(ctx, reply.WorkerID)
}
