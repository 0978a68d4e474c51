package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"rbee"
	"rbee/internal/httpapi"
	"rbee/internal/sse"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type greetIn struct {
	Body struct {
		Name  string `json:"name" minLength:"1" maxLength:"8"`
		Times int    `json:"times" minimum:"1"`
	}
}

type greetOut struct {
	Body rbee.Message
}

type event struct {
	N int `json:"n"`
}

func routes() []httpapi.Route {
	return []httpapi.Route{
		{
			Method: "GET", Path: "/v1/health", Access: httpapi.Public, Summary: "Alive?",
			Handler: httpapi.JSON(func(context.Context, *struct{}) (*struct{ Body rbee.Health }, error) {
				return &struct{ Body rbee.Health }{rbee.Alive()}, nil
			}),
		},
		{
			Method: "POST", Path: "/v1/greet", Summary: "Greets.", Status: http.StatusAccepted,
			Handler: httpapi.JSON(func(_ context.Context, in *greetIn) (*greetOut, error) {
				switch in.Body.Name {
				case "busy":
					return nil, httpapi.RetryAfter(rbee.Errorf(rbee.CodeAllSlotsBusy, "all busy"), 3)
				case "broken":
					return nil, errors.New("secret cause")
				case "panic":
					panic("secret panic")
				}
				return &greetOut{rbee.Message{Message: "hello " + in.Body.Name}}, nil
			}),
		},
		{
			Method: "GET", Path: "/v1/count/{n}", Summary: "Counts.",
			Handler: httpapi.Stream[struct {
				N int `path:"n"`
			}, event](sse.ContentType, func(ctx context.Context, in *struct {
				N int `path:"n"`
			}, w http.ResponseWriter,
			) error {
				if in.N > 100 {
					return rbee.Errorf(rbee.CodeInvalidRequest, "too far")
				}
				s := sse.NewWriter(w)
				for i := range in.N {
					if err := s.JSON(event{i}); err != nil {
						return err
					}
				}
				if in.N == 0 {
					<-ctx.Done()
					if err := s.JSON(map[string]string{"cause": context.Cause(ctx).Error()}); err != nil {
						return err
					}
				}
				return s.Done()
			}),
		},
	}
}

func call(t *testing.T, h http.Handler, method, path, body string, header ...string) (*httptest.ResponseRecorder, *rbee.Error) {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), method, "http://127.0.0.1:1"+path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	addr := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}
	req = req.WithContext(context.WithValue(req.Context(), http.LocalAddrContextKey, net.Addr(addr)))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	var eb rbee.ErrorBody
	if w.Code >= 400 {
		if err := json.Unmarshal(w.Body.Bytes(), &eb); err != nil || eb.Error == nil {
			t.Fatalf("%s %s: %d with the body %q, want an error of ours", method, path, w.Code, w.Body)
		}
		if eb.Error.RequestID == "" || eb.Error.RequestID != w.Header().Get(rbee.RequestIDHeader) {
			t.Errorf("request id %q in the body, %q in the header", eb.Error.RequestID, w.Header().Get(rbee.RequestIDHeader))
		}
	}
	return w, eb.Error
}

func TestAnswersHaveTheShapeOfTheContract(t *testing.T) {
	h := httpapi.New(httpapi.Config{Role: "hive", Routes: routes()}).Handler()
	cases := []struct {
		name, method, path, body string
		status                   int
		code                     rbee.Code
		says                     string
	}{
		{"success", "POST", "/v1/greet", `{"name":"bee","times":1}`, 202, "", "hello bee"},
		{"all faults at once", "POST", "/v1/greet", `{"name":"muchtoolong","times":0}`, 400, rbee.CodeInvalidRequest, "body.times"},
		{"wrong types", "POST", "/v1/greet", `{"name":5,"times":"x"}`, 400, rbee.CodeInvalidRequest, "body.name"},
		{"number beyond its type", "POST", "/v1/greet", `{"name":"a","times":1e300}`, 400, rbee.CodeInvalidRequest, "does not fit"},
		{"unknown field", "POST", "/v1/greet", `{"name":"a","times":1,"extra":1}`, 400, rbee.CodeInvalidRequest, "extra"},
		{"no JSON", "POST", "/v1/greet", `{"name": sesame`, 400, rbee.CodeInvalidRequest, "is not valid JSON"},
		{"no body", "POST", "/v1/greet", ``, 400, rbee.CodeInvalidRequest, "body"},
		{"own error", "POST", "/v1/greet", `{"name":"busy","times":1}`, 503, rbee.CodeAllSlotsBusy, "all busy"},
		{"foreign error", "POST", "/v1/greet", `{"name":"broken","times":1}`, 500, rbee.CodeInternalError, "internal error"},
		{"panic", "POST", "/v1/greet", `{"name":"panic","times":1}`, 500, rbee.CodeInternalError, "internal error"},
		{"unknown path", "GET", "/v2/nothing", ``, 404, rbee.CodeInvalidRequest, "no such endpoint"},
		{"wrong method", "DELETE", "/v1/greet", ``, 405, rbee.CodeInvalidRequest, "does not take the method"},
		{"bad parameter", "GET", "/v1/count/many", ``, 400, rbee.CodeInvalidRequest, "path.n"},
		{"error before a stream", "GET", "/v1/count/101", ``, 400, rbee.CodeInvalidRequest, "too far"},
		{"stream", "GET", "/v1/count/2", ``, 200, "", "data: {\"n\":1}\n\ndata: [DONE]"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w, e := call(t, h, c.method, c.path, c.body)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) {
				t.Errorf("got %d %s, want %d with %q", w.Code, w.Body, c.status, c.says)
			}
			if e != nil && e.Code != c.code {
				t.Errorf("code %s, want %s", e.Code, c.code)
			}
			for _, leak := range []string{"secret", "sesame", "muchtoolong"} {
				if strings.Contains(w.Body.String(), leak) {
					t.Errorf("the reply leaks %q: %s", leak, w.Body)
				}
			}
			if w.Header().Get(rbee.VersionHeader) != rbee.Version {
				t.Error("no version header")
			}
		})
	}
}

