package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rbee"
	"rbee/client"
)

// errQuit ends a chat.
var errQuit = errors.New("the chat is over")

// slashCommand is what a line that begins with its name does.
type slashCommand struct {
	name, argument, help string
	do                   func(c *chat, ctx context.Context, argument string) error
}

func slashCommands() []slashCommand {
	return []slashCommand{
		{"/help", "", "list the commands", (*chat).help},
		{"/model", "[REF]", "go on with another model; alone, say which it is", (*chat).switchModel},
		{"/system", `[TEXT]`, `what the model is told before all; "" for nothing`, (*chat).setSystem},
		{"/set", "[NAME VALUE]", "such as /set temperature 0.2; alone, list them", (*chat).setSetting},
		{"/retry", "", "have the last question answered again", (*chat).retry},
		{"/clear", "", "begin the conversation anew", (*chat).clear},
		{"/save", "FILE", "write the conversation to a new file", (*chat).save},
		{"/stats", "", "tokens and speed of the last answer and of all", (*chat).stats},
		{"/quit", "", "end the chat", func(*chat, context.Context, string) error { return errQuit }},
	}
}

// completeCommand completes the name of a command.
func completeCommand(line string) (string, int, bool) {
	var found []string
	for _, cmd := range slashCommands() {
		if strings.HasPrefix(cmd.name, line) {
			found = append(found, cmd.name)
		}
	}
	if len(found) != 1 {
		return "", 0, false
	}
	line = found[0] + " "
	return line, len(line), true
}

// handle does what a message asks for: a command, or an answer.
func (c *chat) handle(ctx context.Context, text string) error {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	if !strings.HasPrefix(text, "/") {
		return c.ask(ctx, strings.TrimSpace(text))
	}
	name, argument, _ := strings.Cut(text, " ")
	if name == "/exit" || name == "/bye" {
		name = "/quit"
	}
	for _, cmd := range slashCommands() {
		if cmd.name != name {
			continue
		}
		argument = strings.TrimSpace(argument)
		if argument != "" && cmd.argument == "" {
			return chatError("%s takes nothing", name)
		}
		return cmd.do(c, ctx, argument)
	}
	return chatError("there is no command %s", withoutControls(name)).
		Suggest("see /help; a question that begins with / needs a space before it")
}

// chatError is a fault in what somebody typed.
func chatError(format string, args ...any) *rbee.Error {
	return rbee.Errorf(rbee.CodeInvalidRequest, format, args...).Suggest("see /help")
}

func (c *chat) help(context.Context, string) error {
	for _, cmd := range slashCommands() {
		c.out.note("  %-22s %s", strings.TrimSpace(cmd.name+" "+cmd.argument), cmd.help)
	}
	c.out.note(`  """TEXT"""             several lines; so does a \ at the end of a line`)
	return nil
}

func (c *chat) switchModel(ctx context.Context, name string) error {
	if name == "" {
		c.introduce()
		return nil
	}
	model, err := modelRef(c.cfg, name, c.colony.local)
	if err != nil {
		return err
	}
	worker, err := c.hire(ctx, model)
	if err != nil {
		return err
	}
	c.model, c.worker = model, worker
	c.introduce()
	return nil
}

func (c *chat) setSystem(_ context.Context, text string) error {
	switch text {
	case "":
		c.out.note("%s", orDash(c.system))
	case `""`:
		c.system = ""
	default:
		c.system = text
	}
	return nil
}

func (c *chat) setSetting(_ context.Context, argument string) error {
	words := strings.Fields(argument)
	switch len(words) {
	case 0:
		for _, setting := range chatSettingTable() {
			c.out.note("  %-12s %-8s %s", setting.name, c.settings.show(setting.name), c.out.styles.dim(setting.help))
		}
		return nil
	case 2:
		if err := c.settings.set(words[0], words[1]); err != nil {
			return chatError("%w", err)
		}
		return nil
	}
	return chatError("/set needs a name and a value, such as /set temperature 0.2")
}

func (c *chat) retry(ctx context.Context, _ string) error {
	last := len(c.turns) - 1
	for last >= 0 && c.turns[last].Role != client.RoleUser {
		last--
	}
	if last < 0 {
		return chatError("nothing was asked so far")
	}
	question := c.turns[last].Content
	c.turns = c.turns[:last]
	return c.ask(ctx, question)
}

func (c *chat) clear(context.Context, string) error {
	c.turns = nil
	c.out.note("The conversation begins anew.")
	return nil
}

// save writes the conversation as Markdown.
func (c *chat) save(_ context.Context, name string) error {
	if name == "" {
		return chatError("/save needs the name of a file")
	}
	if rest, ok := strings.CutPrefix(name, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			name = filepath.Join(home, rest)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n", c.model)
	turns := c.turns
	if c.system != "" {
		turns = slices.Concat([]client.ChatMessage{{Role: client.RoleSystem, Content: c.system}}, turns)
	}
	for _, turn := range turns {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", turn.Role, strings.TrimSpace(turn.Content))
	}
	if err := writeNew(name, b.String()); err != nil {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot save the conversation: %w", err).Suggest("name a file that does not exist yet")
	}
	c.out.note("Saved in %s", name)
	return nil
}

func (c *chat) stats(context.Context, string) error {
	if c.answers == 0 {
		c.out.note("Nothing was answered so far.")
		return nil
	}
	l := c.last
	c.out.note("  last answer  %s, %.1f tokens/s, first after %.2f s; the prompt had %s, %d of them cached",
		plural(l.tokens, "token"), l.speed(), l.first.Seconds(), plural(l.prompt, "token"), l.cached)
	c.out.note("  so far       %s, %s", plural(c.answers, "answer"), plural(c.tokens, "token"))
	if c.journey != nil && c.journey.from() != "" {
		c.out.note("  answered     %s", c.journey.from())
	}
	if w := c.worker; w.ContextTokens > 0 {
		c.out.note("  context      %d of %s", l.prompt+l.tokens, plural(w.ContextTokens, "token"))
	}
	return nil
}
