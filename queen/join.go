package queen

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"rbee"
	"rbee/internal/durable"
)

// joinNote says which token this queen left for the hive of her state directory.
type joinNote struct {
	ID     string `json:"id"`
	Addr   string `json:"addr"`
	Names  string `json:"names"`
	SHA256 string `json:"sha256"` // of the file with the token
}

// letHiveJoin leaves a token for the hive of the same state directory where hives
// look for one. A token that somebody else put there stays.
func (q *Queen) letHiveJoin() error {
	if q.gate == nil {
		return nil
	}
	home := q.cfg.Settings.Home
	file, noteFile := home.JoinFile(), filepath.Join(string(home), role, "local.json")
	there, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	sum := sha256.Sum256(there)
	var note joinNote
	if b, err := os.ReadFile(noteFile); err == nil {
		_ = json.Unmarshal(b, &note) // what cannot be read is made anew
	}
	now := joinNote{ID: note.ID, Addr: q.gate.Addr(), Names: string(q.cfg.Settings.Queen.Names), SHA256: hex.EncodeToString(sum[:])}
	if len(there) > 0 && note.SHA256 != now.SHA256 {
		return errors.New("the file " + file + " holds another token")
	}
	tokens := q.gate.Tokens()
	i := slices.IndexFunc(tokens, func(t rbee.JoinToken) bool { return t.ID == note.ID && t.RevokedAt.IsZero() })
	if len(there) > 0 && note == now && i >= 0 {
		return nil
	}
	text, token, err := q.gate.NewToken("the hive of this machine", rbee.JoinHive)
	if err != nil {
		return err
	}
	if i >= 0 { // it leads nowhere now
		if err := q.gate.Revoke(note.ID); err != nil {
			return err
		}
	}
	text += "\n"
	sum = sha256.Sum256([]byte(text))
	now.ID, now.SHA256 = token.ID, hex.EncodeToString(sum[:])
	b, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return errors.Join(durable.Write(noteFile, ".local-*", b), durable.Write(file, ".join-*", []byte(text)))
}