func TestABodyIsJSONWhateverItIsCalled(t *testing.T) {
	h := httpapi.New(httpapi.Config{Role: "hive", Routes: routes()}).Handler()
	w, _ := call(t, h, "POST", "/v1/greet", `{"name":"bee","times":1}`, "Content-Type", "application/x-www-form-urlencoded")
	if w.Code != http.StatusAccepted {
		t.Errorf("got %d %s, want 202", w.Code, w.Body)
	}
}

func TestRetryAfterIsAHeader(t *testing.T) {
	h := httpapi.New(httpapi.Config{Role: "hive", Routes: routes()}).Handler()
	w, _ := call(t, h, "POST", "/v1/greet", `{"name":"busy","times":1}`)
	if got := w.Header().Get("Retry-After"); got != "3" {
		t.Errorf("Retry-After %q, want 3", got)
	}
}

func TestTheDoorLetsOnlyTheRightOnesIn(t *testing.T) {
	keyed := httpapi.New(httpapi.Config{Role: "hive", Routes: routes(), Key: "sesame"}).Handler()
	open := httpapi.New(httpapi.Config{Role: "hive", Routes: routes()}).Handler()
	cases := []struct {
		name   string
		h      http.Handler
		path   string
		header []string
		code   rbee.Code
	}{
		{"no key", keyed, "/v1/count/1", nil, rbee.CodeMissingAPIKey},
		{"no key, unknown path", keyed, "/v1/nothing", nil, rbee.CodeMissingAPIKey},
		{"no key, document", keyed, "/openapi.json", nil, rbee.CodeMissingAPIKey},
		{"wrong key", keyed, "/v1/count/1", []string{"Authorization", "Bearer nonsense"}, rbee.CodeInvalidAPIKey},
		{"empty key", keyed, "/v1/count/1", []string{"Authorization", "Bearer "}, rbee.CodeInvalidAPIKey},
		{"wrong scheme", keyed, "/v1/count/1", []string{"Authorization", "Basic sesame"}, rbee.CodeMissingAPIKey},
		{"right key", keyed, "/v1/count/1", []string{"Authorization", "Bearer sesame"}, ""},
		{"right key, any host", keyed, "/v1/count/1", []string{"Authorization", "Bearer sesame", "Host", "gpu.example:8080"}, ""},
		{"health needs no key", keyed, "/v1/health", nil, ""},
		{"rebound name", open, "/v1/count/1", []string{"Host", "evil.example"}, rbee.CodeForbiddenOrigin},
		{"localhost", open, "/v1/count/1", []string{"Host", "localhost:9"}, ""},
		{"IPv6 loopback", open, "/v1/count/1", []string{"Host", "[::1]:9"}, ""},
		{"web page", open, "/v1/count/1", []string{"Origin", "https://evil.example"}, rbee.CodeForbiddenOrigin},
		{"web page with the key", keyed, "/v1/count/1", []string{"Authorization", "Bearer sesame", "Origin", "https://evil.example"}, rbee.CodeForbiddenOrigin},
		{"null origin", open, "/v1/count/1", []string{"Origin", "null"}, rbee.CodeForbiddenOrigin},
		{"other port of this machine", open, "/v1/count/1", []string{"Origin", "http://127.0.0.1:3000"}, rbee.CodeForbiddenOrigin},
		{"cross-site fetch", open, "/v1/health", []string{"Sec-Fetch-Site", "cross-site"}, rbee.CodeForbiddenOrigin},
		{"own page", open, "/v1/count/1", []string{"Origin", "http://127.0.0.1:1"}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w, e := call(t, c.h, "GET", c.path, "", c.header...)
			switch {
			case c.code == "" && w.Code != 200:
				t.Errorf("got %d %s, want 200", w.Code, w.Body)
			case c.code != "" && (e == nil || e.Code != c.code || w.Code != c.code.Status()):
				t.Errorf("got %d %v, want %s", w.Code, e, c.code)
			}
			if strings.Contains(w.Body.String(), "sesame") || strings.Contains(w.Body.String(), "nonsense") {
				t.Errorf("the reply quotes a key: %s", w.Body)
			}
		})
	}
}

