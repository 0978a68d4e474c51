package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/bits"
	"regexp"
	"strings"

	parser "github.com/gpustack/gguf-parser-go"
)

// Bounds of a header. The largest in the wild has a few thousand tensors, a
// hundred keys, and 20 MB of vocabulary. With these, reading one and estimating
// from it takes less than 64 MiB, whatever the header says.
const (
	maxHeaderBytes  = 256 << 20
	maxKeys         = 1 << 16
	maxTensors      = 1 << 14
	maxTensorName   = 63 // GGML_MAX_NAME of llama.cpp v0.5.0, which refuses a longer one
	maxNameBytes    = 1 << 16
	maxKeptString   = 1 << 20 // a longer one is skipped: none of those that matter is
	maxKeptArray    = 4096    // likewise; figures per layer are in arrays
	maxKeptItems    = 1 << 17 // of all arrays
	maxKeptText     = 8 << 20 // of all names and strings, in bytes
	maxAlignment    = 1 << 20
	maxLayers       = 512 // LLAMA_MAX_LAYERS of llama.cpp v0.5.0, which ends the process above it
	defaultAlign    = 32
	minKeyBytes     = 8 + 4 + 1
	minTensorBytes  = 8 + 4 + 8 + 4 + 8
	maxShownName    = 120
	maxTensorDims   = int(parser.GGMLMaxDims)
	bufferSizeBytes = 64 << 10
)

// header is what the walk over one file, or over all parts, found.
type header struct {
	version     uint32
	keys        parser.GGUFMetadataKVs
	tensors     parser.GGUFTensorInfos
	headerBytes int64 // up to the first tensor's data, of all parts
	tensorBytes int64
	elements    int64
}

// source counts what is read, and knows how much there can be.
type source struct {
	in   *bufio.Reader
	pos  int64
	size int64
	kept uint64 // items of arrays
	text uint64 // bytes of names and strings
	err  error  // the first one; reads after it return zeroes

	scratch [8]byte
}

func (s *source) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := io.ReadFull(s.in, p)
	s.advance(n, err)
	return n, s.err
}

// advance counts n bytes and keeps the error that ended them.
func (s *source) advance(n int, err error) {
	s.pos += int64(n)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		s.err = cut(0, s.size)
	case err != nil:
		s.err = err
	case s.pos > maxHeaderBytes:
		s.err = bad("its header is larger than %d MiB", maxHeaderBytes>>20)
	}
}

// fixed reads n bytes, at most 8; they stay until the next call.
func (s *source) fixed(n int) []byte {
	b := s.scratch[:n]
	clear(b)
	_, _ = s.Read(b) // s.err keeps it
	return b
}

func (s *source) u8() uint8   { return s.fixed(1)[0] }
func (s *source) u16() uint16 { return binary.LittleEndian.Uint16(s.fixed(2)) }
func (s *source) u32() uint32 { return binary.LittleEndian.Uint32(s.fixed(4)) }
func (s *source) u64() uint64 { return binary.LittleEndian.Uint64(s.fixed(8)) }

// fits tells whether count items of at least each bytes can follow.
func (s *source) fits(count, each uint64) bool {
	hi, lo := bits.Mul64(count, each)
	if left := min(s.size, maxHeaderBytes) - s.pos; hi != 0 || left < 0 || lo > uint64(left) {
		if s.err == nil {
			s.err = cut(0, s.size)
			if s.size > maxHeaderBytes || hi != 0 || lo > maxHeaderBytes {
				s.err = bad("its header is damaged: it claims %d entries of %d bytes", count, each)
			}
		}
		return false
	}
	return true
}

func (s *source) skip(n uint64) {
	if s.err != nil || !s.fits(n, 1) {
		return
	}
	s.advance(s.in.Discard(int(n))) //nolint:gosec // fits bounds it
}

// string reads a string; one longer than keep is skipped and read as "".
func (s *source) string(keep uint64) string {
	n := s.u64()
	if s.err != nil || n == 0 || !s.fits(n, 1) {
		return ""
	}
	if n > keep {
		s.skip(n)
		return ""
	}
	if s.text += n; s.text > maxKeptText {
		s.err = bad("its header has more than %d MiB of names and text", maxKeptText>>20)
		return ""
	}
	b := make([]byte, n)
	_, _ = s.Read(b)
	return string(b)
}

