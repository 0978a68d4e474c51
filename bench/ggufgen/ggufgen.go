// Package ggufgen writes GGUF files of the Llama architecture with random
// weights: the right bytes to measure an engine with, at any size, without
// fetching a model. What such a model says means nothing.
//
// Format: GGUF version 3, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
package ggufgen

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"slices"
)

// Type is how weights are stored; the numbers are ggml's.
type Type uint32

// The types of matrices that can be written.
const (
	F32  Type = 0
	F16  Type = 1
	Q4_0 Type = 2 //nolint:revive // spelled as ggml spells it
	Q8_0 Type = 8 //nolint:revive // spelled as ggml spells it
)

// layout is the size of one block of weights and how to draw one.
type layout struct {
	weights, bytes int
	fileType       uint32 // general.file_type
	draw           func(r *rand.Rand, block []byte)
}

// spread is the standard deviation of the weights: small enough that sums over
// a row stay near 1.
const spread = 0.02

func (t Type) layout() (layout, error) {
	switch t {
	case F32:
		return layout{1, 4, 0, func(r *rand.Rand, b []byte) {
			binary.LittleEndian.PutUint32(b, math.Float32bits(float32(r.NormFloat64()*spread)))
		}}, nil
	case F16:
		return layout{1, 2, 1, func(r *rand.Rand, b []byte) {
			binary.LittleEndian.PutUint16(b, half(float32(r.NormFloat64()*spread)))
		}}, nil
	case Q4_0: // a scale, then 32 values of 4 bits around 8
		return layout{32, 18, 2, func(r *rand.Rand, b []byte) {
			binary.LittleEndian.PutUint16(b, half(spread/4.61))
			fill(r, b[2:])
		}}, nil
	case Q8_0: // a scale, then 32 signed bytes
		return layout{32, 34, 7, func(r *rand.Rand, b []byte) {
			binary.LittleEndian.PutUint16(b, half(spread/73.9))
			fill(r, b[2:])
		}}, nil
	}
	return layout{}, fmt.Errorf("cannot write weights of type %d", t)
}

func fill(r *rand.Rand, b []byte) {
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, r.Uint64())
		b = b[8:]
	}
	for i := range b {
		b[i] = byte(r.Uint32())
	}
}

// half converts to IEEE 754 binary16, for normal numbers in its range.
func half(f float32) uint16 {
	bits := math.Float32bits(f)
	sign, exp, man := uint16(bits>>16)&0x8000, int(bits>>23&0xff)-127+15, bits&0x7fffff
	if exp <= 0 {
		return sign
	}
	return sign | uint16(exp)<<10 + uint16((man+0x1000)>>13)
}

// Shape is the shape of a model.
type Shape struct {
	Name                                       string
	Layers, Width, Heads, KVHeads, FeedForward int
	Vocab, Context                             int
	Tied                                       bool // the output matrix is the embedding matrix
	Type                                       Type
	Seed                                       uint64
}

// Presets are the shapes that the benchmarks and tests use.
func Presets() []Shape {
	return []Shape{
		{Name: "small", Layers: 4, Width: 256, Heads: 4, KVHeads: 2, FeedForward: 512, Vocab: 2048, Context: 16384, Tied: true, Type: Q8_0},
		{Name: "125m", Layers: 12, Width: 768, Heads: 12, KVHeads: 12, FeedForward: 2560, Vocab: 32000, Context: 4096, Tied: true, Type: Q4_0},
		{Name: "125m-128k", Layers: 12, Width: 768, Heads: 12, KVHeads: 12, FeedForward: 2560, Vocab: 128000, Context: 4096, Tied: true, Type: Q4_0},
		{Name: "1.1gb", Layers: 21, Width: 2048, Heads: 32, KVHeads: 4, FeedForward: 5632, Vocab: 32000, Context: 2048, Type: Q8_0},
	}
}

// Preset returns the shape of that name.
func Preset(name string) (Shape, error) {
	for _, s := range Presets() {
		if s.Name == name {
			return s, nil
		}
	}
	return Shape{}, fmt.Errorf("there is no preset %q", name)
}

// Parameters counts the weights.
func (s Shape) Parameters() int64 {
	var n int64
	for _, t := range s.tensors() {
		n += t.weights()
	}
	return n
}

// faults says why a shape cannot be a model.
func (s Shape) check() error {
	l, err := s.Type.layout()
	switch {
	case err != nil:
		return err
	case min(s.Layers, s.Width, s.Heads, s.KVHeads, s.FeedForward, s.Context) < 1:
		return fmt.Errorf("cannot make a model of the shape %+v: all counts must be positive", s)
	case s.Width%s.Heads != 0 || s.Heads%s.KVHeads != 0 || s.Width/s.Heads%2 != 0:
		return fmt.Errorf("cannot make a model with width %d, %d heads and %d KV heads: each must divide the one before, into heads of even size", s.Width, s.Heads, s.KVHeads)
	case s.Width%l.weights != 0 || s.FeedForward%l.weights != 0:
		return fmt.Errorf("cannot make a model with rows of %d and %d weights in blocks of %d", s.Width, s.FeedForward, l.weights)
	case s.Vocab < firstPiece+1:
		return fmt.Errorf("cannot make a vocabulary of %d tokens: it needs more than %d", s.Vocab, firstPiece)
	}
	return nil
}

type tensor struct {
	name string
	dims []int // fastest first, as ggml counts
	typ  Type
	ones bool // norm weights are 1
}

