package keeper

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"rbee"
	"rbee/client"
)

// errStopped ends an answer that the user has seen enough of.
var errStopped = errors.New("stopped by the user")

// figures are the numbers of a conversation.
type figures struct {
	last    figure
	answers int
	tokens  int
}

// figure is the numbers of one answer.
type figure struct {
	prompt, cached, tokens int
	first, took            time.Duration // to the first piece, and to the last
}

// speed is tokens per second, without the time to the first one.
func (f figure) speed() float64 {
	if f.tokens < 2 || f.took <= f.first {
		return 0
	}
	return float64(f.tokens-1) / (f.took - f.first).Seconds()
}

// The JSON forms of an answer.
type reasoningEvent struct {
	Event     string `json:"event"`
	Reasoning string `json:"reasoning"`
}

type answerEvent struct {
	Event           string        `json:"event"`
	WorkerID        rbee.WorkerID `json:"worker_id"`
	Model           rbee.ModelRef `json:"model"`
	FinishReason    string        `json:"finish_reason"`
	DurationMS      int64         `json:"duration_ms"`
	TTFTMS          int64         `json:"ttft_ms"`
	TokensPerSecond float64       `json:"tokens_per_second"`
	PromptTokens    int           `json:"prompt_tokens"`
	CachedTokens    int           `json:"cached_tokens"`
	TotalTokens     int           `json:"total_tokens"`
	Hive            string        `json:"hive,omitempty"`
}

// ask has a question answered. A question without an answer is no part of the
// conversation, but /retry finds it; an answer that was stopped is.
func (c *chat) ask(ctx context.Context, question string) error {
	if n := len(c.turns); n > 0 && c.turns[n-1].Role == client.RoleUser {
		c.turns = c.turns[:n-1]
	}
	asked := append(slices.Clone(c.turns), client.ChatMessage{Role: client.RoleUser, Content: question})
	c.turns = asked
	answering, done := ctx, func() {}
	if c.typed {
		answering, done = untilInterrupted(ctx, errStopped)
	}
	defer done()
	a, err := c.answer(answering, asked)
	if text := a.text.String(); text != "" {
		c.turns = append(asked, client.ChatMessage{Role: client.RoleAssistant, Content: text})
	}
	if errors.Is(err, errStopped) {
		c.remark("Stopped.")
		return nil
	}
	return err
}

// answer streams one answer. A busy worker is asked again after 1, 2 and 4
// seconds, and in the place of one that has ended another is started; after the
// first piece nothing is tried twice.
func (c *chat) answer(ctx context.Context, turns []client.ChatMessage) (*answer, error) {
	delay, hired := time.Second, false
	for attempt := 0; ; attempt++ {
		a, err := c.stream(ctx, turns)
		switch code := rbee.CodeOf(err); {
		case err == nil || a.begun:
			return a, err
		case (code == rbee.CodeAllSlotsBusy || code == rbee.CodeQueueFull) && attempt < defaultAttempts:
			c.out.busy(0, delay)
			if err := c.pause(ctx, delay); err != nil {
				return a, err
			}
			delay *= 2
		case (code == rbee.CodeWorkerNotFound || code == rbee.CodeWorkerNotReady) && !hired && !c.colony.queen:
			hired = true
			c.remark(c.whyGone(ctx) + "; another one is started.")
			w, err := c.hire(ctx, c.model)
			if err != nil {
				return a, err
			}
			c.worker = w
		default:
			return a, c.colony.lostIfCut(ctx, err)
		}
	}
}

// whyGone says why the worker is not there any more.
func (c *chat) whyGone(ctx context.Context) string {
	w, err := c.colony.client.Worker(ctx, c.worker.ID)
	if err != nil || w.Reason == "" {
		return "Worker " + string(c.worker.ID) + " has ended"
	}
	return "Worker " + string(c.worker.ID) + " has ended: " + w.Reason
}

// stream prints one answer as it comes.
func (c *chat) stream(ctx context.Context, turns []client.ChatMessage) (*answer, error) {
	req := client.ChatRequest{Model: c.model.String(), Messages: turns}
	if c.system != "" {
		req.Messages = slices.Concat([]client.ChatMessage{{Role: client.RoleSystem, Content: c.system}}, turns)
	}
	c.settings.apply(&req)
	a := newAnswer(c.out)
	defer a.end()
	began, finish := time.Now(), ""
	asked := c.colony.worker(c.worker.ID)
	if c.colony.queen {
		c.journey = &journey{out: c.out, colony: c.colony}
		defer c.journey.arrived()
		asked = c.journey.client("")
	}
	for ev, err := range asked.Chat(ctx, req) {
		if c.journey != nil {
			c.journey.arrived()
		}
		if err != nil {
			return a, c.ended(ctx, a, err)
		}
		a.reasoning(ev.Reasoning)
		a.content(ev.Content)
		if c.out.err != nil {
			return a, c.out.err
		}
		if a.begun && a.first == 0 {
			a.first = time.Since(began)
		}
		if ev.Finish != "" {
			finish, a.took = ev.Finish, time.Since(began)
		}
		if u := ev.Usage; u != nil {
			a.prompt, a.cached, a.tokens = u.PromptTokens, u.CachedTokens, u.CompletionTokens
		}
	}
	a.end()
	c.finish(a, finish)
	return a, nil
}

