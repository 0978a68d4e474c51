package main

import (
	"strings"
	"time"
)

// arrival is a request of a trace, without its text: the same trace is sent with
// other words each time, so that no cache knows it from before.
type arrival struct {
	at     time.Duration
	kind   kind
	group  int // with whom it shares its beginning, -1 with nobody
	shared int // words of that
	own    int // words
	tokens int // of the answer
}

// kind is what a request asks for.
type kind string

const (
	chat       kind = "chat"       // streamed
	completion kind = "completion" // streamed
	embedding  kind = "embedding"  // an answer without a first token
)

// drawKind draws 45 chats, 40 completions and 15 embeddings of 100.
func (l letters) drawKind() kind {
	switch n := l.IntN(100); {
	case n < 45:
		return chat
	case n < 85:
		return completion
	default:
		return embedding
	}
}

// traceOf is a kind of trace.
type traceOf struct {
	name      string
	requests  int
	perSecond float64
	groups    int // of prompts with a common beginning, half of them of chats; 0 for none
	shared    int // words of it
	most      int // words of what is not shared
	goals     [2]float64
}

// traces are what the dispatchers are compared on.
func traces() []traceOf {
	return []traceOf{
		{name: "all prompts differ", requests: 500, perSecond: 16, most: 640, goals: [2]float64{0.7, 0.85}},
		{name: "24 common beginnings", requests: 500, perSecond: 12, groups: 24, shared: 800, most: 120, goals: [2]float64{0.5, 0}},
	}
}

// draw makes a trace: a Poisson process of requests of all lengths.
func (t traceOf) draw(l letters) (all []arrival) {
	at := 0.0
	for range t.requests {
		at += l.ExpFloat64() / t.perSecond
		a := arrival{at: time.Duration(at * float64(time.Second)), kind: l.drawKind(), group: -1, own: 16 + l.IntN(t.most-15), tokens: 4 + l.IntN(60)}
		if t.groups > 0 && a.kind != embedding {
			a.group, a.shared = 2*l.IntN(t.groups/2), t.shared
			if a.kind == completion { // chats and completions do not begin alike
				a.group++
			}
		}
		all = append(all, a)
	}
	return all
}

// vocabulary are words that are a token each for the engine without a model.
var vocabulary = [...]string{" the", " bee", " flies", " flower", " hums", " softly", " warm", " light", " over", " green", " hills", " golden", " honey"}

// words draws a text of so many tokens, and one for its beginning.
func (l letters) words(n int) string {
	var b strings.Builder
	for range n {
		b.WriteString(vocabulary[l.IntN(len(vocabulary))])
	}
	return b.String()
}

// text is what a request says: a beginning that it shares with others, or none, and
// the rest.
type text struct{ common, own string }

// texts are those of a trace.
func (l letters) texts(trace []arrival) (all []text) {
	common := map[int]string{}
	for _, a := range trace {
		if a.group >= 0 && common[a.group] == "" {
			common[a.group] = l.words(a.shared)
		}
		all = append(all, text{common[a.group], l.words(a.own)})
	}
	return all
}