func TestARequestIDIsTakenOverOrMade(t *testing.T) {
	h := httpapi.New(httpapi.Config{Role: "hive", Routes: routes()}).Handler()
	w, _ := call(t, h, "GET", "/v1/health", "", rbee.RequestIDHeader, "mine-1")
	if got := w.Header().Get(rbee.RequestIDHeader); got != "mine-1" {
		t.Errorf("got %q, want mine-1", got)
	}
	w, _ = call(t, h, "GET", "/v1/health", "", rbee.RequestIDHeader, "with space")
	if got := w.Header().Get(rbee.RequestIDHeader); !strings.HasPrefix(got, "req-") {
		t.Errorf("got %q, want one of our own", got)
	}
}

func TestABodyBeyondTheBoundIsRefused(t *testing.T) {
	h := httpapi.New(httpapi.Config{Role: "hive", Routes: routes(), MaxBodyBytes: 64}).Handler()
	w, e := call(t, h, "POST", "/v1/greet", `{"name":"`+strings.Repeat("a", 100)+`","times":1}`)
	if w.Code != 400 || e.Code != rbee.CodeInvalidRequest {
		t.Errorf("got %d %v", w.Code, e)
	}
}

func TestListenRefusesTheNetworkWithoutAKey(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0"} {
		if ln, err := httpapi.Listen(addr, ""); err == nil {
			ln.Close()
			t.Errorf("%s: no refusal", addr)
		} else if rbee.AsError(err).Suggestion() == "" {
			t.Errorf("%s: %v suggests nothing", addr, err)
		}
	}
	ln, err := httpapi.Listen("127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := httpapi.Listen(ln.Addr().String(), ""); rbee.CodeOf(err) != rbee.CodeConflict {
		t.Errorf("a taken port gives %v, want %s", err, rbee.CodeConflict)
	}
	if _, err := httpapi.Listen("nonsense", ""); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("a bad address gives %v", err)
	}
}

