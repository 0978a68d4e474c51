package hubtest

import (
	"cmp"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Access says who may read a repository.
type Access string

// The kinds of access.
const (
	Public  Access = ""
	Gated   Access = "gated"   // anybody sees it; files want a token that accepted the terms
	Private Access = "private" // who has no token for it does not see it
)

// Repo is a model repository.
type Repo struct {
	Name      string // ORG/NAME
	Files     []File
	Access    Access
	Downloads int64
	Likes     int64
	Updated   time.Time
}

// File is a file of a repository. Its path goes into the listing as it is,
// however hostile.
type File struct {
	Path    string
	Content *Content
	Plain   bool // small and in git: the hub itself sends it, and no digest is listed
}

type repo struct {
	Repo
	commits []string // the last is main
}

// signature makes an address of the store of files valid.
type signature struct {
	repo, path string
	number     int
	span       string // that the hub was asked for
}

// Put adds a repository, or replaces it by another commit, which is returned.
func (s *Server) Put(r Repo) (commit string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.put(r)
}

func (s *Server) put(r Repo) string {
	known := s.repos[r.Name]
	if known == nil {
		known = &repo{}
		s.repos[r.Name] = known
	}
	sum := sha1.Sum(fmt.Appendf(nil, "%s %d", r.Name, len(known.commits)))
	known.Repo, known.commits = r, append(known.commits, hex.EncodeToString(sum[:]))
	return known.main()
}

func (r *repo) main() string { return r.commits[len(r.commits)-1] }

func (r *repo) file(path string) (File, bool) {
	for _, f := range r.Files {
		if f.Path == path {
			return f, true
		}
	}
	return File{}, false
}

// change makes a file another one of the same size.
func (s *Server) change(name, path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repos[name].Repo
	r.Files = slices.Clone(r.Files)
	for i, f := range r.Files {
		if f.Path == path {
			r.Files[i].Content = Random(uint64(len(s.repos[name].commits))<<32, f.Content.Size())
		}
	}
	s.put(r)
}

// Accept makes a token valid, for what is public and for some repositories that
// are not. Any other token is refused everywhere.
func (s *Server) Accept(token string, repos ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token] = append(s.tokens[token], repos...)
}

func (s *Server) hubRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/models", s.serveSearch)
	mux.HandleFunc("GET /api/models/{org}/{name}/revision/{revision}", func(rw http.ResponseWriter, r *http.Request) {
		s.serveListing(rw.(*writer), r, r.PathValue("org")+"/"+r.PathValue("name"), r.PathValue("revision"))
	})
	mux.HandleFunc("GET /api/models/{org}/{name}", func(rw http.ResponseWriter, r *http.Request) {
		s.serveListing(rw.(*writer), r, r.PathValue("org")+"/"+r.PathValue("name"), "main")
	})
	mux.HandleFunc("GET /api/resolve-cache/models/{org}/{name}/{revision}/{path...}", func(rw http.ResponseWriter, r *http.Request) {
		s.servePlain(rw.(*writer), r, r.PathValue("org")+"/"+r.PathValue("name"), r.PathValue("path"))
	})
	mux.HandleFunc("GET /", func(rw http.ResponseWriter, r *http.Request) {
		name, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/resolve/")
		revision, path, ok := strings.Cut(rest, "/")
		revision, err1 := url.PathUnescape(revision)
		path, err2 := url.PathUnescape(path)
		if !ok || err1 != nil || err2 != nil {
			rw.(*writer).refuse(http.StatusNotFound, "", "there is no such page")
			return
		}
		s.resolve(rw.(*writer), r, name, revision, path)
	})
	return mux
}

// find looks a repository up for whoever asks, or refuses.
func (s *Server) find(w *writer, r *http.Request, name, revision string, files bool) (repo, bool) {
	found, status, code, message := s.look(r, name, revision, files)
	if status != 0 {
		w.refuse(status, code, message)
	}
	return found, status == 0
}

func (s *Server) look(r *http.Request, name, revision string, files bool) (found repo, status int, code, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	token, sent := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	may, known := s.tokens[token]
	here := s.repos[name]
	switch {
	case sent && !known:
		return found, http.StatusUnauthorized, "", "Invalid credentials in Authorization header"
	case (here == nil || here.Access == Private) && !sent:
		return found, http.StatusUnauthorized, "RepoNotFound", "Repository not found"
	case here == nil || here.Access == Private && !slices.Contains(may, name):
		return found, http.StatusNotFound, "RepoNotFound", "Repository not found"
	case files && here.Access == Gated && !sent:
		return found, http.StatusUnauthorized, "GatedRepo", "Access to this repository is restricted"
	case files && here.Access == Gated && !slices.Contains(may, name):
		return found, http.StatusForbidden, "GatedRepo", "Access to this repository is restricted"
	case revision != "main" && !slices.Contains(here.commits, revision):
		return found, http.StatusNotFound, "RevisionNotFound", "Invalid rev id: " + revision
	}
	return *here, 0, "", ""
}

