package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"rbee"
)

// found is a model in a directory: a file, or the first part of a split model.
type found struct {
	path     string
	ref      rbee.ModelRef
	name     string // as the store that it was found in calls it, or ""
	fileName string
	revision string
	sha256   string // that it must have, or ""
	blobs    bool   // files are named by their digest where it was found
	why      error  // it cannot be imported
}

// digestOf is what the digest of a file of the model must be, "" if nobody says.
func (f found) digestOf(path string) string {
	if !f.blobs {
		return f.sha256
	}
	blob, err := filepath.EvalSymlinks(path)
	if digest := strings.TrimPrefix(filepath.Base(blob), "sha256-"); err == nil && isDigest(digest) {
		return digest // a small file of a hub has another name
	}
	return ""
}

// newFound is a model with the reference s.
func newFound(path, s string) found {
	ref, err := rbee.ParseModelRef(s)
	if err != nil {
		err = rbee.Errorf(rbee.CodeInvalidRequest, "cannot import %s: its name does not fit into a model reference", path).
			Suggest("import it alone, with a reference of your own")
	}
	return found{path: path, ref: ref, fileName: filepath.Base(path), why: err}
}

// The bounds of a survey: nobody keeps more models, and a directory of something
// else must not keep a hive busy.
const (
	maxEntries  = 100_000
	maxDepth    = 16
	maxManifest = 1 << 20 // bytes
)

// survey finds the models below a directory and tells what keeps them by what
// is in it:
//
//	models--ORG--REPO/snapshots/COMMIT/FILE.gguf    a Hugging Face cache: hf:ORG/REPO::FILE
//	manifests/HOST/NAMESPACE/NAME/TAG, and blobs/   an Ollama store: file:BLOB, named NAME:TAG
//	PUBLISHER/REPO/FILE.gguf, and no others         an LM Studio store: hf:PUBLISHER/REPO::FILE
//	NAME/FILE.gguf                                  what llorch-models keeps: file:PATH, named NAME
//	anything.gguf                                   file:PATH
//
// The first two may lie anywhere below. A survey follows links to files and not
// to directories, does not look into own, and says where it could not look.
func survey(ctx context.Context, dir, own string) []found {
	t := tree{ctx: ctx, own: own}
	t.scan(dir, 0)
	all := t.faults
	caches, files := hubCaches(t.files)
	stores, files := ollamaStores(files)
	all = append(append(all, caches...), stores...)
	return append(all, loose(dir, files)...)
}

// tree gathers the files below a directory.
type tree struct {
	ctx     context.Context
	own     string
	files   []string // in order
	entries int
	faults  []found // directories that were not looked at
}

func (t *tree) scan(dir string, depth int) {
	fail := func(format string, args ...any) {
		t.faults = append(t.faults, found{path: dir, why: rbee.Errorf(rbee.CodeInvalidRequest, format, args...).
			Suggest("import the directories with the models by themselves")})
	}
	switch {
	case dir == t.own || t.ctx.Err() != nil || t.entries >= maxEntries:
		return
	case depth > maxDepth:
		fail("cannot look into %s: it lies more than %d directories deep", dir, maxDepth)
		return
	}
	entries, err := some(dir, maxEntries-t.entries)
	if err != nil {
		fail("cannot look into %s: %s", dir, reason(err))
	}
	t.entries += len(entries)
	if t.entries >= maxEntries {
		fail("cannot look at all of %s: there are more than %d files", dir, maxEntries)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			t.scan(path, depth+1)
		} else {
			t.files = append(t.files, path)
		}
	}
}

// some lists at most so many entries of a directory, in order.
func some(dir string, most int) ([]fs.DirEntry, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // nothing was written
	entries, err := d.ReadDir(most)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return entries, err
}

// reason is the cause of a failure of a file without the path, which the
// sentence around it has.
func reason(err error) string {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err.Error()
	}
	return err.Error()
}

func isGGUF(path string) bool { return strings.EqualFold(filepath.Ext(path), ".gguf") }

// inCache matches a file of a Hugging Face cache: the directory of the
// repository, organisation, repository, commit, path in the repository.
var inCache = regexp.MustCompile(`^(.*/models--(.+?)--([^/]+))/snapshots/([^/]+)/(.+)$`)

// hubCaches finds the models in Hugging Face caches and returns the files that
// are not in one. A file that several commits have is taken from that of the
// main branch.
func hubCaches(files []string) (models []found, rest []string) {
	type cached struct{ repo, org, name, commit, file, path string }
	var all []cached
	for _, path := range files {
		m := inCache.FindStringSubmatch(filepath.ToSlash(path))
		switch {
		case m == nil:
			rest = append(rest, path)
		case isGGUF(path) && firstOf(path):
			all = append(all, cached{m[1], m[2], m[3], m[4], m[5], path})
		}
	}
	main := map[string]string{}
	for _, c := range all {
		if b, err := os.ReadFile(filepath.Join(filepath.FromSlash(c.repo), "refs", "main")); err == nil {
			main[c.repo] = strings.TrimSpace(string(b))
		}
	}
	slices.SortStableFunc(all, func(a, b cached) int { // the main branch first
		rank := func(c cached) int {
			if c.commit == main[c.repo] {
				return 0
			}
			return 1
		}
		return rank(a) - rank(b)
	})
	blobs := map[string]string{} // by reference
	for _, c := range all {
		ref := "hf:" + c.org + "/" + c.name + "::" + c.file
		blob, _ := filepath.EvalSymlinks(c.path) // one that leads nowhere is told later
		if first, ok := blobs[ref]; ok {
			if first == blob {
				continue
			}
			ref = "hf:" + c.org + "/" + c.name + "@" + c.commit + "::" + c.file
		} else {
			blobs[ref] = blob
		}
		f := newFound(c.path, ref)
		f.fileName, f.revision, f.blobs = c.file, c.commit, true
		models = append(models, f)
	}
	return models, rest
}

