package worker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"rbee"
	"rbee/worker"
	"rbee/worker/engine"
	"rbee/worker/engine/fake"
	"rbee/worker/openai"
)

func TestAStreamHasTheShapeOfTheContract(t *testing.T) {
	w := saying(t, "Once", " upon", " a", " time", ",")
	resp := w.post(t, "/v1/inference", `{"prompt":"Tell me a story","max_tokens":5,"temperature":0}`, rbee.RequestIDHeader, "mine-1")
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get(rbee.RequestIDHeader) != "mine-1" {
		t.Errorf("%d with the headers %v", resp.StatusCode, resp.Header)
	}
	got := events(t, resp)
	if len(got) != 7 || got[6] != "[DONE]" {
		t.Fatalf("the events are %q", got)
	}
	for i, data := range got[:5] {
		var token map[string]any
		if err := json.Unmarshal([]byte(data), &token); err != nil || len(token) != 2 || token["index"] != float64(i) || token["token"] == "" {
			t.Errorf("token %d is %s", i, data)
		}
	}
	var done map[string]any
	if err := json.Unmarshal([]byte(got[5]), &done); err != nil {
		t.Fatal(err)
	}
	if ms, ok := done["duration_ms"].(float64); !ok || ms < 0 {
		t.Errorf("the duration is %v", done["duration_ms"])
	}
	for _, ms := range []string{"queued_ms", "prefill_ms", "decode_ms"} {
		if v, ok := done[ms].(float64); !ok || v < 0 {
			t.Errorf("%s is %v", ms, done[ms])
		}
		delete(done, ms)
	}
	delete(done, "duration_ms")
	want := map[string]any{"done": true, "total_tokens": 5.0, "stop_reason": "length", "prompt_tokens": 4.0, "cached_tokens": 0.0}
	if fmt.Sprint(done) != fmt.Sprint(want) {
		t.Errorf("the end is %v, want %v", done, want)
	}
}

func TestARequestIsNamedByBodyThenHeaderThenTheWorker(t *testing.T) {
	w := script(t, fake.Script{})
	for _, c := range []struct{ body, header, want string }{
		{`,"request_id":"body-1"`, "header-1", "body-1"},
		{``, "header-1", "header-1"},
		{``, "", "req-"},
	} {
		for _, stream := range []string{"true", "false"} {
			resp := w.post(t, "/v1/inference", `{"prompt":"a","max_tokens":1,"stream":`+stream+c.body+`}`, rbee.RequestIDHeader, c.header)
			if got := resp.Header.Get(rbee.RequestIDHeader); !strings.HasPrefix(got, c.want) {
				t.Errorf("%+v stream=%s: the header says %q", c, stream, got)
			}
			read(t, resp)
		}
	}
}

func TestWithoutStreamTheReplyIsOneBody(t *testing.T) {
	w := script(t, fake.Script{})
	streamed, done, err := w.infer(t, prompt(20))
	if err != nil {
		t.Fatal(err)
	}
	req := prompt(20)
	req.RequestID = "whole-1"
	whole, err := w.InferWhole(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if whole.Text != streamed || whole.RequestID != "whole-1" || !whole.Done ||
		whole.TotalTokens != done.TotalTokens || whole.StopReason != rbee.StopLength || whole.PromptTokens != done.PromptTokens {
		t.Errorf("whole %+v, streamed %q %+v", whole, streamed, done)
	}
	resp := w.post(t, "/v1/inference", `{"prompt":"a","max_tokens":1,"stream":false}`)
	if ct := resp.Header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("the content type is %q", ct)
	}
	read(t, resp)
}

