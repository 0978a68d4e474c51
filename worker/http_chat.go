package worker

import (
	"encoding/json"
	"strings"

	"rbee"
	"rbee/worker/chat"
	"rbee/worker/engine"
	"rbee/worker/openai"
)

// chat answers POST /v1/chat/completions.
func (o *openAI) chat(req *openai.ChatRequest) error {
	asked, err := o.request(&req.Options)
	if err != nil {
		return err
	}
	prompt, tokens, err := o.prompt(req)
	if err != nil {
		return err
	}
	asked.Tokens = tokens
	asked.Logprobs, asked.TopLogprobs = req.Logprobs, req.TopLogprobs
	schema := req.Schema
	if prompt.Schema != nil {
		schema = prompt.Schema
	}
	if asked.Grammar, err = o.w.grammars.answer(req.Grammar, schema, req.JSON); err != nil {
		return err
	}
	kind := openai.KindChat
	if req.Stream {
		o.stream()
		kind = openai.KindChatChunk
	}
	head := openai.NewHead("chatcmpl-"+o.id, kind, o.model.ref, o.model.fingerprint, o.model.created.Unix())
	requests, answers := make([]engine.Request, req.N), make([]answer, req.N)
	choices := make([]*chatChoice, req.N)
	for i := range requests {
		requests[i] = asked
		requests[i].Sampling.Seed += uint64(i) //nolint:gosec // at most MaxChoices
		choices[i] = newChatChoice(o, req, prompt, head, i)
		answers[i] = choices[i]
	}
	o.choices = req.N
	outcomes, failure := o.run(requests, append(req.Stop, o.model.template.Stops()...), prompt.Special(o.eng.Detokenize), answers)
	if failure != nil {
		return o.fail(failure)
	}
	u := usage(outcomes, o.choices)
	u.Completion = &openai.CompletionDetail{}
	for _, c := range choices {
		u.Completion.ReasoningTokens += c.thoughts
	}
	if o.events != nil {
		return o.closeStream(head, req.IncludeUsage, u)
	}
	reply := openai.Reply[openai.ChatChoice]{
		ID: "chatcmpl-" + o.id, Object: kind, Created: o.model.created.Unix(), Model: o.model.ref,
		Fingerprint: o.model.fingerprint, Usage: u, Timings: longest(outcomes),
	}
	for _, c := range choices {
		reply.Choices = append(reply.Choices, c.whole())
	}
	tellTimes(o.rw, reply.Timings.QueuedMS, reply.Timings.PrefillMS)
	return writeJSON(o.rw, reply)
}

// prompt writes the conversation for the model.
func (o *openAI) prompt(req *openai.ChatRequest) (*chat.Prompt, []engine.Token, error) {
	prompt, err := o.model.template.Prompt(o.ctx, req.Conversation)
	switch {
	case o.ctx.Err() != nil:
		return nil, nil, endOf(o.ctx)
	case err != nil:
		return nil, nil, err
	}
	if len(prompt.Text) > maxPromptBytes {
		return nil, nil, tooLong("messages")
	}
	tokens, err := o.model.tokens(o.eng, prompt.Text)
	return prompt, tokens, err
}

func tooLong(field string) error {
	return rbee.InvalidRequest(rbee.Fault{Field: field, Problem: "must not make a prompt of more than 8 MiB"})
}

// showPrompt answers POST /v1/chat/template: the prompt of a conversation.
func (o *openAI) showPrompt(req *openai.ChatRequest) error {
	prompt, tokens, err := o.prompt(req)
	if err != nil {
		return err
	}
	return writeJSON(o.rw, rbee.PromptReply{Prompt: prompt.Text, PromptTokens: len(tokens), Builtin: o.model.template.Builtin()})
}

// chatChoice is one answer to a conversation. It belongs to the goroutine that
// generates it.
type chatChoice struct {
	o      *openAI
	head   openai.Head
	index  int
	parser *chat.Parser
	buf    []byte
	begun  bool  // a piece was sent
	gone   error // why none can be sent
	last   string

	wanted   bool                  // logprobs are
	pending  []openai.TokenLogprob // of tokens whose text was not given out
	shown    []openai.TokenLogprob
	thoughts int // tokens

	content, reasoning strings.Builder
	calls              []openai.ToolCall
}

