package hive_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rbee"
	"rbee/client"
	"rbee/hive"
	"rbee/internal/conf"
	"rbee/internal/tunnel"
)

// joins has a hive that runs join by a token.
func (r *running) joins(text string) rbee.HiveColony {
	r.t.Helper()
	standing, err := r.JoinColony(r.t.Context(), rbee.JoinRequest{Join: text})
	must(r.t, err)
	return standing
}

// kept is the token that a hive is going to find when it starts, "" for none.
func (r *running) kept() string {
	r.t.Helper()
	file := filepath.Join(r.home, "join")
	info, err := os.Stat(file)
	if os.IsNotExist(err) {
		return ""
	}
	must(r.t, err)
	if info.Mode().Perm() != 0o600 {
		r.t.Errorf("mode %v", info.Mode())
	}
	b, err := os.ReadFile(file)
	must(r.t, err)
	return strings.TrimSpace(string(b))
}

// colony is how a hive says that it stands with its colony, nil without one.
func (r *running) colony() *rbee.HiveColony {
	r.t.Helper()
	s, err := r.Status(r.t.Context())
	must(r.t, err)
	return s.Colony
}

// secretOf is what must be in no log and no reply.
func secretOf(t *testing.T, text string) string {
	t.Helper()
	var says struct{ Secret string }
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(text, "rbee1."))
	must(t, err)
	must(t, json.Unmarshal(b, &says))
	return says.Secret
}

