package slots_test

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"rbee/worker/engine/slots"
)

// memory is a KV cache that knows which token each cell of each sequence is of.
type memory struct {
	t     *testing.T
	cells map[int][]*cell // by sequence
	total int
	apart bool
}

type cell struct{ token int32 }

func newMemory(t *testing.T) *memory { return &memory{t: t, cells: map[int][]*cell{}, total: 10_000} }

func (m *memory) Share(from, to, n int) bool {
	if len(m.cells[to]) > 0 || n > len(m.cells[from]) {
		m.t.Errorf("%d of %d cells are shared with a sequence of %d", n, len(m.cells[from]), len(m.cells[to]))
	}
	m.cells[to] = slices.Clone(m.cells[from][:n])
	if m.apart {
		for i, c := range m.cells[to] {
			m.cells[to][i] = &cell{c.token}
		}
	}
	return true
}

func (m *memory) Cut(seq, n int) { m.cells[seq] = m.cells[seq][:min(n, len(m.cells[seq]))] }

func (m *memory) Pack(seq, from, to int, memory func(int) []byte) []byte {
	data := memory(4 * (1 + to - from))[:0]
	data = binary.LittleEndian.AppendUint32(data, uint32(from))
	for _, c := range m.cells[seq][from:to] {
		data = binary.LittleEndian.AppendUint32(data, uint32(c.token))
	}
	return data
}

func (m *memory) Unpack(parcels []slots.Parcel, seq int) int {
	for _, p := range parcels {
		at, n := int(binary.LittleEndian.Uint32(p.Data)), len(p.Data)/4-1
		if len(m.cells[seq]) != p.From || at > p.From || p.To > at+n {
			m.t.Errorf("[%d, %d) of %d tokens from %d on is unpacked into a sequence of %d", p.From, p.To, n, at, len(m.cells[seq]))
		}
		if room := m.total - m.used(); room < n && !m.apart {
			m.t.Errorf("there are %d cells for a parcel of %d", room, n)
		}
		for i := p.From; i < p.To; i++ {
			m.cells[seq] = append(m.cells[seq], &cell{int32(binary.LittleEndian.Uint32(p.Data[4*(1+i-at):]))})
		}
	}
	return len(m.cells[seq])
}

// compute does what a batch would: it adds what the sequence lacks of the tokens.
func (m *memory) compute(b *slots.Book, h *slots.Held, tokens []int32) {
	for _, t := range tokens[h.Len():] {
		m.cells[h.ID] = append(m.cells[h.ID], &cell{t})
	}
	b.Grow(h, tokens)
}

func (m *memory) used() int {
	seen := map[*cell]bool{}
	for _, cells := range m.cells {
		for _, c := range cells {
			seen[c] = true
		}
	}
	return len(seen)
}

// holds fails the test unless the sequence's cells are those of the tokens.
func (m *memory) holds(h *slots.Held, tokens []int32) {
	m.t.Helper()
	if len(m.cells[h.ID]) != len(tokens) {
		m.t.Fatalf("sequence %d has %d cells, want %d", h.ID, len(m.cells[h.ID]), len(tokens))
	}
	for i, c := range m.cells[h.ID] {
		if c.token != tokens[i] {
			m.t.Fatalf("cell %d of sequence %d is of token %d, want %d", i, h.ID, c.token, tokens[i])
		}
	}
}

// text is n tokens, of a kind from position at on.
func text(n, at int, kind int32) []int32 {
	out := make([]int32, n)
	for i := range out {
		if out[i] = int32(i); i >= at {
			out[i] += 1000 * kind
		}
	}
	return out
}

func run(b *slots.Book, m *memory, tokens []int32) (*slots.Held, int) {
	h := b.Start(tokens, 0)
	n := b.Reuse(h, tokens)
	if !b.Room(len(tokens) - n) {
		m.t.Fatal("there is no room")
	}
	m.compute(b, h, tokens)
	m.holds(h, tokens)
	return h, n
}