// readHeader walks over the header of a file of size bytes and checks that the
// data of every tensor is inside the file.
func readHeader(in io.Reader, size int64) (header, error) {
	s := &source{in: bufio.NewReaderSize(in, bufferSizeBytes), size: size}
	h := header{}
	tensors, keys, err := s.preamble(&h)
	if err != nil {
		return header{}, err
	}
	h.keys = make(parser.GGUFMetadataKVs, 0, keys) // preamble bounds both
	h.tensors = make(parser.GGUFTensorInfos, 0, tensors)
	seen := make(map[string]bool, keys)
	for range keys {
		kv, err := s.key()
		if err != nil {
			return header{}, err
		}
		if seen[kv.Key] {
			return header{}, bad("its key %q is there twice", printable(kv.Key, maxShownName))
		}
		seen[kv.Key] = true
		h.keys = append(h.keys, kv)
	}
	var end uint64
	for range tensors {
		t, bytes, err := s.tensor()
		if err != nil {
			return header{}, err
		}
		last, carry := bits.Add64(t.Offset, bytes, 0)
		if carry != 0 {
			return header{}, bad("its tensor %q lies beyond any file", printable(t.Name, maxShownName))
		}
		end = max(end, last)
		if err := h.count(t, bytes); err != nil {
			return header{}, err
		}
	}
	if s.err != nil {
		return header{}, s.err
	}
	align, err := h.alignment()
	if err != nil {
		return header{}, err
	}
	start := uint64(s.pos)
	if tensors > 0 {
		start = (start + align - 1) / align * align
	}
	needed, carry := bits.Add64(start, end, 0)
	if carry != 0 || needed > uint64(size) {
		return header{}, cut(needed, size)
	}
	h.headerBytes = int64(start) //nolint:gosec // within the file
	return h, nil
}

// preamble reads what comes before the keys: magic, version and counts.
func (s *source) preamble(h *header) (tensors, keys uint64, err error) {
	if s.size == 0 {
		return 0, 0, unfit("fetch or copy the file again", "it is empty")
	}
	magic := s.u32()
	switch {
	case s.err != nil || magic != uint32(parser.GGUFMagicGGUFLe):
		if s.err != nil && !isFault(s.err) {
			return 0, 0, s.err
		}
		return 0, 0, unfit("name a model in GGUF format; others have to be converted with llama.cpp's convert_hf_to_gguf.py", "it is not a GGUF file")
	}
	h.version = s.u32()
	switch {
	case s.err != nil:
		return 0, 0, s.err
	case h.version == 1:
		return 0, 0, unfit("convert the model again, or fetch a newer file of it", "it has version 1 of the format, which llama.cpp dropped")
	case h.version > 3 && bits.ReverseBytes32(h.version) <= 3:
		return 0, 0, unfit("fetch the little-endian file of the model", "it is a big-endian file")
	case h.version != 2 && h.version != 3:
		return 0, 0, unfit("a newer rbee may read it", "it has version %d of the format; 2 and 3 are known", h.version)
	}
	tensors, keys = s.u64(), s.u64()
	switch {
	case s.err != nil:
		return 0, 0, s.err
	case keys > maxKeys || tensors > maxTensors:
		return 0, 0, bad("its header is damaged: it claims %d keys and %d tensors", keys, tensors)
	case !s.fits(keys, minKeyBytes), !s.fits(tensors, minTensorBytes):
		return 0, 0, s.err
	}
	return tensors, keys, nil
}

func isFault(err error) bool {
	_, ok := errors.AsType[*fault](err)
	return ok
}

func (s *source) key() (kv parser.GGUFMetadataKV, err error) {
	kv.Key = s.string(maxNameBytes)
	kv.ValueType = parser.GGUFMetadataValueType(s.u32())
	if s.err != nil {
		return kv, s.err
	}
	if kv.ValueType == parser.GGUFMetadataValueTypeArray {
		kv.Value, err = s.array(kv.Key)
		return kv, err
	}
	kv.Value = s.value(kv.ValueType)
	if s.err == nil && kv.Value == nil {
		return kv, bad("its key %q has the unknown type %d", printable(kv.Key, maxShownName), uint32(kv.ValueType))
	}
	return kv, s.err
}

