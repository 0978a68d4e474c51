package hive

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"rbee"
)

// Main is the program rbee-hive: it reads args, runs until ctx ends or a
// shutdown is ordered, and returns the exit code.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := command(stdout, stderr)
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return rbee.ExitDone
	}
	var usage usageError
	if errors.As(err, &usage) {
		_, _ = fmt.Fprintf(stderr, "Error: %s\nSuggestion: see '%s --help'\n", usage.error, usage.command)
		return rbee.ExitUsage
	}
	message, suggestion := err.Error(), ""
	if e := (*rbee.Error)(nil); errors.As(err, &e) {
		message, suggestion = e.Message, e.Suggestion()
	}
	_, _ = fmt.Fprintf(stderr, "Error: %s\n", message)
	if suggestion != "" {
		_, _ = fmt.Fprintf(stderr, "Suggestion: %s\n", suggestion)
	}
	return rbee.ExitFailed
}

// usageError is a command line that cannot be understood.
type usageError struct {
	error
	command string
}

func command(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "rbee-hive",
		Short: "Pool manager of one machine: its models, workers and devices",
		Long: "rbee-hive runs the workers of one machine and serves them, its models and its\n" +
			"devices under one port. The command 'rbee' starts and stops it as needed.",
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q", args[0]), cmd.CommandPath()}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError{err, cmd.CommandPath()} })
	root.AddCommand(daemonCommand(stdout, stderr), &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(stdout, "rbee-hive %s (api %s)\n", rbee.Version, rbee.APIVersion)
			return err
		},
	})
	return root
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%q takes no arguments", cmd.Name()), cmd.CommandPath()}
	}
	return nil
}
