package gguf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	parser "github.com/gpustack/gguf-parser-go"

	"rbee"
)

// shape is a model of which a test makes headers.
type shape struct {
	layers, embedding, feedForward, keyValues, vocabulary uint64
	tied                                                  bool // the output is the input's table
}

var shapes = map[string]shape{
	"0.5B": {24, 1024, 4864, 128, 151936, true},
	"8B":   {32, 4096, 14336, 1024, 128256, false},
	"70B":  {80, 8192, 28672, 1024, 128256, false},
}

// mixture is the types of the weights, by what they are for.
type mixture struct{ layers, better, input, output parser.GGMLType }

var mixtures = map[string]mixture{
	"Q2_K":   {parser.GGMLTypeQ2_K, parser.GGMLTypeQ4_K, parser.GGMLTypeQ2_K, parser.GGMLTypeQ6_K},
	"Q4_K_M": {parser.GGMLTypeQ4_K, parser.GGMLTypeQ6_K, parser.GGMLTypeQ4_K, parser.GGMLTypeQ6_K},
	"Q8_0":   {parser.GGMLTypeQ8_0, parser.GGMLTypeQ8_0, parser.GGMLTypeQ8_0, parser.GGMLTypeQ8_0},
	"F16":    {parser.GGMLTypeF16, parser.GGMLTypeF16, parser.GGMLTypeF16, parser.GGMLTypeF16},
}

// tensors are those of the first layers of the model; all of them with its output.
func (s shape) tensors(m mixture, layers uint64) []tensor {
	var all []tensor
	end := uint64(0)
	add := func(name string, kind parser.GGMLType, dims ...uint64) {
		all = append(all, tensor{name, dims, uint32(kind), end})
		trait, _ := kind.Trait()
		bytes := trait.TypeSize
		for _, d := range dims {
			bytes *= d
		}
		end += (bytes/trait.BlockSize + 31) / 32 * 32
	}
	add("token_embd.weight", m.input, s.embedding, s.vocabulary)
	for i := range layers {
		name := func(what string) string { return fmt.Sprintf("blk.%d.%s.weight", i, what) }
		add(name("attn_norm"), parser.GGMLTypeF32, s.embedding)
		add(name("attn_q"), m.layers, s.embedding, s.embedding)
		add(name("attn_k"), m.layers, s.embedding, s.keyValues)
		add(name("attn_v"), m.better, s.embedding, s.keyValues)
		add(name("attn_output"), m.layers, s.embedding, s.embedding)
		add(name("ffn_norm"), parser.GGMLTypeF32, s.embedding)
		add(name("ffn_gate"), m.layers, s.embedding, s.feedForward)
		add(name("ffn_up"), m.layers, s.embedding, s.feedForward)
		if i%2 == 0 {
			add(name("ffn_down"), m.better, s.feedForward, s.embedding)
		} else {
			add(name("ffn_down"), m.layers, s.feedForward, s.embedding)
		}
	}
	if layers == s.layers {
		add("output_norm.weight", parser.GGMLTypeF32, s.embedding)
		if !s.tied {
			add("output.weight", m.output, s.embedding, s.vocabulary)
		}
	}
	return all
}

// header is the first bytes of a file with these tensors, and the file's size.
func (s shape) header(tensors []tensor, more ...kv) (head []byte, size int64) {
	u32 := func(v uint64) uint32 { return uint32(v) } //nolint:gosec // small
	words := make([]string, s.vocabulary)
	head = build(append([]kv{
		{"general.architecture", "llama"},
		{"llama.block_count", u32(s.layers)},
		{"llama.context_length", uint32(131072)},
		{"llama.embedding_length", u32(s.embedding)},
		{"llama.feed_forward_length", u32(s.feedForward)},
		{"llama.attention.head_count", u32(s.embedding / 128)},
		{"llama.attention.head_count_kv", u32(s.keyValues / 128)},
		{"tokenizer.ggml.model", "gpt2"},
		{"tokenizer.ggml.tokens", words},
	}, more...), tensors, 0)
	size = int64(len(head))
	if n := len(tensors); n > 0 {
		last := tensors[n-1]
		trait, _ := parser.GGMLType(last.kind).Trait()
		bytes := trait.TypeSize
		for _, d := range last.dims {
			bytes *= d
		}
		size += int64(last.off + bytes/trait.BlockSize) //nolint:gosec // of a model
	}
	return head, size
}

func (s shape) remote(t *testing.T, tensors []tensor, more ...kv) File {
	t.Helper()
	head, size := s.header(tensors, more...)
	f, err := ReadRemote(bytes.NewReader(head), size)
	must(t, err)
	return f
}

func TestReadRemoteTellsWhatReadTells(t *testing.T) {
	here, err := Read(beeTiny)
	must(t, err)
	whole, err := os.ReadFile(beeTiny)
	must(t, err)
	for name, slow := range map[string]func(io.Reader) io.Reader{
		"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "with its end": iotest.DataErrReader,
	} {
		there, err := ReadRemote(slow(bytes.NewReader(whole[:here.headerBytes])), here.SizeBytes)
		must(t, err)
		there.Path, there.Parts = here.Path, here.Parts
		if a, b := fmt.Sprintf("%+v", there.parsed), fmt.Sprintf("%+v", here.parsed); a != b {
			t.Errorf("%s: header %s, want %s", name, a, b)
		}
		there.parsed = here.parsed
		if a, b := fmt.Sprintf("%+v", there), fmt.Sprintf("%+v", here); a != b {
			t.Errorf("%s: %s, want %s", name, a, b)
		}
	}
}

