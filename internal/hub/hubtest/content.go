package hubtest

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
)

// Content is the bytes of a file, and their digests once they are asked for. It
// can be shared by files and servers.
type Content struct {
	at     io.ReaderAt
	size   int64
	path   string // of a file on disk
	sha256 func() string
	gitID  func() string
}

func newContent(at io.ReaderAt, size int64) *Content {
	c := &Content{at: at, size: size}
	c.sha256 = sync.OnceValue(func() string {
		h := sha256.New()
		_, err := io.CopyBuffer(h, c.reader(), make([]byte, 1<<20))
		return digest(h.Sum(nil), err)
	})
	c.gitID = sync.OnceValue(func() string {
		h := sha1.New()
		fmt.Fprintf(h, "blob %d\x00", size)
		_, err := io.CopyBuffer(h, c.reader(), make([]byte, 1<<20))
		return digest(h.Sum(nil), err)
	})
	return c
}

func digest(sum []byte, err error) string {
	if err != nil {
		return "unreadable"
	}
	return hex.EncodeToString(sum)
}

// Size is in bytes.
func (c *Content) Size() int64 { return c.size }

// SHA256 is in hex digits. The first call reads all of the content.
func (c *Content) SHA256() string { return c.sha256() }

// WriteTo writes all of the content.
func (c *Content) WriteTo(w io.Writer) (int64, error) {
	return io.CopyBuffer(w, c.reader(), make([]byte, 1<<20))
}

// reader hides what an io.SectionReader could do besides reading.
func (c *Content) reader() io.Reader {
	return struct{ io.Reader }{io.NewSectionReader(c.at, 0, c.size)}
}

// Bytes is content in memory.
func Bytes(b []byte) *Content { return newContent(bytes.NewReader(b), int64(len(b))) }

// OnDisk is the content of a file, which must not change.
func OnDisk(path string) (*Content, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file", path)
	}
	c := newContent(diskFile(path), info.Size())
	c.path = path
	return c, nil
}

type diskFile string

func (path diskFile) ReadAt(p []byte, off int64) (int, error) {
	f, err := os.Open(string(path))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.ReadAt(p, off)
}

// Random is content that nothing compresses and that is made when it is sent.
// The same seed makes the same bytes.
func Random(seed uint64, size int64) *Content { return newContent(newNoise(seed), size) }

// noise is one block of random bytes, again and again, each time begun at
// another place and marked with its number: no two are equal, and making one is
// not much slower than copying it.
type noise struct {
	seed  uint64
	block []byte
}

const noiseBlock = 1 << 20

func newNoise(seed uint64) *noise {
	n := &noise{seed: seed, block: make([]byte, noiseBlock)}
	r := rand.NewPCG(seed, 0)
	for i := 0; i < noiseBlock; i += 8 {
		binary.LittleEndian.PutUint64(n.block[i:], r.Uint64())
	}
	return n
}

// ReadAt implements io.ReaderAt; there is no end.
func (n *noise) ReadAt(p []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		number, at := uint64(off)/noiseBlock, int(off%noiseBlock)
		piece := p[done:min(len(p), done+noiseBlock-at)]
		begin := (at + int((n.seed+number)*0x9e3779b97f4a7c15>>44)) % noiseBlock
		c := copy(piece, n.block[begin:])
		copy(piece[c:], n.block)
		var mark [8]byte
		binary.LittleEndian.PutUint64(mark[:], number+1)
		if at < len(mark) {
			copy(piece, mark[at:])
		}
		done += len(piece)
		off += int64(len(piece))
	}
	return len(p), nil
}

// GGUF is a model file of about that many bytes, at least 1 KiB, with a header
// that a reader of such files accepts and one tensor of random bytes.
func GGUF(seed uint64, size int64) *Content {
	const align = 32
	header := func(weights uint64) []byte {
		b := append([]byte("GGUF"), 3, 0, 0, 0)
		u32 := func(v uint32) { b = binary.LittleEndian.AppendUint32(b, v) }
		u64 := func(v uint64) { b = binary.LittleEndian.AppendUint64(b, v) }
		text := func(s string) { u64(uint64(len(s))); b = append(b, s...) }
		name := func(key, value string) { text(key); u32(8); text(value) }
		number := func(key string, v uint32) { text(key); u32(4); u32(v) }
		u64(1)  // tensors
		u64(10) // pairs
		name("general.architecture", "llama")
		name("general.name", fmt.Sprintf("noise %d", seed))
		number("general.file_type", 7) // Q8_0
		number("general.alignment", align)
		number("llama.context_length", 2048)
		number("llama.embedding_length", 64)
		number("llama.block_count", 1)
		number("llama.feed_forward_length", 128)
		number("llama.attention.head_count", 4)
		text("llama.attention.layer_norm_rms_epsilon")
		u32(6)
		u32(0x3727c5ac) // 1e-5
		text("noise")
		u32(1) // dimensions
		u64(weights)
		u32(24) // of one byte each
		u64(0)
		return append(b, make([]byte, (align-len(b)%align)%align)...)
	}
	weights := max(size, 1024) - int64(len(header(0)))
	head := header(uint64(weights))
	return newContent(&headed{head, newNoise(seed)}, int64(len(head))+weights)
}

// headed is content with another beginning.
type headed struct {
	head []byte
	rest io.ReaderAt
}

func (h *headed) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	if off < int64(len(h.head)) {
		n = copy(p, h.head[off:])
	}
	if n == len(p) {
		return n, nil
	}
	m, err := h.rest.ReadAt(p[n:], off+int64(n)-int64(len(h.head)))
	return n + m, err
}