func TestTheSameSeedGivesTheSameText(t *testing.T) {
	w := script(t, fake.Script{})
	text := func(seed *uint64) string {
		req := prompt(30)
		req.Temperature, req.Seed = nil, seed
		got, _, err := w.infer(t, req)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	seven, zero := uint64(7), uint64(0)
	ofSeven, ofZero, ofChance := text(&seven), text(&zero), text(nil)
	if again := text(&seven); again != ofSeven {
		t.Errorf("the same seed gives %q and %q", ofSeven, again)
	}
	if again := text(&zero); again != ofZero {
		t.Errorf("the seed 0 gives %q and %q", ofZero, again)
	}
	if ofSeven == ofZero {
		t.Error("different seeds give the same text")
	}
	if text(nil) == ofChance {
		t.Error("without a seed two texts are the same")
	}
}

func TestAllFaultsAreReportedAtOnceAndNoValueIsEchoed(t *testing.T) {
	w := script(t, fake.Script{})
	many := strings.TrimSuffix(strings.Repeat(`"x",`, 17), ",")
	cases := []struct {
		name, body string
		fields     []string
	}{
		{
			"ranges", `{"prompt":"","max_tokens":0,"temperature":2.5,"top_p":-1,"top_k":-1,"min_p":7,"repetition_penalty":0,"timeout_seconds":0,"stop":[""],"request_id":"sesame sesame"}`,
			[]string{"prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "timeout_seconds", "stop[0]", "request_id"},
		},
		{
			"types", `{"prompt":5,"max_tokens":"sesame","temperature":[],"stop":"sesame","stream":"sesame","seed":-1}`,
			[]string{"prompt", "max_tokens", "temperature", "stop", "stream", "seed"},
		},
		{
			"types and ranges", `{"prompt":{},"max_tokens":0,"temperature":"sesame","min_p":2}`,
			[]string{"prompt", "max_tokens", "temperature", "min_p"},
		},
		{"unknown fields", `{"prompt":"a","sesame":1,"max_tokens":-1}`, []string{"sesame", "max_tokens"}},
		{"fraction", `{"prompt":"a","max_tokens":1.5}`, []string{"max_tokens"}},
		{"null prompt", `{"prompt":null}`, []string{"prompt"}},
		{
			"negative numbers", `{"prompt":"a","temperature":-0.1,"typical_p":-1,"frequency_penalty":-3,"presence_penalty":-3,"timeout_seconds":-1,"logit_bias":{"-1":1}}`,
			[]string{"temperature", "typical_p", "frequency_penalty", "presence_penalty", "timeout_seconds", "logit_bias"},
		},
		{"adapters and idleness", `{"prompt":"a","lora":[{"id":0,"scale":1e9}],"keep_alive":"sesame"}`, []string{"lora[0].scale", "keep_alive"}},
		{"10,000 stop strings", `{"prompt":"a","stop":[` + strings.Repeat(`"sesame",`, 9999) + `"x"]}`, []string{"stop"}},
		{"many biases", `{"prompt":"a","logit_bias":{` + manyBiases() + `"0":1}}`, []string{"logit_bias"}},
		{"too many stops", `{"prompt":"a","stop":[` + many + `]}`, []string{"stop"}},
		{"long stop", `{"prompt":"a","stop":["` + strings.Repeat("é", 257) + `"]}`, []string{"stop[0]"}},
		{"long prompt", `{"prompt":"` + strings.Repeat("a", rbee.MaxPromptBytes+1) + `"}`, []string{"prompt"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			e := failure(t, w.post(t, "/v1/inference", c.body), rbee.CodeInvalidRequest)
			b, err := json.Marshal(e.Details["faults"])
			if err != nil {
				t.Fatal(err)
			}
			var faults []rbee.Fault
			if err := json.Unmarshal(b, &faults); err != nil {
				t.Fatalf("%s: %v", b, err)
			}
			var fields []string
			for _, f := range faults {
				fields = append(fields, strings.TrimPrefix(f.Field, "body."))
			}
			slices.Sort(fields)
			if want := slices.Sorted(slices.Values(c.fields)); !slices.Equal(fields, want) {
				t.Errorf("the faults are %v, want one each of %v", faults, want)
			}
			if c.name != "unknown fields" && strings.Contains(e.Error(), "sesame") {
				t.Errorf("the error quotes the request: %s", e.Error())
			}
		})
	}
}

// manyBiases are more than a request may have.
func manyBiases() string {
	var b strings.Builder
	for i := range openai.MaxBiases {
		fmt.Fprintf(&b, `"%d":1,`, i+1)
	}
	return b.String()
}

func TestWhatIsNoRequestIsRefused(t *testing.T) {
	w := script(t, fake.Script{})
	for name, body := range map[string]string{
		"nothing":      ``,
		"no JSON":      `sesame`,
		"cut":          `{"prompt":"sesame`,
		"NaN":          `{"prompt":"a","temperature":NaN}`,
		"infinity":     `{"prompt":"a","temperature":1e999}`,
		"huge integer": `{"prompt":"a","max_tokens":1e30}`,
		"huge seed":    `{"prompt":"a","seed":99999999999999999999999}`,
		"array":        `[]`,
		"null":         `null`,
		"empty object": `{}`,
		"two values":   `{"prompt":"a"}{"prompt":"sesame"}`,
		"no UTF-8":     "{\"prompt\":\"sesame \xff\"}",
		"deep":         `{"prompt":` + strings.Repeat("[", 1<<17) + strings.Repeat("]", 1<<17) + `}`,
		"deep schema":  `{"prompt":"a","json_schema":` + strings.Repeat(`{"items":`, 5000) + `{}` + strings.Repeat("}", 5000) + `}`,
	} {
		t.Run(name, func(t *testing.T) {
			if e := failure(t, w.post(t, "/v1/inference", body), rbee.CodeInvalidRequest); strings.Contains(e.Error(), "sesame") {
				t.Errorf("the error quotes the request: %s", e.Error())
			}
		})
	}
	// A client that keeps its connection has the time to read the answer.
	if _, err := w.InferWhole(t.Context(), rbee.InferRequest{Prompt: strings.Repeat("a", 64<<20)}); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("64 MiB: %v", err)
	}
	if got := w.state(t); got != rbee.WorkerIdle {
		t.Errorf("afterwards the worker is %s", got)
	}
}

func TestOneIDRunsOnce(t *testing.T) {
	hold := make(chan struct{})
	w := script(t, fake.Script{Hold: hold})
	resp := endless(t, w, "r1")
	failure(t, w.post(t, "/v1/inference", `{"prompt":"a","request_id":"r1"}`), rbee.CodeConflict)
	if got := w.state(t); got != rbee.WorkerBusy {
		t.Errorf("the worker is %s, want busy", got)
	}
	for range 2 {
		if err := w.CancelInfer(t.Context(), "r1"); err != nil {
			t.Error(err)
		}
	}
	got := events(t, resp)
	if len(got) != 2 || !strings.Contains(got[0], `"stop_reason":"canceled"`) || got[1] != "[DONE]" {
		t.Errorf("the stream ends with %q", got)
	}
	if resp := w.do(t, http.MethodDelete, "/v1/inference/never-was", ""); resp.StatusCode != http.StatusNoContent {
		t.Errorf("cancel of nothing: %d", resp.StatusCode)
	}
	eventually(t, "the worker is idle", func() bool { return w.state(t) == rbee.WorkerIdle })
	close(hold)
	if text := read(t, w.post(t, "/v1/inference", `{"prompt":"a","max_tokens":1,"request_id":"r1"}`)); !strings.Contains(text, "length") {
		t.Errorf("the same id again: %s", text)
	}
}

func TestACanceledRequestWithoutStreamKeepsItsText(t *testing.T) {
	hold := make(chan struct{}, 2)
	hold <- struct{}{}
	hold <- struct{}{}
	w := script(t, fake.Script{Hold: hold})
	req := prompt(10)
	req.RequestID = "r1"
	type outcome struct {
		reply rbee.InferReply
		err   error
	}
	ended := make(chan outcome, 1)
	go func() {
		reply, err := w.InferWhole(t.Context(), req)
		ended <- outcome{reply, err}
	}()
	eventually(t, "two tokens came", func() bool { return w.metric(t, "rbee_worker_generated_tokens_total") == "2" })
	if err := w.CancelInfer(t.Context(), "r1"); err != nil {
		t.Error(err)
	}
	got := <-ended
	if got.err != nil || got.reply.StopReason != rbee.StopCanceled || got.reply.TotalTokens != 2 || got.reply.Text == "" {
		t.Errorf("the reply is %+v, %v", got.reply, got.err)
	}
}

func TestAClientThatGoesAwayFreesItsSlot(t *testing.T) {
	w := script(t, fake.Script{Hold: make(chan struct{})})
	ctx, leave := context.WithCancel(t.Context())
	for _, stream := range []string{"true", "false"} {
		go func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.base+"/v1/inference",
				strings.NewReader(`{"prompt":"a","stream":`+stream+`}`))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Content-Type", "application/json")
			tr := &http.Transport{DisableKeepAlives: true}
			if resp, err := tr.RoundTrip(req); err == nil {
				<-ctx.Done()
				resp.Body.Close()
			}
		}()
	}
	eventually(t, "both run", func() bool { return w.metric(t, "rbee_worker_slots_busy") == "2" })
	leave()
	eventually(t, "the slots are free", func() bool { return w.metric(t, "rbee_worker_slots_busy") == "0" })
	eventually(t, "the worker is idle", func() bool { return w.state(t) == rbee.WorkerIdle })
}

