package keeper

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
)

func (a *app) configCommand() *cobra.Command {
	return group("config", "Show, make and check the configuration",
		a.configPathCommand(), a.configShowCommand(), a.configInitCommand(), a.configCheckCommand())
}

func (a *app) configPathCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "path",
		Short:   "Print the path of the configuration file",
		Example: "  rbee config path",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			home, err := conf.FindHome(nil)
			if err != nil {
				return err
			}
			if a.out.json {
				a.out.emit(struct {
					Path string `json:"path"`
				}{home.ConfigFile()})
			} else {
				a.out.line("%s", home.ConfigFile())
			}
			return nil
		},
	}
}

func (a *app) configShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Short:   "Print all settings, and where each was made",
		Example: "  rbee config show",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			settings := cfg.Settings()
			if a.out.json {
				a.out.emit(struct {
					Home     string         `json:"home"`
					Settings []conf.Setting `json:"settings"`
				}{string(cfg.Home), settings})
				return nil
			}
			rows := [][]string{{"SETTING", "VALUE", "FROM", "VARIABLE"}}
			for _, s := range settings {
				rows = append(rows, []string{s.Key, orDash(s.Value), s.Origin, s.Variable})
			}
			a.out.table(rows)
			return nil
		},
	}
}

func (a *app) configInitCommand() *cobra.Command {
	var withKey bool
	cmd := &cobra.Command{
		Use:     "init",
		Short:   "Write an annotated configuration file",
		Long:    "Write an annotated configuration file, readable by you alone. A file that exists is never changed.",
		Example: "  rbee config init",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			home, err := conf.FindHome(nil)
			if err != nil {
				return err
			}
			if err := home.Create(); err != nil {
				return err
			}
			text := conf.Reference()
			if withKey {
				text = strings.Replace(text, "\n  key: \"\"\n", fmt.Sprintf("\n  key: %q\n", rand.Text()), 1)
			}
			err = writeNew(home.ConfigFile(), text)
			if errors.Is(err, fs.ErrExist) {
				return rbee.Errorf(rbee.CodeConflict, "%s exists already and is not changed", home.ConfigFile()).
					Suggest("edit it, or move it away first")
			}
			if err != nil {
				return rbee.Errorf(rbee.CodeInvalidRequest, "cannot write the configuration: %w", err).Suggest("see 'rbee doctor'")
			}
			if a.out.json {
				a.out.emit(struct {
					Path string `json:"path"`
				}{home.ConfigFile()})
			} else {
				a.out.line("%s", home.ConfigFile())
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&withKey, "with-key", false, "put a new random key into hive.key, for a hive that others reach")
	return cmd
}

func (a *app) configCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "check",
		Short:   "Check the configuration and list all faults; exit code 1 if there is one",
		Example: "  rbee config check",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := a.config()
			if err != nil {
				a.listFaults(err)
				return err
			}
			for _, readKey := range []func() (conf.Secret, error){cfg.Hive.ReadKey, cfg.Queen.ReadKey} {
				if _, err := readKey(); err != nil {
					return err
				}
			}
			for _, nodes := range []map[string]conf.Node{cfg.Nodes, cfg.External} {
				for _, n := range nodes {
					if _, err := n.ReadKey(); err != nil {
						return err
					}
				}
			}
			if a.out.json {
				a.out.emit(struct {
					OK   bool   `json:"ok"`
					Path string `json:"path"`
				}{true, cfg.Home.ConfigFile()})
				return nil
			}
			if _, err := os.Stat(cfg.Home.ConfigFile()); errors.Is(err, fs.ErrNotExist) {
				a.out.line("%s does not exist: all defaults", cfg.Home.ConfigFile())
			} else {
				a.out.line("%s is fine", cfg.Home.ConfigFile())
			}
			return nil
		},
	}
}

// listFaults prints the faults that stand behind the first one.
func (a *app) listFaults(err error) {
	faults, ok := asError(err).Details["faults"].([]rbee.Fault)
	if !ok || len(faults) < 2 || a.out.json {
		return
	}
	for _, f := range faults {
		a.out.line("%s %s", f.Field, f.Problem)
	}
}
