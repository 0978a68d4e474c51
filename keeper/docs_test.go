package keeper

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

const cliDocs = "../docs/cli.md"

var update = flag.Bool("update", false, "write the generated files")

// TestDocs compares docs/cli.md with the commands; with -update it writes it.
func TestDocs(t *testing.T) {
	o, _, _ := testOutput()
	root := (&app{out: o}).rootCommand()
	var b bytes.Buffer
	b.WriteString("# The command line\n\nMade from the commands by `go test ./keeper -run TestDocs -update`; do not edit.\n")
	document(&b, root)
	if *update {
		if err := os.WriteFile(cliDocs, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(cliDocs)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(have), b.String()); diff != "" {
		t.Errorf("docs/cli.md is not what the commands say; run go test ./keeper -run TestDocs -update\n%s", diff)
	}
}

// document writes a command and those below it.
func document(b *bytes.Buffer, cmd *cobra.Command) {
	if cmd.Hidden {
		return
	}
	cmd.InitDefaultHelpFlag()
	fmt.Fprintf(b, "\n## %s\n\n", cmd.CommandPath())
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	fmt.Fprintf(b, "```text\n%s\n```\n", text)
	if !cmd.HasSubCommands() {
		fmt.Fprintf(b, "\n```text\n%s\n```\n", cmd.UseLine())
	}
	if cmd.Example != "" {
		fmt.Fprintf(b, "\n```sh\n%s\n```\n", strings.ReplaceAll(strings.TrimPrefix(cmd.Example, "  "), "\n  ", "\n"))
	}
	if flags := cmd.NonInheritedFlags(); flags.HasAvailableFlags() {
		fmt.Fprintf(b, "\n```text\n%s```\n", flags.FlagUsagesWrapped(100))
	}
	for _, sub := range cmd.Commands() {
		document(b, sub)
	}
}

func TestEachCommandHasHelp(t *testing.T) {
	o, _, _ := testOutput()
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		if cmd.Hidden {
			return
		}
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || cmd.RunE == nil || cmd.Args == nil {
			t.Errorf("%s: short %q, or it does not check its arguments or return errors", cmd.CommandPath(), cmd.Short)
		}
		if !cmd.HasSubCommands() && cmd.Name() != "help" && !strings.Contains(cmd.Example, cmd.CommandPath()) {
			t.Errorf("%s: no example", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit((&app{out: o}).rootCommand())
}