func TestABusyWorkerSaysSoAndWhenToComeBack(t *testing.T) {
	w := script(t, fake.Script{Hold: make(chan struct{})}, func(c *worker.Config) { c.Options.Slots, c.Options.Queue = 1, 1 })
	endless(t, w, "runs")
	endless(t, w, "waits")
	resp := w.post(t, "/v1/inference", `{"prompt":"a"}`)
	e := failure(t, resp, rbee.CodeAllSlotsBusy)
	if e.Details["slots_total"] != 1.0 || e.Details["slots_busy"] != 1.0 || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("details %v, Retry-After %q", e.Details, resp.Header.Get("Retry-After"))
	}
	if got := w.metric(t, "rbee_worker_queued_requests"); got != "1" {
		t.Errorf("%s requests are queued, want 1", got)
	}
}

func TestAPromptBeyondTheContextIsRefused(t *testing.T) {
	w := script(t, fake.Script{}, func(c *worker.Config) { c.Options.Context = 16 })
	e := failure(t, w.post(t, "/v1/inference", `{"prompt":"`+strings.Repeat("Once upon a time ", 50)+`"}`), rbee.CodeContextLengthExceeded)
	if e.Details["context_tokens"] != 16.0 || e.Details["prompt_tokens"] == nil {
		t.Errorf("details %v", e.Details)
	}
}

