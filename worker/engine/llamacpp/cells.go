package llamacpp

import "github.com/hybridgroup/yzma/pkg/llama"

// cells is llama.cpp's KV cache for a slots.Book.
type cells Engine

// Share implements slots.Memory.
func (c *cells) Share(from, to, n int) { c.copy(llama.SeqId(from), llama.SeqId(to), 0, n) }

// copy gives a sequence the cells that another one has of the positions [from, to).
func (c *cells) copy(seq, with llama.SeqId, from, to int) {
	_ = llama.MemorySeqCp(c.memory, seq, with, llama.Pos(from), llama.Pos(to)) // fails for a zero handle only
}

// Cut implements slots.Memory.
func (c *cells) Cut(seq, n int) {
	if n == 0 {
		n = -1 // whole sequences are what every memory can remove
	}
	_, _ = llama.MemorySeqRm(c.memory, llama.SeqId(seq), llama.Pos(n), -1)
}

// Pack implements slots.Memory. llama.cpp copies whole sequences only, so the
// part is made one for the time.
func (c *cells) Pack(seq, from, to int, memory func(bytes int) []byte) []byte {
	c.copy(llama.SeqId(seq), c.scratch, from, to)
	defer c.Cut(int(c.scratch), 0)
	data := memory(int(llama.StateSeqGetSize(c.context, c.scratch)))
	if n := llama.StateSeqGetData(c.context, data, c.scratch); n == 0 || int(n) != len(data) {
		return nil
	}
	return data
}

// Unpack implements slots.Memory.
func (c *cells) Unpack(data []byte, seq, from, to int) bool {
	defer c.Cut(int(c.scratch), 0)
	if llama.StateSeqSetData(c.context, data, c.scratch) == 0 {
		return false
	}
	c.copy(c.scratch, llama.SeqId(seq), from, to)
	return true
}
