package gguf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	parser "github.com/gpustack/gguf-parser-go"

	"rbee"
)

const beeTiny = "../../models/bee-tiny.gguf"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// kv is a key of a file that a test writes; the type of val decides the type.
type kv struct {
	key string
	val any
}

// raw is written as it is: type and value.
type raw struct {
	kind uint32
	body []byte
}

type tensor struct {
	name string
	dims []uint64
	kind uint32
	off  uint64
}

func text(s string) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(s))), s...)
}

// build writes a file: header, padding to 32 bytes, and data zeroes.
func build(keys []kv, tensors []tensor, data int) []byte {
	le := binary.LittleEndian
	b := append([]byte("GGUF"), 3, 0, 0, 0)
	b = le.AppendUint64(b, uint64(len(tensors)))
	b = le.AppendUint64(b, uint64(len(keys)))
	for _, k := range keys {
		b = append(b, text(k.key)...)
		switch v := k.val.(type) {
		case string:
			b = append(le.AppendUint32(b, 8), text(v)...)
		case uint32:
			b = le.AppendUint32(le.AppendUint32(b, 4), v)
		case float32:
			b = le.AppendUint32(le.AppendUint32(b, 6), math.Float32bits(v))
		case uint64:
			b = le.AppendUint64(le.AppendUint32(b, 10), v)
		case []string:
			b = le.AppendUint64(le.AppendUint32(le.AppendUint32(b, 9), 8), uint64(len(v)))
			for _, s := range v {
				b = append(b, text(s)...)
			}
		case raw:
			b = append(le.AppendUint32(b, v.kind), v.body...)
		default:
			panic("no such type in a test's header")
		}
	}
	for _, t := range tensors {
		b = append(b, text(t.name)...)
		b = le.AppendUint32(b, uint32(len(t.dims)))
		for _, d := range t.dims {
			b = le.AppendUint64(b, d)
		}
		b = le.AppendUint64(le.AppendUint32(b, t.kind), t.off)
	}
	if len(tensors) > 0 {
		b = append(b, make([]byte, (32-len(b)%32)%32)...)
	}
	return append(b, make([]byte, data)...)
}

// good is the smallest header that is taken.
func good() ([]kv, []tensor) {
	header := []kv{
		{"general.architecture", "llama"},
		{"llama.block_count", uint32(1)},
		{"llama.context_length", uint32(2048)},
		{"llama.embedding_length", uint32(32)},
		{"general.file_type", uint32(7)},
		{"tokenizer.ggml.tokens", []string{"a", "b"}},
	}
	tensors := []tensor{
		{"token_embd.weight", []uint64{32, 2}, 8, 0},
		{"blk.0.attn_norm.weight", []uint64{32}, 0, 96},
	}
	return header, tensors
}

const goodData = 96 + 128 // two rows of Q8_0, padded, and 32 floats

func write(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.gguf")
	must(t, os.WriteFile(path, b, 0o600))
	return path
}

// refused asserts INVALID_REQUEST with the path, a problem and a suggestion.
func refused(t testing.TB, path string, problem string) {
	t.Helper()
	_, err := Read(path)
	e, ok := errors.AsType[*rbee.Error](err)
	if !ok {
		t.Fatalf("got %v, want an rbee error", err)
	}
	if e.Code != rbee.CodeInvalidRequest || !strings.Contains(e.Message, path) || !strings.Contains(e.Message, problem) || e.Suggestion() == "" {
		t.Fatalf("got %q with suggestion %q, want %q and the path", e.Error(), e.Suggestion(), problem)
	}
}

func TestReadTellsWhatBeeTinyIs(t *testing.T) {
	f, err := Read(beeTiny)
	must(t, err)
	info, err := os.Stat(beeTiny)
	must(t, err)
	if f.SizeBytes != info.Size() || f.Architecture != "llama" || f.Quantisation != "Q8_0" || f.ContextLength != 1024 || f.Layers == 0 || f.Vocabulary == 0 || f.Embedding == 0 {
		t.Errorf("%+v", f)
	}
}