func (t tensor) weights() int64 {
	n := int64(1)
	for _, d := range t.dims {
		n *= int64(d)
	}
	return n
}

func (t tensor) bytes() int64 {
	l, _ := t.typ.layout() // the shape was checked
	return t.weights() / int64(l.weights) * int64(l.bytes)
}

func (s Shape) tensors() []tensor {
	matrix := func(name string, in, out int) tensor { return tensor{name + ".weight", []int{in, out}, s.Type, false} }
	norm := func(name string) tensor { return tensor{name + ".weight", []int{s.Width}, F32, true} }
	kv := s.Width / s.Heads * s.KVHeads
	ts := []tensor{matrix("token_embd", s.Width, s.Vocab), norm("output_norm")}
	if !s.Tied {
		ts = append(ts, matrix("output", s.Width, s.Vocab))
	}
	for i := range s.Layers {
		b := fmt.Sprintf("blk.%d.", i)
		ts = append(ts, norm(b+"attn_norm"), matrix(b+"attn_q", s.Width, s.Width), matrix(b+"attn_k", s.Width, kv),
			matrix(b+"attn_v", s.Width, kv), matrix(b+"attn_output", s.Width, s.Width), norm(b+"ffn_norm"),
			matrix(b+"ffn_gate", s.Width, s.FeedForward), matrix(b+"ffn_up", s.Width, s.FeedForward), matrix(b+"ffn_down", s.FeedForward, s.Width))
	}
	return ts
}

const alignment = 32

func aligned(n int64) int64 { return (n + alignment - 1) / alignment * alignment }

// WriteFile writes the model, replacing a file of that name only when it is whole.
func WriteFile(path string, s Shape) (err error) {
	f, err := os.Create(path + ".part")
	if err != nil {
		return fmt.Errorf("cannot write a model: %w", err)
	}
	defer func() {
		err = cmp.Or(err, f.Close())
		if err == nil {
			err = os.Rename(path+".part", path)
		}
		if err != nil {
			_ = os.Remove(path + ".part") // the first error is the one to tell
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := Write(w, s); err != nil {
		return err
	}
	return w.Flush()
}

// Write writes the model as GGUF. The bytes depend on the shape and its seed alone.
func Write(out io.Writer, s Shape) error {
	if err := s.check(); err != nil {
		return err
	}
	w := &writer{w: out}
	tensors, meta := s.tensors(), s.metadata()
	w.raw([]byte("GGUF"))
	w.u32(3)
	w.u64(uint64(len(tensors)))
	w.u64(uint64(len(meta)))
	for _, m := range meta {
		w.str(m.key)
		w.value(m.value)
	}
	var offset int64
	for _, t := range tensors {
		w.str(t.name)
		w.u32(uint32(len(t.dims)))
		for _, d := range t.dims {
			w.u64(uint64(d))
		}
		w.u32(uint32(t.typ))
		w.u64(uint64(offset))
		offset += aligned(t.bytes())
	}
	w.pad()
	for i, t := range tensors {
		w.tensor(t, rand.New(rand.NewPCG(s.Seed, uint64(i))))
		w.pad()
	}
	if w.err != nil {
		return fmt.Errorf("cannot write a model: %w", w.err)
	}
	return nil
}

// writer keeps the first error and counts bytes.
type writer struct {
	w   io.Writer
	n   int64
	err error
}

func (w *writer) raw(b []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(b)
		w.n += int64(len(b))
	}
}

func (w *writer) u32(v uint32) { w.raw(binary.LittleEndian.AppendUint32(nil, v)) }
func (w *writer) u64(v uint64) { w.raw(binary.LittleEndian.AppendUint64(nil, v)) }
func (w *writer) str(s string) { w.u64(uint64(len(s))); w.raw([]byte(s)) }
func (w *writer) pad()         { w.raw(make([]byte, aligned(w.n)-w.n)) }

// value writes a value behind the number of its type.
func (w *writer) value(v any) {
	switch v := v.(type) {
	case uint32:
		w.u32(4)
		w.u32(v)
	case float32:
		w.u32(6)
		w.u32(math.Float32bits(v))
	case bool:
		w.u32(7)
		w.raw(map[bool][]byte{false: {0}, true: {1}}[v])
	case string:
		w.u32(8)
		w.str(v)
	case []string:
		w.array(8, len(v))
		for _, s := range v {
			w.str(s)
		}
	case []float32:
		w.array(6, len(v))
		for _, f := range v {
			w.u32(math.Float32bits(f))
		}
	case []int32:
		w.array(5, len(v))
		for _, i := range v {
			w.u32(uint32(i))
		}
	}
}

func (w *writer) array(element uint32, n int) {
	w.u32(9)
	w.u32(element)
	w.u64(uint64(n))
}

// poolBytes is how many random bytes a tensor draws; a larger one repeats them.
// Speed does not depend on the values, and drawing is slower than the disk.
const poolBytes = 1 << 20

func (w *writer) tensor(t tensor, r *rand.Rand) {
	l, _ := t.typ.layout() // the shape was checked
	left := t.bytes()
	blocks := int(min(left, poolBytes)) / l.bytes
	pool := make([]byte, blocks*l.bytes)
	for b := range slices.Chunk(pool, l.bytes) {
		if t.ones {
			binary.LittleEndian.PutUint32(b, math.Float32bits(1))
		} else {
			l.draw(r, b)
		}
	}
	for left > 0 {
		n := min(left, int64(len(pool)))
		w.raw(pool[:n])
		left -= n
	}
}
