package hub_test

import (
	"os"
	"path/filepath"
	"testing"

	"rbee/internal/hub"
)

func TestAFileIsFoundInTheCacheOfTheHubsOwnPrograms(t *testing.T) {
	const other = "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d"
	write := func(t *testing.T, path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(t *testing.T, to, path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
	}
	large := hub.File{Path: "dir/a.gguf", SizeBytes: 5, SHA256: digest, BlobID: other}
	small := hub.File{Path: "README.md", SizeBytes: 5, BlobID: gitID}
	for _, tt := range []struct {
		name string
		make func(t *testing.T, dir string)
		repo string
		file hub.File
		want string // below the directory of the repository
	}{
		{"a blob by its digest", func(t *testing.T, dir string) { write(t, dir+"/blobs/"+digest, "hello") }, repo, large, "blobs/" + digest},
		{"a blob by its git id", func(t *testing.T, dir string) { write(t, dir+"/blobs/"+gitID, "hello") }, repo, small, "blobs/" + gitID},
		{"the git id of a large file", func(t *testing.T, dir string) { write(t, dir+"/blobs/"+other, "hello") }, repo, large, ""},
		{"a blob of another size", func(t *testing.T, dir string) { write(t, dir+"/blobs/"+digest, "hell") }, repo, large, ""},
		{"a blob that is being fetched", func(t *testing.T, dir string) { write(t, dir+"/blobs/"+digest+".incomplete", "hello") }, repo, large, ""},
		{"a directory", func(t *testing.T, dir string) { write(t, dir+"/blobs/"+digest+"/x", "hello") }, repo, large, ""},
		{"a snapshot without blobs", func(t *testing.T, dir string) { write(t, dir+"/snapshots/"+gitID+"/dir/a.gguf", "hello") }, repo, large, "snapshots/" + gitID + "/dir/a.gguf"},
		{"a snapshot of another blob", func(t *testing.T, dir string) {
			write(t, dir+"/blobs/"+other, "jello")
			link(t, "../../../blobs/"+other, dir+"/snapshots/"+gitID+"/dir/a.gguf")
		}, repo, large, ""},
		{"a snapshot that leads nowhere", func(t *testing.T, dir string) {
			link(t, "../../../blobs/"+digest, dir+"/snapshots/"+gitID+"/dir/a.gguf")
		}, repo, large, ""},
		{"nothing", func(*testing.T, string) {}, repo, large, ""},
		{"a repository that climbs", func(t *testing.T, dir string) { write(t, dir+"/blobs/"+digest, "hello") }, "../" + repo, large, ""},
		{"a file that climbs", func(t *testing.T, dir string) { write(t, dir+"/snapshots/x", "hello") }, repo, hub.File{Path: "../x", SizeBytes: 5}, ""},
		{"a digest that climbs", func(t *testing.T, dir string) { write(t, dir+"/x", "hello") }, repo, hub.File{Path: "a", SizeBytes: 5, SHA256: "../x"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cache, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(cache, "models--org--name")
			tt.make(t, dir)
			got, ok := newClient(t, hub.Config{CacheDir: cache}).Cached(tt.repo, tt.file)
			want := ""
			if tt.want != "" {
				want = filepath.Join(dir, filepath.FromSlash(tt.want))
			}
			if got != want || ok != (want != "") {
				t.Errorf("got %q, %t, want %q", got, ok, want)
			}
		})
	}
	if path, ok := newClient(t, hub.Config{}).Cached(repo, large); ok {
		t.Errorf("without a cache found %q", path)
	}
}
