//go:build linux

package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rbee"
	"rbee/internal/netns"
)

// otherVersion builds a hive whose API has another version.
func otherVersion(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	source, err := filepath.Abs(filepath.Join(root, "doc.go"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	now := []byte(`APIVersion = "` + rbee.APIVersion + `"`)
	if !bytes.Contains(text, now) {
		t.Fatal("the version is no more where this test changes it")
	}
	changed := filepath.Join(dir, "doc.go")
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {source: changed}})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{changed: bytes.Replace(text, now, []byte(`APIVersion = "v0"`), 1), filepath.Join(dir, "overlay.json"): overlay} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", dir, "./cmd/rbee-hive")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build: %v\n%s", err, out)
	}
	return dir
}

// retold is a token with other addresses or another secret.
func retold(t *testing.T, token string, change func(map[string]any)) string {
	t.Helper()
	const prefix = "rbee1."
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, prefix))
	if err != nil {
		t.Fatal(err)
	}
	var says map[string]any
	if err := json.Unmarshal(b, &says); err != nil {
		t.Fatal(err)
	}
	change(says)
	if b, err = json.Marshal(says); err != nil {
		t.Fatal(err)
	}
	return prefix + base64.RawURLEncoding.EncodeToString(b)
}

// Whoever may not join is told why, and so is the queen's log. The hive serves
// on its own meanwhile.
func TestAHiveThatMayNotJoinIsToldWhyAndSoIsTheQueen(t *testing.T) {
	q, stranger := newQueen(t, "127.0.0.1"), newQueen(t, "127.0.0.1")
	token := q.token(rbee.JoinHive)
	revoked, err := q.calls.NewToken(t.Context(), rbee.TokenRequest{Name: "revoked"})
	if err == nil {
		err = q.calls.RevokeToken(t.Context(), revoked.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, join string
		bin        string // directory of the hive's program, "" for the usual one
		queen      *queen // whose log tells
		why        string // in the hive's log
		queenWhy   string // in the queen's
	}{
		{name: "no token", join: q.bus, queen: q, why: "without a token", queenWhy: "without a token"},
		{name: "revoked", join: revoked.Token, queen: q, why: "was revoked at", queenWhy: "was revoked at"},
		{
			name: "wrong secret", join: retold(t, token, func(says map[string]any) { says["secret"] = "guessed" }),
			queen: q, why: "its secret is wrong", queenWhy: "its secret is wrong",
		},
		{
			name: "wrong certificate", join: retold(t, token, func(says map[string]any) { says["addresses"] = []string{stranger.bus} }),
			queen: stranger, why: "its certificate is not the one", queenWhy: "another certificate",
		},
		{name: "other version", join: token, bin: otherVersion(t), queen: q, why: "(API v0)", queenWhy: "(API v0)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newMember(t, netns.Place{Addr: "127.0.0.1"}, fastHive, tc.join)
			if tc.bin != "" {
				h.bin = tc.bin
			}
			h.start()
			eventually(t, "the hive is told why", func() bool { return strings.Contains(h.run.stderr(), tc.why) })
			eventually(t, "the queen's log says why", func() bool { return strings.Contains(tc.queen.run.stderr(), tc.queenWhy) })
			if log := h.run.stderr() + tc.queen.run.stderr(); strings.Contains(log, "guessed") {
				t.Error("a secret is in a log")
			}
			if tc.bin == "" { // it serves on its own
				h.await()
				h.spawn(h.calls, rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})
			}
			if list, err := tc.queen.calls.Hives(t.Context()); err != nil || len(list) != 0 {
				t.Errorf("the queen's hives are %+v, %v", list, err)
			}
		})
	}
}
