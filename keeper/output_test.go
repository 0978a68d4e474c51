package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rbee"
)

func testOutput() (o *output, stdout, stderr *bytes.Buffer) {
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	return newOutput(Streams{Out: stdout, Err: stderr}), stdout, stderr
}

func TestPlainOutputHasNoEscapeSequences(t *testing.T) {
	o, stdout, stderr := testOutput()
	o.phase(2, "Preflight")
	o.done(2, "well")
	b := o.bar(7, "loading", "layers")
	b.set(1, 4)
	b.clear()
	o.table([][]string{{"A", "B"}, {"1", "2"}})
	o.failure(errors.New("bad"))
	if all := stdout.String() + stderr.String(); strings.Contains(all, "\x1b") || strings.Contains(all, "\r") {
		t.Errorf("output for a file has escape sequences: %q", all)
	}
	want := "[Phase 2] Preflight\n  ✓ well\n  loading: 25% (1/4 layers)\nError: bad\n"
	if diff := cmp.Diff(want, stderr.String()); diff != "" {
		t.Error(diff)
	}
}

func TestTerminalGetsColoursAndABarThatIsTakenAwayAgain(t *testing.T) {
	o, _, stderr := testOutput()
	o.terminal, o.styles = true, newStyles(true)
	o.done(2, "well")
	b := o.bar(7, "loading", "layers")
	b.set(1, 4)
	b.set(4, 4)
	b.clear()
	got := stderr.String()
	if !strings.Contains(got, "\x1b[32m✓") || !strings.Contains(got, "4/4 layers") || !strings.HasSuffix(got, "\r\x1b[K") {
		t.Errorf("got %q", got)
	}
}

func TestNoColorKeepsTheBarWithoutColours(t *testing.T) {
	o, _, stderr := testOutput()
	o.terminal = true
	o.done(2, "well")
	b := o.bar(7, "loading", "layers")
	b.set(2, 4)
	if got := stderr.String(); strings.Contains(got, "m✓") || !strings.Contains(got, strings.Repeat("█", 15)+strings.Repeat("░", 15)) {
		t.Errorf("got %q", got)
	}
}

func TestPlainProgressIsALinePerQuarter(t *testing.T) {
	o, _, stderr := testOutput()
	b := o.bar(0, "fetching", "bytes")
	for done := int64(0); done <= 1000; done += 10 {
		b.set(done*1e6, 1000*1e6)
	}
	want := "  fetching: 0% (0.0 MB of 1000 MB)\n  fetching: 25% (250 MB of 1000 MB)\n  fetching: 50% (500 MB of 1000 MB)\n" +
		"  fetching: 75% (750 MB of 1000 MB)\n  fetching: 100% (1000 MB of 1000 MB)\n"
	if diff := cmp.Diff(want, stderr.String()); diff != "" {
		t.Error(diff)
	}
}

func TestExitCodesAndSuggestions(t *testing.T) {
	suggested := rbee.Errorf(rbee.CodeModelNotFound, "no such model").Suggest("take another")
	for name, tc := range map[string]struct {
		err  error
		code int
		want string
	}{
		"with a suggestion": {suggested, 1, "Error: no such model\nSuggestion: take another\n"},
		"wrapped":           {fmt.Errorf("somewhere: %w", suggested), 1, "Error: no such model\nSuggestion: take another\n"},
		"advice by code": {
			rbee.Errorf(rbee.CodeInsufficientRAM, "too big").With("required", 20).With("available", 10), 1,
			"Error: too big\nRequired: 20 MB, available: 10 MB\nSuggestion: try a smaller quantisation, or a smaller --context\n",
		},
		"usage":       {&usageError{"rbee infer", errors.New("bad flag")}, 2, "Error: bad flag\nSuggestion: see 'rbee infer --help'\n"},
		"interrupted": {errors.Join(errCanceled, suggested), 130, "Canceled.\n"},
		"reported":    {errReported, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o, stdout, stderr := testOutput()
			if code := o.failure(tc.err); code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			if diff := cmp.Diff(tc.want, stderr.String()); diff != "" || stdout.Len() > 0 {
				t.Errorf("stdout %q, stderr:\n%s", stdout, diff)
			}
		})
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("the pipe is broken") }

func TestOutputThatCannotBeWrittenIsAFailure(t *testing.T) {
	var stderr bytes.Buffer
	code := Main(t.Context(), []string{"version"}, Streams{In: strings.NewReader(""), Out: brokenWriter{}, Err: &stderr})
	if code != rbee.ExitFailed || !strings.Contains(stderr.String(), "cannot write to standard output: the pipe is broken") {
		t.Errorf("exit code %d, stderr %q", code, stderr.String())
	}
}

func TestLastWordsOfAProgram(t *testing.T) {
	for name, tc := range map[string]struct {
		lines []string
		want  string
	}{
		"ours":    {[]string{"{}", "Error: the port is taken", "Suggestion: choose another"}, "Error: the port is taken\nSuggestion: choose another\n"},
		"foreign": {[]string{"segfault", ""}, "Error: it ended (exit status 2): segfault\nSuggestion: see 'rbee doctor'\n"},
		"silent":  {nil, "Error: it ended (exit status 2)\nSuggestion: see 'rbee doctor'\n"},
	} {
		t.Run(name, func(t *testing.T) {
			o, _, stderr := testOutput()
			o.failure(lastWords("it ended", "exit status 2", tc.lines))
			if diff := cmp.Diff(tc.want, stderr.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
