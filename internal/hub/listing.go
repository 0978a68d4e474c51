package hub

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"rbee"
)

const (
	maxDocumentBytes = 32 << 20
	maxItems         = 100_000 // files of a repository, repositories of a search
	maxFileBytes     = 1 << 44 // 16 TiB
	maxPathBytes     = 1024
)

// listing is the body of GET /api/models/{repo}/revision/{rev}?blobs=true.
type listing struct {
	ID       string        `json:"id"`
	SHA      string        `json:"sha"`
	Siblings list[sibling] `json:"siblings"`
}

type sibling struct {
	Path   string `json:"rfilename"`
	Size   *int64 `json:"size"`
	BlobID string `json:"blobId"`
	LFS    *struct {
		SHA256 string `json:"sha256"`
		Size   *int64 `json:"size"`
	} `json:"lfs"`
}

// list is an array of at most maxItems elements. An element can take fifty times
// the memory of its text, so the bound is checked on the way.
type list[T any] []T

// UnmarshalJSON implements json.Unmarshaler.
func (l *list[T]) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	begin, err := d.Token()
	if err != nil || begin == nil { // null is an empty list
		return err
	}
	if begin != json.Delim('[') {
		return errors.New("there is something else where a list belongs")
	}
	for d.More() {
		var item T
		if err := d.Decode(&item); err != nil {
			return err
		}
		if *l = append(*l, item); len(*l) > maxItems {
			return fmt.Errorf("it lists more than %d items", maxItems)
		}
	}
	return nil
}

// decodeRepository reads a listing. What it says of a file must be right, or all
// of it is refused; a file with a name that cannot be used is left out.
func decodeRepository(body []byte, repo, revision string) (Repository, error) {
	var l listing
	if err := decodeJSON(body, &l); err != nil {
		return Repository{}, err
	}
	r := Repository{ID: repo, Revision: revision, Files: make([]File, 0, len(l.Siblings))}
	if plainRepo(l.ID) { // another one than was asked for if it was renamed
		r.ID = l.ID
	}
	if l.SHA != "" {
		if !isHex(l.SHA, 40) {
			return Repository{}, errors.New("its commit is no commit")
		}
		r.Revision = l.SHA
	}
	seen := map[string]bool{}
	for _, s := range l.Siblings {
		if !usablePath(s.Path) || seen[s.Path] {
			continue
		}
		seen[s.Path] = true
		f, why := s.file()
		if why != "" {
			return Repository{}, fmt.Errorf("what it says of %s is wrong: %s", s.Path, why)
		}
		r.Files = append(r.Files, f)
	}
	return r, nil
}

// file checks what a listing says of a file.
func (s sibling) file() (f File, why string) {
	f = File{Path: s.Path, BlobID: s.BlobID}
	size := s.Size
	if s.LFS != nil {
		f.SHA256 = s.LFS.SHA256
		if size == nil {
			size = s.LFS.Size
		}
	}
	switch {
	case size == nil:
		return f, "there is no size"
	case *size < 0 || *size > maxFileBytes:
		return f, "no file has such a size"
	case s.LFS != nil && s.LFS.Size != nil && *s.LFS.Size != *size:
		return f, "there are two sizes"
	case s.LFS != nil && !isHex(f.SHA256, 64):
		return f, "the SHA-256 is none"
	case f.BlobID != "" && !isHex(f.BlobID, 40):
		return f, "the id of the blob is none"
	}
	f.SizeBytes = *size
	return f, ""
}

// found is an element of the body of GET /api/models.
type found struct {
	ID        string          `json:"id"`
	Downloads int64           `json:"downloads"`
	Likes     int64           `json:"likes"`
	Gated     json.RawMessage `json:"gated"` // false, "auto" or "manual"
	Updated   time.Time       `json:"lastModified"`
}

// decodeSearch reads what a search found: at most limit repositories, without
// those that no model reference can name.
func decodeSearch(body []byte, limit int) ([]rbee.HubModel, error) {
	var all list[found]
	if err := decodeJSON(body, &all); err != nil {
		return nil, err
	}
	models := []rbee.HubModel{}
	for _, f := range all {
		if !plainRepo(f.ID) || len(models) >= limit {
			continue
		}
		models = append(models, rbee.HubModel{
			ModelRef:  rbee.ModelRef{Provider: rbee.ProviderHF, Reference: f.ID},
			Downloads: max(f.Downloads, 0), Likes: max(f.Likes, 0),
			Gated:     len(f.Gated) > 0 && f.Gated[0] == '"',
			UpdatedAt: f.Updated,
		})
	}
	return models, nil
}

// decodeJSON says in words what is wrong with a document.
func decodeJSON(body []byte, into any) error {
	err := json.Unmarshal(body, into)
	if _, ok := errors.AsType[*json.SyntaxError](err); ok {
		return errors.New("it is no JSON")
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%q has a value of the wrong kind", e.Field)
	}
	return err
}

// usablePath accepts a path that stays where it is put on each operating system.
func usablePath(p string) bool {
	if p == "" || len(p) > maxPathBytes || !utf8.ValidString(p) || path.Clean(p) != p || p == "." || path.IsAbs(p) ||
		strings.ContainsAny(p, `\:`) || strings.ContainsFunc(p, unicode.IsControl) {
		return false
	}
	for element := range strings.SplitSeq(p, "/") {
		// Windows drops dots and spaces at the end of a name.
		if strings.TrimRight(element, ". ") != element || isDevice(element) {
			return false
		}
	}
	return true
}

// isDevice says whether Windows takes a name, whatever its extension, for a device.
func isDevice(name string) bool {
	name, _, _ = strings.Cut(name, ".")
	name = strings.ToUpper(strings.TrimRight(name, " "))
	switch name {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$":
		return true
	}
	port, ok := strings.CutPrefix(name, "COM")
	if !ok {
		port, ok = strings.CutPrefix(name, "LPT")
	}
	return ok && utf8.RuneCountInString(port) == 1 && strings.ContainsAny(port, "0123456789¹²³")
}

// isHex accepts n lower-case hexadecimal digits.
func isHex(s string, n int) bool {
	return len(s) == n && !strings.ContainsFunc(s, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') })
}
