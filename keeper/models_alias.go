package keeper

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
)

// aliasRow is a row of models alias.
type aliasRow struct {
	Name     string `json:"name"`
	ModelRef string `json:"model_ref"`
	Builtin  bool   `json:"builtin"`
	Origin   string `json:"origin"`
}

func (a *app) modelsAliasCommand() *cobra.Command {
	var remove string
	cmd := &cobra.Command{
		Use:   "alias [NAME [REF]]",
		Short: "List, set and remove short names for models",
		Long: `List the short names for models, show the model of one, or give a model one.
They are kept in the section aliases of config.yaml; the rest of that file stays
as it is. A built-in name can be given to another model, and not be removed.

With --json a list is {"aliases":[...]} with name, model_ref, builtin and origin,
one name such an object, and a removed one {"removed":"NAME"}.`,
		Example: `  rbee models alias
  rbee models alias story hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0
  rbee models alias --rm story`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			removes := cmd.Flags().Changed("rm")
			switch {
			case cmd.Flags().Changed("node"):
				return usagef(cmd, "aliases are in the configuration of this machine; leave --node out")
			case removes && len(args) > 0:
				return usagef(cmd, "--rm takes the name; leave the rest out")
			}
			cfg, err := a.config()
			if err != nil {
				return err
			}
			switch {
			case removes:
				return a.removeAlias(cfg, remove)
			case len(args) == 2:
				return a.setAlias(cfg, args[0], args[1])
			}
			return a.listAliases(cfg, args)
		},
	}
	cmd.Flags().StringVar(&remove, "rm", "", "remove this name")
	return cmd
}

func (a *app) listAliases(cfg conf.Config, names []string) error {
	builtin := conf.Defaults().Aliases
	list := []aliasRow{}
	for _, s := range cfg.Settings() {
		name, ok := strings.CutPrefix(s.Key, "aliases.")
		if !ok || len(names) > 0 && name != names[0] {
			continue
		}
		list = append(list, aliasRow{Name: name, ModelRef: s.Value, Builtin: builtin[name] == s.Value, Origin: s.Origin})
	}
	switch {
	case len(names) > 0 && len(list) == 0:
		return rbee.Errorf(rbee.CodeModelNotFound, "there is no alias %q", names[0]).
			Suggest("see 'rbee models alias', or set it with 'rbee models alias %s REF'", names[0])
	case len(names) > 0 && a.out.json:
		a.out.emit(list[0])
		return nil
	case len(names) > 0:
		a.out.line("%s", list[0].ModelRef)
		return nil
	case a.out.json:
		a.out.emit(struct {
			Aliases []aliasRow `json:"aliases"`
		}{list})
		return nil
	}
	rows := [][]string{{"NAME", "MODEL", "FROM"}}
	for _, r := range list {
		from := r.Origin
		if r.Builtin {
			from = "built in"
		}
		rows = append(rows, []string{r.Name, r.ModelRef, from})
	}
	a.out.table(rows)
	return nil
}

func (a *app) setAlias(cfg conf.Config, name, model string) error {
	ref, err := modelRef(cfg, model, true)
	if err != nil {
		return err
	}
	if err := conf.SetAlias(cfg.Home, name, ref.String()); err != nil {
		return err
	}
	return a.changedAlias(name, func(now string) string { return fmt.Sprintf("%s is %s", name, now) })
}

func (a *app) removeAlias(cfg conf.Config, name string) error {
	if err := conf.RemoveAlias(cfg.Home, name); err != nil {
		return err
	}
	if a.out.json {
		a.out.emit(struct {
			Removed string `json:"removed"`
		}{name})
		return nil
	}
	return a.changedAlias(name, func(now string) string {
		if now == "" {
			return "Removed " + name
		}
		return fmt.Sprintf("Removed %s; it is %s again", name, now)
	})
}

// changedAlias tells what a name stands for now. The environment may say
// otherwise than the file.
func (a *app) changedAlias(name string, text func(now string) string) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	if a.out.json {
		return a.listAliases(cfg, []string{name})
	}
	a.out.line("%s", text(cfg.Aliases[name]))
	return nil
}
