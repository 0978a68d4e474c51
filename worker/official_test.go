package worker_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	oai "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/shared"

	"rbee"
	"rbee/internal/engines/enginestest"
	"rbee/models"
	"rbee/worker"
	"rbee/worker/engine/fake"
	"rbee/worker/engine/llamacpp"
)

// official is the official Go client for a worker.
func official(t *testing.T, w *running) *oai.Client {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	c := oai.NewClient(option.WithBaseURL(w.base+"/v1"), option.WithAPIKey("any"), option.WithMaxRetries(0),
		option.WithHTTPClient(&http.Client{Transport: tr}))
	return &c
}

// beeTiny is a worker with bee-tiny in the real engine.
func beeTiny(t *testing.T) *running {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bee-tiny.gguf")
	if err := os.WriteFile(path, models.BeeTiny(), 0o600); err != nil {
		t.Fatal(err)
	}
	return script(t, fake.Script{}, func(c *worker.Config) {
		c.Load = llamacpp.Load
		c.Options.ModelPath, c.Options.LibDir, c.Options.Threads = path, enginestest.LibDir(t), 1
	})
}

// bothEngines runs a test with the fake engine and with the real one.
func bothEngines(t *testing.T, test func(t *testing.T, w *running)) {
	t.Run("fake", func(t *testing.T) { test(t, script(t, fake.Script{EOSAt: 900})) }) // so that a grammar comes to its end
	t.Run("real", func(t *testing.T) { test(t, beeTiny(t)) })
}

func hi(tokens int64) oai.ChatCompletionNewParams {
	return oai.ChatCompletionNewParams{
		Model: "bee-tiny", MaxTokens: oai.Int(tokens), Temperature: oai.Float(0), Seed: oai.Int(1),
		Messages: []oai.ChatCompletionMessageParamUnion{
			oai.SystemMessage("Tell stories."), oai.UserMessage("Tell me a story about a bee."),
		},
	}
}

func TestTheOfficialClientChats(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *running) {
		c := official(t, w)
		whole, err := c.Chat.Completions.New(t.Context(), hi(24))
		if err != nil {
			t.Fatal(err)
		}
		text := whole.Choices[0].Message.Content
		if text == "" || whole.Choices[0].FinishReason != "length" || whole.Usage.CompletionTokens != 24 || whole.Usage.PromptTokens == 0 ||
			whole.Model != "builtin:bee-tiny" || !strings.HasPrefix(whole.ID, "chatcmpl-") || !strings.Contains(whole.RawJSON(), `"system_fingerprint":"fp_`) {
			t.Errorf("the reply is %s", whole.RawJSON())
		}
		params := hi(24)
		params.StreamOptions.IncludeUsage = oai.Bool(true)
		stream := c.Chat.Completions.NewStreaming(t.Context(), params)
		var acc oai.ChatCompletionAccumulator
		last := ""
		for stream.Next() {
			chunk := stream.Current()
			acc.AddChunk(chunk)
			if len(chunk.Choices) > 0 {
				last = chunk.RawJSON()
			}
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		if got := acc.Choices[0].Message; got.Content != text || got.Role != "assistant" || acc.Choices[0].FinishReason != "length" ||
			acc.Usage.CompletionTokens != 24 || acc.Usage.TotalTokens != whole.Usage.TotalTokens {
			t.Errorf("streamed %q, whole %q, usage %+v", got.Content, text, acc.Usage)
		}
		for _, figure := range []string{`"timings":{"queued_ms":`, `"prefill_ms":`, `"decode_ms":`} {
			if !strings.Contains(last, figure) {
				t.Errorf("the last event has no %s: %s", figure, last)
			}
		}
	})
}

func TestTheOfficialClientGetsSeveralAnswersAtOnce(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *running) {
		params := hi(12)
		params.N, params.Temperature = oai.Int(3), oai.Float(1)
		c := official(t, w)
		whole, err := c.Chat.Completions.New(t.Context(), params)
		if err != nil {
			t.Fatal(err)
		}
		if len(whole.Choices) != 3 || whole.Usage.CompletionTokens != 36 {
			t.Fatalf("the reply is %s", whole.RawJSON())
		}
		if a, b, c := whole.Choices[0].Message.Content, whole.Choices[1].Message.Content, whole.Choices[2].Message.Content; a == b && b == c {
			t.Errorf("all three are %q", a)
		}
		stream := c.Chat.Completions.NewStreaming(t.Context(), params)
		texts := make([]string, 3)
		for stream.Next() {
			for _, choice := range stream.Current().Choices {
				texts[choice.Index] += choice.Delta.Content
			}
		}
		for i, choice := range whole.Choices {
			if stream.Err() != nil || choice.Message.Content != texts[choice.Index] || choice.Index != int64(i) {
				t.Errorf("choice %d is %q, streamed %q, %v", i, choice.Message.Content, texts[choice.Index], stream.Err())
			}
		}
	})
}

