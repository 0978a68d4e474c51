package fake

import (
	"context"
	"sync"
	"time"

	"rbee"
	"rbee/worker/engine"
	"rbee/worker/engine/slots"
)

// prompts computes prompts one after the other, as an engine does whose compute
// they share, and knows what sequences began with, running or ended.
type prompts struct {
	each  time.Duration // for a token that no sequence has
	cells int           // that all sequences together may take
	turn  chan struct{} // of one place: taken by the prompt that is computed

	mu         sync.Mutex
	kept       []sequence // the oldest first
	used       int
	hits       uint64
	cachedEver uint64
}

// sequence is what was computed once. Cells that it shares with another are not its own.
type sequence struct {
	tokens []engine.Token
	own    int
}

func newPrompts(each time.Duration, cells int) *prompts {
	return &prompts{each: each, cells: cells, turn: make(chan struct{}, 1)}
}

// compute waits for the prompt's turn, then for as long as what no sequence has
// takes. The last token is always computed, or nothing could follow it.
func (e *Engine) compute(ctx context.Context, prompt []engine.Token, result *engine.Result, called time.Time) rbee.StopReason {
	p := e.prompts
	if p == nil {
		return ""
	}
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return rbee.StopCanceled
	case <-e.closed:
		return rbee.StopShutdown
	}
	defer func() { <-p.turn }()
	result.Queued = time.Since(called)
	result.CachedTokens = p.find(prompt)
	fresh := len(prompt) - result.CachedTokens
	if reason := e.pause(ctx, time.Duration(fresh)*p.each, nil); reason != "" {
		return reason
	}
	p.keep(prompt, fresh)
	return ""
}

// find is how many tokens of a prompt some sequence begins with.
func (p *prompts) find(prompt []engine.Token) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	most, n := prompt[:len(prompt)-1], 0
	at := -1
	for i, s := range p.kept {
		if c := slots.Common(s.tokens, most); c > n {
			n, at = c, i
		}
	}
	if at >= 0 {
		p.hits++
		p.cachedEver += uint64(n)
		s := p.kept[at]
		p.kept = append(append(p.kept[:at:at], p.kept[at+1:]...), s)
	}
	return n
}

// keep adds a sequence; the oldest ones go for it.
func (p *prompts) keep(tokens []engine.Token, own int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept = append(p.kept, sequence{tokens, own})
	p.used += own
	for p.used > p.cells && len(p.kept) > 0 {
		p.used -= p.kept[0].own
		p.kept = p.kept[1:]
	}
}

// forget gives all cells back.
func (p *prompts) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept, p.used = nil, 0
}

// tell adds what is known to the figures of an engine.
func (p *prompts) tell(s *engine.Stats) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.KVCached = min(p.used, max(0, s.KVTotal-s.KVUsed))
	s.CacheHits, s.CachedTokens = p.hits, p.cachedEver
}
