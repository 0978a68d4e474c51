// Package gguf reads the header of a GGUF model file: what the model is, whether
// the file is whole, and how much memory it takes to run. It must not read
// weights, nor trust a header: a number in it never decides how much is
// allocated or how long something runs.
//
// The header is walked here, in one buffered pass, with every count and length
// compared with the size of the file. gpustack/gguf-parser-go then derives from
// it what depends on the architecture; it panics on some hostile values, so it
// is only ever called below contain.
//
// The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
package gguf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	parser "github.com/gpustack/gguf-parser-go"

	"rbee"
)

// File is a model on disk.
type File struct {
	Path          string
	Parts         []string // all files of the model; one, unless it is split
	SizeBytes     int64    // of all parts
	Architecture  string   // such as llama
	Name          string   // the name in the header, "" if there is none
	Quantisation  string   // such as Q4_K_M, "" if the header does not tell
	Parameters    int64
	ContextLength int // tokens the model was trained for, 0 if the header does not tell
	Layers        int
	Embedding     int    // length of a token's vector
	Vocabulary    int    // tokens
	ChatTemplate  string // Jinja, "" if there is none

	tensorBytes int64 // of the tensors in the header
	headerBytes int64 // of all parts
	weightBytes int64 // tensorBytes, or what Resized says
	firstPart   bool  // the header is that of the first of several parts
	resized     bool
	parsed      *parser.GGUFFile
}

// Read reads the header of a model. For a split model path is its first part,
// and all parts must be there. It fails with MODEL_NOT_FOUND if there is no
// such file, with INVALID_REQUEST if the file cannot be read, is not GGUF, is
// not a language model, is cut short, or contradicts itself.
func Read(path string) (File, error) {
	parts, err := partsOf(path)
	if err != nil {
		return File{}, err
	}
	return ReadParts(parts...)
}

// ReadParts is Read for the files of a model in order, whatever they are called.
func ReadParts(parts ...string) (File, error) {
	var whole header
	var size int64
	for i, part := range parts {
		h, n, err := readPart(part)
		if err != nil {
			return File{}, err
		}
		size += n
		if i == 0 {
			whole = h
			continue
		}
		if err := whole.join(h); err != nil {
			return File{}, refuse(part, err)
		}
	}
	f, err := whole.file(size, len(parts))
	if err != nil {
		return File{}, refuse(parts[0], err)
	}
	f.Path, f.Parts = parts[0], parts
	return f, nil
}

// ReadRemote reads the header of a model that is not here from the first bytes
// of its file, which has sizeBytes. It reads at most 64 KiB more than the
// header. Of a split model it takes the first part alone: Parameters and
// SizeBytes are of that part, and what Estimate says is of use after Resized. It
// fails with INVALID_REQUEST as Read does, and with the error of r, or
// io.ErrUnexpectedEOF if r ends inside the header but the file does not.
func ReadRemote(r io.Reader, sizeBytes int64) (File, error) {
	h, err := readHeader(&whole{r, sizeBytes}, sizeBytes)
	if err == nil {
		var f File
		if f, err = h.file(sizeBytes, 0); err == nil {
			return f, nil
		}
	}
	if isFault(err) {
		return File{}, refuse("the model file", err)
	}
	if errors.Is(err, errEarly) {
		err = io.ErrUnexpectedEOF
	}
	return File{}, fmt.Errorf("cannot read the header of the model file: %w", err)
}

// errEarly tells the end of what a reader has from that of the file.
var errEarly = errors.New("the source ended before the file")

// whole turns the end of a reader into errEarly, unless left bytes were read.
type whole struct {
	in   io.Reader
	left int64
}

func (w *whole) Read(p []byte) (int, error) {
	n, err := w.in.Read(p)
	w.left -= int64(n)
	if errors.Is(err, io.EOF) && w.left > 0 {
		err = errEarly
	}
	return n, err
}

// partName matches the files of a split model: PREFIX-00001-of-00003.gguf.
const partName = `^(.*)-(\d{5})-of-(\d{5})\.gguf$`

