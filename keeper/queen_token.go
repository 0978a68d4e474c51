package keeper

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
)

const tokenHelp = `Make a token with which the hive of another machine joins this colony. On a
terminal the command for that machine is printed, elsewhere the token alone. It
holds a secret, is told this once, and is good until it is revoked.`

func (a *app) queenTokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke the tokens with which hives join",
		Long:  tokenHelp,
		Example: `  rbee queen token
  rbee queen token | ssh big-machine rbee hive start --join -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.makeToken(cmd, rbee.TokenRequest{}) },
	}
	cmd.AddCommand(a.tokenCreateCommand(), a.tokenListCommand(), a.tokenRevokeCommand())
	return cmd
}

func (a *app) tokenCreateCommand() *cobra.Command {
	var queen bool
	cmd := &cobra.Command{
		Use:     "create NAME",
		Short:   "Make a token, and give it a name for the list",
		Long:    tokenHelp,
		Example: "  rbee queen token create big-machine",
		Args:    one("name of the token"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := rbee.TokenRequest{Name: args[0]}
			if queen {
				req.Kind = rbee.JoinQueen
			}
			return a.makeToken(cmd, req)
		},
	}
	cmd.Flags().BoolVar(&queen, "queen", false, "for a second queen, as her queen.join")
	return cmd
}

func (a *app) makeToken(cmd *cobra.Command, req rbee.TokenRequest) error {
	return a.withQueen(cmd, func(ctx context.Context, _ conf.Config, c *colony) error {
		made, err := c.client.NewToken(ctx, req)
		switch {
		case err != nil:
			return err
		case a.out.json:
			a.out.emit(made)
		case !a.out.outTerminal || made.Kind == rbee.JoinQueen:
			a.out.line("%s", made.Token)
		default:
			a.out.note("Run this on the other machine; whoever has the line can join:")
			a.out.line("rbee hive start --join %s", made.Token)
			a.out.note("%s", a.out.styles.dim("'rbee queen token revoke "+made.ID+"' takes it back."))
		}
		return nil
	})
}

func (a *app) tokenListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the tokens, without their secrets",
		Example: "  rbee queen token list --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withQueen(cmd, func(ctx context.Context, _ conf.Config, c *colony) error {
				tokens, err := c.client.Tokens(ctx)
				switch {
				case err != nil:
					return err
				case a.out.json:
					a.out.emit(rbee.TokenList{Tokens: tokens})
					return nil
				case len(tokens) == 0:
					a.out.note("There are no tokens; 'rbee queen token' makes one.")
					return nil
				}
				rows := [][]string{{"ID", "NAME", "FOR", "MADE", "LAST USED", "REVOKED"}}
				for _, t := range tokens {
					rows = append(rows, []string{t.ID, orDash(t.Name), string(t.Kind), when(t.CreatedAt), when(t.LastUsed), when(t.RevokedAt)})
				}
				a.out.table(rows)
				return nil
			})
		},
	}
}

func (a *app) tokenRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "revoke ID...",
		Short:   "Take nobody in with a token any more, and cut off who came with it",
		Example: "  rbee queen token revoke 1f0c2a",
		Args:    atLeastOne("id of the token"),
		ValidArgsFunction: a.completeWith(func(ctx context.Context, c *colony) (names []string) {
			tokens, err := c.client.Tokens(ctx)
			if err != nil {
				return nil
			}
			for _, t := range tokens {
				if t.RevokedAt.IsZero() {
					names = append(names, t.ID+"\t"+t.Name)
				}
			}
			return names
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withQueen(cmd, func(ctx context.Context, _ conf.Config, c *colony) error {
				for _, id := range args {
					if err := c.client.RevokeToken(ctx, id); err != nil {
						return err
					}
					if !a.out.json {
						a.out.line("Token %s is revoked", id)
					}
				}
				return nil
			})
		},
	}
}

// completeWith completes an argument with names that the queen knows; the shell
// must not wait long for them.
func (a *app) completeWith(names func(context.Context, *colony) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		none := cobra.ShellCompDirectiveNoFileComp
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
		defer cancel()
		cfg, err := a.config()
		if err != nil {
			return nil, none
		}
		c, err := openQueen(ctx, cfg)
		if err != nil || c == nil {
			return nil, none
		}
		defer c.close(ctx)
		return names(ctx, c), none
	}
}

// completeTime bounds what a shell waits for.
const completeTime = 2 * time.Second

// completeNode completes the flag --node with the hives of the colony.
func (a *app) completeNode(cmd *cobra.Command) {
	_ = cmd.RegisterFlagCompletionFunc("node", a.completeWith(func(ctx context.Context, c *colony) (names []string) {
		hives, err := c.client.Hives(ctx)
		if err != nil {
			return nil
		}
		seen := map[string]int{}
		for _, h := range hives {
			seen[h.Name]++
		}
		for _, h := range hives {
			name := h.Name
			if seen[name] > 1 {
				name = string(h.ID)
			}
			names = append(names, name+"\t"+string(h.Presence))
		}
		return names
	})) // it fails where there is no such flag, or twice
}