func (s *Server) serveListing(w *writer, r *http.Request, name, revision string) {
	faults := s.due(Hub, name, "")
	if w.begin(r, faults) {
		return
	}
	found, ok := s.find(w, r, name, revision, false)
	if !ok {
		return
	}
	siblings := []map[string]any{}
	for _, f := range found.Files {
		sibling := map[string]any{"rfilename": f.Path}
		if r.URL.Query().Get("blobs") == "true" {
			maps.Copy(sibling, s.listing(name, f))
		}
		siblings = append(siblings, sibling)
	}
	doc := found.describe()
	maps.Copy(doc, map[string]any{"sha": found.main(), "siblings": siblings, "disabled": false})
	w.sendJSON(doc, faults)
}

// listing is what a listing says of a file.
func (s *Server) listing(name string, f File) map[string]any {
	size := f.Content.Size()
	s.mu.Lock()
	wrongLength, lies := s.listed(name, f.Path, WrongLength)
	_, stale := s.listed(name, f.Path, StaleDigest)
	s.mu.Unlock()
	if lies {
		size += wrongLength.Bytes
	}
	if f.Plain {
		return map[string]any{"size": size, "blobId": f.Content.gitID()}
	}
	sum := s.digest(name, f)
	if stale {
		sum = strings.Repeat("5", 64)
	}
	pointer := fmt.Appendf(nil, "version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", sum, size)
	return map[string]any{
		"size": size, "blobId": Bytes(pointer).gitID(),
		"lfs": map[string]any{"sha256": sum, "size": size, "pointerSize": len(pointer)},
	}
}

// digest is the SHA-256 that the hub says a file has.
func (s *Server) digest(name string, f File) string {
	s.mu.Lock()
	_, wrong := s.listed(name, f.Path, WrongDigest)
	s.mu.Unlock()
	if wrong {
		return strings.Repeat("b", 64)
	}
	return f.Content.SHA256()
}

// describe is what listings and searches say of a repository.
func (r *repo) describe() map[string]any {
	org, _, _ := strings.Cut(r.Name, "/")
	var gated any = false
	if r.Access == Gated {
		gated = "auto"
	}
	return map[string]any{
		"_id": r.main()[:24], "id": r.Name, "modelId": r.Name, "author": org, "private": r.Access == Private, "gated": gated,
		"downloads": r.Downloads, "likes": r.Likes, "lastModified": r.Updated.UTC().Format("2006-01-02T15:04:05.000Z"), "tags": []string{"gguf"},
	}
}

func (s *Server) serveSearch(rw http.ResponseWriter, r *http.Request) {
	w, query := rw.(*writer), r.URL.Query()
	faults := s.due(Hub, "", "")
	if w.begin(r, faults) {
		return
	}
	s.mu.Lock()
	var found []*repo
	for _, here := range s.repos {
		isGGUF := slices.ContainsFunc(here.Files, func(f File) bool { return strings.HasSuffix(f.Path, ".gguf") })
		name, words := strings.ToLower(here.Name), strings.Fields(strings.ToLower(query.Get("search")))
		lacks := slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(name, word) })
		if here.Access != Private && !lacks && (isGGUF || query.Get("filter") != "gguf") {
			found = append(found, here)
		}
	}
	slices.SortFunc(found, func(a, b *repo) int {
		return cmp.Or(cmp.Compare(b.Downloads, a.Downloads), cmp.Compare(a.Name, b.Name))
	})
	if limit, err := strconv.Atoi(query.Get("limit")); err == nil {
		found = found[:min(limit, len(found))]
	}
	docs := []map[string]any{}
	for _, here := range found {
		docs = append(docs, here.describe())
	}
	s.mu.Unlock()
	w.sendJSON(docs, faults)
}