// ended says why an answer broke off.
func (c *chat) ended(ctx context.Context, a *answer, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !a.begun:
		return err
	case c.colony.queen:
		return c.colony.lostIfCut(ctx, err)
	case rbee.CodeOf(err) == rbee.CodeWorkerCrashed, client.IsCut(err):
		return c.colony.whoDied(ctx, c.worker.ID, err)
	}
	return err
}

// finish takes down the numbers of an answer that came to its end.
func (c *chat) finish(a *answer, finish string) {
	c.last = a.figure
	c.answers++
	c.tokens += a.tokens
	hive := ""
	if c.journey != nil {
		hive, c.worker.ID = c.journey.hive, c.journey.worker
	}
	switch {
	case c.out.json:
		c.out.emit(answerEvent{
			Event: "done", WorkerID: c.worker.ID, Model: c.model, FinishReason: finish,
			DurationMS: a.took.Milliseconds(), TTFTMS: a.first.Milliseconds(), TokensPerSecond: a.speed(),
			PromptTokens: a.prompt, CachedTokens: a.cached, TotalTokens: a.tokens, Hive: hive,
		})
	case finish == "length":
		c.remark("The answer was cut: " + c.whyCut(a) + ".")
	}
}

// remark is a line beside the conversation.
func (c *chat) remark(text string) {
	if c.out.json {
		c.out.happened(0, text)
		return
	}
	c.out.note("%s", c.out.styles.dim(text))
}

func (c *chat) whyCut(a *answer) string {
	if most, ok := c.settings["max-tokens"]; ok && a.tokens >= int(most) {
		return "max-tokens is " + decimal(most)
	}
	return "the context is full; /clear begins anew"
}

// answer shows one answer, and keeps it.
type answer struct {
	figure
	out      *output
	text     strings.Builder
	styled   *markdown // nil where the text is shown as it is
	part     []byte    // of a letter that is not complete
	begun    bool      // a piece came
	thinking bool
	column   bool // something stands on the line
	over     bool
	index    int
}

func newAnswer(out *output) *answer {
	a := &answer{out: out}
	if out.outStyles.coloured {
		a.styled = newMarkdown(out.text)
	}
	return a
}

// reasoning shows, to people only, what a model thinks before it answers.
func (a *answer) reasoning(text string) {
	if text == "" {
		return
	}
	a.begun = true
	if a.out.json {
		a.out.emit(reasoningEvent{"reasoning", text})
		return
	}
	if !a.out.outTerminal {
		return
	}
	if !a.thinking {
		a.thinking = true
		a.out.text(a.out.outStyles.dim("Thinking:") + "\n")
	}
	a.show(text, faint)
}

func (a *answer) content(text string) {
	if text == "" {
		return
	}
	a.begun = true
	if a.thinking {
		a.thinking = false
		a.endLine()
		a.out.text("\n")
	}
	a.text.WriteString(text)
	switch {
	case a.out.json:
		a.out.emit(tokenEvent{"token", text, a.index})
		a.index++
	case a.styled != nil:
		a.styled.write(text)
	default:
		a.show(text, 0)
	}
}

// show writes text as it is, except that a terminal gets no control characters.
func (a *answer) show(text string, l look) {
	if !a.out.outTerminal {
		a.out.text(text)
	} else {
		text = withoutControls(string(whole(&a.part, text)))
		if l != 0 && a.styled != nil {
			a.out.text(l.sequence() + text + look(0).sequence())
		} else {
			a.out.text(text)
		}
	}
	if text != "" {
		a.column = !strings.HasSuffix(text, "\n")
	}
}

func (a *answer) endLine() {
	if a.column {
		a.out.text("\n")
		a.column = false
	}
}

// end ends the line, however the answer ended.
func (a *answer) end() {
	if a.out.json || a.over {
		return
	}
	a.over = true
	if a.styled != nil && a.text.Len() > 0 {
		a.styled.end()
		a.column = a.styled.column
	}
	a.endLine()
}
