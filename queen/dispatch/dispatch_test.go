package dispatch_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"rbee"
)

func TestAStreamPassesByteByByte(t *testing.T) {
	r := start(t, 10)
	events := []string{role, ": a comment\n\n", token("a"), token("b"), end}
	h := r.hive("one", func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set(rbee.DigestHeader, "sha256:abc")
		w.Header().Set(rbee.LoadMSHeader, "7")
		w.Header().Set(rbee.QueueMSHeader, "3")
		says(events...)(w, req)
	})
	out := r.post(chats, asks, rbee.RequestIDHeader, "mine")
	if out.status != http.StatusOK || out.body != strings.Join(events, "") {
		t.Errorf("%d: %q", out.status, out.body)
	}
	for name, want := range map[string]string{
		"Content-Type": "text/event-stream", rbee.HiveHeader: "one", rbee.WorkerHeader: "w-one", rbee.DigestHeader: "sha256:abc",
		rbee.LoadMSHeader: "7", rbee.QueueMSHeader: "3", rbee.RequestIDHeader: "mine",
	} {
		if got := out.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if ms, err := strconv.Atoi(out.header.Get(rbee.PrefillMSHeader)); err != nil || ms < 0 {
		t.Errorf("%s is %q", rbee.PrefillMSHeader, out.header.Get(rbee.PrefillMSHeader))
	}
	calls := h.called()
	if len(calls) != 1 {
		t.Fatalf("%d calls", len(calls))
	}
	c := calls[0]
	if c.path != "/v1/workers/w-one"+chats || c.body != strings.Replace(asks, "tiny", model, 1) ||
		c.header.Get("Authorization") != "Bearer key of one" || c.header.Get(rbee.RequestIDHeader) != "mine" {
		t.Errorf("the hive got %+v", c)
	}
}

func TestARequestIsTriedElsewhereBeforeTheFirstToken(t *testing.T) {
	broken := func(code rbee.Code) http.HandlerFunc {
		return says(role, `data: {"error":{"code":"`+string(code)+`","message":"gone"}}`+"\n\n", end)
	}
	for name, answer := range map[string]http.HandlerFunc{
		"the connection is cut at once":      cut,
		"cut after the headers":              then(says(), cut),
		"cut after the role":                 then(says(role), cut),
		"ended after the role":               says(role),
		"the worker is not there":            refuses(rbee.CodeWorkerNotFound),
		"it is not ready":                    refuses(rbee.CodeWorkerNotReady),
		"it crashed":                         refuses(rbee.CodeWorkerCrashed),
		"its slots are busy":                 refuses(rbee.CodeAllSlotsBusy),
		"it has no memory":                   refuses(rbee.CodeInsufficientRAM),
		"the hive does not know the key":     refuses(rbee.CodeInvalidAPIKey),
		"it crashed after the role":          broken(rbee.CodeWorkerCrashed),
		"its slots turn out to be busy":      broken(rbee.CodeAllSlotsBusy),
		"a server of others with an error":   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusBadGateway) },
		"a server of others with its limits": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", http.StatusTooManyRequests) },
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, 10)
			first := r.hive("first", answer)
			r.hive("second", says(role, token("b"), end))
			out := r.post(chats, asks, rbee.RequestIDHeader, "mine")
			if out.body != role+token("b")+end || out.header.Get(rbee.HiveHeader) != "second" {
				t.Errorf("%d %v: %q", out.status, out.header, out.body)
			}
			if len(first.called()) != 1 {
				t.Errorf("the first hive was asked %d times", len(first.called()))
			}
			record, err := r.RouteDecision(t.Context(), "mine")
			if err != nil || len(record.Attempts) != 2 || record.Attempts[0].Failed == nil || record.Attempts[1].Failed != nil ||
				record.Attempts[0].Chosen.HiveName != "first" || record.Attempts[1].Chosen.HiveName != "second" || record.Outcome.Error != nil {
				t.Errorf("the record is %+v, %v", record, err)
			}
		})
	}
}

func TestARequestThatIsNoStreamIsTriedElsewhere(t *testing.T) {
	answer := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"object":"list"}`)
	}
	for name, fails := range map[string]http.HandlerFunc{
		"cut in the middle": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"obj`)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"crashed": refuses(rbee.CodeWorkerCrashed),
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, 10)
			r.hive("first", fails)
			r.hive("second", answer)
			out := r.post("/v1/embeddings", `{"model":"tiny","input":"a"}`)
			if out.status != http.StatusOK || out.body != `{"object":"list"}` || out.header.Get(rbee.HiveHeader) != "second" {
				t.Errorf("%d %v: %q", out.status, out.header, out.body)
			}
		})
	}
}