func TestAPromptTakesTheLongestBeginningOfAnySequence(t *testing.T) {
	m := newMemory(t)
	b := slots.NewBook(8, 1000, m, false, 0)
	ended, _ := run(b, m, text(100, 50, 1))
	b.Finish(ended)
	running, n := run(b, m, text(100, 70, 2))
	if n != 50 {
		t.Errorf("%d tokens of a sequence that ended are reused, want 50", n)
	}
	if _, n := run(b, m, text(100, 80, 2)); n != 70 {
		t.Errorf("%d tokens of a running sequence are reused, want 70", n)
	}
	if _, n := run(b, m, text(100, 70, 2)); n != 99 {
		t.Errorf("of the same prompt %d tokens are reused, want all but the last", n)
	}
	busy, kept := b.Used()
	if want := 100 + 30 + 1; busy != want || kept != 50 || busy+kept != m.used() {
		t.Errorf("%d and %d cells are used, the memory has %d", busy, kept, m.used())
	}
	b.Drop(running)
	if busy, kept := b.Used(); busy+kept != m.used() {
		t.Errorf("%d and %d cells are used, the memory has %d", busy, kept, m.used())
	}
}

func TestWhatWasNotUsedForTheLongestTimeGoesFirstAndFromItsEnd(t *testing.T) {
	m := newMemory(t)
	b := slots.NewBook(8, 300, m, false, 0)
	for kind := range int32(3) {
		h, _ := run(b, m, text(100, 0, kind+1))
		b.Finish(h)
	}
	h, n := run(b, m, append(text(100, 0, 1), 7)) // uses the first again
	if n != 100 {
		t.Fatalf("%d tokens are reused", n)
	}
	b.Finish(h)
	if n := b.Reusable(text(100, 0, 2), 0); n >= 99 || n < 16 {
		t.Errorf("of the oldest %d tokens are left, want its beginning", n)
	}
	if n := b.Reusable(text(100, 0, 3), 0); n != 99 {
		t.Errorf("of a newer one %d tokens are left, want all", n)
	}
	b.Keep(120)
	if _, kept := b.Used(); kept > 120 || b.Reusable(text(100, 0, 1), 0) != 99 || b.Reusable(text(100, 0, 2), 0) != 0 {
		t.Errorf("%d cells are kept", kept)
	}
}

func TestAConversationIsKeptOnce(t *testing.T) {
	m := newMemory(t)
	b := slots.NewBook(8, 1000, m, false, 0)
	for turn := 1; turn < 6; turn++ {
		h, n := run(b, m, text(turn*50, 1000, 1))
		if want := (turn - 1) * 50; n != want {
			t.Errorf("turn %d reuses %d tokens, want %d", turn, n, want)
		}
		b.Finish(h)
		if busy, kept := b.Used(); busy != 0 || kept != turn*50 {
			t.Errorf("after turn %d the cells are %d and %d", turn, busy, kept)
		}
	}
}