func TestTimeouts(t *testing.T) {
	one := 1
	t.Run("before the first token", func(t *testing.T) {
		w := script(t, fake.Script{Hold: make(chan struct{})})
		resp := w.post(t, "/v1/inference", `{"prompt":"a","timeout_seconds":1,"stream":false}`)
		failure(t, resp, rbee.CodeRequestTimeout)
	})
	t.Run("in the stream", func(t *testing.T) {
		w := script(t, fake.Script{StallAt: 10})
		req := prompt(20)
		req.TimeoutSeconds = &one
		text, _, err := w.infer(t, req)
		if rbee.CodeOf(err) != rbee.CodeRequestTimeout || text == "" {
			t.Errorf("after %q: %v", text, err)
		}
	})
	t.Run("between two tokens", func(t *testing.T) {
		w := script(t, fake.Script{StallAt: 4}, func(c *worker.Config) { c.TokenStall = 30 * time.Millisecond })
		resp := w.post(t, "/v1/inference", `{"prompt":"a","temperature":0,"request_id":"r1"}`)
		got := events(t, resp)
		if len(got) != 5 || !strings.Contains(got[3], `{"error":{"code":"GENERATION_TIMEOUT"`) ||
			!strings.Contains(got[3], `"request_id":"r1"`) || got[4] != "[DONE]" {
			t.Errorf("the events are %q", got)
		}
		eventually(t, "the slot is free", func() bool { return w.metric(t, "rbee_worker_slots_busy") == "0" })
	})
	t.Run("waiting in the queue is no stall", func(t *testing.T) {
		hold := make(chan struct{})
		w := script(t, fake.Script{Hold: hold}, func(c *worker.Config) { c.TokenStall = 20 * time.Millisecond })
		resp := endless(t, w, "r1") // its headers come after headerGrace, many stalls later
		if err := w.CancelInfer(t.Context(), "r1"); err != nil {
			t.Error(err)
		}
		if got := events(t, resp); !strings.Contains(got[0], `"canceled"`) {
			t.Errorf("the events are %q", got)
		}
	})
}