// value reads a value that is no array, or returns nil for an unknown type.
func (s *source) value(t parser.GGUFMetadataValueType) any {
	switch t {
	case parser.GGUFMetadataValueTypeUint8:
		return s.u8()
	case parser.GGUFMetadataValueTypeInt8:
		return int8(s.u8()) //nolint:gosec // the bits are those of an int8
	case parser.GGUFMetadataValueTypeUint16:
		return s.u16()
	case parser.GGUFMetadataValueTypeInt16:
		return int16(s.u16()) //nolint:gosec // the bits are those of an int16
	case parser.GGUFMetadataValueTypeUint32:
		return s.u32()
	case parser.GGUFMetadataValueTypeInt32:
		return int32(s.u32()) //nolint:gosec // the bits are those of an int32
	case parser.GGUFMetadataValueTypeFloat32:
		return math.Float32frombits(s.u32())
	case parser.GGUFMetadataValueTypeBool:
		return s.u8() != 0
	case parser.GGUFMetadataValueTypeString:
		return s.string(maxKeptString)
	case parser.GGUFMetadataValueTypeUint64:
		return s.u64()
	case parser.GGUFMetadataValueTypeInt64:
		return int64(s.u64()) //nolint:gosec // the bits are those of an int64
	case parser.GGUFMetadataValueTypeFloat64:
		return math.Float64frombits(s.u64())
	}
	return nil
}

// width is the size of a value in bytes, the least for a string, 0 for a type
// that cannot be in an array.
func width(t parser.GGUFMetadataValueType) uint64 {
	switch t {
	case parser.GGUFMetadataValueTypeUint8, parser.GGUFMetadataValueTypeInt8, parser.GGUFMetadataValueTypeBool:
		return 1
	case parser.GGUFMetadataValueTypeUint16, parser.GGUFMetadataValueTypeInt16:
		return 2
	case parser.GGUFMetadataValueTypeUint32, parser.GGUFMetadataValueTypeInt32, parser.GGUFMetadataValueTypeFloat32:
		return 4
	case parser.GGUFMetadataValueTypeUint64, parser.GGUFMetadataValueTypeInt64, parser.GGUFMetadataValueTypeFloat64,
		parser.GGUFMetadataValueTypeString:
		return 8
	}
	return 0
}

// array reads an array. Of a long one, or one of strings, only the length and
// the size are kept, and nothing at all if it is not of the tokenizer: the
// library would make slices of that length. An array in an array is refused:
// llama.cpp has none, and the depth would be the file's choice.
func (s *source) array(key string) (any, error) {
	a := parser.GGUFMetadataKVArrayValue{Type: parser.GGUFMetadataValueType(s.u32()), Len: s.u64()}
	a.StartOffset = s.pos
	each := width(a.Type)
	if s.err == nil && each == 0 {
		return nil, bad("its key %q is an array of the type %d", printable(key, maxShownName), uint32(a.Type))
	}
	if s.err != nil || !s.fits(a.Len, each) {
		return nil, s.err
	}
	switch {
	case a.Type == parser.GGUFMetadataValueTypeString:
		for range a.Len {
			s.skip(s.u64())
			if s.err != nil {
				return nil, s.err
			}
		}
	case a.Len > maxKeptArray, s.kept+a.Len > maxKeptItems:
		s.skip(a.Len * each)
	default:
		s.kept += a.Len
		a.Array = make([]any, a.Len)
		for i := range a.Array {
			a.Array[i] = s.value(a.Type)
		}
	}
	a.Size = s.pos - a.StartOffset
	if a.Array == nil && a.Len > 0 && !strings.HasPrefix(key, "tokenizer.") {
		return nil, s.err
	}
	return a, s.err
}

