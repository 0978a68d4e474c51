package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"rbee"
	"rbee/client"
	"rbee/internal/httpapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers every request with a handler, until the test ends.
func serve(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	s := httptest.NewServer(h)
	c := client.New(s.URL+"/", client.Key("sesame"))
	t.Cleanup(func() { c.Close(); s.Close() })
	return c
}

func TestAnErrorOfADaemonComesBackAsItWas(t *testing.T) {
	api := httpapi.New(httpapi.Config{Role: "hive", Routes: []httpapi.Route{{
		Method: "GET", Path: "/v1/workers/{id}", Summary: "One worker.",
		Handler: httpapi.JSON(func(context.Context, *struct {
			ID string `path:"id"`
		},
		) (*struct{ Body rbee.Worker }, error) {
			return nil, rbee.Errorf(rbee.CodeInsufficientRAM, "no room").With("required", 10).Suggest("try less")
		}),
	}}})
	c := serve(t, api.Handler().ServeHTTP)
	_, err := c.Worker(t.Context(), "w/1 ?")
	e := rbee.AsError(err)
	if e.Code != rbee.CodeInsufficientRAM || e.Message != "no room" || e.Suggestion() != "try less" || e.RequestID == "" || client.IsCut(err) {
		t.Errorf("got %+v", e)
	}
}

func TestAForeignReplyIsNotTakenForOurs(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"a page":          func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"a foreign error": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusTeapot) },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := serve(t, h).Health(t.Context())
			if rbee.CodeOf(err) != rbee.CodeInternalError || rbee.AsError(err).Suggestion() == "" {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestADaemonThatIsNotThereIsNamed(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	_, err := client.New(s.URL).Health(t.Context())
	if rbee.CodeOf(err) != rbee.CodeConnectionTimeout || !strings.Contains(err.Error(), s.URL) || !client.IsCut(err) {
		t.Errorf("got %v", err)
	}
}

func TestACallThatIsGivenUpTellsItsCause(t *testing.T) {
	cause := errors.New("the user left")
	ctx, cancel := context.WithCancelCause(t.Context())
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel(cause)
		<-r.Context().Done()
	})
	if _, err := c.Health(ctx); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}

func TestAStreamEndsWellOrSaysWhyNot(t *testing.T) {
	cases := []struct {
		name, body string
		tokens     int
		fails      bool
		cut        bool
		code       rbee.Code
	}{
		{"whole", "data: {\"token\":\"a\",\"index\":0}\n\ndata: {\"done\":true,\"total_tokens\":1}\n\ndata: [DONE]\n\n", 1, false, false, ""},
		{"cut", "data: {\"token\":\"a\",\"index\":0}\n\n", 1, true, true, ""},
		{"error", "data: {\"error\":{\"code\":\"GENERATION_TIMEOUT\",\"message\":\"slow\"}}\n\ndata: [DONE]\n\n", 0, true, false, rbee.CodeGenerationTimeout},
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "Bearer sesame" {
					t.Error("the key is missing")
				}
				fmt.Fprint(w, test.body)
			})
			tokens, done := 0, false
			var failure error
			for ev, err := range c.Infer(t.Context(), rbee.InferRequest{Prompt: "x"}) {
				switch {
				case err != nil:
					failure = err
				case ev.InferDone != nil:
					done = ev.TotalTokens == 1
				default:
					tokens++
				}
			}
			if tokens != test.tokens || (failure != nil) != test.fails || done == test.fails ||
				client.IsCut(failure) != test.cut || rbee.CodeOf(failure) != test.code {
				t.Errorf("%d tokens, done %t, %v", tokens, done, failure)
			}
		})
	}
}

func TestAWorkerThatLoadsIsNoError(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, `{"ready":false,"state":"loading","progress_url":"/v1/loading/progress"}`)
	})
	if r, err := c.Ready(t.Context()); err != nil || r.Ready || r.State != rbee.WorkerLoading {
		t.Errorf("got %+v, %v", r, err)
	}
}
