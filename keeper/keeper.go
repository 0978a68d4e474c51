// Package keeper is the command line that people type. A command talks to a
// hive through package client, starts a private one where none runs, and takes
// it down again: what the keeper started is gone when it ends, however it ends.
//
// Tokens and results go to standard output and nothing else does; phases,
// progress and errors go to standard error. With --json standard output holds
// one JSON object per line. The exit code is 0 done, 1 failed, 2 usage, 130
// interrupted.
//
// The package must not load models, read the catalog or watch workers: that is
// the hive's work.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
)

// Streams are the standard streams of the program.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Main runs one command line, without the program's name, and returns its exit
// code. It returns after everything that the command started has ended. When
// ctx ends it cancels what runs, for at most some seconds.
func Main(ctx context.Context, args []string, s Streams) int {
	a := &app{in: s.In, out: newOutput(s)}
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	// A faulty flag ends the parsing before --json is seen, and the fault is to be told as JSON, too.
	a.out.json = wantsJSON(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		err = a.out.err
	}
	if err == nil {
		return rbee.ExitDone
	}
	if ctx.Err() != nil {
		err = errors.Join(errCanceled, err)
	}
	return a.out.failure(err)
}

// app is what the commands share.
type app struct {
	in  io.Reader
	out *output
}

// config reads the settings.
func (a *app) config() (conf.Config, error) { return conf.Load(conf.Options{}) }

func wantsJSON(args []string) bool {
	for _, arg := range args {
		switch arg {
		case "--json", "--json=true":
			return true
		case "--":
			return false
		}
	}
	return false
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "rbee",
		Short: "Run language models on your own machines",
		Long: `rbee runs language models on your own machines.

A hive manages the models and the workers of one machine; a worker is one
process with one loaded model. 'rbee infer' needs neither to run: it starts what
it needs and takes it down again. 'rbee up' starts what stays: a queen, who is one
address for the hives of all machines, and a hive.`,
		Example: `  rbee infer --model builtin:bee-tiny --prompt "Once upon a time"
  rbee up
  rbee status`,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       rbee.Version,
	}
	root.SetVersionTemplate("rbee {{.Version}}\n")
	root.PersistentFlags().BoolVar(&a.out.json, "json", false, "write JSON to standard output, one object per line")
	root.AddCommand(
		a.upCommand(), a.downCommand(), a.statusCommand(), a.planCommand(), a.whyCommand(), a.queenCommand(),
		a.inferCommand(), a.chatCommand(), a.workersCommand(), a.modelsCommand(), a.hiveCommand(), a.engineCommand(),
		a.doctorCommand(), a.configCommand(), a.versionCommand(), completionCommand(),
	)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(helpCommand())
	markUsageErrors(root)
	return root
}

// group makes a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs}
	g.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	g.AddCommand(commands...)
	return g
}

// helpCommand is 'rbee help COMMAND', for which cobra's own takes any text.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Explain a command",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usagef(cmd.Root(), "there is no command %q", strings.Join(args, " "))
			}
			return found.Help()
		},
	}
}

// one wants one argument, and says of what.
func one(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch len(args) {
		case 0:
			return fmt.Errorf("the %s is missing", what)
		case 1:
			return nil
		}
		return fmt.Errorf("only one %s can be given", what)
	}
}

// atLeastOne wants arguments, and says of what.
func atLeastOne(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("the %s is missing", what)
		}
		return nil
	}
}

// usageError is a command line that is wrong; it ends with exit code 2.
type usageError struct {
	command string // the path of the command, such as "rbee infer"
	err     error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// suggestion says where to read on, or what cobra guessed.
func (e *usageError) suggestion() string { return fmt.Sprintf("see '%s --help'", e.command) }

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{command: cmd.CommandPath(), err: fmt.Errorf(format, args...)}
}

// markUsageErrors makes the faults that cobra finds in flags and arguments usage errors.
func markUsageErrors(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{command: cmd.CommandPath(), err: err}
	})
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			if err == nil {
				return nil
			}
			// cobra appends guesses in lines of their own.
			text, _, _ := strings.Cut(err.Error(), "\n")
			return &usageError{command: cmd.CommandPath(), err: errors.New(text)}
		}
	}
	for _, sub := range cmd.Commands() {
		markUsageErrors(sub)
	}
}
