package bus

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net"
	"slices"
	"strings"

	"rbee"
)

// tokenPrefix begins the text of a token, and names its form.
const tokenPrefix = "rbee1."

// maxTokenText bounds the text of a token, in bytes.
const maxTokenText = 4 << 10

// ticket is what the text of a token says: where the gate is, by which
// certificate one knows it, and what opens it.
type ticket struct {
	Addresses []string      `json:"addresses"`
	Pin       string        `json:"pin"` // SHA-256 of the certificate's public key, in hex
	ID        string        `json:"id"`
	Secret    string        `json:"secret"`
	Kind      rbee.JoinKind `json:"kind"`
}

func (t ticket) text() string {
	b, err := json.Marshal(t) //nolint:gosec // a token is for whoever is to have its secret
	if err != nil {
		panic(err) // strings always become JSON
	}
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// parseTicket reads the text of a token, which may be anything.
func parseTicket(text string) (ticket, error) {
	bad := func(problem string) (ticket, error) {
		return ticket{}, rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the join token: %s", problem).
			Suggest("copy the whole token as 'rbee queen token' printed it; it begins with %s", tokenPrefix)
	}
	text = strings.TrimSpace(text)
	encoded, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok {
		return bad("it does not begin with " + tokenPrefix)
	}
	if len(text) > maxTokenText {
		return bad("it is too long")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return bad("it was changed or cut")
	}
	var t ticket
	if err := json.Unmarshal(b, &t); err != nil {
		return bad("it was changed or cut")
	}
	if len(t.Addresses) == 0 || slices.ContainsFunc(t.Addresses, func(a string) bool { return !isAddress(a) }) {
		return bad("it names no address of a queen")
	}
	if !isPin(t.Pin) {
		return bad("it names no certificate")
	}
	if t.ID == "" || t.Secret == "" {
		return bad("it has no secret")
	}
	if t.Kind != rbee.JoinHive && t.Kind != rbee.JoinQueen {
		return bad("it does not say what it is for")
	}
	return t, nil
}

func isPin(text string) bool {
	pin, err := hex.DecodeString(text)
	return err == nil && len(pin) == sha256.Size
}

func isAddress(a string) bool {
	host, port, err := net.SplitHostPort(a)
	return err == nil && host != "" && port != ""
}

// isID says whether the text is an identity: 16 hex digits. It becomes part of
// subjects and of permissions, so nothing else will do.
func isID(id rbee.HiveID) bool {
	if len(id) != 16 {
		return false
	}
	for _, c := range id {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// random makes n random bytes, in hex.
func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