func TestFitsCountsSharedCellsOnceAndWhatIsKeptNot(t *testing.T) {
	m := newMemory(t)
	b := slots.NewBook(8, 200, m, false, 0)
	h, _ := run(b, m, text(100, 1000, 0))
	for _, c := range []struct {
		name     string
		tokens   []int32
		more     int
		promised int
		want     bool
	}{
		{"all that is left", text(90, 0, 7), 10, 0, true},
		{"one too much", text(90, 0, 7), 11, 0, false},
		{"too much with what was promised", text(90, 0, 7), 5, 6, false},
		{"shared with a running one", text(150, 1000, 0), 50, 0, true},
		{"shared, and one too much", text(150, 1000, 0), 51, 0, false},
	} {
		if got := b.Fits(c.tokens, 0, c.more, c.promised); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
	b.Finish(h)
	if !b.Fits(text(190, 0, 7), 0, 10, 0) || b.Fits(text(150, 1000, 0), 0, 51, 0) {
		t.Error("what is only kept must count as free, unless it is going to be used")
	}
}

func TestAWholeMemoryIsContinuedOrNothing(t *testing.T) {
	m := newMemory(t)
	b := slots.NewBook(1, 1000, m, true, 0)
	first, _ := run(b, m, text(50, 1000, 0))
	b.Finish(first)
	if n := b.Reusable(text(60, 40, 1), 0); n != 0 {
		t.Errorf("%d tokens of it would be reused, though it can't be cut", n)
	}
	next, n := run(b, m, text(60, 1000, 0))
	if n != 50 {
		t.Errorf("its continuation reuses %d tokens, want 50", n)
	}
	b.Finish(next)
	if _, n := run(b, m, text(60, 1000, 0)); n != 0 {
		t.Errorf("the same text again reuses %d tokens, though the last one has to be computed", n)
	}
}

func TestWhatTheKVCacheHasNoRoomForIsPacked(t *testing.T) {
	m := newMemory(t)
	b := slots.NewBook(8, 1000, m, false, 1<<20)
	first, _ := run(b, m, text(300, 280, 1))
	b.Finish(first)
	second, n := run(b, m, text(300, 280, 2))
	if n != 280 {
		t.Errorf("%d tokens are reused, want 280", n)
	}
	b.Finish(second)
	b.Keep(0)
	if busy, kept := b.Used(); busy+kept != 0 || m.used() != 0 {
		t.Errorf("%d and %d cells are used, the memory has %d", busy, kept, m.used())
	}
	// What both begin with is there once. The last tokens of the second are less than is worth while.
	if tokens, bytes := b.Packed(); tokens != 320 || bytes != 4*(320+4) {
		t.Errorf("%d tokens are packed in %d bytes", tokens, bytes)
	}
	if n := b.Reusable(text(300, 280, 2), 0); n != 299 {
		t.Errorf("%d tokens of a packed text could be reused, want all but the last", n)
	}
	for _, c := range []struct {
		tokens []int32
		want   int
	}{{text(300, 280, 1), 299}, {text(300, 280, 2), 299}, {text(300, 290, 1), 280}, {text(300, 200, 1), 200}, {text(300, 5, 7), 0}} {
		h, n := run(b, m, c.tokens)
		if n != c.want {
			t.Errorf("%d tokens are reused, want %d", n, c.want)
		}
		b.Drop(h)
	}
	// A running sequence gives the beginning without a copy, and the rest is unpacked.
	h, _ := run(b, m, text(150, 1000, 0))
	if _, n := run(b, m, text(300, 280, 1)); n != 299 || m.used() != 300 {
		t.Errorf("%d tokens are reused in %d cells", n, m.used())
	}
	b.Drop(h)
}

func TestAFullShelfLosesWhatWasNotUsedForTheLongestTime(t *testing.T) {
	m := newMemory(t)
	b := slots.NewBook(8, 1000, m, false, 4*3*(100+1))
	for kind := range int32(4) {
		h, _ := run(b, m, text(100, 0, kind+1))
		b.Finish(h)
		b.Keep(0)
		b.Drop(func() *slots.Held { h, _ := run(b, m, text(101, 0, 1)); return h }()) // the first is used all the time
	}
	for kind, want := range map[int32]int{1: 99, 2: 0, 3: 99, 4: 99} {
		if n := b.Reusable(text(100, 0, kind), 0); n != want {
			t.Errorf("of text %d %d tokens could be reused, want %d", kind, n, want)
		}
	}
	if tokens, bytes := b.Packed(); tokens != 300 || bytes != 4*3*101 {
		t.Errorf("%d tokens are packed in %d bytes", tokens, bytes)
	}
	// A text that is longer than the shelf leaves its beginning, or nothing.
	h, _ := run(b, m, text(900, 0, 9))
	b.Finish(h)
	b.Keep(0)
	if _, bytes := b.Packed(); bytes > 4*3*101 {
		t.Errorf("%d bytes are on the shelf", bytes)
	}
}

func TestLongTextsArePackedBeforeTheirPlaceIsNeeded(t *testing.T) {
	m := newMemory(t)
	m.apart, m.total = true, 2*2000
	b := slots.NewBookApart(2, 2000, m, 1<<20)
	long, steps := text(1000, 0, 1), 1000/128+1
	runs := b.Start(long, 0)
	m.compute(b, runs, long)
	b.Tidy(0)
	if tokens, _ := b.Packed(); tokens > 0 {
		t.Errorf("%d tokens of a prompt that is computed are packed", tokens)
	}
	runs.Steady = true
	for range steps {
		b.Tidy(0)
	}
	if tokens, _ := b.Packed(); tokens != 1000/128*128 {
		t.Errorf("while it runs %d tokens are packed, want all whole parcels of 1000", tokens)
	}
	b.Finish(runs)
	short := text(100, 0, 2)
	kept := b.Start(short, 0)
	m.compute(b, kept, short)
	b.Finish(kept)
	for range steps {
		b.Tidy(0)
	}
	if tokens, _ := b.Packed(); tokens != 1000/128*128 {
		t.Errorf("%d tokens are packed: what is short need not be", tokens)
	}
	b.Clear()
	again := b.Start(long, 0)
	if n := b.Reuse(again, long); n != 1000/128*128 {
		t.Errorf("%d tokens are found again", n)
	}
}

// The books and the memory must agree whatever happens.
func TestTheBooksAgreeWithTheMemory(t *testing.T) {
	t.Run("parts", func(t *testing.T) { simulate(t, false, 0) })
	t.Run("whole", func(t *testing.T) { simulate(t, true, 0) })
	t.Run("packed", func(t *testing.T) { simulate(t, false, 2000) })
	for name, bytes := range map[string]int{"apart": 0, "apart, packed": 2000} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(t)
			m.apart, m.total = true, 5*200
			simulateOn(t, m, slots.NewBookApart(5, 200, m, bytes), false)
		})
	}
}

