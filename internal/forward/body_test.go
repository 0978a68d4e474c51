package forward_test

import (
	"strings"
	"testing"

	"rbee"
	"rbee/internal/forward"
)

func TestTheModelIsFoundInABody(t *testing.T) {
	for name, c := range map[string]struct{ body, model, replaced string }{
		"first":               {`{"model":"a","n":1}`, "a", `{"model":"new","n":1}`},
		"last, with blanks":   {"{ \"messages\": [{\"model\":\"x\"}], \n\"model\" :\t\"a/b:Q4\" }\n", "a/b:Q4", "{ \"messages\": [{\"model\":\"x\"}], \n\"model\" :\t\"new\" }\n"},
		"numbers as they are": {`{"seed":12345678901234567890,"t":1e400,"model":"a"}`, "a", `{"seed":12345678901234567890,"t":1e400,"model":"new"}`},
		"escaped":             {`{"model":"a\/b"}`, "a/b", `{"model":"new"}`},
		"twice":               {`{"model":"a","model":"b"}`, "b", `{"model":"a","model":"new"}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := forward.Parse([]byte(c.body))
			if err != nil || got.Model != c.model || got.Stream {
				t.Fatalf("%+v, %v", got, err)
			}
			if got := string(got.Renamed([]byte(c.body), "new")); got != c.replaced {
				t.Errorf("replaced: %s", got)
			}
		})
	}
}

func TestABodyWithoutAModel(t *testing.T) {
	for _, body := range []string{
		``, `[]`, `"model"`, `{`, `{"model"`, `{"model":`, `{"model":"a"`, `{"model":"a",}`, `{"model":1}`, `{"model":null}`, `{}`, `{"model":""}`, `{"n":nan}`,
		strings.Repeat("[", 100_000),
	} {
		if got, err := forward.Parse([]byte(body)); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
			t.Errorf("%.20s: %q, %v", body, got.Model, err)
		}
	}
}

func TestWhetherEventsAreAskedFor(t *testing.T) {
	for body, want := range map[string]bool{
		`{"model":"a","stream":true}`:                true,
		`{"stream" : true ,"model":"a"}`:             true,
		`{"model":"a","stream":false}`:               false,
		`{"model":"a","stream":null}`:                false,
		`{"model":"a","stream_options":{"x":true}}`:  false,
		`{"model":"a","x":{"stream":true}}`:          false,
		`{"model":"a","stream":true,"stream":false}`: false,
		`{"model":"a","prompt":"\"stream\":true"}`:   false,
	} {
		if got, err := forward.Parse([]byte(body)); err != nil || got.Stream != want {
			t.Errorf("%s: %+v, %v", body, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"messages":[{"role":"user"}],"model":"a","x":{}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := forward.Parse(body)
		if err != nil {
			return
		}
		again, err := forward.Parse(got.Renamed(body, got.Model))
		if err != nil || again.Model != got.Model || again.Stream != got.Stream {
			t.Errorf("%+v became %+v, %v", got, again, err)
		}
	})
}

// BenchmarkParse shows that the body is not copied.
func BenchmarkParse(b *testing.B) {
	body := []byte(`{"model":"a","stream":true,"messages":[{"role":"user","content":"` + strings.Repeat("words of it ", 80_000) + `"}]}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := forward.Parse(body); err != nil {
			b.Fatal(err)
		}
	}
}
