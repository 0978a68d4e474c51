package gguf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"testing"
	"time"

	"rbee"
)

// spareBytes is what a header may cost beyond the size of its file.
const spareBytes = 64 << 20

// metric is a figure of the runtime in bytes.
func metric(name string) uint64 {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// cheap calls f and fails if it takes more memory than the bound. If all that it
// allocates is less, garbage counted, that is so; else it is called again and
// the heap is watched, since the race detector defeats the pools of regexp.
func cheap(t *testing.T, what string, size int, f func()) {
	t.Helper()
	const allocated, heap = "/gc/heap/allocs:bytes", "/memory/classes/heap/objects:bytes"
	bound := uint64(size) + spareBytes
	before := metric(allocated)
	f()
	if metric(allocated)-before <= bound {
		return
	}
	runtime.GC()
	before = metric(heap)
	peak := before
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				peak = max(peak, metric(heap))
			case <-done:
				return
			}
		}
	})
	f()
	close(done)
	watch.Wait()
	if n := peak - before; n > bound {
		t.Errorf("%s takes %d MiB for a file of %d bytes", what, n>>20, size)
	}
}

// survive reads a header that may be hostile and estimates from it; it tells
// whether it was taken. No step may panic or take much memory, and a refusal is
// one that a user can read.
func survive(t *testing.T, b []byte, loads ...load) bool {
	t.Helper()
	var f File
	var err error
	cheap(t, "reading", len(b), func() {
		var h header
		if h, err = readHeader(bytes.NewReader(b), int64(len(b))); err == nil {
			f, err = h.file(int64(len(b)), 1)
		}
	})
	if err == nil {
		estimates(t, len(b), f, append(loads, load{1024, 4})...)
		return true
	}
	if e := rbee.AsError(refuse("x", err)); !isFault(err) || e.Suggestion() == "" || strings.ContainsAny(e.Message, "\n\x1b") {
		t.Errorf("refused with %v", err)
	}
	return false
}

// surviveRemote does the same with a file that is elsewhere, and other weights.
func surviveRemote(t *testing.T, b []byte) bool {
	t.Helper()
	var f File
	var err error
	cheap(t, "reading from elsewhere", len(b), func() { f, err = ReadRemote(bytes.NewReader(b), int64(len(b))) })
	if err == nil {
		estimates(t, len(b), f.Resized(math.MaxInt64), load{131072, 1})
		return true
	}
	if rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("refused with %v", err)
	}
	return false
}

// surviveAll does both, at the loads that wrap most.
func surviveAll(t *testing.T, b []byte) {
	t.Helper()
	here, there := survive(t, b, load{0, 0}, load{math.MaxInt, math.MaxInt}), surviveRemote(t, b)
	if here && !there {
		t.Error("taken here and refused elsewhere")
	}
}

// load is what a model is asked to hold.
type load struct{ kvTokens, slots int }

func estimates(t *testing.T, size int, f File, loads ...load) {
	t.Helper()
	for _, b := range []rbee.Backend{rbee.BackendCPU, rbee.BackendCUDA} {
		for _, l := range loads {
			cheap(t, "an estimate", size, func() {
				if e := f.Estimate(l.kvTokens, l.slots, b); e.Need() <= 0 || e.Host.Total() < 0 {
					t.Errorf("%s, %+v: %+v of a file of %d bytes", b, l, e, size)
				}
			})
		}
	}
}

// hostile are files made to cost much, by what is wrong with them.
func hostile() map[string][]byte {
	keys, tensors := good()
	le := binary.LittleEndian
	u32 := func(v uint32) raw { return raw{4, le.AppendUint32(nil, v)} }
	u64 := func(v uint64) raw { return raw{10, le.AppendUint64(nil, v)} }
	array := func(kind uint32, count uint64, body []byte) raw {
		return raw{9, append(le.AppendUint64(le.AppendUint32(nil, kind), count), body...)}
	}
	with := func(more ...kv) []byte { return build(append(keys[:len(keys):len(keys)], more...), tensors, goodData) }
	as := func(arch string, more ...kv) []byte {
		other := append([]kv{{"general.architecture", arch}}, more...)
		return build(other, tensors, goodData)
	}
	long := make([]byte, 3<<20)
	files := map[string][]byte{
		"a long array for each layer":  with(kv{"llama.feed_forward_length", array(0, 3<<20, long)}, kv{"llama.attention.head_count", array(0, 3<<20, long)}),
		"a long array of heads":        with(kv{"llama.attention.head_count_kv", array(0, 3<<20, long)}, kv{"llama.attention.sliding_window_pattern", array(7, 3<<20, long)}),
		"strings for each layer":       with(kv{"llama.feed_forward_length", array(8, 3<<17, long)}, kv{"llama.attention.head_count", array(8, 3<<17, long)}),
		"no layers, all the same":      as("llama", kv{"llama.feed_forward_length", u32(1)}),
		"layers of another":            as("flux", kv{"llama.block_count", u64(1 << 62)}, kv{"llama.feed_forward_length", u32(1)}),
		"layers of a vector":           with(kv{"controlvector.model_hint", "evil"}, kv{"evil.block_count", u64(1 << 31)}, kv{"evil.feed_forward_length", u32(1)}),
		"a huge vocabulary":            with(kv{"llama.vocab_size", u64(math.MaxUint64)}),
		"a huge context":               with(kv{"llama.rope.scaling.original_context_length", u64(math.MaxUint64)}, kv{"llama.attention.causal", raw{7, []byte{0}}}),
		"huge experts":                 with(kv{"llama.expert_count", u32(math.MaxUint32)}, kv{"llama.expert_used_count", u32(math.MaxUint32)}),
		"huge heads":                   with(kv{"llama.attention.head_count_kv", u64(1 << 60)}, kv{"llama.attention.key_length", u32(math.MaxUint32)}),
		"heads that divide by zero":    with(kv{"llama.attention.head_count", u32(0)}, kv{"llama.full_attention_interval", u32(0)}),
		"a huge state":                 as("mamba", kv{"mamba.block_count", u32(512)}, kv{"mamba.ssm.inner_size", u32(math.MaxUint32)}, kv{"mamba.ssm.state_size", u32(math.MaxUint32)}),
		"a huge head of a state":       as("rwkv7", kv{"rwkv7.block_count", u32(512)}, kv{"rwkv7.wkv.head_size", u32(math.MaxUint32)}),
		"a window that wraps":          as("gemma3", kv{"gemma3.block_count", u32(512)}, kv{"gemma3.attention.sliding_window", u64(math.MaxUint64)}),
		"texts where numbers are":      with(kv{"llama.attention.head_count", "9223372036854775808"}, kv{"llama.expert_count", "1e308"}),
		"numbers where texts are":      with(kv{"general.name", u32(1)}, kv{"tokenizer.chat_template", u64(1)}, kv{"llama.rope.scaling.type", u32(2)}),
		"fractions where numbers are":  with(kv{"llama.expert_count", float32(math.NaN())}, kv{"llama.vocab_size", float32(math.Inf(1))}),
		"arrays where numbers are":     with(kv{"llama.expert_count", array(4, 1, make([]byte, 4))}, kv{"general.file_type", array(4, 1, make([]byte, 4))}),
		"an unknown type of file":      with(kv{"general.file_type_", u32(1)}, kv{"llama.context_length_", u64(math.MaxUint64)}),
		"arrays of arrays":             with(kv{"x", array(9, 1<<40, bytes.Repeat([]byte{9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}, 1000))}),
		"a first part without tensors": build(append(keys[:len(keys):len(keys)], kv{"split.count", u32(2)}), nil, 0),
	}
	return files
}