func TestReadRemoteReadsLittleBeyondTheHeader(t *testing.T) {
	head, size := shapes["0.5B"].header(shapes["0.5B"].tensors(mixtures["Q8_0"], 24))
	var read counter
	in := io.TeeReader(io.MultiReader(bytes.NewReader(head), iotest.ErrReader(errors.New("read on"))), &read)
	if _, err := ReadRemote(in, size); err != nil || int(read) > len(head) {
		t.Errorf("%d bytes for a header of %d, %v", read, len(head), err)
	}
	read = 0
	if _, err := ReadRemote(io.TeeReader(endless{}, &read), math.MaxInt64); rbee.CodeOf(err) != rbee.CodeInvalidRequest || read > bufferSizeBytes {
		t.Errorf("%d bytes of no model at all, %v", read, err)
	}
}

type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestReadRemoteTellsABrokenSourceFromABrokenFile(t *testing.T) {
	keys, tensors := good()
	whole := build(keys, tensors, goodData)
	size := int64(len(whole))
	broken := errors.New("connection reset")
	for name, c := range map[string]struct {
		in   io.Reader
		size int64
		want error // nil for INVALID_REQUEST
	}{
		"nothing arrives":        {strings.NewReader(""), size, io.ErrUnexpectedEOF},
		"it ends in the header":  {bytes.NewReader(whole[:100]), size, io.ErrUnexpectedEOF},
		"it breaks in between":   {io.MultiReader(bytes.NewReader(whole[:100]), iotest.ErrReader(broken)), size, broken},
		"it breaks at once":      {iotest.ErrReader(broken), size, broken},
		"the file is cut":        {bytes.NewReader(whole[:100]), 100, nil},
		"the file lacks weights": {bytes.NewReader(whole[:size-1]), size - 1, nil},
		"the file is empty":      {strings.NewReader(""), 0, nil},
		"a size below zero":      {bytes.NewReader(whole), -1, nil},
		"it is no model":         {strings.NewReader("version https://git-lfs.github.com/spec/v1\n"), 43, nil},
	} {
		_, err := ReadRemote(c.in, c.size)
		if c.want == nil && rbee.CodeOf(err) != rbee.CodeInvalidRequest || c.want != nil && (!errors.Is(err, c.want) || rbee.CodeOf(err) != "") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// off is how far a is from b, as a part of b.
func off(a, b int64) float64 { return float64(a-b) / float64(b) }

func TestOneHeaderEstimatesEveryQuantisation(t *testing.T) {
	worst := 0.0
	for model, s := range shapes {
		files := map[string]File{}
		for name, m := range mixtures {
			files[name] = s.remote(t, s.tensors(m, s.layers))
		}
		for _, b := range []rbee.Backend{rbee.BackendCPU, rbee.BackendCUDA} {
			for to, truth := range files {
				want := truth.Estimate(8192, 1, b)
				for from, f := range files {
					got := f.Resized(truth.SizeBytes).Estimate(8192, 1, b)
					if got.Rough || want.Rough {
						t.Fatalf("%s on %s: no estimate", model, b)
					}
					e := off(got.Need(), want.Need())
					worst = max(worst, math.Abs(e))
					if math.Abs(e) > 0.02 {
						t.Errorf("%s on %s: %s out of %s needs %d, reckoned %d, %+.1f %%", model, b, to, from, want.Need(), got.Need(), 100*e)
					}
				}
			}
		}
	}
	t.Logf("at worst %.1f %% beside", 100*worst)
}

func TestTheFirstPartEstimatesTheWholeModel(t *testing.T) {
	s := shapes["70B"]
	split := kv{"split.count", uint32(3)}
	for name, m := range mixtures {
		whole := s.remote(t, s.tensors(m, s.layers))
		for part, tensors := range map[string][]tensor{"a third": s.tensors(m, s.layers/3), "no tensors": nil} {
			f := s.remote(t, tensors, split).Resized(whole.SizeBytes)
			for _, b := range []rbee.Backend{rbee.BackendCPU, rbee.BackendCUDA} {
				got, want := f.Estimate(8192, 1, b), whole.Estimate(8192, 1, b)
				if e := off(got.Need(), want.Need()); got.Rough || e < -0.005 || e > 0.05 {
					t.Errorf("%s of %s on %s: needs %d, reckoned %d, %+.1f %%", part, name, b, want.Need(), got.Need(), 100*e)
				}
			}
		}
	}
}

func TestResizedKeepsTheModelAndTakesAnySize(t *testing.T) {
	f, err := Read(beeTiny)
	must(t, err)
	for _, size := range []int64{math.MinInt64, -1, 0, 1, f.headerBytes, 1 << 40, math.MaxInt64} {
		r := f.Resized(size)
		if r.Layers != f.Layers || r.Parameters != f.Parameters || r.Path != "" || r.Quantisation != "" {
			t.Errorf("%d: %+v", size, r)
		}
		for _, b := range []rbee.Backend{rbee.BackendCPU, rbee.BackendCUDA} {
			if e := r.Estimate(1024, 1, b); e.Need() <= 0 || e.Host.Total() < 0 || e.Need() > 1<<52 {
				t.Errorf("%d on %s: %+v", size, b, e)
			}
		}
	}
	for _, b := range []rbee.Backend{rbee.BackendCPU, rbee.BackendCUDA} {
		want := f.Estimate(1024, 1, b).Need()
		if e := off(f.Resized(f.SizeBytes).Estimate(1024, 1, b).Need(), want); math.Abs(e) > 0.001 {
			t.Errorf("%s: its own size makes it need another %+.2f %%", b, 100*e)
		}
	}
}