// tensor reads a tensor's description and works out the bytes of its data.
func (s *source) tensor() (t parser.GGUFTensorInfo, bytes uint64, err error) {
	t.StartOffset = s.pos
	t.Name = s.string(maxNameBytes)
	t.NDimensions = s.u32()
	shown := printable(t.Name, maxShownName)
	if s.err != nil {
		return t, 0, s.err
	}
	if len(t.Name) > maxTensorName {
		return t, 0, bad("its tensor %q has a name of more than %d bytes", shown, maxTensorName)
	}
	if t.NDimensions == 0 || int(t.NDimensions) > maxTensorDims {
		return t, 0, bad("its tensor %q has %d dimensions", shown, t.NDimensions)
	}
	t.Dimensions = make([]uint64, t.NDimensions)
	elements := uint64(1)
	for i := range t.Dimensions {
		t.Dimensions[i] = s.u64()
		hi, lo := bits.Mul64(elements, t.Dimensions[i])
		if s.err == nil && (hi != 0 || lo == 0 || lo > math.MaxInt64) {
			return t, 0, bad("its tensor %q has an impossible shape", shown)
		}
		elements = lo
	}
	t.Type = parser.GGMLType(s.u32())
	t.Offset = s.u64()
	if s.err != nil {
		return t, 0, s.err
	}
	trait, known := t.Type.Trait()
	if !known || trait.BlockSize == 0 {
		return t, 0, unfit("fetch the model in another quantisation", "its tensor %q has the type %d, which llama.cpp v0.5.0 does not know", shown, uint32(t.Type))
	}
	if t.Dimensions[0]%trait.BlockSize != 0 {
		return t, 0, bad("its tensor %q has rows of %d elements, not a multiple of %d", shown, t.Dimensions[0], trait.BlockSize)
	}
	hi, bytes := bits.Mul64(elements/trait.BlockSize, trait.TypeSize)
	if hi != 0 || bytes > math.MaxInt64 {
		return t, 0, bad("its tensor %q has an impossible shape", shown)
	}
	return t, bytes, nil
}

// count adds a tensor to the sums.
func (h *header) count(t parser.GGUFTensorInfo, bytes uint64) error {
	n := uint64(1)
	for _, d := range t.Dimensions {
		n *= d
	}
	elements, over1 := bits.Add64(uint64(h.elements), n, 0)
	total, over2 := bits.Add64(uint64(h.tensorBytes), bytes, 0)
	if over1+over2 != 0 || elements > math.MaxInt64 || total > math.MaxInt64 {
		return bad("its tensors together are larger than any file")
	}
	h.elements, h.tensorBytes = int64(elements), int64(total)
	h.tensors = append(h.tensors, t)
	return nil
}

func (h *header) alignment() (uint64, error) {
	kv, ok := h.keys.Get("general.alignment")
	if !ok {
		return defaultAlign, nil
	}
	a, ok := kv.Value.(uint32)
	if !ok || a == 0 || a > maxAlignment || a&(a-1) != 0 {
		return 0, bad("its alignment is not a power of two")
	}
	return uint64(a), nil
}

// join adds the tensors of a further part.
func (h *header) join(part header) error {
	elements, over1 := bits.Add64(uint64(h.elements), uint64(part.elements), 0)
	total, over2 := bits.Add64(uint64(h.tensorBytes), uint64(part.tensorBytes), 0)
	if over1+over2 != 0 || elements > math.MaxInt64 || total > math.MaxInt64 || len(h.tensors)+len(part.tensors) > maxTensors {
		return bad("its tensors together are larger than any file")
	}
	h.elements, h.tensorBytes = int64(elements), int64(total)
	h.headerBytes += part.headerBytes
	h.tensors = append(h.tensors, part.tensors...)
	return nil
}

// number is a whole number of the header, or 0.
func (h *header) number(key string) int64 {
	kv, ok := h.keys.Get(key)
	if !ok {
		return 0
	}
	switch v := kv.Value.(type) {
	case uint8:
		return int64(v)
	case int8:
		return int64(v)
	case uint16:
		return int64(v)
	case int16:
		return int64(v)
	case uint32:
		return int64(v)
	case int32:
		return int64(v)
	case uint64:
		return int64(min(v, math.MaxInt64))
	case int64:
		return v
	}
	return 0
}

