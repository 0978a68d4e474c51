package dispatch_test

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"rbee"
	"rbee/internal/httpapi"
)

// long is more than is read of a stream at once.
var long = strings.Repeat("x", 20_000)

func TestALongEventIsUnderstoodAsAWhole(t *testing.T) {
	for name, first := range map[string]http.HandlerFunc{
		"a failure":                 says(`data: {"error":{"message":"` + long + `","code":"WORKER_CRASHED"}}` + "\n\n"),
		"a role, then a cut":        then(says(`data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":"`+long+`"}]}`+"\n\n"), cut),
		"many comments, then a cut": then(says(strings.Repeat(": waits\n\n", 3000)), cut),
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, 10)
			r.hive("first", first)
			r.hive("second", says(token("b"), end))
			if got := r.post(chats, asks); got.status != http.StatusOK || got.body != token("b")+end {
				t.Errorf("%d %.200q", got.status, got.body)
			}
		})
	}
	t.Run("a token", func(t *testing.T) {
		r := start(t, 10)
		r.hive("first", says(role, token(long), end))
		if got := r.post(chats, asks); got.body != role+token(long)+end {
			t.Errorf("%d %.200q", got.status, got.body)
		}
	})
}

func TestAStreamSaysThatTheQueenEnds(t *testing.T) {
	r := start(t, 10)
	r.hive("one", then(says(token("a")), hang))
	resp := r.send(t.Context(), chats, asks)
	defer resp.Body.Close()
	r.end(httpapi.ErrShutdown)
	b, err := io.ReadAll(resp.Body)
	got := string(b)
	if err != nil || !strings.HasPrefix(got, token("a")+"data: {") || !strings.Contains(got, string(rbee.CodeWorkerNotReady)) || !strings.HasSuffix(got, end) {
		t.Errorf("%v after %q", err, got)
	}
	r.until("it is counted as failed", func() bool {
		list, err := r.RouteDecisions(t.Context(), 1)
		return err == nil && list[0].Outcome != nil && list[0].Outcome.Error != nil && list[0].Outcome.Error.Code == rbee.CodeWorkerNotReady
	})
}

func TestARequestThatEndsWithItsHiveIsTriedElsewhere(t *testing.T) {
	r := start(t, 10)
	r.hive("first", refuses(rbee.CodeRequestCanceled))
	r.hive("second", says(token("b"), end))
	if got := r.post(chats, asks); got.body != token("b")+end {
		t.Errorf("%d %.200q", got.status, got.body)
	}
}

func TestAnAnswerThatIsNoneIsTriedElsewhere(t *testing.T) {
	for _, status := range []int{http.StatusTemporaryRedirect, http.StatusNotModified, 599} {
		r := start(t, 10)
		r.hive("first", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		r.hive("second", says(token("b"), end))
		if got := r.post(chats, asks); got.body != token("b")+end {
			t.Errorf("%d leads to %d %.200q", status, got.status, got.body)
		}
	}
}

func TestWhatTimeDoesNotMendIsNotToBeTriedAgain(t *testing.T) {
	r := start(t, 10)
	h := r.hive("one", says(token("a"), end))
	h.mu.Lock()
	h.about.Models = []rbee.ColonyModel{{ModelRef: h.about.Models[0].ModelRef, Verdict: rbee.VerdictRefuse, Reason: "it is too small"}}
	h.mu.Unlock()
	h.tell()
	h.change(func() { h.now.Workers = nil })
	r.until("the hive has no place for the model", func() bool { return !r.picks("one") })
	if got := r.post(chats, asks); got.status != http.StatusInsufficientStorage || got.header.Get("Retry-After") != "" {
		t.Errorf("%d, Retry-After %q, %.200q", got.status, got.header.Get("Retry-After"), got.body)
	}
	h.change(func() { h.now.Standing.State = rbee.HiveDraining })
	r.until("it drains", func() bool {
		got := r.post(chats, asks)
		return got.status == http.StatusServiceUnavailable && got.header.Get("Retry-After") == "1"
	})
}

func TestACommentMayFollowTheEndMark(t *testing.T) {
	r := start(t, 10)
	r.hive("one", then(says(token("a"), end), func(w http.ResponseWriter, req *http.Request) {
		<-time.After(50 * time.Millisecond) // it is read by itself
		says(": bye\n\n")(w, req)
	}))
	if got := r.post(chats, asks); got.body != token("a")+end+": bye\n\n" {
		t.Errorf("%q", got.body)
	}
}

func TestABodyThatGrowsTooLargeForHivesIsRefused(t *testing.T) {
	r := start(t, 10)
	h := r.hive("one", says(token("a"), end))
	body := `{"model":"tiny","prompt":"` + strings.Repeat("x", httpapi.DefaultMaxBodyBytes-28) + `"}`
	if got := r.post("/v1/completions", body); got.status != http.StatusBadRequest || len(h.called()) != 0 {
		t.Errorf("%d bytes lead to %d %.200q, and to %d calls", len(body), got.status, got.body, len(h.called()))
	}
}

func TestWhatAHiveSaysOfALaterTryIsBounded(t *testing.T) {
	for said, want := range map[string]string{"-5": "1", "999999999": "3600", "7": "7"} {
		r := start(t, 10)
		r.hive("one", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", said)
			refuses(rbee.CodeVRAMExhausted)(w, nil)
		})
		if got := r.post(chats, asks); got.header.Get("Retry-After") != want {
			t.Errorf("%s became %q: %d %.200q", said, got.header.Get("Retry-After"), got.status, got.body)
		}
	}
}

func TestTheNameOfANodeIsBounded(t *testing.T) {
	r := start(t, 10)
	r.hive("one", says(token("a"), end))
	if got := r.post(chats, asks, rbee.NodeHeader, strings.Repeat("n", 300)); got.status != http.StatusBadRequest {
		t.Errorf("%d %.200q", got.status, got.body)
	}
}

func TestTwoRequestsAtOnceMayHaveTheSameID(t *testing.T) {
	r := start(t, 10)
	both := make(chan struct{})
	h := r.hive("one", func(w http.ResponseWriter, req *http.Request) {
		select {
		case both <- struct{}{}:
		case <-both:
		}
		says(token("a"), end)(w, req)
	})
	var all sync.WaitGroup
	ids := make([]string, 2)
	for i := range ids {
		all.Go(func() {
			got := r.post(chats, asks, rbee.RequestIDHeader, "mine")
			if ids[i] = got.header.Get(rbee.RequestIDHeader); got.body != token("a")+end {
				t.Errorf("%d %.200q", got.status, got.body)
			}
		})
	}
	all.Wait()
	sent := map[string]bool{}
	for _, c := range h.called() {
		sent[c.header.Get(rbee.RequestIDHeader)] = true
	}
	if len(sent) != 2 || !sent["mine"] || !sent[ids[0]] || !sent[ids[1]] || ids[0] == ids[1] {
		t.Errorf("the hive was told %v, the clients %v", sent, ids)
	}
}

func TestTwoRequestsMayHaveTheSameID(t *testing.T) {
	r := start(t, 10)
	r.hive("one", says(token("a"), end))
	for range 2 {
		if got := r.post(chats, asks, rbee.RequestIDHeader, "mine"); got.body != token("a")+end {
			t.Errorf("%d %.200q", got.status, got.body)
		}
	}
	record, err := r.RouteDecision(t.Context(), "mine")
	if list, listErr := r.RouteDecisions(t.Context(), 10); err != nil || listErr != nil || len(list) != 2 || !record.Time.Equal(list[0].Time) {
		t.Errorf("%v, %v: %+v, %+v", err, listErr, record, list)
	}
}