func partsOf(path string) ([]string, error) {
	m := regexp.MustCompile(partName).FindStringSubmatch(filepath.Base(path))
	if m == nil {
		return []string{path}, nil
	}
	part, _ := strconv.Atoi(m[2]) // five digits
	of, _ := strconv.Atoi(m[3])
	name := func(i int) string {
		return filepath.Join(filepath.Dir(path), fmt.Sprintf("%s-%05d-of-%05d.gguf", m[1], i, of))
	}
	if part != 1 {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot use %s: it is part %d of a split model", path, part).
			Suggest("name the first part, %s", name(1))
	}
	var parts []string
	for i := 1; i <= of; i++ {
		if _, err := os.Stat(name(i)); i > 1 && errors.Is(err, fs.ErrNotExist) {
			return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot use %s: part %d of %d is missing", path, i, of).
				Suggest("put %s beside it", name(i))
		}
		parts = append(parts, name(i))
	}
	return parts, nil
}

// readPart reads the header of one file and its size.
func readPart(path string) (h header, size int64, err error) {
	// A pipe would block the opening and a device has no size.
	info, err := os.Stat(path)
	if err != nil {
		return header{}, 0, cannotRead(path, err)
	}
	if !info.Mode().IsRegular() {
		return header{}, 0, refuse(path, errors.New("it is not a regular file"))
	}
	file, err := os.Open(path) //nolint:gosec // the user names the file
	if err != nil {
		return header{}, 0, cannotRead(path, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	h, err = readHeader(file, info.Size())
	if err != nil {
		return header{}, 0, refuse(path, err)
	}
	return h, info.Size(), nil
}

func cannotRead(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return rbee.Errorf(rbee.CodeModelNotFound, "cannot find the model file %s", path).
			Suggest("check the path; it must be absolute and on the machine of the hive").WithCause(err)
	case errors.Is(err, fs.ErrPermission):
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the model file %s: permission denied", path).
			Suggest("let the user of the hive read it, for instance with 'chmod a+r %s'", path).WithCause(err)
	}
	return rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the model file %s: %s", path, cause(err)).
		Suggest("check the disk that holds the file").WithCause(err)
}

// cause is the last sentence of a file error, without the path.
func cause(err error) string {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}

// fault is what is wrong with a header and what a user may do.
type fault struct {
	problem    string
	suggestion string
	details    map[string]any
}

func (f *fault) Error() string { return f.problem }

// bad is a fault of a file that no other copy would have.
func bad(format string, args ...any) *fault {
	return &fault{problem: fmt.Sprintf(format, args...), suggestion: "fetch or copy the file again; if it stays, the file was made wrongly"}
}

// unfit is a fault of a file that is whole but not for us.
func unfit(suggestion, format string, args ...any) *fault {
	return &fault{problem: fmt.Sprintf(format, args...), suggestion: suggestion}
}

// cut is the fault of a file that ends before it should; needed is 0 where it
// is not known.
func cut(needed uint64, size int64) *fault {
	f := bad("it is cut short: it ends inside its header, after %d bytes", size)
	f.details = map[string]any{"actual_bytes": size}
	if needed > 0 {
		f.problem = fmt.Sprintf("it is cut short: its header says %d bytes, the file has %d", needed, size)
		f.details["expected_bytes"] = needed
	}
	f.suggestion = "fetch or copy the file again"
	return f
}

// refuse names the file that a fault belongs to.
func refuse(path string, err error) error {
	if e, ok := errors.AsType[*rbee.Error](err); ok {
		return e
	}
	f, ok := errors.AsType[*fault](err)
	if !ok {
		f = &fault{problem: cause(err), suggestion: "name a GGUF file"}
	}
	e := rbee.Errorf(rbee.CodeInvalidRequest, "cannot use %s: %s", path, f.problem).Suggest("%s", f.suggestion).WithCause(err)
	for k, v := range f.details {
		e = e.With(k, v)
	}
	return e
}

// contain calls f and turns a panic of the library into false.
func contain(f func()) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	f()
	return true
}

// printable keeps what a terminal shows as it is.
func printable(s string, limit int) string {
	s = strings.Map(func(c rune) rune {
		if strconv.IsPrint(c) {
			return c
		}
		return -1
	}, strings.ToValidUTF8(s, ""))
	if r := []rune(s); len(r) > limit {
		return string(r[:limit])
	}
	return s
}
