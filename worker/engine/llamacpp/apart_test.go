package llamacpp

import (
	"slices"
	"testing"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee/worker/engine"
	"rbee/worker/engine/slots"
)

func TestSlotsHaveCellsOfTheirOwnWhereThereAreEnoughForAll(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*engine.Options)
		apart  bool
	}{
		{"enough", func(o *engine.Options) { o.Context, o.KVTokens = 512, 2048 }, true},
		{"one too few", func(o *engine.Options) { o.Context, o.KVTokens = 512, 2047 }, false},
		{"rounded up there are too few", func(o *engine.Options) { o.Context, o.KVTokens = 300, 1200 }, false},
		{"one slot", func(o *engine.Options) { o.Slots, o.Context, o.KVTokens = 1, 512, 512 }, false},
	} {
		e := loadTiny(t, c.change)
		if e.apart != c.apart {
			t.Errorf("%s: apart is %v", c.name, e.apart)
		}
		if each := int(llama.NCtxSeq(e.context)); c.apart && (each != 512 || e.info.KVTokens != 2048) {
			t.Errorf("%s: each slot has %d cells of %d", c.name, each, e.info.KVTokens)
		}
	}
}

func TestWhatIsPackedGivesTheSameText(t *testing.T) {
	for name, change := range map[string]func(*engine.Options){
		"16 bits":                 func(*engine.Options) {},
		"8 bits":                  func(o *engine.Options) { o.KVType = engine.KVQ8 },
		"without flash attention": func(o *engine.Options) { o.FlashAttention = engine.FlashOff },
	} {
		t.Run(name, func(t *testing.T) {
			both := func(o *engine.Options) { o.Slots = 2; ownCells(o); change(o) }
			e, fresh := loadTiny(t, both), loadTiny(t, func(o *engine.Options) { both(o); noReuse(o) })
			first := engine.Request{Tokens: words(t, e, 300, 400, "sun"), MaxTokens: 20, IgnoreEOS: true}
			for _, kind := range []string{"", "river", "and", "bee"} { // two slots can't keep four
				r := engine.Request{Tokens: words(t, e, 200, 300, kind), MaxTokens: 20, IgnoreEOS: true}
				if kind == "" {
					r = first
				}
				ask(t, e, r)
			}
			if s := e.Stats(); s.KVPacked == 0 {
				t.Fatalf("nothing was packed: %+v", s)
			}
			for _, c := range []struct {
				name   string
				tokens []engine.Token
				cached int
			}{
				{"the first again", first.Tokens, 399},
				{"one with a part of it", words(t, e, 250, 400, "flower"), 250},
				{"one with the beginning of all", words(t, e, 200, 210, "to"), 200},
			} {
				r := engine.Request{Tokens: c.tokens, MaxTokens: 20, IgnoreEOS: true}
				result, got := ask(t, e, r)
				if result.CachedTokens != c.cached {
					t.Errorf("%s: %d tokens were cached, want %d", c.name, result.CachedTokens, c.cached)
				}
				if _, want := ask(t, fresh, r); !slices.Equal(got, want) {
					t.Errorf("%s gave %q, computed anew %q", c.name, e.Detokenize(got), e.Detokenize(want))
				}
			}
		})
	}
}

func TestWhatIsNoStateIsNotTakenForOne(t *testing.T) {
	e := loadTiny(t, ownCells)
	ask(t, e, engine.Request{Tokens: words(t, e, 30, 40, "sun"), MaxTokens: 2, IgnoreEOS: true})
	id := 0 // the loop sleeps now
	for e.book.Holds(id) == 0 {
		id++
	}
	own := &apart{Engine: e, limit: leastState} // the loop may be about to sleep, and look at its one
	data := own.read(id, 41)
	if s, ok := readState(data); !ok || s.cells != 41 || s.from != 0 {
		t.Fatalf("%d cells from %d on, %v", s.cells, s.from, ok)
	}
	for n := 0; n < len(data); n += 1 + n/50 {
		if _, ok := readState(data[:n:n]); ok {
			t.Errorf("%d of %d bytes are taken for a state", n, len(data))
		}
	}
	if _, ok := readState(append(slices.Clone(data), 0)); ok {
		t.Error("more bytes are taken for a state")
	}
	for i := range 1000 {
		changed := slices.Clone(data)
		changed[i%len(data)] ^= 0x81
		readState(changed) // says what it likes, and ends
	}
}

func TestSequencesOfOtherNumbersFillTheGapsOfABatch(t *testing.T) {
	for _, c := range []struct {
		name    string
		decode  []int       // numbers of those that decode
		holds   map[int]int // tokens of others; those that decode have 10
		padding []int
		slow    bool // a row more makes the step shorter
	}{
		{"none is missing", []int{1, 2, 3, 4}, nil, nil, false},
		{"an empty one", []int{0, 1, 3, 4}, nil, []int{2}, false},
		{"a kept one", []int{0, 1, 3, 4}, map[int]int{2: 8}, []int{2}, false},
		{"a long one would hold up all", []int{0, 1, 3, 4}, map[int]int{2: 200}, nil, false},
		{"a full one", []int{0, 1, 3, 4}, map[int]int{2: 256}, nil, false},
		{"too wide", []int{0, 1, 5}, nil, nil, false},
		{"two", []int{0, 2, 3, 4, 6, 7}, nil, []int{1, 5}, false},
		{"nobody decodes", nil, nil, nil, true},
		{"three are slow", []int{2, 3, 4}, nil, []int{5}, true},
		{"the next is long", []int{2, 3, 4}, map[int]int{5: 200}, []int{1}, true},
		{"the last ones", []int{5, 6, 7}, nil, []int{4}, true},
		{"one on each side", []int{1, 2, 3, 4, 5, 6}, nil, []int{0, 7}, true},
		{"beside a filled gap", []int{1, 2, 4, 5, 6, 7}, nil, []int{0, 3}, true},
	} {
		e := still(t)
		e.info.Slots = 8
		if c.slow {
			for rows := range 8 {
				e.pace.times.shape[rows] = 1 + float64(rows%4)
			}
		}
		cells := &apart{Engine: e, each: 256}
		e.cells, e.book = cells, slots.NewBookApart(8, 256, noMemory{}, 0)
		for id := range 8 {
			n := c.holds[id]
			decodes := slices.Contains(c.decode, id)
			if decodes {
				n = 10
			}
			seq := join(t, e, make([]engine.Token, n+1), 10)
			seq.held, seq.mix = e.book.Start(seq.tokens, 0), nil
			e.book.Grow(seq.held, seq.tokens[:n])
			seq.fed = n
			seq.setID()
			if decodes {
				e.active = append([]*sequence{seq}, e.active...)
			}
		}
		e.cells.rows(e.ready())
		var padding []int
		for _, p := range cells.padded {
			padding = append(padding, p.id)
		}
		if !slices.Equal(padding, c.padding) || int(e.batch.NTokens) != len(c.decode)+len(padding) || e.padding != len(padding) {
			t.Errorf("%s: rows of %v are added, want of %v", c.name, padding, c.padding)
		}
		last := int32(-1)
		for _, seq := range e.computed {
			if seq.row <= last {
				t.Errorf("%s: the row of sequence %d is %d, after %d", c.name, seq.held.ID, seq.row, last)
			}
			last = seq.row
		}
		if cells.unpad(); len(cells.padded) > 0 {
			t.Errorf("%s: rows stay", c.name)
		}
	}
}
