package grammar

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"rbee"
)

// matches says whether a grammar has the whole text.
func matches(g *Grammar, text string) bool {
	a := newAutomaton(g.program, byteVocabulary())
	return a.walk(a.start, []byte(text)).ends
}

// byteVocabulary has the token 1 to end the text, no bytes for 2, and b+3 for each byte b.
func byteVocabulary() *Vocabulary {
	return NewVocabulary(func(t int32) []byte {
		if t < 3 {
			return nil
		}
		return []byte{byte(t - 3)}
	}, func(t int32) bool { return t == 1 }, 259)
}

func mustParse(t testing.TB, text string) *Grammar {
	t.Helper()
	g, err := Parse(text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return g
}

func TestGrammarsMatchWhatTheySay(t *testing.T) {
	for name, c := range map[string]struct {
		grammar string
		yes, no []string
	}{
		"text":                  {`root ::= "ab"`, []string{"ab"}, []string{"", "a", "abc", "AB"}},
		"empty text":            {`root ::= ""`, []string{""}, []string{"a"}},
		"nothing written":       {`root ::= `, []string{""}, []string{"a"}},
		"choice":                {`root ::= "a" | "bc" | ""`, []string{"a", "bc", ""}, []string{"b", "abc"}},
		"choice over lines":     {"root ::= \"a\" |\n  \"b\"\n", []string{"a", "b"}, []string{"ab"}},
		"group over lines":      {"root ::= (\n \"a\"\n | \"b\"\n) \"c\"", []string{"ac", "bc"}, []string{"c", "abc"}},
		"rules":                 {"root ::= x y\nx ::= \"1\"\ny ::= \"2\"\n", []string{"12"}, []string{"1", "21"}},
		"rule on the next line": {"root ::=\n  x\nx ::= \"1\"", []string{"1"}, []string{""}},
		"comments":              {"# first\nroot ::= \"a\" # not \"b\"\n# last", []string{"a"}, []string{"ab"}},
		"class":                 {`root ::= [a-cX]`, []string{"a", "b", "c", "X"}, []string{"d", "x", "", "ab"}},
		"class with a dash":     {`root ::= [a-]`, []string{"a", "-"}, []string{"b"}},
		"class of brackets":     {`root ::= [\[\]\\]`, []string{"[", "]", `\`}, []string{"a"}},
		"negated":               {`root ::= [^a-c\n]`, []string{"d", "é", "😀", "\x00"}, []string{"a", "\n", "", "dd", "\xff"}},
		"any character":         {`root ::= .`, []string{"a", "\n", "é", "\U0010ffff"}, []string{"", "ab", "\xc3", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\x80"}},
		"escapes":               {`root ::= "\x41\u00e9\U0001F600\t\"\\"`, []string{"Aé😀\t\"\\"}, []string{"A"}},
		"unicode class":         {`root ::= [а-яα-ω]+`, []string{"привет", "λόγ"[:2], "ж"}, []string{"a", "Ж"}},
		"star":                  {`root ::= "a"*`, []string{"", "a", "aaaa"}, []string{"b", "ab"}},
		"plus":                  {`root ::= ("a" | "b")+`, []string{"a", "abba"}, []string{"", "c"}},
		"maybe":                 {`root ::= "a"? "b"`, []string{"ab", "b"}, []string{"a", "aab"}},
		"exactly":               {`root ::= "ab"{2}`, []string{"abab"}, []string{"ab", "ababab", "abb"}},
		"at least":              {`root ::= [ab]{2,}`, []string{"ab", "abab"}, []string{"", "a"}},
		"from to":               {`root ::= ("a" "b"?){1, 3}`, []string{"a", "aba", "ababab"}, []string{"", "aaaa", "abb"}},
		"none":                  {`root ::= "a"{0} "b"`, []string{"b"}, []string{"ab"}},
		"up to":                 {`root ::= "a"{0,2}`, []string{"", "a", "aa"}, []string{"aaa"}},
		"repeated repetition":   {`root ::= "a"{2}{3}`, []string{"aaaaaa"}, []string{"aa", "aaa"}},
		"repeated emptiness":    {`root ::= ("a"* | "")* "b"`, []string{"b", "aab"}, []string{"", "a"}},
		"many times nothing":    {"root ::= x{99}{9} \"b\"\nx ::= \"a\"?", []string{"b", "aab"}, []string{"", "a"}},
		"recursion":             {`root ::= "(" root ")" | ""`, []string{"", "()", "((()))"}, []string{"(", "())", ")("}},
		"right recursion":       {`root ::= "a" root | "b"`, []string{"b", "aab", strings.Repeat("a", 5000) + "b"}, []string{"", "a"}},
		"ambiguity":             {"root ::= x x\nx ::= \"a\" | \"aa\"", []string{"aa", "aaa", "aaaa"}, []string{"a", "aaaaa"}},
		"names":                 {"root ::= my-rule_1\nmy-rule_1 ::= \"a\"", []string{"a"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			g := mustParse(t, c.grammar)
			for _, text := range c.yes {
				if !matches(g, text) {
					t.Errorf("%q is not matched", text)
				}
			}
			for _, text := range c.no {
				if matches(g, text) {
					t.Errorf("%q is matched", text)
				}
			}
		})
	}
}

func TestEachCharacterHasItsEncodingAndNoOther(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		var set charset
		for range 1 + r.IntN(3) {
			low := rune(r.IntN(0x110000)) >> r.IntN(20)
			set = append(set, span{low, min(low+rune(r.IntN(0x1000)), 0x10ffff)})
		}
		set = set.normal()
		if r.IntN(3) == 0 {
			set = set.complement()
		}
		var s byteSets
		s.known = map[byteSpan]int32{}
		var starts []int32
		for _, x := range set {
			starts = s.encode(starts, x.low, x.high)
		}
		has := func(text string) bool {
			at := starts
			for i := range len(text) {
				var next []int32
				for _, n := range at {
					if b := s.spans[n]; b.low <= text[i] && text[i] <= b.high {
						if b.next < 0 {
							return i == len(text)-1
						}
						next = append(next, b.next)
					}
				}
				at = next
			}
			return false
		}
		for range 200 {
			c := rune(r.IntN(0x110000)) >> r.IntN(20)
			if len(set) > 0 && r.IntN(2) == 0 {
				c = set[r.IntN(len(set))].low + rune(r.IntN(3)) - 1
			}
			if c < 0 || 0xd800 <= c && c <= 0xdfff || c > 0x10ffff {
				continue
			}
			want := slices.ContainsFunc(set, func(x span) bool { return x.low <= c && c <= x.high })
			if got := has(string(c)); got != want {
				t.Fatalf("%U in %v: %t, want %t", c, set, got, want)
			}
		}
	}
}

func TestWhatIsWrongWithAGrammarIsSaid(t *testing.T) {
	deep := strings.Repeat("(", 300) + `"a"` + strings.Repeat(")", 300)
	for name, c := range map[string]struct{ grammar, says string }{
		"empty":                {"", "no rule root"},
		"no root":              {`start ::= "a"`, "no rule root"},
		"unknown rule":         {"root ::= \"a\" |\n  x", "line 2: there is no rule x"},
		"twice":                {"root ::= \"a\"\nroot ::= \"b\"", "line 2: rule root is there twice"},
		"no sign":              {`root = "a"`, "::= is missing after root"},
		"no name":              {`::= "a"`, "name of a rule is missing"},
		"open text":            {`root ::= "a`, "text is not closed"},
		"open class":           {`root ::= [a`, "class is not closed"},
		"open group":           {`root ::= ("a"`, "parenthesis is not closed"},
		"open repetition":      {`root ::= "a"{2`, "repetition is not closed"},
		"repetition of what":   {`root ::= *`, `unexpected "*"`},
		"missing number":       {`root ::= "a"{,3}`, "number is missing"},
		"turned around":        {`root ::= "a"{3,2}`, "maximum below its minimum"},
		"turned class":         {`root ::= [z-a]`, "ends before it begins"},
		"empty class":          {`root ::= []`, "class is empty"},
		"empty negation":       {`root ::= [^]`, "class is empty"},
		"escape":               {`root ::= "\q"`, "backslash"},
		"short escape":         {`root ::= "\x4"`, "2 hexadecimal digits"},
		"beyond unicode":       {`root ::= "\U00110000"`, "U+10FFFF"},
		"surrogate":            {`root ::= "\ud800"`, "surrogate"},
		"stray":                {`root ::= "a" )`, `unexpected ")"`},
		"token":                {`root ::= <think>`, "tokens such as"},
		"not UTF-8":            {"root ::= \"\xff\"", "not UTF-8"},
		"left recursion":       {"root ::= expr\nexpr ::= expr \"+\" | \"1\"", "rule expr begins with itself"},
		"hidden recursion":     {"root ::= a\na ::= b? \"x\"* a \"y\" | \"z\"\nb ::= \"b\"", "rule a begins with itself"},
		"mutual recursion":     {"root ::= a\na ::= b\nb ::= a \"x\" | \"y\"", "begins with itself"},
		"endless":              {`root ::= "a" root`, "rule root can't end"},
		"nothing fits":         {`root ::= "a" [^\x00-\U0010FFFF]`, "rule root can't end"},
		"deep":                 {"root ::= " + deep, "inside one another"},
		"many signs":           {`root ::= "a"` + strings.Repeat("+", 300), "repetitions of one another"},
		"large repetition":     {`root ::= "a"{300000}`, "more than"},
		"repeated repetitions": {`root ::= ((("a"{1000}){1000}){1000}){300000}`, "more than"},
		"many repetitions":     {`root ::= ` + strings.Repeat(`[a-z]{0,100000} `, 10), "more than"},
		"large":                {`root ::= "` + strings.Repeat("a", maxText) + `"`, "more than"},
		"many ways":            {"root ::= a0 \"z\"\n" + fan(16), "more than 16384 ways to begin"},
		"many rules":           {"root ::= " + strings.Join(ruleNames(maxRules+1), " "), "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(c.grammar)
			if rbee.CodeOf(err) != rbee.CodeInvalidRequest || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("got %.200v, want INVALID_REQUEST that says %q", err, c.says)
			}
		})
	}
}

func ruleNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint("r", i)
	}
	return names
}

