//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	oai "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/shared"

	"rbee"
)

const (
	beeTiny = "builtin:bee-tiny"
	nobody  = "gpt-4o" // a model that no hive has
)

func bee(tokens int64) oai.ChatCompletionNewParams {
	return oai.ChatCompletionNewParams{
		Model: beeTiny, MaxTokens: oai.Int(tokens), Temperature: oai.Float(0),
		Messages: []oai.ChatCompletionMessageParamUnion{oai.UserMessage("Tell me a story about a bee.")},
	}
}

// The official clients find with a queen, whose hives run the real engine, what
// they find with OpenAI.
func TestTheOfficialClientsWorkWithAQueen(t *testing.T) {
	a := newApiary(t, "", "")
	c := a.official()
	for name, test := range map[string]func(*testing.T, *apiary, *oai.Client){
		"chats": chats, "tools": callsTools, "embeddings": embeds, "errors": seesErrors, "cancel": cancels, "models": listsModels,
	} {
		t.Run("go/"+name, func(t *testing.T) { test(t, a, c) })
	}
	t.Run("js", func(t *testing.T) { javaScript(t, a.base, nobody) })
}

func chats(t *testing.T, _ *apiary, c *oai.Client) {
	whole, err := c.Chat.Completions.New(t.Context(), bee(24))
	if err != nil {
		t.Fatal(err)
	}
	text := whole.Choices[0].Message.Content
	if text == "" || whole.Usage.CompletionTokens != 24 || whole.Model != beeTiny {
		t.Errorf("the reply is %s", whole.RawJSON())
	}
	params := bee(24)
	params.StreamOptions.IncludeUsage = oai.Bool(true)
	stream := c.Chat.Completions.NewStreaming(t.Context(), params)
	var acc oai.ChatCompletionAccumulator
	for stream.Next() {
		acc.AddChunk(stream.Current())
	}
	if err := stream.Err(); err != nil || acc.Choices[0].Message.Content != text || acc.Usage.TotalTokens != whole.Usage.TotalTokens {
		t.Errorf("streamed %q, whole %q, %v", acc.Choices[0].Message.Content, text, err)
	}
}

func callsTools(t *testing.T, _ *apiary, c *oai.Client) {
	params := bee(500)
	params.Tools = []oai.ChatCompletionToolUnionParam{oai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{
		Name: "weather", Parameters: shared.FunctionParameters{
			"type": "object", "properties": map[string]any{"town": map[string]any{"enum": []string{"Bern", "Basel"}}},
			"required": []string{"town"}, "additionalProperties": false,
		},
	})}
	params.ToolChoice.OfAuto = oai.String("required")
	stream := c.Chat.Completions.NewStreaming(t.Context(), params)
	var acc oai.ChatCompletionAccumulator
	for stream.Next() {
		acc.AddChunk(stream.Current())
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	calls := acc.Choices[0].Message.ToolCalls
	var arguments struct{ Town string }
	if len(calls) != 1 || calls[0].Function.Name != "weather" || json.Unmarshal([]byte(calls[0].Function.Arguments), &arguments) != nil ||
		arguments.Town != "Bern" && arguments.Town != "Basel" {
		t.Errorf("the calls are %+v", calls)
	}
}

func embeds(t *testing.T, _ *apiary, c *oai.Client) {
	reply, err := c.Embeddings.New(t.Context(), oai.EmbeddingNewParams{
		Model: beeTiny, Input: oai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a bee", "a bee", "else"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	dot := func(a, b []float64) (sum float64) {
		for i := range a {
			sum += a[i] * b[i]
		}
		return sum
	}
	x, y, other := reply.Data[0].Embedding, reply.Data[1].Embedding, reply.Data[2].Embedding
	if len(reply.Data) != 3 || dot(x, y) < 0.999 || dot(x, other) > 0.9999 {
		t.Errorf("of equal texts %f, of others %f", dot(x, y), dot(x, other))
	}
}

func listsModels(t *testing.T, _ *apiary, c *oai.Client) {
	list, err := c.Models.List(t.Context())
	if err != nil || len(list.Data) != 1 || list.Data[0].ID != beeTiny {
		t.Errorf("the models are %+v, %v", list, err)
	}
	if one, err := c.Models.Get(t.Context(), beeTiny); err != nil || one.ID != beeTiny {
		t.Errorf("the model is %+v, %v", one, err)
	}
}

func seesErrors(t *testing.T, _ *apiary, c *oai.Client) {
	unknown, hot, endless, elsewhere := bee(5), bee(5), bee(5), bee(5)
	unknown.Model = nobody
	hot.Temperature = oai.Float(3)
	endless.Messages = append(endless.Messages, oai.UserMessage(strings.Repeat("the bee ", 9000)))
	for _, tc := range []struct {
		params oai.ChatCompletionNewParams
		opts   []option.RequestOption
		code   rbee.Code
		param  string
	}{
		{params: unknown, code: rbee.CodeModelNotFound, param: "model"},
		{params: hot, code: rbee.CodeInvalidRequest, param: "temperature"},
		{params: endless, code: rbee.CodeContextLengthExceeded},
		{params: elsewhere, opts: []option.RequestOption{option.WithHeader(rbee.NodeHeader, "nowhere")}, code: rbee.CodeHiveNotFound},
	} {
		_, err := c.Chat.Completions.New(t.Context(), tc.params, tc.opts...)
		var e *oai.Error
		if !errors.As(err, &e) || e.Code != string(tc.code) || e.StatusCode != tc.code.Status() || e.Param != tc.param || e.Message == "" || e.Type == "" {
			t.Errorf("got %v, want %s of %q", err, tc.code, tc.param)
		}
	}
}

func cancels(t *testing.T, a *apiary, c *oai.Client) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream := c.Chat.Completions.NewStreaming(ctx, bee(400), option.WithJSONSet("ignore_eos", true))
	if !stream.Next() {
		t.Fatal(stream.Err())
	}
	cancel()
	for stream.Next() {
	}
	_ = stream.Close() // its context ended
	eventually(t, "no worker works", func() bool { return a.busy() == 0 })
	eventually(t, "the queen has no request", func() bool { return a.metric("rbee_queen_requests_in_flight") == 0 })
}
