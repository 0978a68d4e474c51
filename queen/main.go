package queen

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
	"rbee/internal/logging"
)

// Main is the program: it reads args (without the program's name), works until
// ctx or the command ends, and returns the exit code. The log goes to stderr.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	ran := false // what fails before a command runs is a fault of usage
	root := command(&ran)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return rbee.ExitDone
	}
	e := rbee.AsError(err)
	code := rbee.ExitFailed
	switch {
	case !ran:
		code = rbee.ExitUsage
		e = rbee.Errorf(rbee.CodeInvalidRequest, "%w", err).Suggest("see queen-rbee --help")
	case e.Code == rbee.CodeInternalError:
		e = rbee.Errorf(rbee.CodeInternalError, "%w", err) // our own terminal may read the cause
	}
	fmt.Fprintf(stderr, "Error: %s\n", e.Message)
	if s := e.Suggestion(); s != "" {
		fmt.Fprintf(stderr, "Suggestion: %s\n", s)
	}
	return code
}

func command(ran *bool) *cobra.Command {
	root := &cobra.Command{
		Use:               "queen-rbee",
		Short:             "One API for the hives of all machines",
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRun:  func(*cobra.Command, []string) { *ran = true },
	}
	var addr string
	daemon := &cobra.Command{
		Use:   "daemon",
		Short: "Run the queen until SIGINT, SIGTERM or POST /v1/shutdown",
		Long: "Run the queen until SIGINT, SIGTERM or POST /v1/shutdown.\n\n" +
			"Its settings are those of the section queen in config.yaml and RBEE_QUEEN_*.",
		Example: "  queen-rbee daemon\n  queen-rbee daemon --addr 127.0.0.1:9000",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return daemon(cmd.Context(), addr, cmd.ErrOrStderr())
		},
	}
	daemon.Flags().StringVar(&addr, "addr", "", "HOST:PORT to listen on (default queen.addr of the settings)")
	version := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "queen-rbee %s (api %s)\n", rbee.Version, rbee.APIVersion)
			return err
		},
	}
	root.AddCommand(daemon, version)
	return root
}

// daemon reads the settings and runs a queen by them.
func daemon(ctx context.Context, addr string, stderr io.Writer) error {
	cfg, err := conf.Load(conf.Options{Override: func(c *conf.Config) {
		if addr != "" {
			c.Queen.Addr = addr
		}
	}})
	if err != nil {
		return err
	}
	key, err := cfg.Queen.ReadKey()
	if err != nil {
		return err
	}
	log := logging.New(stderr, logging.Options{Level: cfg.Log.Level, Format: cfg.Log.Format, Role: "queen"})
	q, err := New(Config{Addr: cfg.Queen.Addr, Key: key, Log: log})
	if err != nil {
		return err
	}
	return q.Run(ctx)
}
