package text_test

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"rbee/worker/text"
)

// run pushes the pieces and returns each text that came out, the flush last.
func run(s *text.Stream, pieces ...string) (out []string, stopped bool) {
	for _, p := range pieces {
		t, stop := s.Push([]byte(p))
		out = append(out, string(t))
		if stop {
			stopped = true
		}
	}
	return append(out, string(s.Flush())), stopped
}

func TestPiecesBecomeTextThatCanBeShown(t *testing.T) {
	cases := []struct {
		name    string
		stops   []string
		pieces  []string
		want    []string // one per piece, then the flush
		stopped bool
	}{
		{"plain", nil, []string{"Once", " upon"}, []string{"Once", " upon", ""}, false},
		{"nothing", nil, nil, []string{""}, false},
		{"empty piece", nil, []string{"a", "", "b"}, []string{"a", "", "b", ""}, false},
		{"split emoji", nil, []string{"a\xf0\x9f", "\x90", "\x9db"}, []string{"a", "", "🐝b", ""}, false},
		{"emoji byte by byte", nil, []string{"\xf0", "\x9f", "\x90", "\x9d"}, []string{"", "", "", "🐝", ""}, false},
		{"invalid byte", nil, []string{"a\xffb"}, []string{"a\ufffdb", ""}, false},
		{"broken character", nil, []string{"\xe2\x82", "A"}, []string{"", "\ufffd\ufffdA", ""}, false},
		{"a character begins in a broken one", nil, []string{"\xe2", "\xc3", "\xa9"}, []string{"", "\ufffd", "é", ""}, false},
		{"cut at the end", nil, []string{"a\xe2\x82"}, []string{"a", "\ufffd\ufffd"}, false},
		{"surrogate", nil, []string{"\xed\xa0\x80"}, []string{"\ufffd\ufffd\ufffd", ""}, false},
		{"stop in one piece", []string{"END"}, []string{"so END more", "x"}, []string{"so ", "", ""}, true},
		{"stop over pieces", []string{"END"}, []string{"so E", "N", "D more"}, []string{"so ", "", "", ""}, true},
		{"no stop after all", []string{"END"}, []string{"E", "N", "X"}, []string{"", "", "ENX", ""}, false},
		{"beginning of a stop at the end", []string{"END"}, []string{"so EN"}, []string{"so ", "EN"}, false},
		{"empty piece while held", []string{"END"}, []string{"so EN", "", "D"}, []string{"so ", "", "", ""}, true},
		{"stop at once", []string{"a"}, []string{"a"}, []string{"", ""}, true},
		{"overlap", []string{"aab"}, []string{"aa", "a", "b"}, []string{"", "a", "", ""}, true},
		{"two stops, first end wins", []string{"abcd", "bc"}, []string{"abcd"}, []string{"a", ""}, true},
		{"two stops, first end wins, in pieces", []string{"abcd", "bc"}, []string{"a", "b", "c", "d"}, []string{"", "", "a", "", ""}, true},
		{"two stops, same end, longest wins", []string{"c", "abc"}, []string{"xabc"}, []string{"x", ""}, true},
		{"stop with emoji, split", []string{"🐝!"}, []string{"a\xf0\x9f", "\x90\x9d", "!"}, []string{"a", "", "", ""}, true},
		{"emoji that shares bytes with the stop", []string{"🐝"}, []string{"🐜"}, []string{"🐜", ""}, false},
		{"stop made of the flush", []string{"\ufffd"}, []string{"a\xe2"}, []string{"a", ""}, false},
		{"empty stops are ignored", []string{"", "b"}, []string{"ab"}, []string{"a", ""}, true},
		{"stop of new lines", []string{"\n\n"}, []string{"a\n", "b\n", "\n"}, []string{"a", "\nb", "", ""}, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, stopped := run(text.NewStream(c.stops), c.pieces...)
			if strings.Join(got, "|") != strings.Join(c.want, "|") || stopped != c.stopped {
				t.Errorf("got %q stopped %v, want %q stopped %v", got, stopped, c.want, c.stopped)
			}
		})
	}
}

func TestTheZeroStreamWorks(t *testing.T) {
	var s text.Stream
	if got, _ := run(&s, "a", "b"); strings.Join(got, "") != "ab" {
		t.Errorf("got %q", got)
	}
}

func TestATokenCostsNoAllocation(t *testing.T) {
	token := []byte(" upon")
	for name, stops := range map[string][]string{"without stops": nil, "with stops": {"END", " upside", "\n\n"}} {
		s := text.NewStream(stops)
		s.Push(token)
		if n := testing.AllocsPerRun(100, func() { s.Push(token) }); n != 0 {
			t.Errorf("%s: %v allocations a token, want 0", name, n)
		}
	}
}

// expected is what the whole of the bytes comes to, by the plainest means.
func expected(all []byte, stops []string) (string, bool) {
	whole := string([]rune(string(all)))
	for end := range len(whole) + 1 {
		longest := 0
		for _, stop := range stops {
			if stop != "" && strings.HasSuffix(whole[:end], stop) {
				longest = max(longest, len(stop))
			}
		}
		if longest > 0 {
			return whole[:end-longest], true
		}
	}
	return whole, false
}

func FuzzTextIsTheSameHoweverItIsCut(f *testing.F) {
	f.Add([]byte("Once upon a time 🐝"), "ti", " 🐝", []byte{1, 2, 3})
	f.Add([]byte("aaaaab\xf0\x9f\x90"), "aab", "ab", []byte{1})
	f.Add([]byte("\xe2\x82\xe2\x82\xac\xff"), "€", "\ufffd", []byte{2, 1})
	f.Fuzz(func(t *testing.T, all []byte, stop1, stop2 string, cuts []byte) {
		stops := []string{strings.ToValidUTF8(stop1, ""), strings.ToValidUTF8(stop2, "")}
		want, _ := expected(all, stops)
		s := text.NewStream(stops)
		var got []byte
		add := func(b []byte) {
			if !utf8.Valid(b) {
				t.Fatalf("%q is no UTF-8", b)
			}
			got = append(got, b...)
			if !strings.HasPrefix(want, string(got)) {
				t.Fatalf("showed %q, which is no beginning of %q", got, want)
			}
		}
		rest := all
		for _, c := range cuts {
			n := min(int(c), len(rest))
			piece := bytes.Clone(rest[:n])
			out, _ := s.Push(piece)
			clear(piece) // a Stream keeps nothing of the caller's
			add(out)
			rest = rest[n:]
		}
		out, _ := s.Push(rest)
		add(out)
		add(s.Flush())
		if string(got) != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

func BenchmarkPush(b *testing.B) {
	token := []byte(" upon")
	for _, c := range []struct {
		name  string
		stops []string
	}{{"no stops", nil}, {"four stops", []string{"</s>", "\n\n", "User:", " under"}}} {
		b.Run(c.name, func(b *testing.B) {
			s := text.NewStream(c.stops)
			b.ReportAllocs()
			for b.Loop() {
				s.Push(token)
			}
		})
	}
}