func TestReadAgreesWithTheLibraryOnBeeTiny(t *testing.T) {
	f, err := Read(beeTiny)
	must(t, err)
	theirs, err := parser.ParseGGUFFile(beeTiny)
	must(t, err)
	arch, meta := theirs.Architecture(), theirs.Metadata()
	if f.Architecture != meta.Architecture || f.Quantisation != meta.FileTypeDescriptor || f.Parameters != int64(meta.Parameters) ||
		f.ContextLength != int(arch.MaximumContextLength) || f.Layers != int(arch.BlockCount) || f.Vocabulary != int(arch.VocabularyLength) ||
		f.Embedding != int(arch.EmbeddingLength) || f.tensorBytes != int64(theirs.TensorInfos.Bytes()) {
		t.Errorf("ours %+v, theirs %+v %+v", f, meta, arch)
	}
	ours := f.parsed.EstimateLLaMACppRun()
	if want := theirs.EstimateLLaMACppRun(); ours.Devices[0] != want.Devices[0] || ours.Devices[1] != want.Devices[1] {
		t.Errorf("ours %+v, theirs %+v", ours.Devices, want.Devices)
	}
}

func TestReadTakesASmallModel(t *testing.T) {
	keys, tensors := good()
	f, err := Read(write(t, build(append(keys, kv{"tokenizer.chat_template", "{{ x }}"}, kv{"general.name", "bee\x1b[31m"}), tensors, goodData)))
	must(t, err)
	if f.Quantisation != "Q8_0" || f.Parameters != 96 || f.ContextLength != 2048 || f.Vocabulary != 2 || f.ChatTemplate != "{{ x }}" || f.Name != "bee[31m" {
		t.Errorf("%+v", f)
	}
}

func TestEveryCutIsNoticed(t *testing.T) {
	keys, tensors := good()
	whole := build(keys, tensors, goodData)
	dir := t.TempDir()
	path := filepath.Join(dir, "cut.gguf")
	for n := range whole {
		must(t, os.WriteFile(path, whole[:n], 0o600))
		want := "it is cut short"
		switch {
		case n == 0:
			want = "it is empty"
		case n < 4:
			want = "it is not a GGUF file"
		}
		refused(t, path, want)
	}
	_, err := Read(write(t, whole[:len(whole)-1]))
	if e := rbee.AsError(err); e.Details["expected_bytes"] != uint64(len(whole)) || e.Details["actual_bytes"] != int64(len(whole)-1) {
		t.Errorf("%v %v", err, e.Details)
	}
}

