//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"rbee"
	"rbee/client"
	"rbee/internal/hub/hubtest"
	"rbee/internal/sqlite"
)

// shelf is a colony whose hives fetch models from a hub of the test.
type shelf struct {
	*colony
	hub *hubtest.Server
}

func newShelf(t *testing.T, env ...string) *shelf {
	t.Helper()
	srv := hubtest.New()
	t.Cleanup(srv.Close)
	env = append(env, "HF_ENDPOINT="+srv.URL, "HF_HOME="+t.TempDir(), "HF_HUB_CACHE=", "HF_TOKEN=", "HF_TOKEN_PATH=", "HF_HUB_OFFLINE=")
	return &shelf{colony: newColony(t, env...), hub: srv}
}

func (s *shelf) models() string { return filepath.Join(s.home, "models") }
func (s *shelf) db() string     { return filepath.Join(s.home, "models.db") }

// goods is a model and what its files hold, in order.
type goods struct {
	ref   string
	files []*hubtest.Content
	path  string // of the file to import, "" for a model of the hub
}

func (g goods) size() (n int64) {
	for _, f := range g.files {
		n += f.Size()
	}
	return n
}

// offer puts a model into a repository of the hub, with a file for each content.
func (s *shelf) offer(ref, repo string, files ...hubtest.File) goods {
	s.hub.Put(hubtest.Repo{Name: repo, Files: files})
	g := goods{ref: ref}
	for _, f := range files {
		g.files = append(g.files, f.Content)
	}
	return g
}

// throttle slows each connection for the files of a repository down.
func (s *shelf) throttle(repo string, bytesPerSecond int64, files ...string) {
	for _, f := range files {
		s.hub.Fault(repo, f, hubtest.Fault{Kind: hubtest.Throttle, Bytes: bytesPerSecond})
	}
}

// answers waits until the daemon that was started answers. What run/hive.json
// says may still be of another one, which was killed.
func (s *shelf) answers(r *running) *client.Client {
	s.t.Helper()
	var calls *client.Client
	eventually(s.t, "the hive answers", func() bool {
		select {
		case <-r.done:
			s.t.Fatalf("the hive ended: %s\n%s", r.wait(), r.stderr())
		default:
		}
		var said struct {
			PID int    `json:"pid"`
			URL string `json:"url"`
		}
		text, err := os.ReadFile(filepath.Join(s.home, "run", "hive.json"))
		if err != nil || json.Unmarshal(text, &said) != nil || said.PID != r.pid() {
			return false
		}
		calls = s.caller(said.URL)
		return true
	})
	return calls
}

// killed ends a program as nothing else does, and waits until it is gone.
func (s *shelf) killed(r *running) {
	s.t.Helper()
	kill(s.t, r.pid(), syscall.SIGKILL)
	r.wait()
}

// pulled asks for a model and waits for it. Step is told of each progress.
func pulled(ctx context.Context, calls *client.Client, ref string, step func(rbee.DownloadProgress)) error {
	reply, err := calls.Download(ctx, rbee.DownloadRequest{ModelRef: ref})
	if err != nil {
		return err
	}
	for p, err := range calls.DownloadProgress(ctx, reply.DownloadID) {
		switch {
		case err != nil:
			return err
		case p.Error != nil:
			return p.Error
		case p.Stage.Final():
			return nil
		}
		step(p)
	}
	return errors.New("the progress ended before the download")
}

func unheard(rbee.DownloadProgress) {}

// row is a row of the catalog.
type row struct {
	ref   string
	path  string
	files []rbee.ModelFile
}

// rows reads the catalog without a hive: a copy of it, as SQLite recovers it from
// its log. No hive writes to it now.
func (s *shelf) rows() (all []row) {
	s.t.Helper()
	dir := s.t.TempDir()
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(s.db() + suffix)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		s.must(err)
		s.must(os.WriteFile(filepath.Join(dir, "models.db"+suffix), b, 0o600))
	}
	db, err := sqlite.Open(s.t.Context(), filepath.Join(dir, "models.db"), os.DirFS(filepath.Join(root, "hive", "catalog", "migrations")))
	s.must(err)
	defer func() { s.must(db.Close()) }()
	found, err := db.QueryContext(s.t.Context(), "SELECT provider || ':' || reference, local_path, size_bytes, sha256, parts FROM models")
	s.must(err)
	for found.Next() {
		var r row
		var one rbee.ModelFile
		var parts string
		s.must(found.Scan(&r.ref, &r.path, &one.SizeBytes, &one.SHA256, &parts))
		one.Path = r.path
		if r.files = []rbee.ModelFile{one}; parts != "" {
			s.must(json.Unmarshal([]byte(parts), &r.files))
		}
		all = append(all, r)
	}
	s.must(errors.Join(found.Err(), found.Close()))
	return all
}

