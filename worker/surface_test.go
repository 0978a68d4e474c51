package worker_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"rbee"
	"rbee/internal/tracing"
	"rbee/internal/tracing/tracingtest"
	"rbee/worker"
	"rbee/worker/engine"
	"rbee/worker/engine/fake"
)

// heard is an engine that writes down what it is asked for.
type heard struct {
	engine.Engine
	info func(*engine.Info)

	mu   sync.Mutex
	last engine.Request
}

func (h *heard) Info() engine.Info {
	info := h.Engine.Info()
	if h.info != nil {
		h.info(&info)
	}
	return info
}

func (h *heard) Generate(_ context.Context, r engine.Request, _ func(engine.Piece) bool) (engine.Result, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = r
	return engine.Result{Reason: rbee.StopEOS, PromptTokens: len(r.Tokens)}, nil
}

func (h *heard) asked() engine.Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// listening runs a worker whose engine writes down what it is asked for.
func listening(t *testing.T, info func(*engine.Info)) (*running, *heard) {
	t.Helper()
	h := &heard{info: info}
	w := script(t, fake.Script{}, func(c *worker.Config) {
		c.Load = func(ctx context.Context, o engine.Options, p func(rbee.LoadProgress)) (engine.Engine, error) {
			var err error
			h.Engine, err = fake.Loader(fake.Script{})(ctx, o, p)
			return h, err
		}
	})
	return w, h
}

// bodies are a good request to each endpoint that computes, open for more fields.
var bodies = map[string]string{
	"/v1/inference": `{"prompt":"a","max_tokens":1`, "/v1/chat/completions": `{` + userSays + `,"max_tokens":1`,
	"/v1/completions": `{"prompt":"a","max_tokens":1`, "/v1/embeddings": `{"input":"a"`,
}

func TestARequestSaysHowLongTheWorkerMayBeIdleAfterwards(t *testing.T) {
	w := script(t, fake.Script{})
	for path, body := range bodies {
		for value, want := range map[string]string{`"5m"`: "5m0s", `60`: "1m0s", `0`: "0", `-1`: "forever", `"forever"`: "forever", `null`: ""} {
			resp := w.post(t, path, body+`,"keep_alive":`+value+`}`)
			if text := read(t, resp); resp.StatusCode != http.StatusOK || resp.Header.Get(rbee.KeepAliveHeader) != want {
				t.Errorf("%s %s: %d, the header is %q, want %q: %s", path, value, resp.StatusCode, resp.Header.Get(rbee.KeepAliveHeader), want, text)
			}
		}
		for _, bad := range []string{`"soon"`, `[]`, `true`, `1e300`} {
			resp := w.post(t, path, body+`,"keep_alive":`+bad+`}`)
			if text := read(t, resp); resp.StatusCode != http.StatusBadRequest || !strings.Contains(text, "keep_alive must be") || resp.Header.Get(rbee.KeepAliveHeader) != "" {
				t.Errorf("%s %s: %d %s", path, bad, resp.StatusCode, text)
			}
		}
	}
}

func TestAnIdleWorkerRests(t *testing.T) {
	hold := make(chan struct{})
	w := script(t, fake.Script{Hold: hold})
	if m, err := w.Rest(t.Context()); err != nil || m.Message == "" {
		t.Errorf("rest gave %+v, %v", m, err)
	}
	if got := w.metric(t, "rbee_worker_kv_size_tokens"); got != "0" {
		t.Errorf("a resting worker has %s KV cells", got)
	}
	if got := w.state(t); got != rbee.WorkerIdle {
		t.Errorf("a resting worker is %s", got)
	}
	endless(t, w, "r1") // ends the rest
	if _, err := w.Rest(t.Context()); rbee.CodeOf(err) != rbee.CodeConflict {
		t.Errorf("beside a request rest gave %v", err)
	}
	if got := w.metric(t, "rbee_worker_kv_size_tokens"); got == "0" {
		t.Error("it rests still")
	}
	close(hold)
}

func TestARestIsForALoadedWorker(t *testing.T) {
	steps := make(chan rbee.LoadProgress)
	w := start(t, worker.Config{Load: gated(steps)})
	if _, err := w.Rest(t.Context()); rbee.CodeOf(err) != rbee.CodeWorkerNotReady {
		t.Errorf("before the load rest gave %v", err)
	}
	close(steps)
	w.ready(t)
}