func TestFilesThatAreNoModelAreRefused(t *testing.T) {
	with := func(k kv) []byte {
		keys, tensors := good()
		for i := range keys {
			if keys[i].key == k.key {
				keys[i] = k
				return build(keys, tensors, goodData)
			}
		}
		return build(append(keys, k), tensors, goodData)
	}
	withTensor := func(x tensor) []byte {
		keys, tensors := good()
		return build(keys, append(tensors, x), goodData)
	}
	patched := func(at int, b ...byte) []byte {
		whole := with(kv{"x", uint32(1)})
		copy(whole[at:], b)
		return whole
	}
	keys, tensors := good()
	max64 := bytes.Repeat([]byte{0xff}, 8)
	cases := map[string]struct {
		file []byte
		want string
	}{
		"text":                        {[]byte("version https://git-lfs.github.com/spec/v1\n"), "not a GGUF file"},
		"zeroes":                      {make([]byte, 100), "not a GGUF file"},
		"version 1":                   {patched(4, 1), "version 1"},
		"version 9":                   {patched(4, 9), "version 9"},
		"big endian":                  {patched(4, 0, 0, 0, 3), "big-endian"},
		"tensors beyond any file":     {patched(8, max64...), "it claims"},
		"keys beyond any file":        {patched(16, max64...), "it claims"},
		"more tensors than bytes":     {patched(8, 0xff, 0x3f, 0, 0, 0, 0, 0, 0), "cut short"},
		"a key longer than the file":  {patched(24, 0xff, 0xff, 0, 0, 0, 0, 0, 0), "cut short"},
		"a key of 2^64 bytes":         {patched(24, max64...), "damaged"},
		"an unknown type":             {with(kv{"x", raw{77, nil}}), "unknown type 77"},
		"an array of arrays":          {with(kv{"x", raw{9, append([]byte{9, 0, 0, 0}, 1, 0, 0, 0, 0, 0, 0, 0)}}), "array of the type 9"},
		"an array of 2^64 numbers":    {with(kv{"x", raw{9, append([]byte{4, 0, 0, 0}, max64...)}}), "damaged"},
		"an array longer than it all": {with(kv{"x", raw{9, []byte{8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0}}}), "cut short"},
		"a key twice":                 {build(append(keys, keys[1]), tensors, goodData), "there twice"},
		"no architecture":             {build(keys[1:], tensors, goodData), "what architecture"},
		"an architecture to print":    {with(kv{"general.architecture", "\x1b[2Jllama"}), "what architecture"},
		"a projector":                 {with(kv{"general.architecture", "clip"}), "projector"},
		"an adapter":                  {with(kv{"general.type", "adapter"}), "not a language model"},
		"no tensors":                  {build(keys, nil, 0), "no tensors"},
		"513 layers":                  {with(kv{"llama.block_count", uint32(513)}), "1 to 512 layers"},
		"2^63 layers":                 {with(kv{"llama.block_count", uint64(1 << 63)}), "1 to 512 layers"},
		"a fraction of layers":        {with(kv{"llama.block_count", float32(1e18)}), "1 to 512 layers"},
		"an odd alignment":            {with(kv{"general.alignment", uint32(24)}), "power of two"},
		"no alignment":                {with(kv{"general.alignment", uint32(0)}), "power of two"},
		"a huge alignment":            {with(kv{"general.alignment", uint32(1 << 31)}), "power of two"},
		"five dimensions":             {withTensor(tensor{"x", []uint64{1, 1, 1, 1, 1}, 0, 0}), "5 dimensions"},
		"no dimension":                {withTensor(tensor{"x", nil, 0, 0}), "0 dimensions"},
		"an empty tensor":             {withTensor(tensor{"x", []uint64{0}, 0, 0}), "impossible shape"},
		"a wrapping shape":            {withTensor(tensor{"x", []uint64{1 << 40, 1 << 40}, 0, 0}), "impossible shape"},
		"a tensor at the end of time": {withTensor(tensor{"x", []uint64{32}, 0, math.MaxUint64}), "beyond any file"},
		"a tensor behind the file":    {withTensor(tensor{"x", []uint64{32}, 0, 1 << 40}), "cut short"},
		"a broken row":                {withTensor(tensor{"x", []uint64{33}, 8, 0}), "multiple of 32"},
		"an unknown tensor type":      {withTensor(tensor{"x", []uint64{32}, 200, 0}), "type 200"},
		"a dropped tensor type":       {withTensor(tensor{"x", []uint64{32}, 4, 0}), "type 4"},
		"a part with another name":    {with(kv{"split.count", uint32(3)}), "part of a split model"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) { refused(t, write(t, c.file), c.want) })
	}
}

func TestPathsThatAreNoFileAreRefused(t *testing.T) {
	dir := t.TempDir()
	refused(t, dir, "not a regular file")
	if runtime.GOOS == "linux" {
		refused(t, "/dev/zero", "not a regular file")
	}
	_, err := Read(filepath.Join(dir, "none.gguf"))
	if e := rbee.AsError(err); e.Code != rbee.CodeModelNotFound || e.Suggestion() == "" || !strings.Contains(e.Message, "none.gguf") {
		t.Errorf("%v", err)
	}
}

func TestASplitModelIsOne(t *testing.T) {
	dir := t.TempDir()
	keys, tensors := good()
	first := build(append(keys, kv{"split.count", uint32(2)}), tensors[:1], 96)
	second := build([]kv{{"split.no", uint32(1)}, {"split.count", uint32(2)}}, []tensor{{"blk.0.attn_norm.weight", []uint64{32}, 0, 0}}, 128)
	one, two := filepath.Join(dir, "m-00001-of-00002.gguf"), filepath.Join(dir, "m-00002-of-00002.gguf")
	must(t, os.WriteFile(one, first, 0o600))
	refused(t, one, "part 2 of 2 is missing")
	must(t, os.WriteFile(two, second[:len(second)-1], 0o600))
	_, err := Read(one)
	if !strings.Contains(err.Error(), two+": it is cut short") {
		t.Errorf("%v does not name the cut part", err)
	}
	must(t, os.WriteFile(two, second, 0o600))
	refused(t, two, "part 2 of a split model")
	f, err := Read(one)
	must(t, err)
	if f.SizeBytes != int64(len(first)+len(second)) || len(f.Parts) != 2 || f.Parameters != 96 {
		t.Errorf("%+v", f)
	}
}