func weatherTool() oai.ChatCompletionToolUnionParam {
	return oai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{
		Name: "weather", Description: oai.String("Says what the weather is like."),
		Parameters: shared.FunctionParameters{
			"type": "object", "properties": map[string]any{"town": map[string]any{"enum": []string{"Bern", "Basel"}}},
			"required": []string{"town"}, "additionalProperties": false,
		},
	})
}

func TestTheOfficialClientForcesACallOfATool(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *running) {
		params := hi(500)
		params.Tools = []oai.ChatCompletionToolUnionParam{weatherTool()}
		params.ToolChoice.OfAuto = oai.String("required")
		c := official(t, w)
		whole, err := c.Chat.Completions.New(t.Context(), params)
		if err != nil {
			t.Fatal(err)
		}
		choice := whole.Choices[0]
		if choice.FinishReason != "tool_calls" || len(choice.Message.ToolCalls) != 1 || choice.Message.Content != "" {
			t.Fatalf("the reply is %s", whole.RawJSON())
		}
		call := choice.Message.ToolCalls[0]
		var arguments struct{ Town string }
		if err := json.Unmarshal([]byte(call.Function.Arguments), &arguments); err != nil || call.Function.Name != "weather" ||
			arguments.Town != "Bern" && arguments.Town != "Basel" || call.ID == "" {
			t.Errorf("the call is %s, %v", call.RawJSON(), err)
		}
		stream := c.Chat.Completions.NewStreaming(t.Context(), params)
		var acc oai.ChatCompletionAccumulator
		for stream.Next() {
			acc.AddChunk(stream.Current())
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		got := acc.Choices[0]
		if len(got.Message.ToolCalls) != 1 || got.Message.ToolCalls[0].Function.Arguments != call.Function.Arguments ||
			got.Message.ToolCalls[0].Function.Name != call.Function.Name || got.FinishReason != "tool_calls" {
			t.Errorf("streamed %+v, whole %+v", got.Message.ToolCalls, call)
		}
		// The result goes back into the conversation.
		params.Messages = append(params.Messages, choice.Message.ToParam(), oai.ToolMessage("It rains.", call.ID))
		params.ToolChoice.OfAuto = oai.String("none")
		if _, err := c.Chat.Completions.New(t.Context(), params); err != nil {
			t.Error(err)
		}
	})
}

func TestTheOfficialClientGetsJSON(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *running) {
		params := hi(500)
		params.ResponseFormat.OfJSONSchema = &shared.ResponseFormatJSONSchemaParam{JSONSchema: shared.ResponseFormatJSONSchemaJSONSchemaParam{
			Name: "answer", Strict: oai.Bool(true), Schema: map[string]any{
				"type": "object", "properties": map[string]any{"ok": map[string]any{"type": "boolean"}, "kind": map[string]any{"enum": []string{"bee", "wasp"}}},
				"required": []string{"ok", "kind"}, "additionalProperties": false,
			},
		}}
		whole, err := official(t, w).Chat.Completions.New(t.Context(), params)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			OK   *bool
			Kind string
		}
		if err := json.Unmarshal([]byte(whole.Choices[0].Message.Content), &got); err != nil || got.OK == nil || got.Kind != "bee" && got.Kind != "wasp" {
			t.Errorf("the answer is %q, %v", whole.Choices[0].Message.Content, err)
		}
		params.ResponseFormat = oai.ChatCompletionNewParamsResponseFormatUnion{OfJSONObject: &shared.ResponseFormatJSONObjectParam{}}
		params.MaxTokens = oai.Int(150)
		whole, err = official(t, w).Chat.Completions.New(t.Context(), params)
		if err != nil {
			t.Fatal(err)
		}
		content := whole.Choices[0].Message.Content
		if !strings.HasPrefix(strings.TrimSpace(content), "{") || whole.Choices[0].FinishReason == "stop" && !json.Valid([]byte(content)) {
			t.Errorf("the answer is %q", content)
		}
	})
}