func TestAGapIsFilled(t *testing.T) {
	w, h := listening(t, nil)
	tokens := func(text string) []int32 {
		all, err := w.Tokenize(t.Context(), rbee.TokenizeRequest{Text: text})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	for body, text := range map[string]string{
		`{"prompt":"if a","suffix":"end"}`: "<s><fim_prefix>if a<fim_suffix>end<fim_middle>",
		`{"prompt":"","suffix":"end"}`:     "<s><fim_prefix><fim_suffix>end<fim_middle>",
		`{"prompt":"if a","suffix":""}`:    "<s>if a",
	} {
		resp := w.post(t, "/v1/completions", body)
		if text := read(t, resp); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", body, resp.StatusCode, text)
		}
		if got, want := h.asked().Tokens, tokens(text); !slices.Equal(got, want) {
			t.Errorf("%s asks for %v, want %v", body, got, want)
		}
	}
	refusal(t, w.post(t, "/v1/completions", `{"prompt":[99999],"suffix":"a"}`), rbee.CodeInvalidRequest)
	if got := read(t, w.do(t, http.MethodGet, "/v1/models", "")); !strings.Contains(got, `"fills_gaps":true`) {
		t.Errorf("the model is %s", got)
	}
	without, _ := listening(t, func(i *engine.Info) { i.FIM = engine.FIM{} })
	if e := refusal(t, without.post(t, "/v1/completions", `{"prompt":"a","suffix":"b"}`), rbee.CodeInvalidRequest); e.Param == nil || *e.Param != "suffix" {
		t.Errorf("the refusal is %+v", e)
	}
}

func TestARequestScalesAdapters(t *testing.T) {
	w, h := listening(t, func(i *engine.Info) { i.Adapters = []string{"poems", "code"} })
	for path, body := range bodies {
		if path == "/v1/embeddings" {
			continue
		}
		for value, want := range map[string][]float32{
			``: nil, `,"lora":[{"id":1,"scale":0.5}]`: {0, 0.5}, `,"lora":[]`: {0, 0}, `,"lora":[{"id":1,"scale":-1},{"id":0,"scale":2}]`: {2, -1},
		} {
			resp := w.post(t, path, body+value+`}`)
			if text := read(t, resp); resp.StatusCode != http.StatusOK || !slices.Equal(h.asked().LoRA, want) || (want == nil) != (h.asked().LoRA == nil) {
				t.Errorf("%s%s asks for %v, want %v: %s", path, value, h.asked().LoRA, want, text)
			}
		}
		for bad, field := range map[string]string{
			`[{"id":2,"scale":1}]`: "lora[0].id", `[{"id":-1,"scale":1}]`: "lora[0].id", `[{"id":0,"scale":1},{"id":0,"scale":2}]`: "lora[1].id",
			`[{"id":0,"scale":1e39}]`: "lora[0].scale",
		} {
			resp := w.post(t, path, body+`,"lora":`+bad+`}`)
			if text := read(t, resp); resp.StatusCode != http.StatusBadRequest || !strings.Contains(text, field) {
				t.Errorf("%s %s: %d %s", path, bad, resp.StatusCode, text)
			}
		}
	}
	if got := read(t, w.do(t, http.MethodGet, "/v1/models", "")); !strings.Contains(got, `"lora_adapters":["poems","code"]`) {
		t.Errorf("the model is %s", got)
	}
}

func TestATemplateGetsTheTokensOfItsModel(t *testing.T) {
	w, _ := listening(t, func(i *engine.Info) {
		i.ChatTemplate = "{{ bos_token }}|{{ messages[0].content }}|{{ eos_token }}"
		i.BOS, i.EOS = "<begin>", "<end>"
	})
	if reply, err := w.ChatTemplate(t.Context(), json.RawMessage(`{`+userSays+`}`)); err != nil || reply.Prompt != "<begin>|Hi|<end>" {
		t.Errorf("got %+v, %v", reply, err)
	}
}

// traced runs a worker that tells the collector.
func traced(t *testing.T, s fake.Script) (*running, *tracingtest.Collector, *tracing.Tracer) {
	c := tracingtest.New(t)
	tr := tracing.New(worker.Program, "w1", slog.New(slog.DiscardHandler))
	t.Cleanup(tr.Close)
	return script(t, s, func(cfg *worker.Config) { cfg.Tracer = tr }), c, tr
}

