package worker_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"rbee"
)

// TestCancelsStopsAndDisconnectsLeaveNothing mixes requests that end in all
// ways with ones that are looked at: those give what they give alone. Of the
// real engine only their length is certain, since the last digits of its logits
// depend on what is computed in the same batch.
func TestCancelsStopsAndDisconnectsLeaveNothing(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *running) {
		const looked = `{"prompt":"Once upon a time","temperature":0,"max_tokens":20}`
		alone := choicesOf(read(t, w.post(t, "/v1/completions", looked)))
		tr := &http.Transport{}
		defer tr.CloseIdleConnections()
		var group sync.WaitGroup
		for i := range 4 {
			random := rand.New(rand.NewPCG(1, uint64(i))) //nolint:gosec // a test that can be repeated
			group.Go(func() {
				for n := range 40 {
					chaos(t, w, tr, random, "c"+strconv.Itoa(i)+"-"+strconv.Itoa(n))
				}
			})
		}
		for range 20 {
			resp := w.post(t, "/v1/completions", looked)
			got := choicesOf(read(t, resp))
			whole := resp.StatusCode == http.StatusOK && strings.Contains(got, `"finish_reason":"length"`)
			if refused := strings.Contains(got, string(rbee.CodeAllSlotsBusy)); !refused && (!whole || strings.HasSuffix(t.Name(), "fake") && got != alone) {
				t.Errorf("beside others %s, alone %s", got, alone)
			}
		}
		group.Wait()
		eventually(t, "the slots are free", func() bool { return w.metric(t, "rbee_worker_slots_busy") == "0" })
		eventually(t, "the worker is idle", func() bool { return w.state(t) == rbee.WorkerIdle })
		if used := w.metric(t, "rbee_worker_kv_used_tokens"); used != "0" {
			t.Errorf("%s KV cells are still used", used)
		}
	})
}

// choicesOf is the part of a reply that depends on the request alone.
func choicesOf(reply string) string {
	_, rest, found := strings.Cut(reply, `"choices":`)
	if !found {
		return reply
	}
	choices, _, _ := strings.Cut(rest, `,"usage"`)
	return choices
}

// chaos makes one request that ends in one of many ways.
func chaos(t *testing.T, w *running, tr *http.Transport, random *rand.Rand, id string) {
	bodies := [][2]string{
		{"/v1/chat/completions", `{` + userSays + `,"stream":true,"n":2,"max_tokens":50}`},
		{"/v1/chat/completions", `{` + userSays + `,"stop":["e","bee"],"max_tokens":100}`},
		{"/v1/completions", `{"prompt":["a","b"],"stream":true,"max_tokens":60}`},
		{"/v1/inference", `{"prompt":"Tell me","max_tokens":80}`},
		{"/v1/embeddings", `{"input":["a","b"]}`},
		{"/v1/chat/completions", `{"messages":5}`},
	}
	b := bodies[random.IntN(len(bodies))]
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.base+b[0], strings.NewReader(b[1]))
	if err != nil {
		t.Error(err)
		return
	}
	req.Header.Set(rbee.RequestIDHeader, id)
	switch random.IntN(3) {
	case 0: // the client goes away
		defer time.AfterFunc(time.Duration(random.IntN(3000))*time.Microsecond, leave).Stop()
	case 1: // somebody cancels
		defer time.AfterFunc(time.Duration(random.IntN(3000))*time.Microsecond, func() { _ = w.CancelInfer(ctx, id) }).Stop()
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return // it left
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusInternalServerError {
		t.Errorf("%s %s: %d", b[0], b[1], resp.StatusCode)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
}
