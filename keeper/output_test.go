package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"rbee"
	"rbee/internal/daemon"
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
	want := "  fetching: 0% (0.0 MB of 1.0 GB)\n  fetching: 25% (250 MB of 1.0 GB)\n  fetching: 50% (500 MB of 1.0 GB)\n" +
		"  fetching: 75% (750 MB of 1.0 GB)\n  fetching: 100% (1.0 GB of 1.0 GB)\n"
	if diff := cmp.Diff(want, stderr.String()); diff != "" {
		t.Error(diff)
	}
}

func TestSizesAreInTheUnitThatPeopleSay(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0.0 MB", 1_400_000: "1.4 MB", 250_000_000: "250 MB", 999_400_000: "999 MB", 999_600_000: "1.0 GB",
		4_100_000_000: "4.1 GB", 99_940_000_000: "99.9 GB", 250_000_000_000: "250 GB", 1_500_000_000_000: "1.5 TB",
	} {
		if got := size(bytes); got != want {
			t.Errorf("%d bytes are %q, want %q", bytes, got, want)
		}
	}
}

func TestSpansAreAsExactAsOneWantsToKnow(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "1 s", 34 * time.Second: "34 s", 59600 * time.Millisecond: "1 min 0 s", 125 * time.Second: "2 min 5 s", 72*time.Minute + 31*time.Second: "1 h 12 min",
	} {
		if got := span(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

func TestTheBarFitsTheTerminal(t *testing.T) {
	const total = 4_100_000_000
	p := pace{mbps: 87.4, left: 34 * time.Second, connections: 8}
	for name, tc := range map[string]struct {
		width int
		want  string
	}{
		"unknown": {0, "  downloading " + strings.Repeat("█", 15) + strings.Repeat("░", 15) + " 2.0 GB of 4.1 GB, 87.4 MB/s on 8 connections, 34 s left"},
		"usual":   {80, "  downloading " + strings.Repeat("█", 12) + strings.Repeat("░", 13) + " 2.0 GB of 4.1 GB, 87.4 MB/s, 34 s left"},
		"shorter": {88, "  downloading " + strings.Repeat("█", 15) + strings.Repeat("░", 15) + " 2.0 GB of 4.1 GB, 87.4 MB/s, 34 s left"},
		"less":    {70, "  downloading " + strings.Repeat("█", 7) + strings.Repeat("░", 8) + " 2.0 GB of 4.1 GB, 87.4 MB/s, 34 s left"},
		"narrow":  {45, "  downloading " + strings.Repeat("█", 5) + strings.Repeat("░", 5) + " 2.0 GB of 4.1 GB"},
		"no room": {30, "  downloading 2.0 GB of 4.1 G"},
		"a slit":  {10, "  downloa"},
	} {
		t.Run(name, func(t *testing.T) {
			o, _, stderr := testOutput()
			o.terminal, o.width = true, func() int { return tc.width }
			o.bar(0, "downloading", "bytes").setPace(total/2, total, p)
			if diff := cmp.Diff("\r\x1b[K"+tc.want, stderr.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestABarMeasuresThePaceOfWorkThatDoesNotKnowIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, _, stderr := testOutput()
		o.terminal = true
		b := o.bar(0, "verifying", "bytes")
		b.set(100e6, 1000e6)
		if got := stderr.String(); strings.Contains(got, "MB/s") {
			t.Errorf("a pace out of nothing: %q", got)
		}
		stderr.Reset()
		<-time.After(2 * time.Second)
		b.set(300e6, 1000e6)
		if got := stderr.String(); !strings.HasSuffix(got, " 300 MB of 1.0 GB, 100.0 MB/s, 7 s left") {
			t.Errorf("got %q", got)
		}
	})
}

func TestJSONProgressIsAnEventPerPercent(t *testing.T) {
	o, stdout, stderr := testOutput()
	o.json = true
	b := o.bar(3, "downloading", "bytes")
	for done := range int64(1001) {
		b.setPace(done, 1000, pace{mbps: 1.5, left: 2 * time.Second, connections: 4})
	}
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	want := `{"event":"progress","phase":3,"label":"downloading","done":0,"total":1000,"unit":"bytes","speed_mbps":1.5,"eta_seconds":2,"connections":4}`
	if len(lines) != 101 || lines[0] != want || stderr.Len() > 0 {
		t.Errorf("%d lines, the first %s, stderr %q", len(lines), lines[0], stderr)
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
			o.failure(daemon.LastWords("it ended", "exit status 2", tc.lines))
			if diff := cmp.Diff(tc.want, stderr.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
