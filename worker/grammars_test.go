package worker

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	"rbee"
	"rbee/worker/grammar"
)

func mustAnswer(t *testing.T, k *grammars, gbnf, schema string) *grammar.Grammar {
	t.Helper()
	g, err := k.answer(gbnf, json.RawMessage(schema), false)
	if err != nil || g == nil {
		t.Fatalf("%s%s gave %v, %v", gbnf, schema, g, err)
	}
	return g
}

func TestAGrammarIsReadOnce(t *testing.T) {
	var k grammars
	first := mustAnswer(t, &k, `root ::= "a"`, "")
	if again := mustAnswer(t, &k, `root ::= "a"`, ""); again != first {
		t.Error("the same text was read again")
	}
	if other := mustAnswer(t, &k, `root ::= "b"`, ""); other == first {
		t.Error("another text gave the same grammar")
	}
	schema := mustAnswer(t, &k, "", `{"type":"string"}`)
	if again := mustAnswer(t, &k, "", `{"type":"string"}`); again != schema {
		t.Error("the same schema was read again")
	}
	if g, err := k.answer("", nil, false); g != nil || err != nil {
		t.Errorf("nothing asked for gave %v, %v", g, err)
	}
	anyJSON, err := k.answer("", nil, true)
	if again, _ := k.answer("", nil, true); err != nil || anyJSON == nil || again != anyJSON {
		t.Errorf("any JSON gave %v and %v, %v", anyJSON, again, err)
	}
}

func TestRequestsAtOnceShareOneReading(t *testing.T) {
	var k grammars
	reads := 0
	key := grammarKey{schema: true}
	read := func() (*grammar.Grammar, error) {
		reads++ // a second reading would be a race as well
		return grammar.Parse(`root ::= "a"`)
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, err := k.get(key, read); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if reads != 1 {
		t.Errorf("it was read %d times", reads)
	}
}

func TestABadGrammarIsNotKept(t *testing.T) {
	var k grammars
	for range 2 {
		if _, err := k.answer(`root ::= (`, nil, false); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
			t.Errorf("got %v", err)
		}
	}
	if len(k.known) != 0 || k.recent.Len() != 0 {
		t.Errorf("%d grammars are kept", len(k.known))
	}
}

func TestGrammarsThatWereNotUsedForLongAreForgotten(t *testing.T) {
	var k grammars
	used := mustAnswer(t, &k, `root ::= "used"`, "")
	old := mustAnswer(t, &k, `root ::= "old"`, "")
	for i := range maxGrammars - 1 {
		mustAnswer(t, &k, fmt.Sprintf(`root ::= "%d"`, i), "")
		if mustAnswer(t, &k, `root ::= "used"`, "") != used {
			t.Fatal("the grammar in use was forgotten")
		}
	}
	if len(k.known) != maxGrammars || k.recent.Len() != maxGrammars {
		t.Errorf("%d are known and %d in order, want %d", len(k.known), k.recent.Len(), maxGrammars)
	}
	if mustAnswer(t, &k, `root ::= "old"`, "") == old {
		t.Error("the one that was not used is still there")
	}
}

func TestGrammarsAreBoundedInMemory(t *testing.T) {
	var k grammars
	const large = 200_000 // steps, of 12 bytes each at least
	for i := range 3 * maxGrammarMemory / (12 * large) {
		mustAnswer(t, &k, fmt.Sprintf(`root ::= "%d" [a-z]{%d}`, i, large), "")
	}
	total := 0
	for _, e := range k.known {
		total += e.Value.(*keptGrammar).done.Memory()
	}
	if total > maxGrammarMemory || len(k.known) < 2 {
		t.Errorf("%d grammars take %d bytes", len(k.known), total)
	}
}
