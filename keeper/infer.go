package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"rbee"
	"rbee/client"
	"rbee/internal/conf"
)

const (
	defaultInferTokens = 20
	// ephemeralKeepAlive ends a worker whose keeper was killed before it could
	// stop it. It must outlast the pauses of a keeper that retries.
	ephemeralKeepAlive = "30s"
)

// inferFlags are the flags of infer as typed.
type inferFlags struct {
	node, worker, model, prompt string
	backend, device             string
	slots, context, attempts    int
	maxTokens, timeout, topK    int
	temperature, topP, minP     float64
	seed                        uint64
	stop                        []string
}

func (a *app) inferCommand() *cobra.Command {
	var f inferFlags
	cmd := &cobra.Command{
		Use:   "infer --model REF [--prompt TEXT | -]",
		Short: "Generate text, through the queen if one runs, else with a fresh worker",
		Long: `Generate text, through the queen of this machine if one runs ('rbee up'), else
with a fresh worker, and leave nothing behind.

The tokens go to standard output as they come; phases and progress go to
standard error. The prompt is --prompt, or standard input if the argument is -
or standard input is not a terminal (one line break at its end is dropped).

The queen has the hive answer where the first token comes soonest, and its worker
stays; --node names a hive of hers that must do it. Without a queen, and for any
other --node, --backend, --device, --slots or --context, a hive is asked itself:
that of --node, else that of this machine, else a private one that is started for
this command. The worker ends with the command; --worker uses one that runs
already and leaves it running.

If the worker or the hive dies, the text so far is kept in the file
rbee-partial-ID.txt in the current directory, or in the temporary directory.

With --json each line of standard output is an object with the field "event":
  phase     phase (1 to 8), text
  progress  phase, label, done, total, unit; for a download also speed_mbps
            (10^6 bytes per second), eta_seconds, connections
  note      phase, text: a download was resumed, or tried again
  token     token, index
  done      request_id, worker_id, model, total_tokens, duration_ms,
            tokens_per_second, stop_reason, prompt_tokens, cached_tokens, and,
            of a queen's, hive
  error     error: code, message, details
The last line is a done or an error.`,
		Example: `  rbee infer --model builtin:bee-tiny --prompt "Once upon a time" --max-tokens 60
  echo "The bee said" | rbee infer --model ./story.gguf --seed 7
  rbee infer --node big --model builtin:bee-tiny --prompt "Hello" --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := a.inferRequest(cmd, f, args)
			if err != nil {
				return err
			}
			return a.infer(cmd.Context(), f, req)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.node, "node", "", "hive to use: one that the queen knows, localhost, a name of config.yaml or ~/.ssh/config, or HOST[:PORT]")
	flags.StringVar(&f.worker, "worker", "", "id of a running worker to use instead of a fresh one")
	modelFlag(flags, &f.model)
	flags.StringVar(&f.prompt, "prompt", "", "prompt; - reads standard input")
	flags.IntVar(&f.maxTokens, "max-tokens", defaultInferTokens, "most tokens to generate")
	flags.Float64Var(&f.temperature, "temperature", rbee.DefaultTemperature, "0 to 2; 0 always takes the likeliest token")
	flags.Float64Var(&f.topP, "top-p", rbee.DefaultTopP, "0 to 1: sample from the likeliest tokens that make up this share")
	flags.IntVar(&f.topK, "top-k", 0, "sample from so many of the likeliest tokens; 0 is off")
	flags.Float64Var(&f.minP, "min-p", 0, "0 to 1: drop tokens below this share of the likeliest one's; 0 is off")
	flags.StringArrayVar(&f.stop, "stop", nil, "text that ends the generation; may be given up to 16 times")
	flags.Uint64Var(&f.seed, "seed", 0, "seed of the sampler, for the same text again (default random)")
	flags.IntVar(&f.timeout, "timeout", rbee.DefaultTimeoutSeconds, "seconds that the generation may take")
	flags.IntVar(&f.attempts, "retry", defaultAttempts, "attempts to reach the hive, and to get a busy worker's slot")
	placementFlags(flags, &f.backend, &f.device, &f.slots, &f.context)
	a.completeNode(cmd)
	return cmd
}

func modelFlag(flags *pflag.FlagSet, model *string) {
	flags.StringVar(model, "model", "", "model: builtin:bee-tiny, a GGUF file, an alias, a model of the catalog, or hf:ORG/REPO[:QUANT], which is downloaded if need be")
}

func placementFlags(flags *pflag.FlagSet, backend, device *string, slots, context *int) {
	flags.StringVar(backend, "backend", "", "cpu, cuda, vulkan or metal (default the fastest that is usable)")
	flags.StringVar(device, "device", "", "device of the hive's machine, such as cuda0")
	flags.IntVar(slots, "slots", 0, "requests that the worker serves in parallel (default worker.slots of the hive)")
	flags.IntVar(context, "context", 0, "longest prompt plus answer, in tokens (default what the model was trained for, at most 8192)")
}

// inferRequest checks what was typed, and reads the prompt.
func (a *app) inferRequest(cmd *cobra.Command, f inferFlags, args []string) (rbee.InferRequest, error) {
	var none rbee.InferRequest
	switch {
	case len(args) == 1 && args[0] != "-":
		return none, usagef(cmd, "the argument may only be -, which reads the prompt from standard input; a prompt goes to --prompt")
	case len(args) == 1 && f.prompt != "" && f.prompt != "-":
		return none, usagef(cmd, "the prompt comes from --prompt or from standard input, not from both")
	case f.model == "" && f.worker == "":
		return none, usagef(cmd, "--model is missing, such as --model builtin:bee-tiny")
	case f.model != "" && f.worker != "":
		return none, usagef(cmd, "--worker has its model already; leave --model out")
	case f.attempts < 1 || f.attempts > 100:
		return none, usagef(cmd, "--retry must be from 1 to 100")
	}
	if err := checkPlacement(cmd, f.backend, f.slots, f.context); err != nil {
		return none, err
	}
	req := rbee.InferRequest{
		Prompt: f.prompt, MaxTokens: &f.maxTokens, Temperature: &f.temperature,
		TopP: &f.topP, TopK: f.topK, MinP: f.minP, Stop: f.stop, TimeoutSeconds: &f.timeout,
		RequestID: newRequestID(),
	}
	if cmd.Flags().Changed("seed") {
		req.Seed = &f.seed
	}
	fromStdin := len(args) == 1 || f.prompt == "-" || !cmd.Flags().Changed("prompt") && !isTerminal(a.in)
	switch {
	case fromStdin:
		prompt, err := readPrompt(a.in)
		if err != nil {
			return none, err
		}
		req.Prompt = prompt
	case !cmd.Flags().Changed("prompt"):
		return none, usagef(cmd, "the prompt is missing: give --prompt TEXT, or - to read standard input")
	}
	req.Normalize()
	if faults := req.Faults(); len(faults) > 0 {
		var texts []string
		for _, fault := range faults {
			texts = append(texts, flagOf(fault.Field)+" "+fault.Problem)
		}
		return none, usagef(cmd, "%s", strings.Join(texts, "; "))
	}
	return req, nil
}

// flagOf is the flag that sets a field of the request.
func flagOf(field string) string {
	name, _, _ := strings.Cut(field, "[")
	name = strings.TrimSuffix(name, "_seconds")
	return "--" + strings.ReplaceAll(name, "_", "-")
}

func checkPlacement(cmd *cobra.Command, backend string, slots, context int) error {
	if backend != "" {
		known := false
		for _, b := range rbee.Backends() {
			known = known || string(b) == backend
		}
		if !known {
			return usagef(cmd, "--backend must be cpu, cuda, vulkan or metal")
		}
	}
	if slots < 0 || slots > 64 {
		return usagef(cmd, "--slots must be from 1 to 64")
	}
	if context != 0 && (context < 64 || context > 1<<20) {
		return usagef(cmd, "--context must be from 64 to 1048576")
	}
	return nil
}

// readPrompt reads a prompt as a whole. What is over the limit is not read: the
// request is refused for it anyway.
func readPrompt(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, rbee.MaxPromptBytes+2))
	if err != nil {
		return "", rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the prompt from standard input: %w", err).
			Suggest("give the prompt with --prompt")
	}
	text := strings.TrimSuffix(string(b), "\n")
	return strings.TrimSuffix(text, "\r"), nil
}

// modelRef reads what a user calls a model. A path becomes a file reference,
// which only means something on this machine.
func modelRef(cfg conf.Config, model string, local bool) (rbee.ModelRef, error) {
	isPath := strings.HasPrefix(model, "./") || strings.HasPrefix(model, "../") || filepath.IsAbs(model) ||
		strings.HasPrefix(model, `.\`) || strings.HasPrefix(model, `..\`)
	if !isPath {
		return cfg.Resolve(model)
	}
	if !filepath.IsAbs(model) && !local {
		return rbee.ModelRef{}, rbee.Errorf(rbee.CodeInvalidRequest, "cannot use a relative path: the hive is on another machine").
			Suggest("give the absolute path of the file on the hive's machine")
	}
	path, err := filepath.Abs(model)
	if err != nil {
		return rbee.ModelRef{}, fmt.Errorf("cannot make the path of the model absolute: %w", err)
	}
	return rbee.ParseModelRef(string(rbee.ProviderFile) + ":" + path)
}

// inference is one run of infer.
type inference struct {
	*app
	cfg    conf.Config
	flags  inferFlags
	req    rbee.InferRequest
	colony *colony
	model  rbee.ModelRef
	worker rbee.WorkerID
	own    bool // the worker was started by this run and ends with it

	journey *journey // nil where no queen is in between

	// pause waits between two attempts to get a slot.
	pause func(context.Context, time.Duration) error
}

func (a *app) infer(ctx context.Context, f inferFlags, req rbee.InferRequest) (err error) {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	r := &inference{app: a, cfg: cfg, flags: f, req: req, pause: pause}
	if f.model != "" && f.node == "" {
		// A reference that cannot be right needs no hive to be refused.
		if _, err := modelRef(cfg, f.model, true); err != nil {
			return err
		}
	}
	wanted := place{f.node, f.worker, f.model, f.backend, f.device, f.slots, f.context}
	if r.colony, err = a.throughQueen(ctx, cfg, wanted, f.attempts); err != nil {
		return err
	}
	if r.colony != nil {
		return r.persistent(ctx)
	}
	if err := r.preflight(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.clean(ctx)) }()
	if f.worker != "" {
		err = r.reuse(ctx)
	} else {
		err = r.start(ctx)
	}
	if err != nil {
		return r.colony.explain(err)
	}
	return r.generate(ctx)
}

// preflight is phases 1 and 2: which hive, and is it well.
func (r *inference) preflight(ctx context.Context) error {
	if r.flags.worker != "" {
		r.out.phase(1, "Using worker %s", r.flags.worker)
	} else {
		r.out.phase(1, "Skipped (ephemeral mode - no worker reuse)")
	}
	r.out.phase(2, "Preflight")
	var err error
	r.colony, err = r.connect(ctx, r.cfg, access{node: r.flags.node, private: r.flags.worker == "", attempts: r.flags.attempts})
	if err != nil {
		return err
	}
	if r.colony.private != nil {
		r.out.done(2, "No hive runs here, started a private one on %s", r.colony.host)
	} else {
		r.out.done(2, "Hive on %s", r.colony.host)
	}
	r.out.done(2, "Pool health: healthy (%s, version %s)", r.colony.health.Status, r.colony.health.Version)
	return nil
}

// clean ends what this run started. It blocks until all of it is gone.
func (r *inference) clean(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	defer r.colony.close(ctx)
	if !r.own || r.colony.private != nil { // a hive takes its workers along
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, cleanTime)
	defer cancel()
	// A hive that is gone took its workers along.
	if err := r.colony.client.StopWorker(ctx, r.worker); err != nil && !client.IsCut(err) {
		r.out.warn("cannot stop worker %s: %s", r.worker, asError(err).Message)
	}
	return nil
}

// pause blocks for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
