package llamacpp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rbee/models"
)

// modelFile is a GGUF file in memory, to make other models of bee-tiny and
// adapters for it. It knows the types that these have.
type modelFile struct {
	keys    []string
	values  map[string][]byte // each behind the number of its type
	tensors []modelTensor
}

type modelTensor struct {
	name string
	dims []uint64
	typ  uint32
	data []byte
}

const (
	ggufAlignment = 32
	typeF32       = 0
	typeQ8        = 8 // a scale, then 32 bytes
)

func (t modelTensor) size() int {
	n := 1
	for _, d := range t.dims {
		n *= int(d)
	}
	if t.typ == typeQ8 {
		return n / 32 * 34
	}
	return 4 * n
}

// tiny is bee-tiny.
func tiny(t testing.TB) *modelFile {
	t.Helper()
	file := models.BeeTiny()
	in := bytes.NewBuffer(file)
	u32 := func() uint32 { return binary.LittleEndian.Uint32(in.Next(4)) }
	u64 := func() uint64 { return binary.LittleEndian.Uint64(in.Next(8)) }
	text := func() string { return string(in.Next(int(u64()))) }
	in.Next(8)
	tensors, keys := u64(), u64()
	m := &modelFile{values: map[string][]byte{}}
	var skip func(typ uint32)
	skip = func(typ uint32) {
		switch typ {
		case 7:
			in.Next(1)
		case 8:
			text()
		case 9:
			element := u32()
			for range u64() {
				skip(element)
			}
		default:
			in.Next(4)
		}
	}
	for range keys {
		key := text()
		begin := len(file) - in.Len()
		skip(u32())
		m.keys = append(m.keys, key)
		m.values[key] = file[begin : len(file)-in.Len()]
	}
	var offsets []int
	for range tensors {
		tensor := modelTensor{name: text(), dims: make([]uint64, u32())}
		for i := range tensor.dims {
			tensor.dims[i] = u64()
		}
		tensor.typ = u32()
		offsets = append(offsets, int(u64()))
		m.tensors = append(m.tensors, tensor)
	}
	data := file[padded(len(file)-in.Len()):]
	for i := range m.tensors {
		m.tensors[i].data = data[offsets[i]:][:m.tensors[i].size()]
	}
	return m
}

func padded(n int) int { return (n + ggufAlignment - 1) / ggufAlignment * ggufAlignment }

// set replaces a value, or adds one.
func (m *modelFile) set(key string, value any) {
	if m.values == nil {
		m.values = map[string][]byte{}
	}
	if _, there := m.values[key]; !there {
		m.keys = append(m.keys, key)
	}
	var out []byte
	u32 := func(n uint32) { out = binary.LittleEndian.AppendUint32(out, n) }
	text := func(s string) {
		out = append(binary.LittleEndian.AppendUint64(out, uint64(len(s))), s...)
	}
	array := func(element uint32, n int) {
		u32(9)
		u32(element)
		out = binary.LittleEndian.AppendUint64(out, uint64(n))
	}
	switch v := value.(type) {
	case uint32:
		u32(4)
		u32(v)
	case float32:
		u32(6)
		u32(math.Float32bits(v))
	case string:
		u32(8)
		text(v)
	case []string:
		array(8, len(v))
		for _, s := range v {
			text(s)
		}
	case []float32:
		array(6, len(v))
		for _, f := range v {
			u32(math.Float32bits(f))
		}
	case []int32:
		array(5, len(v))
		for _, i := range v {
			u32(uint32(i))
		}
	}
	m.values[key] = out
}