func TestEachRequestHasASpan(t *testing.T) {
	w, c, tr := traced(t, fake.Script{})
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	parent := []string{"traceparent", "00-" + trace + "-" + span + "-01"}
	for path, body := range map[string]string{
		"/v1/inference": `{"prompt":"sesame","max_tokens":3,"temperature":0}`, "/v1/completions": `{"prompt":["sesame","b"],"n":2,"max_tokens":3}`,
		"/v1/chat/completions": `{` + userSays + `,"max_tokens":3,"stream":true}`, "/v1/embeddings": `{"input":["sesame","b"]}`, "/v1/chat/template": `{` + userSays + `}`,
	} {
		if text := read(t, w.post(t, path, body, parent...)); strings.Contains(text, `"error"`) {
			t.Errorf("%s: %s", path, text)
		}
	}
	read(t, w.post(t, "/v1/chat/completions", `{"messages":"sesame"}`, parent...))
	tr.Close()
	spans := c.Spans()
	if len(spans) != 6 {
		t.Fatalf("%d spans came: %+v", len(spans), spans)
	}
	ended, out := map[string]int{}, map[int64]int{} // spans by their names and their tokens
	for _, s := range spans {
		ended[s.Name]++
		a := s.Attributes
		if s.TraceID != trace || s.ParentID != span || a["gen_ai.response.model"] != "builtin:bee-tiny" || a["gen_ai.response.id"] == "" {
			t.Errorf("the span is %+v", s)
		}
		if all, err := json.Marshal(s); err != nil || strings.Contains(string(all), "sesame") {
			t.Errorf("a span quotes a prompt: %s %v", all, err)
		}
		switch {
		case a["error.type"] != nil:
			if a["error.type"] != "INVALID_REQUEST" || s.Failed {
				t.Errorf("the bad request's span is %+v", s)
			}
		case s.Name == "chat" || s.Name == "text_completion":
			out[a["gen_ai.usage.output_tokens"].(int64)]++
			if a["gen_ai.usage.input_tokens"].(int64) < 2 || a["rbee.stop_reason"] != "length" {
				t.Errorf("the span is %+v", s)
			}
			for _, ms := range []string{"rbee.queued_ms", "rbee.prefill_ms", "rbee.decode_ms"} {
				if v, ok := a[ms].(float64); !ok || v < 0 {
					t.Errorf("%s is %v", ms, a[ms])
				}
			}
		case s.Name == "embeddings":
			if a["gen_ai.usage.input_tokens"].(int64) < 4 {
				t.Errorf("the span is %+v", s)
			}
		}
	}
	if ended["chat"] != 2 || ended["text_completion"] != 2 || ended["embeddings"] != 1 || ended["template"] != 1 {
		t.Errorf("the spans are %v", ended)
	}
	if out[3] != 2 || out[12] != 1 { // of two prompts with two answers each
		t.Errorf("the tokens are %v", out)
	}
}

func TestASpanTellsOfAFailureInAStream(t *testing.T) {
	w, c, tr := traced(t, fake.Script{FailAt: 3})
	for path, body := range map[string]string{"/v1/inference": `{"prompt":"a"}`, "/v1/chat/completions": `{` + userSays + `,"stream":true}`} {
		if got := read(t, w.post(t, path, body)); !strings.Contains(got, "INTERNAL_ERROR") {
			t.Errorf("%s: %s", path, got)
		}
	}
	tr.Close()
	spans := c.Spans()
	for _, s := range spans {
		if s.Attributes["error.type"] != "INTERNAL_ERROR" || !s.Failed || s.Attributes["gen_ai.usage.output_tokens"] != int64(2) {
			t.Errorf("the span is %+v", s)
		}
	}
	if len(spans) != 2 {
		t.Errorf("%d spans came", len(spans))
	}
}

func TestTheProgramTraces(t *testing.T) {
	c := tracingtest.New(t)
	w, end := byHive(t, fakeEngine(fake.Script{}), "--model", modelFile(t))
	if _, err := w.InferWhole(t.Context(), prompt(3)); err != nil {
		t.Fatal(err)
	}
	end() // sends what is left
	if n := len(c.Spans()); n != 1 {
		t.Fatalf("%d spans came", n)
	}
	if got := c.Spans()[0].Resource["service.name"]; got != worker.Program {
		t.Errorf("the service is %v", got)
	}
}
