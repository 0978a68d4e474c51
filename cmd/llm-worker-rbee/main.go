// Command llm-worker-rbee is one process with one loaded model; see package worker.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"rbee/internal/engines"
	"rbee/worker"
	"rbee/worker/engine/llamacpp"
)

func main() {
	ctx, release := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, release) // a second signal ends the process at once
	os.Exit(worker.Main(ctx, worker.Process{
		Args: os.Args[1:], Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr,
	}, worker.Engine{
		Load: llamacpp.Load, Devices: llamacpp.Devices, Find: engines.Find,
	}))
}