func TestTheOfficialClientGetsProbabilities(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *running) {
		params := hi(6)
		params.Logprobs, params.TopLogprobs = oai.Bool(true), oai.Int(3)
		c := official(t, w)
		whole, err := c.Chat.Completions.New(t.Context(), params)
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, token := range whole.Choices[0].Logprobs.Content {
			text += token.Token
			if token.Logprob > 0 || len(token.TopLogprobs) != 3 || len(token.Bytes) == 0 {
				t.Errorf("a token is %s", token.RawJSON())
			}
		}
		if len(whole.Choices[0].Logprobs.Content) != 6 || strings.TrimSpace(text) != strings.TrimSpace(whole.Choices[0].Message.Content) {
			t.Errorf("the tokens make %q, the text is %q", text, whole.Choices[0].Message.Content)
		}
		stream := c.Chat.Completions.NewStreaming(t.Context(), params)
		n := 0
		for stream.Next() {
			for _, choice := range stream.Current().Choices {
				n += len(choice.Logprobs.Content)
			}
		}
		if n != 6 || stream.Err() != nil {
			t.Errorf("%d tokens with probabilities were streamed, %v", n, stream.Err())
		}
	})
}

func TestTheOfficialClientCompletes(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *running) {
		c := official(t, w)
		whole, err := c.Completions.New(t.Context(), oai.CompletionNewParams{
			Model: "builtin:bee-tiny", Prompt: oai.CompletionNewParamsPromptUnion{OfArrayOfStrings: []string{"Once upon a time", "The bee"}},
			MaxTokens: oai.Int(8), Temperature: oai.Float(0), Echo: oai.Bool(true),
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(whole.Choices) != 2 || !strings.HasPrefix(whole.Choices[0].Text, "Once upon a time") || !strings.HasPrefix(whole.Choices[1].Text, "The bee") ||
			len(whole.Choices[1].Text) < 10 || whole.Usage.CompletionTokens != 16 || whole.Object != "text_completion" {
			t.Errorf("the reply is %s", whole.RawJSON())
		}
		params := oai.CompletionNewParams{
			Model: "builtin:bee-tiny", Prompt: oai.CompletionNewParamsPromptUnion{OfArrayOfTokens: []int64{5, 6, 7}},
			MaxTokens: oai.Int(5), Logprobs: oai.Int(2), Temperature: oai.Float(0),
		}
		whole, err = c.Completions.New(t.Context(), params)
		if err != nil {
			t.Fatal(err)
		}
		if p := whole.Choices[0].Logprobs; len(p.Tokens) != 5 || len(p.TokenLogprobs) != 5 || len(p.TopLogprobs) != 5 || len(p.TextOffset) != 5 {
			t.Errorf("the probabilities are %s", p.RawJSON())
		}
		stream := c.Completions.NewStreaming(t.Context(), params)
		text := ""
		for stream.Next() {
			text += stream.Current().Choices[0].Text
		}
		if stream.Err() != nil || text != whole.Choices[0].Text {
			t.Errorf("streamed %q, whole %q, %v", text, whole.Choices[0].Text, stream.Err())
		}
	})
}

func TestTheOfficialClientEmbeds(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *running) {
		c := official(t, w)
		input := oai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"A bee flies.", "A bee flies.", "Something else"}}
		floats, err := c.Embeddings.New(t.Context(), oai.EmbeddingNewParams{Model: "bee-tiny", Input: input})
		if err != nil {
			t.Fatal(err)
		}
		if len(floats.Data) != 3 || floats.Usage.PromptTokens == 0 || floats.Data[2].Index != 2 {
			t.Fatalf("the reply is %s", floats.RawJSON())
		}
		dot := func(a, b []float64) float64 {
			sum := 0.0
			for i := range a {
				sum += a[i] * b[i]
			}
			return sum
		}
		a, b, other := floats.Data[0].Embedding, floats.Data[1].Embedding, floats.Data[2].Embedding
		if math.Abs(dot(a, b)-1) > 1e-3 || math.Abs(dot(other, other)-1) > 1e-3 || dot(a, other) > 0.9999 {
			t.Errorf("of equal texts %f, of others %f", dot(a, b), dot(a, other))
		}
		raw := read(t, w.post(t, "/v1/embeddings", `{"input":"A bee flies.","encoding_format":"base64"}`))
		var packed struct{ Data []struct{ Embedding string } }
		if err := json.Unmarshal([]byte(raw), &packed); err != nil || len(packed.Data) != 1 {
			t.Fatalf("%s: %v", raw, err)
		}
		if bytes, err := base64.StdEncoding.DecodeString(packed.Data[0].Embedding); err != nil || len(bytes) != 4*len(a) {
			t.Errorf("%d bytes for %d numbers, %v", len(bytes), len(a), err)
		}
		_, err = c.Embeddings.New(t.Context(), oai.EmbeddingNewParams{Model: "bee-tiny", Input: input, Dimensions: oai.Int(3)})
		wantError(t, err, rbee.CodeInvalidRequest, "dimensions")
	})
}