func TestNestedRepetitionsAddUp(t *testing.T) {
	g := mustParse(t, `root ::= (("a"{50}){50}){50}`)
	if n := len(g.program.steps); n > 200 {
		t.Errorf("the program has %d steps", n)
	}
	if !matches(g, strings.Repeat("a", 125_000)) || matches(g, strings.Repeat("a", 124_999)) {
		t.Error("it doesn't count right")
	}
}

// pieces is a vocabulary: token 0 ends the text, the others are as written.
func piecesOf(list ...string) *Vocabulary {
	return NewVocabulary(
		func(t int32) []byte { return []byte(list[t]) },
		func(t int32) bool { return t == 0 }, len(list))
}

func TestTokensMaySplitCharactersAndJoinRules(t *testing.T) {
	v := piecesOf("</s>", "\xc3", "\xa9", "é", "x\xc3", "\xa9x", "éx", "ééé", "", "\xff", "x")
	m := mustParse(t, "root ::= word \"x\"\nword ::= \"é\"{1,2}").StartWith(v)
	for _, step := range []struct {
		token int32
		after []int32 // what may come then
	}{
		{1, []int32{2, 5}},
		{2, []int32{1, 3, 6, 10}},
		{3, []int32{10}},
		{10, []int32{0}},
		{0, nil},
	} {
		if !m.Allows(step.token) {
			t.Fatalf("token %d may not come", step.token)
		}
		m.Accept(step.token)
		if got := allowed(m); !slices.Equal(got, step.after) {
			t.Fatalf("after %d may come %v, want %v", step.token, got, step.after)
		}
		if got := m.MustEnd(); got != slices.Equal(step.after, []int32{0}) {
			t.Errorf("after %d the text must end: %t", step.token, got)
		}
	}
}

