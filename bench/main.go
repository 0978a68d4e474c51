// Command bench measures rbee against the engine alone, in one run, and prints
// ratios: absolute times of a shared machine mean nothing. README.md says how
// to run it; RESULTS.md holds what came out.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"rbee"
	"rbee/bench/ggufgen"
	"rbee/internal/conf"
	"rbee/internal/engines"
)

type config struct {
	bin, engineDir, libDir, models string
	url, urlModel, urlKey          string
	rates, svg                     string
	threads, reps, tokens          int
	span                           time.Duration
	seed                           uint64
	drafts                         bool     // prompt lookup stays on
	plain                          bool     // of a colony: its workers do without it
	env                            []string // of the programs, besides that of the benchmark
}

const usage = `usage: bench [flags] stream | load | pull | serve | open | mixed | prefix | colony | overhead | all
       bench [flags] soak [-for 20m]
       bench [flags] url -url BASE [-model M] [-key-file FILE]
       bench [flags] gguf PRESET FILE

stream  tokens per second of one stream through hive and worker, against the raw engine
load    time from spawn to ready, and of the keeper to its first token, against a raw load
pull    a download of 1 GiB from a hub on loopback, against curl and sha256sum
serve   tokens per second of 1, 4, 8 and 16 clients, against the raw engine
open    requests that arrive at random, at parts of what a closed loop gets through
mixed   how smooth 8 long answers are, and how soon short ones begin, beside long prompts
prefix  a burst of requests with one long prefix, against one with a prefix each
colony  time to first token through the queen, against round robin and least-loaded, on the same trace
overhead  what queen and hive add to a worker alone, and what 2,000 streams take of a queen
soak    8 clients with anything, bad requests and vanishing clients among it; fails if a goal is missed
url     the load of serve, against another server of OpenAI's API with the same model
gguf    write a model of random weights: small, 125m or 1.1gb
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	settings, err := conf.Load(conf.Options{})
	if err != nil {
		return err
	}
	var cfg config
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.Usage = func() { fmt.Fprint(fs.Output(), usage); fs.PrintDefaults() }
	fs.StringVar(&cfg.bin, "bin", "bin", "directory of the programs")
	fs.StringVar(&cfg.engineDir, "engine-dir", settings.EnginesDir(), "directory of the engine, as rbee engine install fills it")
	fs.StringVar(&cfg.models, "models", filepath.Join(os.TempDir(), "rbee-bench-models"), "where generated models are kept")
	fs.IntVar(&cfg.threads, "threads", 1, "compute threads of the engine")
	fs.IntVar(&cfg.reps, "reps", 0, "measurements of each kind, taken in turn (default 7; 3 of serve, mixed, prefix and url; 1 of open)")
	fs.IntVar(&cfg.tokens, "tokens", 128, "tokens of one stream")
	fs.BoolVar(&cfg.drafts, "drafts", false, "leave prompt lookup on where the raw engine has none: random weights repeat themselves, so it helps more than it should")
	fs.DurationVar(&cfg.span, "for", 0, "how long one measurement of open, mixed and soak takes (default 1m; 20m of soak)")
	fs.StringVar(&cfg.rates, "rate", "0.5,0.8", "rates of open, as parts of the capacity")
	fs.Uint64Var(&cfg.seed, "seed", 1, "of what is drawn at random: prompts, arrivals, the requests of soak")
	fs.StringVar(&cfg.svg, "svg", "", "file for a chart of what serve or url found")
	fs.StringVar(&cfg.url, "url", "", "base URL of the server to compare with")
	fs.StringVar(&cfg.urlModel, "model", "", "model of that server (default the first that it lists)")
	keyFile := fs.String("key-file", "", "file with the API key of that server (default the environment's "+keyVariable+")")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.Arg(0) == "gguf" && fs.NArg() == 3 {
		shape, err := ggufgen.Preset(fs.Arg(1))
		if err != nil {
			return err
		}
		return ggufgen.WriteFile(fs.Arg(2), shape)
	}
	lib, err := engines.Open(cfg.engineDir).Ensure(ctx, rbee.BackendCPU, nil)
	if err != nil {
		return err
	}
	cfg.libDir = lib.LibDir
	name := fs.Arg(0)
	if err := fs.Parse(fs.Args()[min(1, fs.NArg()):]); err != nil { // flags may follow the name
		return err
	}
	what := benchmarks()[name]
	if what == nil || fs.NArg() > 0 {
		fs.Usage()
		return errors.New("say what to measure")
	}
	if cfg.urlKey, err = readKey(*keyFile); err != nil {
		return err
	}
	for _, b := range what {
		cfg := cfg
		cfg.reps, cfg.span = cmp.Or(cfg.reps, b.reps), cmp.Or(cfg.span, b.span)
		if b.span == 0 {
			cfg.span = 0
		}
		if err := b.run(ctx, cfg, out); err != nil {
			return err
		}
	}
	return nil
}

// benchmark is one, with how often and how long it measures by default.
type benchmark struct {
	run  func(context.Context, config, io.Writer) error
	reps int
	span time.Duration
}

func benchmarks() map[string][]benchmark {
	stream, load, pull := benchmark{benchStream, 7, 0}, benchmark{benchLoad, 7, 0}, benchmark{benchPull, 7, 0}
	serve, prefix := benchmark{benchServe, 3, 0}, benchmark{benchPrefix, 3, 0}
	open, mixed := benchmark{benchOpen, 1, time.Minute}, benchmark{benchMixed, 3, time.Minute}
	return map[string][]benchmark{
		"stream": {stream}, "load": {load}, "pull": {pull}, "serve": {serve}, "open": {open}, "mixed": {mixed}, "prefix": {prefix},
		"colony": {{benchColony, 1, 0}}, "overhead": {{benchOverhead, 5, 0}},
		"all":  {stream, load, pull, serve, open, mixed, prefix},
		"soak": {{benchSoak, 1, 20 * time.Minute}}, "url": {{benchURL, 3, 0}}, "raw-load": {{printRawLoad, 1, 0}},
	}
}

// model writes the preset's file once and returns its path.
func (c config) model(preset string) (string, error) {
	path, err := filepath.Abs(filepath.Join(c.models, preset+".gguf"))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(c.models, 0o750); err != nil {
		return "", err
	}
	shape, err := ggufgen.Preset(preset)
	if err != nil {
		return "", err
	}
	return path, ggufgen.WriteFile(path, shape)
}

// table prints rows as Markdown, with the machine they came from.
func table(out io.Writer, cfg config, title string, rows [][]string) {
	each := ""
	if cfg.span > 0 {
		each = " of " + cfg.span.String()
	}
	fmt.Fprintf(out, "\n### %s\n\n%s, %d CPUs, %d engine thread(s), %d measurement(s)%s, %s\n\n",
		title, cpuModel(), runtime.NumCPU(), cfg.threads, cfg.reps, each, time.Now().UTC().Format(time.DateOnly))
	w := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	for i, r := range rows {
		fmt.Fprintf(w, "| %s\t|\n", strings.Join(r, "\t| "))
		if i == 0 {
			fmt.Fprintf(w, "|%s\n", strings.Repeat(" ---\t|", len(r)))
		}
	}
	_ = w.Flush() // the writer is standard output or a test's buffer
}

// cpuModel is the processor's name as Linux tells it.
func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo") // elsewhere the architecture has to do
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return cmp.Or(runtime.GOARCH, "unknown processor")
}