func (s *shelf) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// checkDigests reads the files of a row. What is in them is compared with what
// was put there, not with what the row says alone.
func (s *shelf) checkDigests(r row, g goods) {
	s.t.Helper()
	if len(r.files) != len(g.files) {
		s.t.Errorf("%s has %d files, want %d", r.ref, len(r.files), len(g.files))
		return
	}
	for i, f := range r.files {
		want := g.files[i].SHA256()
		if got := digestOf(s.t, f.Path); got != want || f.SHA256 != want && f.SHA256 != "" {
			s.t.Errorf("%s: %s has the digest %s, its row says %q, and it should be %s", r.ref, f.Path, got, f.SHA256, want)
		}
	}
}

func digestOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, 1<<20)); err != nil {
		t.Error(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// files lists what is in the directory of the models.
func (s *shelf) files() (paths []string) {
	s.t.Helper()
	s.must(filepath.WalkDir(s.models(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			paths = append(paths, path)
		}
		return err
	}))
	return paths
}

// checkFiles compares the directory of the models with the catalog and with what
// gc names: each file is of a row, or named. Exempt are the two locks of the
// directory, which live as long as it does; the note beside a model; and beside
// a part that gc names, the journals and the lock that go with it.
func (s *shelf) checkFiles(rows []row, named []rbee.SpareFile) {
	s.t.Helper()
	known := []string{filepath.Join(s.models(), ".lock"), filepath.Join(s.models(), ".notes.lock")}
	var theirs []string
	for _, r := range rows {
		known = append(known, r.path+".json")
		for _, f := range r.files {
			theirs = append(theirs, f.Path)
		}
	}
	for _, spare := range named {
		if spare.Kind == rbee.SpareEvicted {
			continue // it has a row
		}
		if slices.Contains(theirs, spare.Path) {
			s.t.Errorf("gc names %s as %s, but a model has it", spare.Path, spare.Kind)
		}
		known = append(known, spare.Path)
		if key, ok := strings.CutSuffix(spare.Path, ".part"); ok && spare.Kind == rbee.SparePartial {
			known = append(known, key+".json", key+".json.new", key+".live", key+".live.new", key+".lock")
		}
	}
	for _, path := range s.files() {
		if !slices.Contains(known, path) && !slices.Contains(theirs, path) {
			s.t.Errorf("%s is of no model, and gc does not name it", path)
		}
	}
}

// written is how many bytes of a model are on the disk, in its place or in the
// part of a download: counted in the file itself, whatever the journals say.
func (s *shelf) written(g goods) (n int64) {
	s.t.Helper()
	for _, content := range g.files {
		digest := content.SHA256()
		n += max(s.written1(content, filepath.Join("partial", digest+".part")), s.written1(content, filepath.Join("sha256", digest+".gguf")))
		// A part of a split model that is in its place already.
		inPlace, err := filepath.Glob(filepath.Join(s.models(), "sha256", "*", "*.gguf"))
		s.must(err)
		for _, path := range inPlace {
			if info, err := os.Stat(path); err == nil && info.Size() == content.Size() && digestOf(s.t, path) == digest {
				n += content.Size()
				break
			}
		}
	}
	return n
}

func (s *shelf) written1(content *hubtest.Content, name string) int64 {
	s.t.Helper()
	f, err := os.Open(filepath.Join(s.models(), name))
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	s.must(err)
	defer func() { _ = f.Close() }()
	same := &comparing{with: f}
	_, err = content.WriteTo(same)
	s.must(err)
	return same.bytes
}

// comparing counts the bytes in blocks that are equal in a file.
type comparing struct {
	with  io.ReaderAt
	at    int64
	bytes int64
}

func (c *comparing) Write(p []byte) (int, error) {
	const block = 4 << 10
	have := make([]byte, len(p))
	n, err := c.with.ReadAt(have, c.at)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	for i := 0; i < n; i += block {
		if end := min(i+block, len(p)); end <= n && bytes.Equal(p[i:end], have[i:end]) {
			c.bytes += int64(end - i)
		}
	}
	c.at += int64(len(p))
	return len(p), nil
}

// sent waits until the hub has sent so many bytes.
func (s *shelf) sent(bytes int64) {
	s.t.Helper()
	eventually(s.t, "the hub has sent enough", func() bool { return s.hub.Counts().Bytes >= bytes })
}

// within ends with the test, or when patience does.
func (s *shelf) within() (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(s.t.Context(), patience, errors.New("it takes too long"))
}

// after returns when d is over or stop is closed.
func after(d time.Duration, stop <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-stop:
	}
}
