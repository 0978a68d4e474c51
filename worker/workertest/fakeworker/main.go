// Command fakeworker is the worker with an engine that has no model: for tests
// of what surrounds workers. RBEE_FAKE_ENGINE tells the engine how to behave.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"rbee"
	"rbee/worker"
	"rbee/worker/engine/fake"
)

func main() {
	ctx, release := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, release)
	script, err := fake.ParseScript(os.Getenv(fake.Env))
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", rbee.AsError(err).Message)
		os.Exit(rbee.ExitUsage)
	}
	os.Exit(worker.Main(ctx, worker.Process{
		Args: os.Args[1:], Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr,
	}, worker.Engine{
		Load:    fake.Loader(script),
		Devices: func(string, *slog.Logger) (rbee.DeviceList, error) { return fake.Devices(), nil },
	}))
}