// allowed are the tokens that the mask leaves; it must say the same as Allows.
func allowed(m *Matcher) []int32 {
	size := m.automaton.vocabulary.size()
	before := make([]bool, size)
	for t := range before {
		before[t] = m.Allows(int32(t))
	}
	logits := make([]float32, size+100) // a model's row may be longer than its vocabulary
	m.Mask(logits)
	var list []int32
	for t, l := range logits {
		masked := math.IsInf(float64(l), -1)
		if t >= size {
			if !masked {
				panic("a token beyond the vocabulary is allowed")
			}
			continue
		}
		if before[t] == masked || m.Allows(int32(t)) == masked {
			panic(fmt.Sprintf("token %d: Allows says %t before and %t after the mask, which says %t", t, before[t], m.Allows(int32(t)), !masked))
		}
		if !masked {
			list = append(list, int32(t))
		}
	}
	return list
}

func TestTheEndMayComeWhereTheGrammarMayEnd(t *testing.T) {
	v := piecesOf("</s>", "a", "b")
	for text, want := range map[string][]int32{
		`root ::= "a"+`:         {0, 1},
		`root ::= "ab"?`:        {2},
		`root ::= "a"`:          {0},
		`root ::= "a" ("b"*)`:   {0, 2},
		`root ::= "a" "b" | ""`: {2},
	} {
		m := mustParse(t, text).StartWith(v)
		m.Accept(1)
		if got := allowed(m); !slices.Equal(got, want) {
			t.Errorf("%s: after a may come %v, want %v", text, got, want)
		}
	}
}