func TestHostileHeadersAreSurvived(t *testing.T) {
	for name, file := range hostile() {
		t.Run(name, func(t *testing.T) { surviveAll(t, file) })
	}
}

func TestTheLargestHeadersAreCheap(t *testing.T) {
	keys, _ := good()
	var manyKeys []kv
	for i := range maxKeys - len(keys) - 10 {
		manyKeys = append(manyKeys, kv{fmt.Sprint("k", i), uint32(1)})
	}
	text := strings.Repeat("x", maxKeptString)
	var texts, strings8, names []kv
	for i := range 40 {
		texts = append(texts, kv{fmt.Sprint("t", i), text})
		names = append(names, kv{strings.Repeat("n", maxNameBytes-10) + fmt.Sprint(i), uint32(1)})
		strings8 = append(strings8, kv{fmt.Sprint("tokenizer.", i), raw{9, append([]byte{8, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0}, make([]byte, 8<<17)...)}})
	}
	var arrays []kv
	for i := range 64 {
		arrays = append(arrays, kv{fmt.Sprint("a", i), raw{9, append([]byte{0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0}, make([]byte, 4096)...)}})
	}
	header := func(more []kv) []kv { return append(keys[:len(keys):len(keys)], more...) }
	_, few := good()
	shapes := map[string]func(i int) string{
		"in as many layers":   func(i int) string { return fmt.Sprintf("blk.%d.ffn_up_exps.weight", i) },
		"outside all":         func(i int) string { return fmt.Sprintf("%063d", i) },
		"of many short words": func(i int) string { return strings.Repeat(".1", 28) + fmt.Sprintf("%06d", i) },
	}
	for name, key := range map[string][]kv{"keys": manyKeys, "texts": texts, "names": names, "strings": strings8, "arrays": arrays} {
		t.Run(name, func(t *testing.T) { survive(t, build(header(key), few, goodData)) })
	}
	for name, named := range shapes {
		t.Run("tensors "+name, func(t *testing.T) {
			var tensors []tensor
			for i := range maxTensors {
				tensors = append(tensors, tensor{named(i), []uint64{1, 1, 1, 1}, 0, 0})
			}
			b := build(header(manyKeys), tensors, 1<<20)
			var f File
			cheap(t, "reading", len(b), func() {
				var err error
				f, err = ReadRemote(bytes.NewReader(b), int64(len(b)))
				must(t, err) // at the bounds, not above
			})
			cheap(t, "an estimate", len(b), func() { f.Estimate(1024, 4, rbee.BackendCUDA) })
		})
	}
}

// FuzzRead feeds headers to the readers and the estimate.
func FuzzRead(f *testing.F) {
	keys, tensors := good()
	whole := build(keys, tensors, goodData)
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(build(append(keys, keys[1]), tensors, goodData))
	f.Add(build(append(keys, kv{"general.alignment", uint32(64)}, kv{"llama.attention.head_count", uint64(math.MaxUint64)}), tensors, goodData+64))
	f.Add(build(append(keys, kv{"llama.rope.dimension_count", float32(1e30)}, kv{"llama.attention.sliding_window", uint32(1)}), tensors, goodData))
	for _, b := range hostile() {
		if len(b) < 1<<16 {
			f.Add(b)
		}
	}
	for _, b := range [][]byte{bytes.Repeat([]byte{0xff}, 8), {1, 0, 0, 0, 0, 0, 0, 0x80}} { // counts and lengths that lie
		for _, at := range []int{8, 16, 24} {
			lie := bytes.Clone(whole)
			copy(lie[at:], b)
			f.Add(lie)
		}
	}
	bee, err := os.ReadFile(beeTiny)
	must(f, err)
	h, err := Read(beeTiny)
	must(f, err)
	f.Add(bee[:h.headerBytes])
	f.Fuzz(surviveAll)
}
