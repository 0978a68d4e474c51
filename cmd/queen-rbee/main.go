// Command queen-rbee is the daemon before the hives of all machines.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"rbee/queen"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(queen.Main(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
