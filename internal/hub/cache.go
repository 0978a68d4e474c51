package hub

import (
	"os"
	"path/filepath"
	"strings"
)

// Cached finds a file of a repository in the cache of the hub's own programs, as
// models--ORG--NAME/blobs/ID or, where that cache has no blobs, below
// models--ORG--NAME/snapshots. Its size is right; its digest is not checked.
func (c *Client) Cached(repo string, f File) (path string, ok bool) {
	if c.cfg.CacheDir == "" || !plainRepo(repo) || !usablePath(f.Path) {
		return "", false
	}
	dir := filepath.Join(c.cfg.CacheDir, "models--"+strings.ReplaceAll(repo, "/", "--"))
	id := first(f.SHA256, f.BlobID)
	if isHex(id, 64) || isHex(id, 40) {
		if blob := filepath.Join(dir, "blobs", id); hasSize(blob, f.SizeBytes) {
			return blob, true
		}
	}
	commits, err := os.ReadDir(filepath.Join(dir, "snapshots"))
	if err != nil {
		return "", false
	}
	for _, commit := range commits {
		name := filepath.Join(dir, "snapshots", commit.Name(), filepath.FromSlash(f.Path))
		target, err := filepath.EvalSymlinks(name)
		// A link leads to a blob, and the blob of this file is not there.
		if err == nil && filepath.Base(filepath.Dir(target)) != "blobs" && hasSize(target, f.SizeBytes) {
			return target, true
		}
	}
	return "", false
}

func hasSize(path string, bytes int64) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() == bytes
}