func TestAForbiddenTokenLeavesNothing(t *testing.T) {
	for _, token := range []int32{2, -1, 3, 1000, 0} {
		m := mustParse(t, `root ::= "aa"`).StartWith(piecesOf("</s>", "a", "b", ""))
		m.Accept(token)
		if got := allowed(m); got != nil || m.MustEnd() {
			t.Errorf("after %d may come %v", token, got)
		}
	}
}

func TestMatchersOfOneGrammarDoNotDisturbOneAnother(t *testing.T) {
	g, v := mustParse(t, `root ::= "a" root "b" | ""`), piecesOf("</s>", "a", "b")
	first, second := g.StartWith(v), g.StartWith(v)
	first.Accept(1)
	first.Accept(1)
	second.Accept(1)
	first.Accept(2)
	if got := allowed(first); !slices.Equal(got, []int32{2}) {
		t.Errorf("the first may go on with %v", got)
	}
	if got := allowed(second); !slices.Equal(got, []int32{1, 2}) {
		t.Errorf("the second may go on with %v", got)
	}
	third := g.Start(func(t int32) []byte { return []byte{'a' + byte(t)} }, func(int32) bool { return false }, 2)
	if got := allowed(third); !slices.Equal(got, []int32{0}) {
		t.Errorf("the third may go on with %v", got)
	}
}

func TestDeepNestingIsBounded(t *testing.T) {
	m := mustParse(t, `root ::= "(" root ")" | "x"`).StartWith(piecesOf("</s>", "(", ")", "x"))
	depth := 0
	for m.Allows(1) {
		m.Accept(1)
		depth++
	}
	if depth < maxDepth-1 || depth > maxDepth+1 {
		t.Errorf("it nests %d deep", depth)
	}
	for m.Accept(3); m.Allows(2); depth-- {
		m.Accept(2)
	}
	if depth != 0 || !m.MustEnd() {
		t.Errorf("%d are left open", depth)
	}
}

