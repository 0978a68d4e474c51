package bus

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"rbee"
	"rbee/internal/durable"
)

// lastUsedGrain is how old the time of last use may be on disk.
const lastUsedGrain = time.Minute

// tokens are those that this queen gave out, on disk without their secrets.
type tokens struct {
	path string

	mu   sync.Mutex
	byID map[string]storedToken
}

// storedToken is a token on disk.
type storedToken struct {
	rbee.JoinToken
	SecretSHA256 string `json:"secret_sha256"`
}

func openTokens(dir string) (*tokens, error) {
	t := &tokens{path: filepath.Join(dir, "tokens.json"), byID: map[string]storedToken{}}
	b, err := os.ReadFile(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	var list []storedToken
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the tokens of the colony in %s: %w", t.path, err).
			Suggest("remove the file and give the hives new tokens")
	}
	for _, s := range list {
		t.byID[s.ID] = s
	}
	return t, nil
}

// list is sorted by age, oldest first. The lock is held.
func (t *tokens) list() []storedToken {
	all := make([]storedToken, 0, len(t.byID))
	for _, s := range t.byID {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b storedToken) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return all
}

// save writes the tokens down with one of them changed, and then takes the change over.
func (t *tokens) save(changed storedToken) error {
	before, had := t.byID[changed.ID]
	t.byID[changed.ID] = changed
	b, err := json.MarshalIndent(t.list(), "", "  ")
	if err == nil {
		err = durable.Write(t.path, ".tokens-*", append(b, '\n'))
	}
	if err == nil {
		return nil
	}
	if had {
		t.byID[changed.ID] = before
	} else {
		delete(t.byID, changed.ID)
	}
	return rbee.Errorf(rbee.CodeInternalError, "cannot write the tokens of the colony: %w", err).
		Suggest("make %s writable for this user", filepath.Dir(t.path))
}

func (t *tokens) add(name string, kind rbee.JoinKind) (secret string, made rbee.JoinToken, err error) {
	secret = random(24)
	made = rbee.JoinToken{ID: random(8), Name: name, Kind: kind, CreatedAt: time.Now().UTC()}
	t.mu.Lock()
	defer t.mu.Unlock()
	err = t.save(storedToken{JoinToken: made, SecretSHA256: hash(secret)})
	return secret, made, err
}

func (t *tokens) all() []rbee.JoinToken {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []rbee.JoinToken
	for _, s := range t.list() {
		list = append(list, s.JoinToken)
	}
	return list
}

func (t *tokens) revoke(id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.byID[id]
	if !ok {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot revoke token %q: there is none with this id", clip(id)).
			Suggest("list the tokens with 'rbee queen token list'")
	}
	if !s.RevokedAt.IsZero() {
		return nil
	}
	s.RevokedAt = time.Now().UTC()
	return t.save(s)
}

// check says why the token of a client opens nothing, or notes its use.
func (t *tokens) check(h hello) (refusal *rbee.Error, failedToNote error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.byID[h.Token]
	right := subtle.ConstantTimeCompare([]byte(hash(h.Secret)), []byte(s.SecretSHA256)) == 1
	switch {
	case h.Token == "":
		return rbee.Errorf(rbee.CodeMissingAPIKey, "cannot join the colony without a token").
			Suggest("make one with 'rbee queen token' on the machine of the queen"), nil
	case !ok || !right:
		return rbee.Errorf(rbee.CodeInvalidAPIKey, "cannot join the colony: the queen does not know the token, or its secret is wrong").
			Suggest("make a new one with 'rbee queen token' on the machine of the queen"), nil
	case !s.RevokedAt.IsZero():
		return rbee.Errorf(rbee.CodeInvalidAPIKey, "cannot join the colony: the token %q was revoked at %s", s.Name, s.RevokedAt.Format(time.RFC3339)).
			Suggest("make a new one with 'rbee queen token' on the machine of the queen"), nil
	case s.Kind != h.Kind:
		return rbee.Errorf(rbee.CodeInvalidAPIKey, "cannot join the colony: the token is for a %s, and the program is a %s", s.Kind, h.Kind).
			Suggest("make one for a %s with 'rbee queen token'", h.Kind), nil
	}
	now := time.Now().UTC()
	if now.Sub(s.LastUsed) >= lastUsedGrain {
		s.LastUsed = now
		failedToNote = t.save(s)
	}
	return nil, failedToNote
}

func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}