func TestALongReplyPassesThoughItIsNotKept(t *testing.T) {
	r := start(t, 10)
	long := strings.Repeat("0123456789abcdef", 1<<20)
	r.hive("one", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, long) })
	if out := r.post("/v1/embeddings", `{"model":"tiny","input":"a"}`); out.body != long {
		t.Errorf("%d bytes came", len(out.body))
	}
}

func TestALongReplyThatBreaksIsCutOff(t *testing.T) {
	r := start(t, 10)
	r.hive("one", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "20000000")
		_, _ = io.WriteString(w, strings.Repeat("x", 10_000_000))
		panic(http.ErrAbortHandler)
	})
	resp := r.send(t.Context(), "/v1/embeddings", `{"model":"tiny","input":"a"}`, rbee.RequestIDHeader, "mine")
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Errorf("%d bytes look whole", n)
	}
	r.until("the record tells of it", func() bool {
		record, err := r.RouteDecision(t.Context(), "mine")
		return err == nil && record.Outcome != nil && record.Outcome.Error != nil && record.Outcome.Error.Code == rbee.CodeWorkerCrashed
	})
}

func TestNothingIsTriedAgainAfterTheFirstToken(t *testing.T) {
	r := start(t, 10)
	r.hive("first", then(says(role, token("a"), token("b")), cut))
	second := r.hive("second", says(token("never"), end))
	out := r.post(chats, asks, rbee.RequestIDHeader, "mine")
	rest, ok := strings.CutPrefix(out.body, role+token("a")+token("b"))
	if !ok || !strings.HasSuffix(rest, "\n\n"+end) || strings.Count(rest, "\n\n") != 2 {
		t.Fatalf("the stream is %q", out.body)
	}
	var last struct {
		Error struct {
			Message, Type string
			Code          rbee.Code
			Details       struct {
				Hive   string
				Events int
			}
			RequestID string `json:"request_id"`
		}
	}
	data := strings.TrimPrefix(strings.TrimSuffix(rest, "\n\n"+end), "data: ")
	if err := json.Unmarshal([]byte(data), &last); err != nil {
		t.Fatal(err)
	}
	e := last.Error
	if e.Code != rbee.CodeWorkerCrashed || e.Message == "" || e.Type != "server_error" || e.Details.Hive != "first" || e.Details.Events != 3 || e.RequestID != "mine" {
		t.Errorf("the error is %+v", e)
	}
	if len(second.called()) != 0 {
		t.Error("another hive was asked")
	}
	record, err := r.RouteDecision(t.Context(), "mine")
	if err != nil || record.Outcome == nil || record.Outcome.Error == nil || record.Outcome.Error.Code != rbee.CodeWorkerCrashed {
		t.Errorf("the record is %+v, %v", record, err)
	}
}

func TestWhatAHiveSaysOfACrashPasses(t *testing.T) {
	r := start(t, 10)
	obituary := `data: {"error":{"code":"WORKER_CRASHED","message":"worker w ended: signal: killed"}}` + "\n\n" + end
	r.hive("one", says(role, token("a"), obituary))
	if out := r.post(chats, asks, rbee.RequestIDHeader, "mine"); out.body != role+token("a")+obituary {
		t.Errorf("the stream is %q", out.body)
	}
	record, err := r.RouteDecision(t.Context(), "mine")
	if err != nil || record.Outcome == nil || record.Outcome.Error == nil || record.Outcome.Error.Code != rbee.CodeWorkerCrashed {
		t.Errorf("the record is %+v, %v", record, err)
	}
}

func TestErrorsOfTheClientPassAsTheyAre(t *testing.T) {
	r := start(t, 10)
	const body = `{"error":{"message":"too long","type":"invalid_request_error","param":"messages","code":"CONTEXT_LENGTH_EXCEEDED"}}`
	r.hive("first", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, body)
	})
	second := r.hive("second", says(token("never"), end))
	out := r.post(chats, asks)
	if out.status != http.StatusBadRequest || out.body != body || len(second.called()) != 0 {
		t.Errorf("%d %q, the second hive was asked %d times", out.status, out.body, len(second.called()))
	}
}

func TestARequestDoesNotTakeMoreThanTwoWorkersWithIt(t *testing.T) {
	r := start(t, 10)
	for _, name := range []string{"a", "b", "c", "d"} {
		r.hive(name, refuses(rbee.CodeWorkerCrashed))
	}
	out := r.post(chats, asks)
	asked := 0
	for _, h := range r.hives {
		asked += len(h.called())
	}
	if out.status != http.StatusInternalServerError || !strings.Contains(out.body, `"WORKER_CRASHED"`) || asked != 2 {
		t.Errorf("%d hives were asked; %d %s", asked, out.status, out.body)
	}
}

