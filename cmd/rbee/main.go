// Command rbee is the keeper: the command line of the colony.
package main

import (
	"context"
	"os"

	"rbee/keeper"
)

func main() {
	ctx, stop := keeper.WithInterrupts(context.Background())
	code := keeper.Main(ctx, os.Args[1:], keeper.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}