func newChatChoice(o *openAI, req *openai.ChatRequest, prompt *chat.Prompt, head openai.Head, index int) *chatChoice {
	c := &chatChoice{o: o, head: head, index: index, wanted: req.Logprobs}
	c.parser = prompt.NewParser(c, req.OneCall)
	return c
}

func (c *chatChoice) take(text []byte, p engine.Piece, _ int) error {
	if c.wanted {
		c.pending = append(c.pending, c.o.logprob(p))
	}
	if c.parser.Thinking() {
		c.thoughts++
	}
	c.parser.Push(text)
	if c.gone == nil && c.parser.Full() {
		return errEnough
	}
	return c.gone
}

func (c *chatChoice) finish(rest []byte, done rbee.InferDone, t openai.Timings) error {
	c.parser.Push(rest)
	c.parser.Flush()
	c.last = finishReason(done.StopReason)
	if c.parser.Calls() > 0 && c.last == "stop" {
		c.last = "tool_calls"
	}
	if done.StopReason == rbee.StopString && c.parser.Calls() == 0 {
		c.pending = nil // tokens of the stop string
	}
	logprobs := c.show()
	if c.o.events == nil || c.gone != nil {
		return c.gone
	}
	return c.o.events.send(c.head.AppendFinish(c.buf[:0], c.index, !c.begun, c.last, logprobs, t))
}

// show gives out the probabilities of the tokens whose text is given out now.
func (c *chatChoice) show() json.RawMessage {
	if len(c.pending) == 0 {
		return nil
	}
	var out json.RawMessage
	if c.o.events == nil {
		c.shown = append(c.shown, c.pending...)
	} else {
		out = openai.Encode(openai.Logprobs{Content: c.pending})
	}
	c.pending = c.pending[:0]
	return out
}

// send sends what was appended to the buffer.
func (c *chatChoice) send(event []byte) {
	c.buf = event
	c.begun = true
	if c.gone == nil {
		c.gone = c.o.events.send(event)
	}
}

// Content implements chat.Sink.
func (c *chatChoice) Content(text []byte) {
	logprobs := c.show()
	if c.o.events == nil {
		c.content.Write(text)
		return
	}
	c.send(c.head.AppendDelta(c.buf[:0], c.index, !c.begun, "content", text, logprobs))
}

// Reasoning implements chat.Sink.
func (c *chatChoice) Reasoning(text []byte) {
	logprobs := c.show()
	if c.o.events == nil {
		c.reasoning.Write(text)
		return
	}
	c.send(c.head.AppendDelta(c.buf[:0], c.index, !c.begun, "reasoning_content", text, logprobs))
}

// Call implements chat.Sink.
func (c *chatChoice) Call(index int, id, name string) {
	if c.o.events == nil {
		c.calls = append(c.calls, openai.ToolCall{ID: id, Type: "function", Function: openai.Function{Name: name}})
		return
	}
	c.send(c.head.AppendCall(c.buf[:0], c.index, !c.begun, index, id, name))
}

// Arguments implements chat.Sink.
func (c *chatChoice) Arguments(index int, piece []byte) {
	if c.o.events == nil {
		c.calls[index].Function.Arguments += string(piece)
		return
	}
	c.send(c.head.AppendArguments(c.buf[:0], c.index, index, piece))
}

// whole is the answer in one piece.
func (c *chatChoice) whole() openai.ChatChoice {
	out := openai.ChatChoice{
		Index: c.index, FinishReason: c.last,
		Message: openai.AnswerMessage{Role: chat.RoleAssistant, Reasoning: c.reasoning.String(), Calls: c.calls},
	}
	if content := c.content.String(); content != "" || len(c.calls) == 0 {
		out.Message.Content = &content
	}
	if c.wanted {
		out.Logprobs = &openai.Logprobs{Content: c.shown}
		if c.shown == nil {
			out.Logprobs.Content = []openai.TokenLogprob{}
		}
	}
	return out
}