func TestAtMostFourHivesAreTried(t *testing.T) {
	r := start(t, 10)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		r.hive(name, refuses(rbee.CodeInsufficientRAM))
	}
	out := r.post(chats, asks)
	asked := 0
	for _, h := range r.hives {
		asked += len(h.called())
	}
	if out.status != rbee.CodeInsufficientRAM.Status() || asked != 4 {
		t.Errorf("%d hives were asked; %d %s", asked, out.status, out.body)
	}
}

func TestTheOnlyHiveGetsASecondChance(t *testing.T) {
	for name, first := range map[string]http.HandlerFunc{"its worker is gone": refuses(rbee.CodeWorkerNotFound), "it cuts the connection": cut} {
		t.Run(name, func(t *testing.T) {
			r := start(t, 10)
			r.hive("one", once(first, says(token("a"), end)))
			if out := r.post(chats, asks); out.body != token("a")+end {
				t.Errorf("%d %q", out.status, out.body)
			}
		})
	}
}

func TestErrorsHaveTheShapeOfOpenAI(t *testing.T) {
	r := start(t, 10)
	r.hive("one", says(token("a"), end))
	for name, c := range map[string]struct {
		body   string
		node   string
		status int
		code   rbee.Code
	}{
		"no JSON":          {`{`, "", 400, rbee.CodeInvalidRequest},
		"no model":         {`{}`, "", 400, rbee.CodeInvalidRequest},
		"no such name":     {`{"model":"gpt-4o"}`, "", 404, rbee.CodeModelNotFound},
		"no such model":    {`{"model":"file:/nowhere.gguf"}`, "", 404, rbee.CodeModelNotFound},
		"no such hive":     {asks, "nobody", 404, rbee.CodeHiveNotFound},
		"a hive by name":   {asks, "one", 200, ""},
		"a hive by its id": {asks, "0000000000000001", 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			out := r.post(chats, c.body, rbee.NodeHeader, c.node)
			var reply struct {
				Error struct {
					Message, Type string
					Code          rbee.Code
				}
			}
			if out.status != c.status {
				t.Errorf("status %d, want %d: %s", out.status, c.status, out.body)
			}
			if c.status == http.StatusOK {
				return
			}
			if err := json.Unmarshal([]byte(out.body), &reply); err != nil || reply.Error.Code != c.code || reply.Error.Message == "" || reply.Error.Type == "" {
				t.Errorf("%s: %v", out.body, err)
			}
		})
	}
}

func TestTheNodeHeaderForcesAPlace(t *testing.T) {
	r := start(t, 10)
	r.hive("first", says(token("a"), end))
	r.hive("second", says(token("b"), end))
	if out := r.post(chats, asks, rbee.NodeHeader, "second"); out.body != token("b")+end {
		t.Errorf("%q", out.body)
	}
}

func TestAClientThatLeavesCancelsWhatRuns(t *testing.T) {
	for name, before := range map[string]http.HandlerFunc{"before the first token": says(role), "after it": says(role, token("a"))} {
		t.Run(name, func(t *testing.T) {
			r := start(t, 10)
			begun, left := make(chan struct{}), make(chan struct{})
			r.hive("one", then(before, func(_ http.ResponseWriter, req *http.Request) {
				close(begun)
				<-req.Context().Done()
				close(left)
			}))
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			go func() {
				<-begun
				leave()
			}()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+chats, strings.NewReader(asks))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set(rbee.RequestIDHeader, "mine")
			transport := &http.Transport{DisableKeepAlives: true}
			if resp, err := transport.RoundTrip(req); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			<-left
			r.until("the record ends", func() bool {
				record, err := r.RouteDecision(t.Context(), "mine")
				return err == nil && record.Outcome != nil && record.Outcome.Status == 499
			})
		})
	}
}

func TestAClientThatLeavesAfterTheEndMarkWasAnswered(t *testing.T) {
	r := start(t, 10)
	r.hive("one", then(says(token("a"), end), hang))
	resp := r.send(t.Context(), chats, asks, rbee.RequestIDHeader, "mine")
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "data: [DONE]\n" {
			break
		}
	}
	resp.Body.Close()
	r.until("the record ends", func() bool {
		record, err := r.RouteDecision(t.Context(), "mine")
		return err == nil && record.Outcome != nil && record.Outcome.Status == http.StatusOK && record.Outcome.Error == nil
	})
}