func TestTheOfficialClientListsTheModel(t *testing.T) {
	w := script(t, fake.Script{})
	c := official(t, w)
	list, err := c.Models.List(t.Context())
	if err != nil || len(list.Data) != 1 || list.Data[0].ID != "builtin:bee-tiny" || list.Data[0].OwnedBy != "rbee" || list.Data[0].Created == 0 {
		t.Errorf("the list is %+v, %v", list, err)
	}
	for _, name := range []string{"builtin:bee-tiny", "bee-tiny", "Bee-Tiny"} {
		if m, err := c.Models.Get(t.Context(), name); err != nil || m.ID != "builtin:bee-tiny" {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	_, err = c.Models.Get(t.Context(), "gpt-4o")
	wantError(t, err, rbee.CodeModelNotFound, "model")
}

// wantError checks an error as the official client sees it.
func wantError(t *testing.T, err error, code rbee.Code, param string) {
	t.Helper()
	var e *oai.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an error of the API", err)
	}
	if e.Code != string(code) || e.StatusCode != code.Status() || e.Param != param || e.Message == "" || e.Type == "" {
		t.Errorf("got status %d, %s, want %s of %q", e.StatusCode, e.RawJSON(), code, param)
	}
}

func TestTheOfficialClientSeesErrors(t *testing.T) {
	w := script(t, fake.Script{}, func(c *worker.Config) { c.Options.Context = 64 })
	c := official(t, w)
	params := hi(5)
	params.Model = "gpt-4o"
	_, err := c.Chat.Completions.New(t.Context(), params)
	wantError(t, err, rbee.CodeModelNotFound, "model")
	params = hi(5)
	params.Temperature = oai.Float(3)
	_, err = c.Chat.Completions.New(t.Context(), params)
	wantError(t, err, rbee.CodeInvalidRequest, "temperature")
	params = hi(5)
	params.Messages = append(params.Messages, oai.UserMessage(strings.Repeat("the bee ", 100)))
	_, err = c.Chat.Completions.New(t.Context(), params)
	wantError(t, err, rbee.CodeContextLengthExceeded, "")
	var e *oai.Error
	if !errors.As(err, &e) || !strings.Contains(e.Message, "context of 64 tokens") || !strings.Contains(e.RawJSON(), `"prompt_tokens":`) {
		t.Errorf("the message lacks the numbers: %v", err)
	}
	failing := script(t, fake.Script{FailAt: 3})
	stream := official(t, failing).Chat.Completions.NewStreaming(t.Context(), hi(9))
	for stream.Next() {
	}
	if err := stream.Err(); err == nil || !strings.Contains(err.Error(), string(rbee.CodeInternalError)) {
		t.Errorf("a stream that fails ends with %v", err)
	}
}

func TestTheOfficialClientCancels(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *running) {
		ctx, cancel := context.WithCancel(t.Context())
		params := hi(400)
		params.SetExtraFields(map[string]any{"ignore_eos": true})
		stream := official(t, w).Chat.Completions.NewStreaming(ctx, params)
		if !stream.Next() {
			t.Fatal(stream.Err())
		}
		cancel()
		for stream.Next() {
		}
		_ = stream.Close()
		eventually(t, "the slot is free", func() bool { return w.metric(t, "rbee_worker_slots_busy") == "0" })
		eventually(t, "the worker is idle", func() bool { return w.state(t) == rbee.WorkerIdle })
	})
}