func TestAFailureOfTheEngineEndsTheStreamWithAnError(t *testing.T) {
	w := script(t, fake.Script{FailAt: 3})
	got := events(t, w.post(t, "/v1/inference", `{"prompt":"a","temperature":0}`))
	if len(got) != 4 || !strings.Contains(got[2], `"INTERNAL_ERROR"`) || got[3] != "[DONE]" {
		t.Errorf("the events are %q", got)
	}
	failure(t, w.post(t, "/v1/inference", `{"prompt":"a","stream":false}`), rbee.CodeInternalError)
	if got := w.metric(t, `rbee_worker_requests_total{reason="error"}`); got != "2" {
		t.Errorf("%s failed requests are counted, want 2", got)
	}
}

// says is an engine that generates the given pieces.
type says struct {
	engine.Engine
	pieces []string
}

func (s says) Generate(_ context.Context, _ engine.Request, emit func(engine.Piece) bool) (engine.Result, error) {
	r := engine.Result{Reason: rbee.StopLength, PromptTokens: 4}
	for _, p := range s.pieces {
		r.Tokens++
		if !emit(engine.Piece{Bytes: []byte(p)}) {
			r.Reason = rbee.StopString
			break
		}
	}
	return r, nil
}

func saying(t *testing.T, pieces ...string) *running {
	return script(t, fake.Script{}, func(c *worker.Config) {
		c.Load = func(ctx context.Context, o engine.Options, p func(rbee.LoadProgress)) (engine.Engine, error) {
			e, err := fake.Loader(fake.Script{})(ctx, o, p)
			return says{e, pieces}, err
		}
	})
}

func TestEventsHoldWholeCharactersAndNothingOfAStopString(t *testing.T) {
	cases := []struct {
		name   string
		pieces []string
		stop   []string
		events []string // text and index
		tokens int
		reason rbee.StopReason
	}{
		{"emoji in four tokens", []string{"a", "\xf0", "\x9f", "\x90", "\x9d", "b"}, nil, []string{"a 0", "🐝 4", "b 5"}, 6, rbee.StopLength},
		{"cut character", []string{"a", "\xf0\x9f"}, nil, []string{"a 0", "\ufffd\ufffd 1"}, 2, rbee.StopLength},
		{"stop string", []string{"so ", "E", "ND", "x"}, []string{"END"}, []string{"so  0"}, 3, rbee.StopString},
		{"no stop string after all", []string{"so ", "E", "N"}, []string{"END"}, []string{"so  0", "EN 2"}, 3, rbee.StopLength},
		{"stop at once", []string{"END"}, []string{"END"}, nil, 1, rbee.StopString},
		{"empty token", []string{"", "a"}, nil, []string{"a 1"}, 2, rbee.StopLength},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := saying(t, c.pieces...)
			var got []string
			var done *rbee.InferDone
			for ev, err := range w.Infer(t.Context(), rbee.InferRequest{Prompt: "a", Stop: c.stop}) {
				if err != nil {
					t.Fatal(err)
				}
				if done = ev.InferDone; done == nil {
					got = append(got, fmt.Sprintf("%s %d", ev.Token, ev.Index))
				}
				if !utf8.ValidString(ev.Token) {
					t.Errorf("%q is no UTF-8", ev.Token)
				}
			}
			if !slices.Equal(got, c.events) || done == nil || done.TotalTokens != c.tokens || done.StopReason != c.reason {
				t.Errorf("got %q %+v, want %q, %d tokens, %s", got, done, c.events, c.tokens, c.reason)
			}
			whole, err := w.InferWhole(t.Context(), rbee.InferRequest{Prompt: "a", Stop: c.stop})
			if err != nil || whole.StopReason != c.reason || whole.TotalTokens != c.tokens {
				t.Errorf("whole: %+v, %v", whole, err)
			}
		})
	}
}

