package keeper

import (
	"runtime"

	"github.com/spf13/cobra"

	"rbee"
)

type versionReport struct {
	Version    string `json:"version"`
	APIVersion string `json:"api_version"`
	Go         string `json:"go"`
	Platform   string `json:"platform"`
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  rbee version --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := versionReport{rbee.Version, rbee.APIVersion, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if a.out.json {
				a.out.emit(v)
				return nil
			}
			a.out.line("rbee %s (API %s, %s, %s)", v.Version, v.APIVersion, v.Go, v.Platform)
			return nil
		},
	}
}

func completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print the script that completes command lines in a shell",
		Example: `  source <(rbee completion bash)
  rbee completion fish >~/.config/fish/completions/rbee.fish`,
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		Args:      cobra.MatchAll(one("shell"), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, w := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(w, true)
			case "zsh":
				return root.GenZshCompletion(w)
			case "fish":
				return root.GenFishCompletion(w, true)
			default:
				return root.GenPowerShellCompletionWithDesc(w)
			}
		},
	}
}
