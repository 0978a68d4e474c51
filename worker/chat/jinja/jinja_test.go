package jinja_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rbee/worker/chat/jinja"
)

// variables reads a case of testdata.
func variables(t testing.TB, name string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(text, &raw); err != nil {
		t.Fatal(err)
	}
	vars := map[string]any{"null_value": nil}
	for key, value := range raw {
		if vars[key], err = jinja.Value(value); err != nil {
			t.Fatal(err)
		}
	}
	return vars
}

func render(ctx context.Context, source string, vars map[string]any) (string, error) {
	t, err := jinja.Parse(source)
	if err != nil {
		return "", err
	}
	return t.Render(ctx, vars)
}

// The expected texts were written by Jinja2 itself (testdata/golden.py).
func TestTemplatesGiveTheTextThatJinja2Gives(t *testing.T) {
	golden, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(golden) < 15 {
		t.Fatalf("found %d golden files, %v", len(golden), err)
	}
	for _, path := range golden {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		t.Run(name, func(t *testing.T) {
			template, variant, _ := strings.Cut(name, ".")
			source, err := os.ReadFile(filepath.Join("testdata", template+".jinja"))
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got, err := render(t.Context(), string(source), variables(t, variant))
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				for i, line := range strings.Split(string(want), "\n") {
					have := append(strings.Split(got, "\n"), make([]string, i+1)...)
					if have[i] != line {
						t.Fatalf("line %d is %q, want %q", i+1, have[i], line)
					}
				}
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestFaultsAreNamed(t *testing.T) {
	for name, c := range map[string]struct{ source, want string }{
		"no end of a tag":      {"{{ a", "no end"},
		"no end of a block":    {"{% if a %}b", `"endif" is missing`},
		"end of nothing":       {"a\nb{% endfor %}", `line 2: "endfor" ends nothing`},
		"unknown block":        {"{% include 'x' %}", `"include"`},
		"unknown filter":       {"{{ 1 | sing }}", `no filter "sing"`},
		"unknown test":         {"{{ 1 is green }}", `no test "green"`},
		"attribute of nothing": {"{{ a.b }}", "a is not defined"},
		"its own refusal":      {"{{ raise_exception('no systems') }}", "no systems"},
		"no function":          {"{{ a() }}", "a is no function"},
		"bad arithmetic":       {"{{ 'a' + 1 }}", "cannot compute a text + a number"},
		"division by zero":     {"{{ 1 // 0 }}", "division by zero"},
		"change of a list":     {"{% set a = [] %}{{ a.append(1) }}", "may not change"},
		"break outside":        {"{% break %}", "loop"},
		"odd character":        {"{{ a ? b }}", `'?'`},
		"bracket":              {"{{ (a] }}", "closes nothing"},
		"string":               {"{{ 'a }}", "string has no end"},
		"bytes as JSON":        {"{{ range | tojson }}", "as JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := render(t.Context(), c.source, nil)
			var own *jinja.Error
			if !errors.As(err, &own) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestHostileTemplatesEnd(t *testing.T) {
	doubled := "{% set x = 'aaaaaaaaaaaaaaaa' %}" + strings.Repeat("{% set x = x ~ x %}", 60) + "{{ x }}"
	for name, source := range map[string]string{
		"huge range":          "{% for i in range(1000000000000) %}a{% endfor %}",
		"loops in loops":      strings.Repeat("{% for i in range(1000) %}", 20) + strings.Repeat("{% endfor %}", 20),
		"loops that write":    strings.Repeat("{% for i in range(1000) %}", 5) + "aaaaaaaaaaaaaaaaaaaa" + strings.Repeat("{% endfor %}", 5),
		"doubled text":        doubled,
		"doubled list":        strings.ReplaceAll(strings.Replace(doubled, "'aaaaaaaaaaaaaaaa'", "[1]", 1), "~", "+"),
		"doubled output":      "{% macro a(n) %}{% if n %}{{ a(n - 1) ~ a(n - 1) }}{% else %}x{% endif %}{% endmacro %}{{ a(60) }}",
		"repeated text":       "{{ 'a' * 999999999999 }}",
		"negative repetition": "{{ ('a' * -5) * 9223372036854775807 }}" + "{{ 'ab' * 9223372036854775807 }}",
		"macro of itself":     "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
		"caller of itself":    "{% set ns = namespace() %}{% macro m() %}{% set ns.c = caller %}{{ ns.c() }}{% endmacro %}{% call m() %}{{ ns.c() }}{% endcall %}",
		"namespace of itself": "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}{{ ns | tojson }}",
		"nested list":         "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
		"compared list":       "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l == ns.l }}{{ ns.l < ns.l }}",
		"brackets":            "{{ " + strings.Repeat("(", 100000) + "1" + strings.Repeat(")", 100000) + " }}",
		"nots":                "{{ " + strings.Repeat("not ", 100000) + "1 }}",
		"minuses":             "{{ " + strings.Repeat("-", 100000) + "1 }}",
		"conditions":          "{{ " + strings.Repeat("1 if 1 else ", 50000) + "1 }}",
		"sum":                 "{{ " + strings.Repeat("1+", 100000) + "1 }}",
		"attributes":          "{{ a" + strings.Repeat(".b", 100000) + " }}",
		"filters":             "{{ a" + strings.Repeat("|list", 100000) + " }}",
		"blocks":              strings.Repeat("{% if 1 %}", 50000) + strings.Repeat("{% endif %}", 50000),
		"indent":              "{{ ('a\n' * 1000) | indent(1000000) }}",
		"indent of JSON":      "{{ [[[[1]]]] | tojson(indent=100000000) }}",
		"join":                "{{ range(100000) | join('a' * 100000) }}",
		"replace":             "{{ ('a' * 1000000).replace('a', 'a' * 1000000) }}",
		"wide format":         "{{ '%999999999s' | format('a') }}",
		"power":               "{{ 10 ** 10 ** 10 }}",
		"unique":              "{% for i in range(1000) %}{{ range(100000) | unique | list | length }}{% endfor %}",
		"long template":       strings.Repeat("a", 2<<20),
		"split":               "{% for i in range(10000) %}{% set x = ('a,' * 1000000).split(',') %}{% endfor %}",
		"upper":               "{% set x = 'a' * 10000000 %}{% for i in range(1000000) %}{% set y = x | upper %}{% endfor %}",
		"find":                "{% set x = 'a' * 30000000 %}{% for i in range(1000000) %}{% set y = 'b' in x %}{% endfor %}",
		"bound":               "{% for i in range(100000) %}{% for j in ('a' * 30000) if false %}{% endfor %}{% endfor %}",
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			text, err := render(ctx, source, nil)
			switch {
			case ctx.Err() != nil:
				t.Error("only the deadline ended it")
			case err == nil && len(text) > 1<<20:
				t.Errorf("it gave %d bytes", len(text))
			}
		})
	}
}

func TestTheContextEndsARendering(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	if _, err := render(ctx, "{% for i in range(100000) %}{{ i }}{% endfor %}", nil); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

func FuzzTemplate(f *testing.F) {
	paths, err := filepath.Glob("testdata/*.jinja")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		source, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(source))
	}
	vars := variables(f, "tools")
	f.Fuzz(func(t *testing.T, source string) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := render(ctx, source, vars) // must neither panic nor hang
		var own *jinja.Error
		if err != nil && !errors.As(err, &own) {
			t.Errorf("%v", err)
		}
	})
}

func BenchmarkRender(b *testing.B) {
	source, err := os.ReadFile("testdata/qwen3.jinja")
	if err != nil {
		b.Fatal(err)
	}
	t, err := jinja.Parse(string(source))
	if err != nil {
		b.Fatal(err)
	}
	vars := variables(b, "tools")
	for b.Loop() {
		if _, err := t.Render(b.Context(), vars); err != nil {
			b.Fatal(err)
		}
	}
}
