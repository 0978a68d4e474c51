package engines

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"rbee"
)

// Bounds of an archive. The largest one that is pinned unpacks to 375 MB.
const (
	maxUnpackedBytes = 1 << 30
	maxEntries       = 1024
)

// verifyIntegrity compares a file with its "sha512-BASE64" digest.
func verifyIntegrity(file io.Reader, subject, want string) error {
	h := sha512.New()
	if _, err := io.Copy(h, file); err != nil {
		return fmt.Errorf("cannot read the archive of %s: %w", subject, err)
	}
	if got := "sha512-" + base64.StdEncoding.EncodeToString(h.Sum(nil)); got != want {
		return rbee.Errorf(rbee.CodeChecksumMismatch, "cannot use the archive of %s: its digest is not the pinned one", subject).
			With("expected", want).With("actual", got).
			Suggest("run 'npm cache verify' and try again; if it stays, npm's registry serves another file under this name: use 'rbee engine install --from DIR'")
	}
	return nil
}

// unpack writes the wanted files of a gzipped tar archive into root, without
// their folders. It refuses an archive with anything but plain files and
// folders inside itself, and one that grows over the bounds.
func unpack(in io.Reader, root *os.Root, limit int64, wants func(name string) bool, progress func(done int64)) error {
	zr, err := gzip.NewReader(in)
	if err != nil {
		return fmt.Errorf("it is not a gzip file: %w", err)
	}
	bounded := &boundedReader{in: zr, left: limit}
	tr := tar.NewReader(bounded)
	for range maxEntries {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return drain(bounded)
		}
		if err != nil {
			return cutShort(err)
		}
		if err := acceptable(h); err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg || !wants(h.Name) {
			continue
		}
		n, err := writeFile(root, path.Base(h.Name), tr)
		if err != nil {
			return cutShort(err)
		}
		progress(n)
	}
	return fmt.Errorf("it has more than %d entries", maxEntries)
}

func acceptable(h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir:
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("the entry %q is not a plain file", h.Name)
	}
	if !localSlash(h.Name) {
		return fmt.Errorf("the entry %q points out of the archive", h.Name)
	}
	return nil
}

// localSlash tells whether an archive's name stays below the archive's root on
// every system: no "..", no absolute path, no backslash or colon.
func localSlash(name string) bool {
	for len(name) > 0 && name[len(name)-1] == '/' {
		name = name[:len(name)-1]
	}
	if name == "" || path.Clean(name) != name || path.IsAbs(name) || name == ".." || len(name) > 2 && name[:3] == "../" {
		return false
	}
	for _, c := range name {
		if c == '\\' || c == ':' || c < ' ' {
			return false
		}
	}
	return true
}

// drain reads to the end of the archive, so that its checksum is compared.
func drain(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return cutShort(err)
}

func cutShort(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("it is cut short: %w", err)
	}
	return err
}

// errTooLarge ends the unpacking of an archive that is larger than any of ours.
var errTooLarge = errors.New("it unpacks to more than its limit")

type boundedReader struct {
	in   io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	n, err := b.in.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
