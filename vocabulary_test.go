package rbee_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rbee"
)

func TestModelReferencesAreReadAndPrinted(t *testing.T) {
	long := "hf:a/" + strings.Repeat("b", 505)
	for in, want := range map[string]rbee.ModelRef{
		"builtin:bee-tiny":           {Provider: rbee.ProviderBuiltin, Reference: "bee-tiny"},
		"file:/models/my model.gguf": {Provider: rbee.ProviderFile, Reference: "/models/my model.gguf"},
		"hf:org/repo":                {Provider: rbee.ProviderHF, Reference: "org/repo"},
		"hf:org/repo@main:Q4_K_M":    {Provider: rbee.ProviderHF, Reference: "org/repo@main:Q4_K_M"},
		"hf:org/repo::sub/a.gguf":    {Provider: rbee.ProviderHF, Reference: "org/repo::sub/a.gguf"},
		"org/repo:Q8_0":              {Provider: rbee.ProviderHF, Reference: "org/repo:Q8_0"},
		"Org-1/Repo_2.0-GGUF":        {Provider: rbee.ProviderHF, Reference: "Org-1/Repo_2.0-GGUF"},
		long:                         {Provider: rbee.ProviderHF, Reference: long[3:]},
	} {
		got, err := rbee.ParseModelRef(in)
		if err != nil || got != want {
			t.Errorf("%q: got %v, %v; want %v", in, got, err, want)
		}
		again, err := rbee.ParseModelRef(got.String())
		if err != nil || again != got {
			t.Errorf("%q printed as %q reads as %v, %v", in, got, again, err)
		}
	}
}

func TestBadModelReferencesAreRefusedWithTheAcceptedForms(t *testing.T) {
	for _, in := range []string{
		"", "bee", "builtin:", "builtin:../x", "builtin:a/b", "file:relative.gguf", "file:/a/../b", "file:",
		"hf:", "hf:org", "hf:org/", "hf:/repo", "hf:org/..", "hf:org/repo/more", "hf:org/repo::../x", "hf:org/repo::/abs",
		"hf:org/repo:", "hf:org/repo@", "hf:org/repo::", "s3:bucket/x", "a/b;rm", "a/$HOME", "a/b\x00", "a/b\n", "a/\xff",
		"http://example/x", strings.Repeat("a", 300) + "/" + strings.Repeat("b", 300),
	} {
		_, err := rbee.ParseModelRef(in)
		if rbee.CodeOf(err) != rbee.CodeInvalidRequest || !strings.Contains(rbee.AsError(err).Suggestion(), "hf:ORG/REPO") {
			t.Errorf("%q: got %v", in, err)
		}
	}
}

func TestEveryCodeHasItsStatus(t *testing.T) {
	want := map[rbee.Code]int{
		"INVALID_REQUEST": 400, "MISSING_API_KEY": 401, "INVALID_API_KEY": 401, "FORBIDDEN_ORIGIN": 403,
		"MODEL_NOT_FOUND": 404, "WORKER_NOT_FOUND": 404, "HIVE_NOT_FOUND": 404, "REQUEST_TIMEOUT": 408,
		"CONFLICT": 409, "VERSION_MISMATCH": 409, "CONTEXT_LENGTH_EXCEEDED": 400, "REQUEST_CANCELED": 499,
		"WORKER_NOT_READY": 503, "ALL_SLOTS_BUSY": 503, "QUEUE_FULL": 503, "BACKEND_UNAVAILABLE": 503,
		"LOADING_TIMEOUT": 504, "GENERATION_TIMEOUT": 504, "INSUFFICIENT_RAM": 507, "VRAM_EXHAUSTED": 507,
		"INSUFFICIENT_DISK": 507, "DOWNLOAD_FAILED": 502, "CHECKSUM_MISMATCH": 502, "CONNECTION_TIMEOUT": 502,
		"WORKER_CRASHED": 500, "INTERNAL_ERROR": 500,
	}
	if diff := cmp.Diff(want, rbee.Codes()); diff != "" {
		t.Error(diff)
	}
}

func TestErrorsKeepTheirCodeAndHideTheirCause(t *testing.T) {
	cause := errors.New("secret path")
	base := rbee.Errorf(rbee.CodeInsufficientRAM, "no room on %s", "cpu").With("required", 10)
	err := fmt.Errorf("cannot spawn: %w", base.WithCause(cause).Suggest("try a smaller quantisation"))
	e := rbee.AsError(err)
	if !errors.Is(err, cause) || e.Code != rbee.CodeInsufficientRAM || e.Suggestion() != "try a smaller quantisation" {
		t.Errorf("got %+v", e)
	}
	if len(base.Details) != 1 {
		t.Errorf("With changed its receiver: %v", base.Details)
	}
	b, _ := json.Marshal(rbee.ErrorBody{Error: e})
	if strings.Contains(string(b), "secret") {
		t.Errorf("the wire shows the cause: %s", b)
	}
	if foreign := rbee.AsError(cause); foreign.Code != rbee.CodeInternalError || strings.Contains(foreign.Message, "secret") {
		t.Errorf("got %+v", foreign)
	}
	if rbee.AsError(nil) != nil || rbee.CodeOf(cause) != "" {
		t.Error("nil or a foreign error has a code")
	}
}

func TestALifeGoesForwardOnly(t *testing.T) {
	for _, from := range rbee.WorkerStates() {
		for _, to := range rbee.WorkerStates() {
			switch {
			case from == to && from.Can(to):
				t.Errorf("%s goes to itself", from)
			case from.Final() && from.Can(to):
				t.Errorf("%s is final and goes to %s", from, to)
			case !from.Final() && !from.Can(rbee.WorkerFailed):
				t.Errorf("%s cannot fail", from)
			}
		}
	}
	if !rbee.WorkerBusy.Can(rbee.WorkerIdle) || rbee.WorkerIdle.Can(rbee.WorkerLoading) {
		t.Error("idle and busy alternate, and nothing loads twice")
	}
}

func TestAllFaultsOfARequestAreListed(t *testing.T) {
	n, f, d := 0, math.NaN(), -1.0
	r := rbee.InferRequest{
		MaxTokens: &n, Temperature: &f, TopP: &d, MinP: 2, TopK: -1, RepetitionPenalty: &d, TimeoutSeconds: &n,
		Stop: []string{"", strings.Repeat("x", 257), "fine"}, RequestID: "a b",
	}
	r.Normalize()
	var got []string
	for _, f := range r.Faults() {
		got = append(got, f.Field)
	}
	want := []string{"prompt", "max_tokens", "temperature", "top_p", "min_p", "top_k", "repetition_penalty", "timeout_seconds", "stop[0]", "stop[1]", "request_id"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	ok := rbee.InferRequest{Prompt: "Once"}
	ok.Normalize()
	if faults := ok.Faults(); faults != nil || *ok.MaxTokens != 256 || *ok.Temperature != 0.7 || !*ok.Stream || *ok.TimeoutSeconds != 300 {
		t.Errorf("the defaults are %+v with %v", ok, faults)
	}
	for prompt, bad := range map[string]bool{strings.Repeat("a", 1<<20): false, strings.Repeat("a", 1<<20+1): true, "\xff": true} {
		r := rbee.InferRequest{Prompt: prompt}
		r.Normalize()
		if got := len(r.Faults()) > 0; got != bad {
			t.Errorf("a prompt of %d bytes: faults %v", len(prompt), got)
		}
	}
}