// inOllama matches a manifest: the store, registry, namespace, name, tag.
var inOllama = regexp.MustCompile(`^(.*)/manifests/([^/]+)/([^/]+)/([^/]+)/([^/]+)$`)

// manifest is what Ollama writes of a model: https://github.com/opencontainers/image-spec
type manifest struct {
	Layers []struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"` // sha256:HEX
	} `json:"layers"`
}

// ollamaStores finds the models in Ollama stores and returns the files that are
// not in one.
func ollamaStores(files []string) (models []found, rest []string) {
	seen := map[string]bool{}
	stores := map[string]bool{}
	for _, path := range files {
		m := inOllama.FindStringSubmatch(filepath.ToSlash(path))
		if m == nil {
			continue
		}
		store := filepath.FromSlash(m[1])
		if info, err := os.Stat(filepath.Join(store, "blobs")); err != nil || !info.IsDir() {
			continue
		}
		stores[store] = true
		name := m[4] + ":" + m[5]
		if m[3] != "library" {
			name = m[3] + "/" + name
		}
		for _, f := range ofManifest(path, filepath.Join(store, "blobs"), name) {
			if !seen[f.path] || f.why != nil {
				seen[f.path] = true
				models = append(models, f)
			}
		}
	}
	for _, path := range files {
		inside := false
		for store := range stores {
			inside = inside || strings.HasPrefix(path, filepath.Join(store, "blobs")+string(filepath.Separator)) ||
				strings.HasPrefix(path, filepath.Join(store, "manifests")+string(filepath.Separator))
		}
		if !inside {
			rest = append(rest, path)
		}
	}
	return models, rest
}

// ofManifest lists the layers of a manifest that are GGUF files.
func ofManifest(path, blobs, name string) (models []found) {
	m, err := readManifest(path)
	if err != nil {
		return []found{{path: path, name: name, why: rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the manifest %s: %s", path, reason(err)).
			Suggest("see whether Ollama still has %s", name)}}
	}
	for _, layer := range m.Layers {
		kind, ok := strings.CutPrefix(layer.MediaType, "application/vnd.ollama.image.")
		digest, named := strings.CutPrefix(layer.Digest, "sha256:")
		if !ok || !slices.Contains([]string{"model", "projector", "adapter"}, kind) {
			continue // licence, template, parameters
		}
		if !named || !isDigest(digest) {
			return []found{{path: path, name: name, why: rbee.Errorf(rbee.CodeInvalidRequest, "cannot use the manifest %s: it has no digest of the %s", path, kind)}}
		}
		f := newFound(filepath.Join(blobs, "sha256-"+digest), "file:"+filepath.Join(blobs, "sha256-"+digest))
		f.name, f.blobs = name, true
		if kind != "model" {
			f.why = rbee.Errorf(rbee.CodeInvalidRequest, "cannot use %s: it is the %s of %s, not a language model", f.path, kind, name)
		}
		models = append(models, f)
	}
	if models == nil {
		return []found{{path: path, name: name, why: rbee.Errorf(rbee.CodeInvalidRequest, "cannot import %s: its manifest %s names no GGUF file", name, path)}}
	}
	return models
}

func readManifest(path string) (m manifest, err error) {
	if err := regular(path); err != nil {
		return manifest{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return manifest{}, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	return m, json.NewDecoder(io.LimitReader(f, maxManifest)).Decode(&m)
}

// loose finds the models in a directory that nothing else is known of.
func loose(dir string, files []string) (models []found) {
	files = slices.DeleteFunc(files, func(path string) bool { return !isGGUF(path) })
	below := func(path string) []string {
		rel, _ := filepath.Rel(dir, path) // it lies below
		return strings.Split(filepath.ToSlash(rel), "/")
	}
	inModels := func(path string) bool { return len(below(path)) > 1 && below(path)[0] == "models" }
	if len(files) > 0 && !slices.ContainsFunc(files, func(path string) bool { return !inModels(path) }) {
		dir = filepath.Join(dir, "models") // of LM Studio's own directory
	}
	there := map[string]bool{}
	for _, path := range files {
		there[path] = true
	}
	studio := !slices.ContainsFunc(files, func(path string) bool { return len(below(path)) != 3 })
	for _, path := range files {
		if !firstOf(path) {
			if !there[partsOf(path)[0]] {
				models = append(models, found{path: path, why: rbee.Errorf(rbee.CodeInvalidRequest, "cannot import %s: the first part of the model is missing", path)})
			}
			continue
		}
		at := below(path)
		f := newFound(path, "file:"+path)
		switch {
		case studio:
			f = newFound(path, "hf:"+at[0]+"/"+at[1]+"::"+at[2])
		case len(at) == 2:
			f.name = at[0]
		}
		models = append(models, f)
	}
	return models
}

// firstOf says whether a file stands for a model: it is whole, or the first part.
func firstOf(path string) bool {
	part, _ := partOf(path)
	return part == 1
}