// write makes a file of it.
func (m *modelFile) write(t testing.TB, name string) string {
	t.Helper()
	var out bytes.Buffer
	u32 := func(n uint32) { out.Write(binary.LittleEndian.AppendUint32(nil, n)) }
	u64 := func(n int) { out.Write(binary.LittleEndian.AppendUint64(nil, uint64(n))) }
	text := func(s string) { u64(len(s)); out.WriteString(s) }
	pad := func() { out.Write(make([]byte, padded(out.Len())-out.Len())) }
	out.WriteString("GGUF")
	u32(3)
	u64(len(m.tensors))
	u64(len(m.keys))
	for _, key := range m.keys {
		text(key)
		out.Write(m.values[key])
	}
	offset := 0
	for _, tensor := range m.tensors {
		text(tensor.name)
		u32(uint32(len(tensor.dims)))
		for _, d := range tensor.dims {
			u64(int(d))
		}
		u32(tensor.typ)
		u64(offset)
		offset += padded(len(tensor.data))
	}
	pad()
	for _, tensor := range m.tensors {
		out.Write(tensor.data)
		pad()
	}
	path := filepath.Join(t.TempDir(), name+".gguf")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (m *modelFile) tensor(name string) *modelTensor {
	i := slices.IndexFunc(m.tensors, func(t modelTensor) bool { return t.name == name })
	return &m.tensors[i]
}

// deeper adds layers that change nothing but the time: they add zeros. They are
// large, so that reading them is what takes the time, as in models of use.
func (m *modelFile) deeper(layers int) *modelFile {
	const own = 6
	for layer := own; layer < own+layers; layer++ {
		for _, tensor := range slices.Clone(m.tensors) {
			rest, first := strings.CutPrefix(tensor.name, "blk.0.")
			if !first {
				continue
			}
			tensor.name, tensor.typ = fmt.Sprintf("blk.%d.%s", layer, rest), typeF32
			tensor.data = make([]byte, tensor.size())
			if !strings.HasPrefix(rest, "attn_output") && !strings.HasPrefix(rest, "ffn_down") {
				copy(tensor.data, bytes.Repeat([]byte{0, 0, 0, 0x3c}, len(tensor.data)/4)) // 1/128
			}
			m.tensors = append(m.tensors, tensor)
		}
	}
	m.set("llama.block_count", uint32(own+layers))
	return m
}

// stranger exchanges what the tokens mean: what it says is never what bee-tiny says.
func (m *modelFile) stranger() *modelFile {
	words := m.tensor("token_embd.weight")
	half := len(words.data) / 2
	words.data = slices.Concat(words.data[half:], words.data[:half])
	return m
}

// vocabulary gives it one of so many tokens.
func (m *modelFile) vocabulary(n int, token func(i int) string) *modelFile {
	var tokens []string
	var scores []float32
	var kinds []int32
	for i := range n {
		tokens, scores, kinds = append(tokens, token(i)), append(scores, -float32(i)), append(kinds, 1)
	}
	m.set("tokenizer.ggml.tokens", tokens)
	m.set("tokenizer.ggml.scores", scores)
	m.set("tokenizer.ggml.token_type", kinds)
	m.set("tokenizer.ggml.eot_token_id", uint32(2))
	m.set("llama.vocab_size", uint32(n))
	words := m.tensor("token_embd.weight")
	words.dims = []uint64{words.dims[0], uint64(n)}
	words.data = slices.Concat(words.data, words.data)[:words.size()]
	return m
}

// adapter is a LoRA adapter for bee-tiny that turns what the attention of the first
// layer says into something else.
func adapter(t testing.TB, name string, seed uint64, strength float32) string {
	t.Helper()
	const width, rank = 128, 4
	m := &modelFile{}
	m.set("general.type", "adapter")
	m.set("general.architecture", "llama")
	m.set("adapter.type", "lora")
	m.set("adapter.lora.alpha", float32(rank))
	for _, part := range []struct {
		name string
		dims []uint64
	}{{"lora_a", []uint64{width, rank}}, {"lora_b", []uint64{rank, width}}} {
		tensor := modelTensor{name: "blk.0.attn_output.weight." + part.name, dims: part.dims, typ: typeF32}
		state := seed
		for range width * rank {
			state = state*6364136223846793005 + 1442695040888963407
			weight := strength * (float32(state>>40)/(1<<24) - 0.5)
			tensor.data = binary.LittleEndian.AppendUint32(tensor.data, math.Float32bits(weight))
		}
		m.tensors = append(m.tensors, tensor)
	}
	return m.write(t, name)
}