func TestServeEndsStreamsFirst(t *testing.T) {
	var log bytes.Buffer
	a := httpapi.New(httpapi.Config{Role: "hive", Routes: routes(), Log: slog.New(slog.NewTextHandler(&log, nil))})
	ln, err := httpapi.Listen("127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, ln) }()
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+ln.Addr().String()+"/v1/count/0", nil)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cancel()
	b, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(b), httpapi.ErrShutdown.Error()) || !strings.Contains(string(b), sse.End) {
		t.Errorf("the stream ended with %q, %v", b, err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestTheDocumentTellsWhatTheTableHolds(t *testing.T) {
	b, err := httpapi.New(httpapi.Config{Role: "hive", Routes: routes()}).OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		OpenAPI string                    `json:"openapi"`
		Paths   map[string]map[string]any `json:"paths"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("openapi %q", doc.OpenAPI)
	}
	for _, want := range []string{"/v1/health", "/v1/greet", "/v1/count/{n}", "/openapi.json"} {
		if doc.Paths[want] == nil {
			t.Errorf("%s is missing in %s", want, b)
		}
	}
}

func TestRoutesOfOpenAIFailInItsShape(t *testing.T) {
	fail := func(err error) httpapi.Handler {
		return httpapi.RawFunc(func(_ http.ResponseWriter, r *http.Request) error {
			if _, bad := httpapi.Body(r); bad != nil {
				return bad
			}
			return err
		})
	}
	faults := rbee.InvalidRequest(rbee.Fault{Field: "n", Problem: "must be 1"}, rbee.Fault{Field: "seed", Problem: "must be whole"})
	busy := httpapi.RetryAfter(rbee.Errorf(rbee.CodeAllSlotsBusy, "all busy").Suggest("come again"), 3)
	api := httpapi.New(httpapi.Config{Role: "test", Key: "k", MaxBodyBytes: 10, Routes: []httpapi.Route{
		{Method: "POST", Path: "/v1/faults", OpenAI: true, Handler: fail(faults)},
		{Method: "POST", Path: "/v1/busy", OpenAI: true, Handler: fail(busy)},
		{Method: "POST", Path: "/v1/none/{name...}", OpenAI: true, Handler: fail(rbee.Errorf(rbee.CodeModelNotFound, "no such model"))},
		{Method: "POST", Path: "/v1/broken", OpenAI: true, Handler: fail(errors.New("secret cause"))},
		{Method: "POST", Path: "/v1/native", Handler: fail(busy)},
	}})
	for _, c := range []struct {
		method, path, body, key string
		status                  int
		want                    string // regexp of the body
	}{
		{"POST", "/v1/faults", "{}", "k", 400, `^{"error":{"message":"the request is not valid: n must be 1; seed must be whole","type":"invalid_request_error","param":"n","code":"INVALID_REQUEST","details":{"faults":\[.*\]},"request_id":"r1"}}\n$`},
		{"POST", "/v1/busy", "{}", "k", 503, `^{"error":{"message":"all busy; come again","type":"service_unavailable_error","param":null,"code":"ALL_SLOTS_BUSY",`},
		{"POST", "/v1/none/a/b", "{}", "k", 404, `"type":"invalid_request_error","param":"model","code":"MODEL_NOT_FOUND"`},
		{"POST", "/v1/broken", "{}", "k", 500, `"message":"internal error;[^"]*","type":"server_error","param":null,"code":"INTERNAL_ERROR"`},
		{"POST", "/v1/faults", "{}", "", 401, `"type":"authentication_error","param":null,"code":"MISSING_API_KEY"`},
		{"POST", "/v1/faults", "{}", "x", 401, `"type":"authentication_error","param":null,"code":"INVALID_API_KEY"`},
		{"POST", "/v1/faults", `{"a":"longer than ten"}`, "k", 400, `"message":"the request is not valid: its body is larger than 10 bytes","type"`},
		{"GET", "/v1/faults", "", "k", 405, `"type":"invalid_request_error"`},
		{"POST", "/v1/native", "{}", "k", 503, `^{"error":{"code":"ALL_SLOTS_BUSY"`},
		{"GET", "/v1/native", "", "k", 405, `^{"error":{"code":"INVALID_REQUEST"`},
		{"POST", "/v1/nowhere", "{}", "k", 404, `^{"error":{"code":"INVALID_REQUEST"`},
	} {
		r := httptest.NewRequestWithContext(t.Context(), c.method, c.path, strings.NewReader(c.body))
		r.Header.Set(rbee.RequestIDHeader, "r1")
		if c.key != "" {
			r.Header.Set("Authorization", "Bearer "+c.key)
		}
		w := httptest.NewRecorder()
		api.Handler().ServeHTTP(w, r)
		if w.Code != c.status || !regexp.MustCompile(c.want).MatchString(w.Body.String()) {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, w.Code, w.Body.String(), c.status, c.want)
		}
		if retry := w.Header().Get("Retry-After"); (retry == "3") != (c.status == 503) {
			t.Errorf("%s: Retry-After is %q", c.path, retry)
		}
	}
}

func TestTheColonysKeyOpensTheDoorFromEverywhereButAPage(t *testing.T) {
	honey := func() string { return "honey" }
	for name, h := range map[string]http.Handler{
		"beside a key": httpapi.New(httpapi.Config{Role: "hive", Routes: routes(), Key: "sesame", ColonyKey: honey}).Handler(),
		"alone":        httpapi.New(httpapi.Config{Role: "hive", Routes: routes(), ColonyKey: honey}).Handler(),
	} {
		if w, err := call(t, h, "GET", "/v1/count/1", "", "Authorization", "Bearer honey", "Host", "tunnel"); w.Code != http.StatusOK {
			t.Errorf("%s: %d %v", name, w.Code, err)
		}
		if w, _ := call(t, h, "GET", "/v1/count/1", "", "Authorization", "Bearer honey", "Origin", "https://evil.example"); w.Code != http.StatusForbidden {
			t.Errorf("%s, from a page: %d", name, w.Code)
		}
		if w, _ := call(t, h, "GET", "/v1/count/1", "", "Authorization", "Bearer vinegar", "Host", "tunnel"); w.Code < 400 {
			t.Errorf("%s, another key: %d", name, w.Code)
		}
		if w, _ := call(t, h, "GET", "/v1/count/1", "", "Host", "tunnel"); w.Code < 400 {
			t.Errorf("%s, no key: %d", name, w.Code)
		}
	}
}