func (w *writer) sendJSON(doc any, faults []Fault) {
	text, err := json.Marshal(doc)
	if err != nil {
		w.refuse(http.StatusInternalServerError, "", err.Error())
		return
	}
	length := int64(len(text))
	for _, f := range faults {
		switch f.Kind {
		case NotJSON:
			text = []byte("<!doctype html><title>Welcome to this network</title>")
			length = int64(len(text))
		case Truncated:
			text = text[:len(text)/2]
			length = int64(len(text))
		case Huge:
			length += f.Bytes
		}
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
	_, err = io.Copy(w, io.LimitReader(spaces{}, length-int64(len(text))))
	if err == nil {
		_, _ = w.Write(text)
	}
}

type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// resolve answers where a file is.
func (s *Server) resolve(w *writer, r *http.Request, name, revision, path string) {
	if w.begin(r, s.due(Hub, name, path)) {
		return
	}
	found, ok := s.find(w, r, name, revision, true)
	if !ok {
		return
	}
	f, ok := found.file(path)
	h := w.Header()
	h.Set("X-Repo-Commit", found.main())
	if !ok {
		w.refuse(http.StatusNotFound, "EntryNotFound", "Entry not found")
		return
	}
	h.Set("Accept-Ranges", "bytes")
	h.Set("X-Linked-Size", strconv.FormatInt(f.Content.Size(), 10))
	escaped := (&url.URL{Path: path}).EscapedPath()
	if f.Plain {
		h.Set("X-Linked-ETag", strconv.Quote(f.Content.gitID()))
		h.Set("Location", "/api/resolve-cache/models/"+name+"/"+found.main()+"/"+escaped)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	s.mu.Lock()
	s.issued++
	sum := sha1.Sum(fmt.Appendf(nil, "%s %s %d", name, path, s.issued))
	key := hex.EncodeToString(sum[:])
	s.signed[key] = &signature{name, path, s.issued, r.Header.Get("Range")}
	s.mu.Unlock()
	h.Set("X-Linked-ETag", strconv.Quote(s.digest(name, f)))
	h.Set("ETag", h.Get("X-Linked-ETag"))
	h.Set("Location", s.CDN+"/repos/"+name+"/"+escaped+"?Signature="+key)
	w.WriteHeader(http.StatusFound)
}

// servePlain sends a file that is in git.
func (s *Server) servePlain(w *writer, r *http.Request, name, path string) {
	faults := s.due(CDN, name, path)
	found, ok := s.find(w, r, name, "main", true)
	if !ok {
		return
	}
	if f, ok := found.file(path); ok {
		w.Header().Set("ETag", strconv.Quote(f.Content.gitID()))
		w.sendFile(r, f.Content, faults)
		return
	}
	w.refuse(http.StatusNotFound, "EntryNotFound", "Entry not found")
}

// serveSigned sends a file to whoever has a signed address.
func (s *Server) serveSigned(rw http.ResponseWriter, r *http.Request) {
	w := rw.(*writer)
	s.mu.Lock()
	key, ok := s.signed[r.URL.Query().Get("Signature")]
	s.mu.Unlock()
	if !ok {
		w.refuse(http.StatusForbidden, "", "the address has expired")
		return
	}
	faults := s.due(CDN, key.repo, key.path)
	for _, f := range faults {
		switch f.Kind {
		case Expired:
			s.mu.Lock()
			maps.DeleteFunc(s.signed, func(_ string, other *signature) bool {
				return other.repo == key.repo && other.path == key.path && other.number <= key.number
			})
			s.mu.Unlock()
			w.refuse(http.StatusForbidden, "", "the address has expired")
			return
		case Bound:
			if r.Header.Get("Range") != key.span {
				w.refuse(http.StatusForbidden, "", "the address is for another range")
				return
			}
		case Changed:
			s.change(key.repo, key.path)
		}
	}
	s.mu.Lock()
	f, ok := s.repos[key.repo].file(key.path)
	s.mu.Unlock()
	if !ok {
		w.refuse(http.StatusNotFound, "", "there is no such file")
		return
	}
	w.Header().Set("ETag", strconv.Quote("cdn-"+f.Content.SHA256()[:32]))
	w.sendFile(r, f.Content, faults)
}

// sendFile sends content, or the range of it that is asked for.
func (w *writer) sendFile(r *http.Request, c *Content, faults []Fault) {
	if w.begin(r, faults) {
		return
	}
	at := c.at
	for _, f := range faults {
		if f.Kind == Corrupt {
			at = &corrupted{at, f.After}
		}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	var content io.ReadSeeker = io.NewSectionReader(at, 0, c.size)
	if c.path != "" && at == c.at {
		file, err := os.Open(c.path)
		if err != nil {
			w.refuse(http.StatusInternalServerError, "", "the file is gone")
			return
		}
		defer file.Close()
		content = file
	}
	http.ServeContent(w, r, "", time.Time{}, content)
	if w.extra > 0 && r.Method != http.MethodHead {
		_, _ = io.Copy(w, io.LimitReader(spaces{}, w.extra))
	}
}

// corrupted is content with one wrong byte.
type corrupted struct {
	io.ReaderAt
	where int64
}

func (c *corrupted) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(p, off)
	if i := c.where - off; i >= 0 && i < int64(n) {
		p[i] ^= 0xff
	}
	return n, err
}