func simulate(t *testing.T, whole bool, bytes int) {
	m := newMemory(t)
	m.total = 400
	sequences := 12
	if whole {
		sequences = 4
	}
	simulateOn(t, m, slots.NewBook(sequences, m.total, m, whole, bytes), whole)
}

func simulateOn(t *testing.T, m *memory, b *slots.Book, whole bool) {
	total := m.total
	type request struct {
		h      *slots.Held
		tokens []int32
	}
	var running []*request
	random := rand.New(rand.NewPCG(1, 2))
	for step := range 5000 {
		switch what := random.IntN(10); {
		case what < 4 && len(running) < 4:
			r := &request{tokens: text(1+random.IntN(80), random.IntN(80), random.Int32N(4))}
			if !b.Fits(r.tokens, 0, 0, 0) {
				continue
			}
			r.h = b.Start(r.tokens, 0)
			b.Reuse(r.h, r.tokens)
			b.Keep(random.IntN(total))
			b.Tidy(random.IntN(total))
			if !b.Room(len(r.tokens) - r.h.Len()) {
				t.Fatalf("step %d: it fits, and there is no room", step)
			}
			m.compute(b, r.h, r.tokens)
			r.h.Steady = true
			running = append(running, r)
		case what < 7 && len(running) > 0:
			r := running[random.IntN(len(running))]
			if len(r.tokens) < 150 && b.Room(5) {
				r.tokens = append(slices.Clone(r.tokens), text(5, 0, random.Int32N(9))...)
				m.compute(b, r.h, r.tokens)
			}
		case m.apart && random.IntN(4) == 0:
			b.Close(random.IntN(200))
		case what == 7 && len(running) > 0 && !whole:
			r := running[random.IntN(len(running))]
			r.tokens = r.tokens[:1+random.IntN(len(r.tokens))]
			b.Cut(r.h, len(r.tokens))
		case len(running) > 0:
			i := random.IntN(len(running))
			if random.IntN(3) == 0 {
				b.Drop(running[i].h)
			} else {
				b.Finish(running[i].h)
			}
			running = slices.Delete(running, i, i+1)
		}
		for _, r := range running {
			m.holds(r.h, r.tokens)
		}
		if busy, kept := b.Used(); busy+kept != m.used() || busy+b.Available() != total || m.used() > total {
			t.Fatalf("step %d: the books have %d and %d cells, the memory %d", step, busy, kept, m.used())
		}
	}
	for _, r := range running {
		b.Drop(r.h)
	}
	b.Clear()
	if busy, kept := b.Used(); busy+kept != 0 || m.used() != 0 {
		t.Errorf("in the end %d and %d cells are used, the memory has %d", busy, kept, m.used())
	}
}
