// Command bench measures rbee against the engine alone, in one run, and prints
// ratios: absolute times of a shared machine mean nothing. README.md says how
// to run it; RESULTS.md holds what came out.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
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
	url, urlModel                  string
	threads, reps, tokens          int
	drafts                         bool     // prompt lookup stays on
	plain                          bool     // of a colony: its workers do without it
	env                            []string // of the programs, besides that of the benchmark
}

const usage = `usage: bench [flags] stream | load | pull | serve | prefix | all
       bench [flags] url -url BASE [-model M]
       bench [flags] gguf PRESET FILE

stream  tokens per second of one stream through hive and worker, against the raw engine
load    time from spawn to ready, and of the keeper to its first token, against a raw load
pull    a download of 1 GiB from a hub on loopback, against curl and sha256sum
serve   tokens per second of 1, 4, 8 and 16 clients, against the raw engine
prefix  a burst of requests with one long prefix, against one with a prefix each
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
	fs.IntVar(&cfg.reps, "reps", 0, "measurements of each kind, taken in turn (default 7; 3 of serve, prefix and url)")
	fs.IntVar(&cfg.tokens, "tokens", 128, "tokens of one stream")
	fs.BoolVar(&cfg.drafts, "drafts", false, "leave prompt lookup on in serve, prefix and url: random weights repeat themselves, so it helps more than it should")
	fs.StringVar(&cfg.url, "url", "", "base URL of the server to compare with")
	fs.StringVar(&cfg.urlModel, "model", "", "model of that server (default the first that it lists)")
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
	for _, b := range what {
		cfg := cfg
		cfg.reps = cmp.Or(cfg.reps, b.reps)
		if err := b.run(ctx, cfg, out); err != nil {
			return err
		}
	}
	return nil
}

// benchmark is one, with how often it measures by default.
type benchmark struct {
	run  func(context.Context, config, io.Writer) error
	reps int
}

func benchmarks() map[string][]benchmark {
	stream, load, pull := benchmark{benchStream, 7}, benchmark{benchLoad, 7}, benchmark{benchPull, 7}
	serve, prefix := benchmark{benchServe, 3}, benchmark{benchPrefix, 3}
	return map[string][]benchmark{
		"stream": {stream}, "load": {load}, "pull": {pull}, "serve": {serve}, "prefix": {prefix},
		"all": {stream, load, pull, serve, prefix},
		"url": {{benchURL, 3}}, "raw-load": {{printRawLoad, 1}},
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

// prompt is about 128 tokens of a vocabulary without its words.
var prompt = strings.Repeat("Once upon a time a small bee flew. ", 4)

func benchStream(ctx context.Context, cfg config, out io.Writer) error {
	path, err := cfg.model("125m")
	if err != nil {
		return err
	}
	col, err := startColony(ctx, cfg)
	if err != nil {
		return err
	}
	worker, _, _, err := col.spawn(ctx, path)
	if err != nil {
		return errors.Join(err, col.close())
	}
	raw, err := loadRaw(cfg.libDir, path, 4, 16384, cfg.threads)
	if err != nil {
		return errors.Join(err, col.close())
	}
	var rawRate, ourRate, decodeRatio, wholeRatio []float64
	for i := range cfg.reps + 1 { // the first warms up
		rp, rd, err := raw.run(prompt, cfg.tokens)
		if err != nil {
			return errors.Join(err, col.close())
		}
		op, od, err := stream(ctx, worker, prompt, cfg.tokens)
		if err != nil {
			return errors.Join(err, col.close())
		}
		if i > 0 {
			n := float64(cfg.tokens - 1)
			rawRate, ourRate = append(rawRate, n/rd.Seconds()), append(ourRate, n/od.Seconds())
			decodeRatio = append(decodeRatio, rd.Seconds()/od.Seconds())
			wholeRatio = append(wholeRatio, (rp+rd).Seconds()/(op+od).Seconds())
		}
	}
	table(out, cfg, "one stream, 125M parameters Q4_0, greedy, tokens/s", [][]string{
		{"", "median", "min", "max"},
		row("raw engine, decode", "%.1f", rawRate),
		row("through hive and worker, decode", "%.1f", ourRate),
		row("ratio, decode (goal 0.95)", "%.3f", decodeRatio),
		row("ratio, prompt and decode", "%.3f", wholeRatio),
	})
	return errors.Join(raw.close(), col.close())
}

func benchLoad(ctx context.Context, cfg config, out io.Writer) error {
	path, err := cfg.model("1.1gb")
	if err != nil {
		return err
	}
	col, err := startColony(ctx, cfg)
	if err != nil {
		return err
	}
	var rawMS, spawnMS, keeperMS, overheadMS, ratio []float64
	for i := range cfg.reps + 1 { // the first fills the page cache and the catalog
		raw, err := rawLoad(ctx, cfg)
		if err != nil {
			return errors.Join(err, col.close())
		}
		worker, id, spawned, err := col.spawn(ctx, path)
		if err != nil {
			return errors.Join(err, col.close())
		}
		ttft, _, err := stream(ctx, worker, "Once", 2)
		if err == nil {
			err = col.calls.StopWorker(ctx, id)
		}
		if err != nil {
			return errors.Join(err, col.close())
		}
		keeper, err := col.firstByte(ctx, path, "Once")
		if err != nil {
			return errors.Join(err, col.close())
		}
		if i > 0 {
			rawMS, spawnMS, keeperMS = append(rawMS, ms(raw)), append(spawnMS, ms(spawned)), append(keeperMS, ms(keeper))
			ratio = append(ratio, spawned.Seconds()/raw.Seconds())
			overheadMS = append(overheadMS, ms(keeper-spawned-ttft))
		}
	}
	table(out, cfg, "load of a random 1.1 GB model from the page cache, ms", [][]string{
		{"", "median", "min", "max"},
		row("raw engine, in its own process", "%.0f", rawMS),
		row("hive, spawn to ready", "%.0f", spawnMS),
		row("ratio (goal at most 1.2)", "%.3f", ratio),
		row("keeper, start to first token", "%.0f", keeperMS),
		row("keeper's own part (goal at most 150)", "%.0f", overheadMS),
	})
	return col.close()
}

// rawLoad loads in a new process, as a worker does, and returns the time from
// loading the libraries to a context that can decode.
func rawLoad(ctx context.Context, cfg config) (time.Duration, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	b, err := exec.CommandContext(ctx, self, "-engine-dir", cfg.engineDir, "-models", cfg.models,
		"-threads", fmt.Sprint(cfg.threads), "raw-load").Output()
	if err != nil {
		return 0, fmt.Errorf("cannot load with the raw engine: %w", err)
	}
	var took time.Duration
	return took, json.Unmarshal(b, &took)
}

func printRawLoad(_ context.Context, cfg config, out io.Writer) error {
	path, err := cfg.model("1.1gb")
	if err != nil {
		return err
	}
	start := time.Now()
	raw, err := loadRaw(cfg.libDir, path, 4, 8192, cfg.threads)
	if err != nil {
		return err
	}
	took := time.Since(start)
	if err := raw.close(); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(took)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func row(name, format string, values []float64) []string {
	slices.Sort(values)
	return []string{
		name, fmt.Sprintf(format, values[len(values)/2]),
		fmt.Sprintf(format, values[0]), fmt.Sprintf(format, values[len(values)-1]),
	}
}

// table prints rows as Markdown, with the machine they came from.
func table(out io.Writer, cfg config, title string, rows [][]string) {
	fmt.Fprintf(out, "\n### %s\n\n%s, %d CPUs, %d engine thread(s), %d measurements, %s\n\n",
		title, cpuModel(), runtime.NumCPU(), cfg.threads, cfg.reps, time.Now().UTC().Format(time.DateOnly))
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