func TestEstimateGrowsWithTheCache(t *testing.T) {
	f, err := Read(beeTiny)
	must(t, err)
	arch := f.parsed.Architecture()
	perToken := int64(2 * 2 * arch.AttentionHeadCountKV * uint64(arch.AttentionKeyLength) * uint64(f.Layers)) // K and V, two bytes each
	for _, b := range []rbee.Backend{rbee.BackendCPU, rbee.BackendCUDA} {
		small, large := f.Estimate(1024, 1, b), f.Estimate(4096, 4, b)
		if small.Rough || large.Rough {
			t.Fatalf("%s: no estimate for a plain model", b)
		}
		where := func(e Estimate) Memory {
			if b == rbee.BackendCPU {
				return e.Host
			}
			return e.Device
		}
		if where(small).KV != 1024*perToken || where(large).KV != 4096*perToken {
			t.Errorf("%s: cache of %d and %d bytes, want %d a token", b, where(small).KV, where(large).KV, perToken)
		}
		if small.Need() <= where(small).KV || large.Need() <= small.Need() {
			t.Errorf("%s: needs %d and %d", b, small.Need(), large.Need())
		}
	}
	// What llama.cpp v0.5.0 reserves for the logits of a batch is in the estimate once.
	logits := int64(f.Vocabulary) * batchTokens * 4
	if c := f.Estimate(1024, 1, rbee.BackendCPU).Host.Compute; c < logits || c > logits+32<<20 {
		t.Errorf("%d bytes to compute, with logits of %d", c, logits)
	}
	if cpu := f.Estimate(1024, 1, rbee.BackendCPU); cpu.Host.Weights != f.tensorBytes || cpu.Device != (Memory{}) {
		t.Errorf("on the CPU: %+v", cpu)
	}
}

func TestWithoutAnEstimateTheRuleOfThumbHolds(t *testing.T) {
	keys, tensors := good()
	keys = append(keys, kv{"llama.attention.head_count", raw{9, []byte{4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}}) // an empty array
	f, err := Read(write(t, build(keys, tensors, goodData)))
	must(t, err)
	for _, b := range []rbee.Backend{rbee.BackendCPU, rbee.BackendVulkan} {
		if e := f.Estimate(1024, 1, b); !e.Rough || e.Need() != f.SizeBytes+f.SizeBytes/5 {
			t.Errorf("%s: %+v for a file of %d bytes", b, e, f.SizeBytes)
		}
	}
}

func TestFlippedBitsInAHeaderAreSurvived(t *testing.T) {
	whole, err := os.ReadFile(beeTiny)
	must(t, err)
	bee, err := Read(beeTiny)
	must(t, err)
	header := int(bee.parsed.TensorDataStartOffset)
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same flips in each run
	taken := 0
	for range 400 {
		at, bit := random.IntN(header), byte(1)<<random.IntN(8)
		whole[at] ^= bit
		if survive(t, whole) {
			taken++
		}
		whole[at] ^= bit
	}
	if taken == 0 || taken == 400 {
		t.Errorf("%d of 400 were taken; the flips test nothing", taken)
	}
	// Lengths and counts are what hurts: they are in the keys and the tensors.
	for at := 0; at < header-8; at += max(1, header/400) {
		kept := bytes.Clone(whole[at : at+8])
		for _, b := range [][]byte{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {0, 0, 0, 0, 0, 0, 0, 0}, {0xff, 0xff, 0xff, 0x7f}} {
			copy(whole[at:], b)
			survive(t, whole)
			copy(whole[at:], kept)
		}
	}
}

func BenchmarkEstimate(b *testing.B) {
	f, err := Read(beeTiny)
	must(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if f.Estimate(1024, 4, rbee.BackendCPU).Rough {
			b.Fatal("no estimate")
		}
	}
}

func BenchmarkRead(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Read(beeTiny); err != nil {
			b.Fatal(err)
		}
	}
}