func TestTokensAndBack(t *testing.T) {
	w := script(t, fake.Script{})
	const text = "Once upon a time 🐝, naïve"
	tokens, err := w.Tokenize(t.Context(), rbee.TokenizeRequest{Text: text})
	if err != nil || len(tokens) == 0 {
		t.Fatalf("%v, %v", tokens, err)
	}
	back, err := w.Detokenize(t.Context(), rbee.DetokenizeRequest{Tokens: tokens})
	if err != nil || back != text {
		t.Errorf("back comes %q, %v", back, err)
	}
	special, err := w.Tokenize(t.Context(), rbee.TokenizeRequest{Text: text, AddSpecial: true})
	if err != nil || len(special) <= len(tokens) {
		t.Errorf("with special tokens %v, %v", special, err)
	}
	if body := read(t, w.post(t, "/v1/tokenize", `{"text":""}`)); !strings.Contains(body, `"tokens":[]`) {
		t.Errorf("nothing has the tokens %s", body)
	}
	failure(t, w.post(t, "/v1/tokenize", `{"text":5}`), rbee.CodeInvalidRequest)
	failure(t, w.post(t, "/v1/tokenize", "{\"text\":\"\xff\"}"), rbee.CodeInvalidRequest)
	failure(t, w.post(t, "/v1/detokenize", `{"tokens":["a"]}`), rbee.CodeInvalidRequest)
	cut, err := w.Tokenize(t.Context(), rbee.TokenizeRequest{Text: "🐝"})
	if err != nil {
		t.Fatal(err)
	}
	if half, err := w.Detokenize(t.Context(), rbee.DetokenizeRequest{Tokens: cut[:len(cut)-1]}); err != nil || !utf8.ValidString(half) {
		t.Errorf("half a character is %q, %v", half, err)
	}
}

func TestParallelRequestsGiveWhatTheyGiveAlone(t *testing.T) {
	w := script(t, fake.Script{})
	alone, _, err := w.infer(t, prompt(50))
	if err != nil {
		t.Fatal(err)
	}
	texts := make(chan string, 8)
	for range cap(texts) {
		go func() {
			text, _, err := w.infer(t, prompt(50))
			if err != nil {
				t.Error(err)
			}
			texts <- text
		}()
	}
	for range cap(texts) {
		if text := <-texts; text != alone {
			t.Errorf("%q, alone %q", text, alone)
		}
	}
}

func TestTheFiguresCountWhatRan(t *testing.T) {
	w := script(t, fake.Script{})
	if _, _, err := w.infer(t, prompt(5)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		`rbee_worker_requests_total{reason="length"}`: "1",
		"rbee_worker_generated_tokens_total":          "5",
		"rbee_worker_ttft_seconds_count":              "1",
		"rbee_worker_inter_token_seconds_count":       "4",
		"rbee_worker_slots":                           "4",
	} {
		if got := w.metric(t, name); got != want {
			t.Errorf("%s is %q, want %s", name, got, want)
		}
	}
}

func TestTheDocumentNamesEveryEndpoint(t *testing.T) {
	w := script(t, fake.Script{})
	served, err := w.OpenAPI(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	made, err := worker.OpenAPI()
	if err != nil || served != string(made) {
		t.Errorf("the document that is served is not the one that is made (%v)", err)
	}
	for _, path := range []string{
		"/v1/health", "/v1/ready", "/v1/loading/progress", "/v1/inference", "/v1/inference/{request_id}",
		"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/models/{model}", "/v1/chat/template", "/v1/slots",
		"/v1/tokenize", "/v1/detokenize", "/v1/admin/rest", "/v1/admin/shutdown", "/v1/shutdown", "/metrics",
	} {
		if !strings.Contains(served, `"`+path+`"`) {
			t.Errorf("%s is missing", path)
		}
	}
}