func TestForgottenStatesComeBack(t *testing.T) {
	g := mustParse(t, `root ::= ("(" root ")" | [a-z]{0,50} "\n")+`)
	v := byteVocabulary()
	m, r := g.StartWith(v), rand.New(rand.NewPCG(1, 2))
	for step := range 3000 {
		m.automaton.memory += maxMemory / 50 // as if the states were large
		options := allowed(m)
		if len(options) == 0 {
			t.Fatalf("nothing may come after %d tokens", step)
		}
		if n := len(options); options[0] == 1 { // not the end
			options = options[1:n]
		}
		m.Accept(options[r.IntN(len(options))])
	}
	if m.automaton.generation < 10 {
		t.Errorf("the states were forgotten %d times", m.automaton.generation)
	}
}

func TestMemoryGrowsWithWhatWasFoundOut(t *testing.T) {
	small, large := mustParse(t, `root ::= "a"`), mustParse(t, `root ::= ("a" | "b"){9999}`)
	if a, b := small.Memory(), large.Memory(); a <= 0 || b < 9999*12 {
		t.Errorf("a small grammar takes %d bytes, a large one %d", a, b)
	}
	before := small.Memory()
	m := small.StartWith(byteVocabulary())
	m.Mask(make([]float32, 259))
	if after := small.Memory(); after <= before {
		t.Errorf("it takes %d bytes, and with a mask %d", before, after)
	}
}

// Ambiguity that doubles with each byte, and rules that remember all of the text.
func TestHostileGrammarsTakeBoundedTimeAndMemory(t *testing.T) {
	many := make([]string, 3000)
	r := rand.New(rand.NewPCG(3, 3))
	for i := range many {
		many[i] = string([]byte{byte('a' + r.IntN(3)), byte('a' + r.IntN(3)), byte('a' + r.IntN(3)), byte('a' + r.IntN(3)), byte('a' + r.IntN(3)), byte('a' + r.IntN(3)), byte('a' + r.IntN(3))}[:1+r.IntN(7)])
	}
	v := piecesOf(append([]string{"</s>"}, many...)...)
	for name, text := range map[string]string{
		"doubling":  `root ::= "a" root "x" | "a" root "y" | [abc] root "z" | "q"`,
		"many ways": `root ::= ([abc]{0,9} [abc]{0,9} [abc]{0,9} [abc]{0,9} [abc]{0,9}){0,300} "z"`,
		"memory":    `root ::= "a" root "a" | "b" root "b" | "c" root "c" | "q"`,
		"fan":       "root ::= a0 \"z\"\n" + fan(11),
	} {
		t.Run(name, func(t *testing.T) {
			m := mustParse(t, text).StartWith(v)
			start := time.Now()
			for step := range 8 {
				logits := make([]float32, v.size())
				m.Mask(logits)
				options := slices.Collect(func(yield func(int32) bool) {
					for token, l := range logits {
						if l == 0 && token > 0 && !yield(int32(token)) {
							return
						}
					}
				})
				if len(options) == 0 {
					t.Fatalf("nothing may come after %d tokens", step)
				}
				m.Accept(options[r.IntN(len(options))])
				if m.automaton.memory > 2*maxMemory {
					t.Fatalf("the states take %d bytes", m.automaton.memory)
				}
			}
			t.Logf("%v for 8 tokens", time.Since(start))
		})
	}
}

// fan are rules whose ways double from each to the next.
func fan(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "a%d ::= a%d \"x\" | a%d \"y\" | \"c\" a%d\n", i, i+1, i+1, i+1)
	}
	fmt.Fprintf(&b, "a%d ::= [abc] a0 | \"c\"\n", n)
	return b.String()
}
