package keeper

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// styled is what a terminal gets for a text that comes in pieces of so many
// bytes; 0 is in one.
func styled(text string, piece int) string {
	var b strings.Builder
	m := newMarkdown(func(s string) { b.WriteString(s) })
	if piece == 0 {
		piece = max(1, len(text))
	}
	for len(text) > 0 {
		n := min(piece, len(text))
		m.write(text[:n])
		text = text[n:]
	}
	m.end()
	return b.String()
}

// readable writes the escape sequences of the styler as words in brackets.
func readable(s string) string {
	return strings.NewReplacer(
		"\x1b[0m", "{}", "\x1b[0;1m", "{bold}", "\x1b[0;2m", "{faint}", "\x1b[0;3m", "{italic}", "\x1b[0;36m", "{code}",
		"\x1b[0;1;3m", "{bold italic}", "\x1b[0;1;36m", "{bold code}", "\x1b[0;3;36m", "{italic code}",
	).Replace(s)
}

func TestMarkdownOfAnAnswerIsStyled(t *testing.T) {
	source, err := os.ReadFile("testdata/markdown/answer.md")
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/markdown/answer.golden"
	got := readable(styled(string(source), 0))
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("run go test ./keeper -run TestMarkdown -update if this is as it should be\n%s", diff)
	}
}

func TestMarkdownMarks(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"bold":                      {"a **b c** d", "a {bold}b c{} d"},
		"italics":                   {"*a* and _b_", "{italic}a{} and {italic}b{}"},
		"both":                      {"***a***", "{bold italic}a{}"},
		"nested":                    {"**a *b* c**", "{bold}a {bold italic}b{bold} c{}"},
		"code in bold":              {"**a `b` c**", "{bold}a {bold code}b{bold} c{}"},
		"code":                      {"use `go test`.", "use {code}go test{}."},
		"code with a backquote":     {"`` ` ``", "{code}`{}"},
		"marks in code":             {"`a*b*c`", "{code}a*b*c{}"},
		"heading":                   {"## A *b*", "{bold}A {bold italic}b{}"},
		"not a heading":             {"#hash and # sign", "#hash and # sign"},
		"seven signs":               {"####### x", "####### x"},
		"list":                      {"- a\n  * b\n+ c", "• a\n  • b\n• c"},
		"ordered list":              {"1. **a**\n2) b", "1. {bold}a{}\n2) b"},
		"quote":                     {"> a\n>> b", "{faint}│ {}a\n{faint}│ │ {}b"},
		"rule":                      {"---\na", "{faint}" + strings.Repeat("─", 20) + "{}\na"},
		"fence":                     {"```go\nx := *p // **no**\n```\n*a*", "{faint}```go{}\n{code}x := *p // **no**{}\n{faint}```{}\n{italic}a{}"},
		"fence that never ends":     {"~~~\n```\na", "{faint}~~~{}\n{code}```{}\n{code}a{}"},
		"a longer fence":            {"````\n```\n````", "{faint}````{}\n{code}```{}\n{faint}````{}"},
		"a lone star":               {"2 * 3 and *args", "2 * 3 and *args"},
		"a star that is not closed": {"**bold *both***\nnext", "**bold *both***\nnext"},
		"names":                     {"snake_case_name and __init__.py", "snake_case_name and {bold}init{}.py"},
		"multiplication":            {"a*b*c", "a{italic}b{}c"},
		"escaped":                   {`\*a\* \n`, `*a* \n`},
		"a lone backquote":          {"it`s", "it`s"},
		"marks of two lines":        {"**a\nb**", "**a\nb**"},
		"empty lines":               {"\n\na\n\n", "\n\na\n\n"},
		"nothing":                   {"", ""},
		"only marks":                {"****x", "****x"},
		"a backslash at the end":    {`a\`, `a\`},
		"other letters":             {"**größer** 🐝 *日本*", "{bold}größer{} 🐝 {italic}日本{}"},
		"escape sequences":          {"a\x1b[31mred\x07\u009b", "a\ufffd[31mred\ufffd\ufffd"},
		"no UTF-8":                  {"a\xff**b**\xe2\x82", "a\ufffd{bold}b{}\ufffd"},
		"a line that ends in CR":    {"a\r\nb", "a\nb"},
		"table":                     {"| a | b |\n|---|---|", "| a | b |\n|---|---|"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, readable(styled(tc.in, 0))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMarkdownIsShownWhileItComes(t *testing.T) {
	var b strings.Builder
	m := newMarkdown(func(s string) { b.WriteString(s) })
	for _, step := range []struct{ piece, shown string }{
		{"The bee", "The bee"}, {" is **very", " is "}, {" busy", ""}, {"** today", "{bold}very busy{} today"}, {"\n```", "\n"}, {"\nx", "{faint}```{}\n{code}x"},
	} {
		b.Reset()
		m.write(step.piece)
		if got := readable(b.String()); got != step.shown {
			t.Errorf("after %q: shown %q, want %q", step.piece, got, step.shown)
		}
	}
	b.Reset()
	m.write("\n```\n**" + strings.Repeat("x", maxHeld))
	if !strings.Contains(b.String(), "**xxx") {
		t.Error("a mark without its counterpart holds a long line back for ever")
	}
}

func FuzzPiecesOfMarkdownMakeNoDifference(f *testing.F) {
	source, err := os.ReadFile("testdata/markdown/answer.md")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(source))
	for _, seed := range []string{"**a *b* `c`** _d_\n> - # e\n```\nf", "`` ` *", "\xe2\x82 *\xac*", "***a** b*\\", "> > 1. **", "~~~~\n~~~"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		want := styled(text, 0)
		for _, piece := range []int{1, 2, 3, 7, 64} {
			if got := styled(text, piece); got != want {
				t.Fatalf("in pieces of %d bytes: %q, in one: %q", piece, got, want)
			}
		}
		if strings.Count(want, "\n") != strings.Count(text, "\n") {
			t.Fatalf("%q has other lines than %q", want, text)
		}
		if last := strings.LastIndex(want, "\x1b["); last >= 0 && !strings.HasPrefix(want[last:], "\x1b[0m") {
			t.Fatalf("%q leaves the terminal styled", want)
		}
	})
}
