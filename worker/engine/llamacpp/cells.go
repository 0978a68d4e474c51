package llamacpp

import (
	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee"
	"rbee/worker/engine"
	"rbee/worker/engine/slots"
)

// cells is how sequences lie in llama.cpp's KV cache, which decides what batches
// are fast. Rows that nobody needs are added where that makes them faster: after
// the batch they are cut off again.
type cells interface {
	slots.Memory
	// rows adds those of sequences that decode to an empty batch.
	rows(ready []*sequence)
	// prompts adds pieces of prompts.
	prompts(pieces []piece)
	// unpad takes what was padded out of the KV cache.
	unpad()
	// idle gives back what is only needed between batches.
	idle()
}

// piece is some of a prompt that the next step computes.
type piece struct {
	seq *sequence
	n   int // tokens
}

// liesApart says whether each slot gets cells of its own: if there are enough for
// any request in any slot, and on a CPU, where rows pass over the cells of all
// sequences that share them. What adapters take turns with lies between the others.
func liesApart(o engine.Options, whole bool) bool {
	each := (o.Context + cellBlock - 1) / cellBlock * cellBlock
	return o.Backend == rbee.BackendCPU && !whole && !o.Reproducible && len(o.LoRA) == 0 && o.Slots > 1 && o.KVTokens >= o.Slots*each
}

// cellBlock is what llama.cpp rounds the cells of a sequence up to.
const cellBlock = 256

// unified is a KV cache whose cells all sequences share.
type unified struct{ *Engine }

// Share implements slots.Memory.
func (c unified) Share(from, to, n int) bool {
	c.copy(llama.SeqId(from), llama.SeqId(to), 0, n)
	return true
}

// copy gives a sequence the cells that another one has of the positions [from, to).
func (c unified) copy(seq, with llama.SeqId, from, to int) {
	_ = llama.MemorySeqCp(c.memory, seq, with, llama.Pos(from), llama.Pos(to)) // fails for a zero handle only
}

// Cut implements slots.Memory.
func (c unified) Cut(seq, n int) { cut(c.memory, seq, n) }

func cut(memory llama.Memory, seq, n int) {
	if n == 0 {
		n = -1 // whole sequences are what every memory can remove
	}
	_, _ = llama.MemorySeqRm(memory, llama.SeqId(seq), llama.Pos(n), -1)
}

// Pack implements slots.Memory. llama.cpp copies whole sequences only, so the
// part is made one for the time.
func (c unified) Pack(seq, from, to int, memory func(bytes int) []byte) []byte {
	c.copy(llama.SeqId(seq), c.scratch, from, to)
	defer c.Cut(int(c.scratch), 0)
	data := memory(int(llama.StateSeqGetSize(c.context, c.scratch)))
	if n := llama.StateSeqGetData(c.context, data, c.scratch); n == 0 || int(n) != len(data) {
		return nil
	}
	return data
}

// Unpack implements slots.Memory.
func (c unified) Unpack(parcels []slots.Parcel, seq int) (has int) {
	for _, p := range parcels {
		ok := llama.StateSeqSetData(c.context, p.Data, c.scratch) > 0
		if ok {
			c.copy(c.scratch, llama.SeqId(seq), p.From, p.To)
			has = p.To
		}
		c.Cut(int(c.scratch), 0)
		if !ok {
			break
		}
	}
	return has
}

func (c unified) rows(ready []*sequence) {
	for _, seq := range ready {
		c.addDecode(seq)
	}
	c.pad(c.pace.times.padding(int(c.batch.NTokens)))
}

func (c unified) prompts(pieces []piece) {
	for _, p := range pieces {
		c.addPiece(p)
	}
	if n := -int(c.batch.NTokens) & (rowBlock - 1); n <= mostPads {
		c.pad(n)
	}
}

// pad adds rows of the scratch sequence, which make a step shorter: see rowBlock.
func (c unified) pad(n int) {
	tokens := int(c.batch.NTokens)
	if !c.pads || tokens == 0 || tokens+n > batchTokens || !c.book.Room(tokens+n) {
		return
	}
	for i := range n {
		_ = c.batch.Add(0, llama.Pos(i), []llama.SeqId{c.scratch}, false)
	}
	c.padding = n
}

func (c unified) idle() {}

func (c unified) unpad() {
	if c.padding > 0 {
		c.Cut(int(c.scratch), 0)
	}
}