func (h *header) text(key string) string {
	if kv, ok := h.keys.Get(key); ok {
		s, _ := kv.Value.(string)
		return s
	}
	return ""
}

// file makes of a whole header what the rest of rbee knows of a model. Parts is
// the number of files that it is of, 0 if it is of the first of an unknown number.
func (h *header) file(size int64, parts int) (File, error) {
	arch := h.text("general.architecture")
	kind := h.text("general.type")
	firstPart := parts == 0 && h.number("split.count") > 1
	_, steers := h.keys.Get("controlvector.model_hint")
	switch {
	case arch == "clip" || kind == "mmproj":
		return File{}, unfit("name the language model that it belongs to", "it is a projector for images or sound, not a language model")
	case kind != "" && kind != "model", arch == "controlvector", arch == "imatrix", steers:
		return File{}, unfit("name a language model", "it is of the type %q, not a language model", printable(kind+" "+arch, maxShownName))
	case !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`).MatchString(arch):
		return File{}, unfit("name the first part of a split model, or fetch the file again", "its header does not say what architecture it has")
	case len(h.tensors) == 0 && !firstPart: // gguf-split may leave the first part without
		return File{}, unfit("name a file with weights", "it has no tensors, as a file with only a vocabulary")
	case h.number("split.count") > 1 && parts == 1:
		return File{}, unfit("keep the names that the parts were published under", "it is part of a split model, but not named NAME-00001-of-%05d.gguf", h.number("split.count"))
	}
	// The library makes a slice of this length and would take a fraction or text for it.
	layers := h.number(arch + ".block_count")
	if _, claimed := h.keys.Get(arch + ".block_count"); claimed && (layers <= 0 || layers > maxLayers) {
		return File{}, bad("its header does not claim 1 to %d layers", maxLayers)
	}
	f := File{
		SizeBytes: size, Architecture: arch, Name: printable(h.text("general.name"), maxShownName), Parameters: h.elements,
		ContextLength: clamp(h.number(arch + ".context_length")), Layers: int(layers), Embedding: clamp(h.number(arch + ".embedding_length")),
		ChatTemplate: h.text("tokenizer.chat_template"),
		tensorBytes:  h.tensorBytes, headerBytes: h.headerBytes, weightBytes: h.tensorBytes, firstPart: firstPart,
	}
	if kv, ok := h.keys.Get("tokenizer.ggml.tokens"); ok {
		if a, ok := kv.Value.(parser.GGUFMetadataKVArrayValue); ok {
			f.Vocabulary = clamp(int64(min(a.Len, math.MaxInt32)))
		}
	}
	f.parsed = h.parsed(size)
	var quantisation string
	if contain(func() { quantisation = f.parsed.Metadata().FileTypeDescriptor }) && regexp.MustCompile(`^[A-Z0-9_]+$`).MatchString(quantisation) {
		f.Quantisation = quantisation
	}
	return f, nil
}

// parsed is the header in the form of the library.
func (h *header) parsed(size int64) *parser.GGUFFile {
	g := &parser.GGUFFile{
		Header: parser.GGUFHeader{
			Magic: parser.GGUFMagicGGUFLe, Version: parser.GGUFVersion(h.version), TensorCount: uint64(len(h.tensors)),
			MetadataKVCount: uint64(len(h.keys)), MetadataKV: h.keys,
		},
		TensorInfos:           h.tensors,
		TensorDataStartOffset: h.headerBytes,
		Size:                  parser.GGUFBytesScalar(size),                 //nolint:gosec // a file's size
		ModelSize:             parser.GGUFBytesScalar(size - h.headerBytes), //nolint:gosec // the header is inside the file
		ModelParameters:       parser.GGUFParametersScalar(h.elements),      //nolint:gosec // bounded by count
	}
	if h.elements > 0 {
		g.ModelBitsPerWeight = parser.GGUFBitsPerWeightScalar(float64(g.ModelSize) * 8 / float64(h.elements))
	}
	return g
}

func clamp(n int64) int { return int(max(0, min(n, math.MaxInt32))) }
