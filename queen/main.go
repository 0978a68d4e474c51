package queen

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/client"
	"rbee/internal/conf"
	"rbee/internal/daemon"
	"rbee/internal/logging"
	"rbee/internal/supervise"
)

// answerTime bounds how long the queen may take to answer herself.
const answerTime = 5 * time.Second

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
	version := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "queen-rbee %s (api %s)\n", rbee.Version, rbee.APIVersion)
			return err
		},
	}
	root.AddCommand(daemonCommand(), version)
	return root
}

func daemonCommand() *cobra.Command {
	var addr, busAddr string
	var ephemeral, noHive bool
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Run the queen until SIGINT, SIGTERM or POST /v1/shutdown",
		Long: "Run the queen until SIGINT, SIGTERM, the end of her terminal or POST /v1/shutdown.\n" +
			"The hive that she started ends with her, and its workers with it.\n\n" +
			"Her settings are those of the section queen in config.yaml and RBEE_QUEEN_*. Under\n" +
			"systemd she says when she is ready.",
		Example: "  queen-rbee daemon\n  queen-rbee daemon --addr 127.0.0.1:9000 --ephemeral",
		Args:    cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&addr, "addr", "", "HOST:PORT to listen on (default queen.addr of the settings)")
	flags.StringVar(&busAddr, "bus-addr", "", "HOST:PORT of the bus for hives (default queen.bus_addr of the settings)")
	flags.BoolVar(&ephemeral, "ephemeral", false, "start the hive of this machine as a child that ends with the queen, also when she is killed")
	flags.BoolVar(&noHive, "no-hive", false, "start no hive on this machine, as queen.hive: off does")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		settings, err := conf.Load(conf.Options{Override: func(c *conf.Config) {
			if addr != "" {
				c.Queen.Addr = addr
			}
			if busAddr != "" {
				c.Queen.BusAddr = busAddr
			}
			if noHive {
				c.Queen.Hive = "off"
			}
		}})
		if err != nil {
			return err
		}
		log := logging.New(daemon.LogOf(settings.Home, role, cmd.ErrOrStderr()), logging.Options{Level: settings.Log.Level, Format: settings.Log.Format, Role: role})
		q, err := New(Config{Settings: settings, Ephemeral: ephemeral, Log: log})
		if err != nil {
			return err
		}
		ctx, stop := supervise.WatchParent(cmd.Context())
		defer stop()
		return daemon.Daemon{Run: q.Run, Answers: q.answers, Summary: q.summary, Ending: q.awaitEnd, Log: log}.Serve(ctx)
	}
	return cmd
}

// answers says whether the queen is found and answers a request like any other.
func (q *Queen) answers(ctx context.Context) bool {
	if !q.announced.Load() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	call := client.New(q.URL())
	defer call.Close()
	_, err := call.Health(ctx)
	return err == nil
}

// summary is what the queen has, in a line.
func (q *Queen) summary() string {
	hives, workers, _ := count(q.registry.Hives())
	all := 0
	for _, n := range workers {
		all += n
	}
	return fmt.Sprintf("hives: %d, workers: %d, %d busy", hives[rbee.HivePresent], all, workers[rbee.WorkerBusy])
}

// awaitEnd blocks until the queen begins to end, or ctx does.
func (q *Queen) awaitEnd(ctx context.Context) {
	select {
	case <-q.ending:
	case <-ctx.Done():
	}
}