func TestAHiveThatRunsJoinsWithItsWorkers(t *testing.T) {
	t.Setenv("RBEE_FAKE_ENGINE", "token=20ms,eos_at=1000")
	q := newQueen(t, t.TempDir(), "127.0.0.1:0")
	r := start(t)
	if r.colony() != nil {
		t.Error("it says that it is in a colony")
	}
	worker, _ := r.ready()
	pid := r.workers()[0].PID
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asking sync.WaitGroup
	asking.Go(func() { _, _, _ = infer(ctx, r.At(r.Base()+"/v1/workers/"+string(worker)), 900) })
	r.wait(worker, rbee.WorkerBusy)
	text, _ := q.token()
	if s := r.joins(text); !s.Connected || s.Error != nil {
		t.Errorf("it stands %+v", s)
	}
	q.sees("the worker, and the request that it had before", func() bool {
		return q.about.URL == r.Base() && len(q.now.Workers) == 1 && q.now.Workers[0].ID == worker && q.now.Workers[0].SlotsBusy == 1
	})
	if s := r.colony(); s == nil || !s.Connected || r.kept() != text {
		t.Errorf("it stands %+v and keeps %q", s, r.kept())
	}
	var through *tunnel.Transport
	var key string
	q.sees("the tunnel", func() bool { through, key = q.tunnel, q.about.Key; return through != nil })
	again, _ := q.token()
	for _, same := range []string{text, again, " " + text + "\n"} {
		if s := r.joins(same); !s.Connected || r.kept() != text {
			t.Errorf("once more: it stands %+v and keeps %q", s, r.kept())
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://hive/v1/workers/"+string(worker), nil)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := through.RoundTrip(req) // the same tunnel: nothing has changed
	must(t, err)
	var told rbee.Worker
	must(t, json.NewDecoder(resp.Body).Decode(&told))
	must(t, resp.Body.Close())
	if told.PID != pid || !alive(pid) {
		t.Errorf("process %d is now %d", pid, told.PID)
	}
	cancel()
	asking.Wait()
	q.sees("that it is idle again", func() bool { return q.now.Workers[0].SlotsBusy == 0 })
	must(t, r.end())
	if strings.Contains(r.log.String(), secretOf(t, text)) || strings.Contains(r.log.String(), text) {
		t.Error("the token is in the log")
	}
	after := startAt(t, r.home)
	q.sees("that it joins when it starts again", func() bool { return q.about.URL == after.Base() && q.now.ID == q.about.ID })
}

func TestAHiveThatRunsIsToldWhyItMayNotJoin(t *testing.T) {
	q, gone := newQueen(t, t.TempDir(), "127.0.0.1:0"), newQueen(t, t.TempDir(), "127.0.0.1:0")
	good, _ := q.token()
	revoked, id := q.token()
	must(t, q.bus.Revoke(id))
	forQueens, _, err := q.bus.NewToken("test", rbee.JoinQueen)
	must(t, err)
	nobody, _ := gone.token()
	addr := gone.bus.Addr()
	gone.end()
	r := start(t)
	for name, tc := range map[string]struct {
		join, why string
		code      rbee.Code
	}{
		"nothing":           {"", "does not begin with rbee1.", rbee.CodeInvalidRequest},
		"no token":          {"sesame", "does not begin with rbee1.", rbee.CodeInvalidRequest},
		"half a token":      {good[:len(good)/2], "was changed or cut", rbee.CodeInvalidRequest},
		"two":               {good + " " + good, "more than one word", rbee.CodeInvalidRequest},
		"for queens":        {forQueens, "the token is for a queen", rbee.CodeInvalidRequest},
		"revoked":           {revoked, "was revoked at", rbee.CodeInvalidRequest},
		"an address alone":  {q.bus.Addr(), "without a token", rbee.CodeInvalidRequest},
		"a queen who is no": {nobody, "cannot reach the queen at " + addr, rbee.CodeConnectionTimeout},
	} {
		_, err := r.JoinColony(t.Context(), rbee.JoinRequest{Join: tc.join})
		e := rbee.AsError(err)
		if err == nil || e.Code != tc.code || !strings.Contains(e.Message, tc.why) || e.Suggestion() == "" {
			t.Errorf("%s: %v, %v", name, err, e)
		}
		if strings.HasPrefix(tc.join, "rbee1.") && strings.Contains(e.Error()+e.Suggestion(), tc.join) {
			t.Errorf("%s: the token is in the reply", name)
		}
		if r.colony() != nil || r.kept() != "" {
			t.Errorf("%s: it stands %+v and keeps %q", name, r.colony(), r.kept())
		}
	}
	r.joins(good)
	other := newQueen(t, t.TempDir(), "127.0.0.1:0")
	text, _ := other.token()
	_, err = r.JoinColony(t.Context(), rbee.JoinRequest{Join: text})
	if e := rbee.AsError(err); rbee.CodeOf(err) != rbee.CodeConflict || !strings.Contains(e.Message, q.bus.Addr()) || !strings.Contains(e.Suggestion(), "rbee hive leave") {
		t.Errorf("in another colony: %v", err)
	}
	if s := r.colony(); !s.Connected || r.kept() != good {
		t.Errorf("it stands %+v and keeps %q", s, r.kept())
	}
	if log := r.log.String(); strings.Contains(log, "rbee1.") || strings.Contains(log, secretOf(t, revoked)) {
		t.Error("a token is in the log")
	}
}

func TestAHiveWithATokenThatIsNoGoodAnyMoreTakesAnother(t *testing.T) {
	q := newQueen(t, t.TempDir(), "127.0.0.1:0")
	r := start(t)
	first, id := q.token()
	r.joins(first)
	must(t, q.bus.Revoke(id))
	r.eventually("that it is cut off", func() bool { return !r.colony().Connected })
	worse, id := q.token()
	must(t, q.bus.Revoke(id))
	if _, err := r.JoinColony(t.Context(), rbee.JoinRequest{Join: worse}); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("a revoked one: %v", err)
	}
	if s := r.colony(); s == nil || s.Connected || r.kept() != first {
		t.Errorf("it stands %+v and keeps %q", s, r.kept())
	}
	second, _ := q.token()
	if s := r.joins(second); !s.Connected || r.kept() != second {
		t.Errorf("it stands %+v and keeps %q", s, r.kept())
	}
	q.sees("the hive", func() bool { return !q.left && !q.lost && q.now.ID != "" })
}

func TestAHiveLeavesItsColonyAndItsWorkersGoOn(t *testing.T) {
	q, other := newQueen(t, t.TempDir(), "127.0.0.1:0"), newQueen(t, t.TempDir(), "127.0.0.1:0")
	text, _ := q.token()
	home := t.TempDir()
	must(t, os.WriteFile(filepath.Join(home, "join"), []byte(text+"\n"), 0o600))
	var h *hive.Hive
	r := startTuned(t, home, func(tuned *hive.Hive) { h = tuned })
	worker, direct := r.ready()
	var through *tunnel.Transport
	q.sees("the hive", func() bool { through = q.tunnel; return q.now.ID != "" && through != nil })
	for range 2 { // none is no error
		must(t, r.LeaveColony(t.Context()))
		if r.colony() != nil || r.kept() != "" {
			t.Errorf("it stands %+v and keeps %q", r.colony(), r.kept())
		}
	}
	q.sees("that it took its leave", func() bool { return q.left })
	select {
	case <-through.Done():
	case <-time.After(patience):
		t.Error("the tunnel is still there")
	}
	if _, done, err := infer(t.Context(), direct, 3); err != nil || done == nil {
		t.Errorf("its worker: %+v, %v", done, err)
	}
	r.eventually("that nothing more is kept of it than without a colony", func() bool { return h.Remembers() == 0 })
	text, _ = other.token()
	r.joins(text)
	other.sees("the same worker", func() bool { return len(other.now.Workers) == 1 && other.now.Workers[0].ID == worker })
	must(t, r.LeaveColony(t.Context()))
	must(t, r.end())
	after := startAt(t, home)
	if after.colony() != nil {
		t.Error("it is back when it starts again")
	}
}

func TestWhatTheSettingsNameIsNoHivesToChange(t *testing.T) {
	q := newQueen(t, t.TempDir(), "127.0.0.1:0")
	r := q.member()
	text, _ := q.token()
	for _, token := range q.bus.Tokens() { // so that it has a reason
		must(t, q.bus.Revoke(token.ID))
	}
	r.eventually("that it is cut off", func() bool { return !r.colony().Connected })
	for name, err := range map[string]error{
		"leave": r.LeaveColony(t.Context()),
		"join":  func() error { _, err := r.JoinColony(t.Context(), rbee.JoinRequest{Join: text}); return err }(),
	} {
		if rbee.CodeOf(err) != rbee.CodeConflict || !strings.Contains(rbee.AsError(err).Suggestion(), "hive.join") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r.colony() == nil || r.kept() != "" {
		t.Errorf("it stands %+v and keeps %q", r.colony(), r.kept())
	}
}

func TestAPrivateHiveLeavesTheDaemonsTokenAlone(t *testing.T) {
	home := t.TempDir()
	must(t, os.WriteFile(filepath.Join(home, "join"), []byte("rbee1.theirs\n"), 0o600))
	settings, err := conf.Load(conf.Options{Home: home, Environ: environ(t, home)})
	must(t, err)
	var out logBuffer
	h, err := hive.New(hive.Config{Settings: settings, Private: true, Announce: &out})
	must(t, err)
	var running sync.WaitGroup
	running.Go(func() { _ = h.Run(t.Context()) })
	var said struct{ URL string }
	eventually(t, "its address", func() bool { return json.Unmarshal([]byte(out.String()), &said) == nil && said.URL != "" })
	c := client.New(said.URL)
	defer c.Close()
	if err := c.LeaveColony(t.Context()); rbee.CodeOf(err) != rbee.CodeConflict {
		t.Errorf("leave: %v", err)
	}
	if _, err := c.JoinColony(t.Context(), rbee.JoinRequest{Join: "nats://127.0.0.1:1"}); rbee.CodeOf(err) != rbee.CodeConflict {
		t.Errorf("join: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(home, "join")); string(b) != "rbee1.theirs\n" {
		t.Errorf("%q, %v", b, err)
	}
	_, err = c.Shutdown(t.Context())
	must(t, err)
	running.Wait()
}

func TestJoiningIsBehindTheDoorAsAllElse(t *testing.T) {
	const key = "0123456789abcdef"
	r := start(t, "RBEE_HIVE_KEY="+key)
	for name, tc := range map[string]struct {
		header, value string
		want          rbee.Code
	}{
		"no key":            {"X-Other", "1", rbee.CodeMissingAPIKey},
		"a wrong key":       {"Authorization", "Bearer " + key + "x", rbee.CodeInvalidAPIKey},
		"another web page":  {"Origin", "http://elsewhere.example", rbee.CodeForbiddenOrigin},
		"the key of a hive": {"Authorization", "Bearer " + key, rbee.CodeInvalidRequest}, // a bad token
	} {
		for _, route := range []string{"POST /v1/colony/join", "DELETE /v1/colony"} {
			method, path, _ := strings.Cut(route, " ")
			req, err := http.NewRequestWithContext(t.Context(), method, r.Base()+path, strings.NewReader(`{"join":"what"}`))
			must(t, err)
			req.Header.Set(tc.header, tc.value)
			req.Close = true
			resp, err := http.DefaultClient.Do(req)
			must(t, err)
			var body rbee.ErrorBody
			_ = json.NewDecoder(resp.Body).Decode(&body) // 204 has none
			must(t, resp.Body.Close())
			switch {
			case method == http.MethodDelete && tc.want == rbee.CodeInvalidRequest:
				if resp.StatusCode != http.StatusNoContent {
					t.Errorf("%s, %s: %d", name, route, resp.StatusCode)
				}
			case body.Error == nil || body.Error.Code != tc.want:
				t.Errorf("%s, %s: %d %+v", name, route, resp.StatusCode, body.Error)
			}
		}
	}
}

// Whoever comes last decides, and nothing of the others is left.
func TestManyJoinAndLeaveAtOnce(t *testing.T) {
	queens := []*fakeQueen{newQueen(t, t.TempDir(), "127.0.0.1:0"), newQueen(t, t.TempDir(), "127.0.0.1:0")}
	r := start(t)
	_, direct := r.ready()
	var all sync.WaitGroup
	for i := range 12 {
		text, _ := queens[i%2].token()
		all.Go(func() {
			switch i % 4 {
			case 3:
				_ = r.LeaveColony(t.Context())
			case 2:
				_, _, _ = infer(t.Context(), direct, 20)
			default:
				_, _ = r.JoinColony(t.Context(), rbee.JoinRequest{Join: text})
			}
		})
	}
	all.Wait()
	must(t, r.LeaveColony(t.Context()))
	for _, q := range queens {
		q.sees("no hive", func() bool { return q.now.ID == "" || q.left || q.lost })
	}
	text, _ := queens[1].token()
	r.eventually("a place", func() bool { // the gate may still see the hive go
		_, err := r.JoinColony(t.Context(), rbee.JoinRequest{Join: text})
		return err == nil
	})
	queens[1].sees("the worker", func() bool { return !queens[1].left && len(queens[1].now.Workers) == 1 })
}

func TestTheBusOfOthersIsJoinedByItsURL(t *testing.T) {
	r := start(t)
	_, err := r.JoinColony(t.Context(), rbee.JoinRequest{Join: "nats://user:sesame@127.0.0.1:1"})
	if rbee.CodeOf(err) != rbee.CodeConnectionTimeout || strings.Contains(err.Error()+r.log.String(), "sesame") {
		t.Errorf("%v", err)
	}
}
