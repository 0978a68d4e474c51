// Command rbee-hive is the pool manager of one machine.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"rbee/hive"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := hive.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
