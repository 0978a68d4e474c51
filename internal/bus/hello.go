package bus

import (
	"bufio"
	"encoding/json"
	"errors"
	"net"
	"unicode/utf8"

	"rbee"
)

// maxLine bounds a line at the gate, in bytes.
const maxLine = 4 << 10

// The purposes of a connection.
const (
	purposeBus    = "bus"
	purposeTunnel = "tunnel"
)

// hello is the first line of a client.
type hello struct {
	Purpose    string        `json:"purpose"`
	Kind       rbee.JoinKind `json:"kind"`
	Token      string        `json:"token,omitempty"`
	Secret     string        `json:"secret,omitempty"`
	ID         rbee.HiveID   `json:"id"`
	Name       string        `json:"name"`
	Version    string        `json:"version"`
	APIVersion string        `json:"api_version"`
	Process    string        `json:"process,omitempty"` // tells two with the same id apart
}

// welcome is the one line that the gate answers with.
type welcome struct {
	OK       bool        `json:"ok,omitempty"`
	User     string      `json:"user,omitempty"`
	Password string      `json:"password,omitempty"`
	Error    *rbee.Error `json:"error,omitempty"`
}

var errLine = errors.New("the line is too long or has no end")

// parseHello reads the first line of a client, which may be anybody.
func parseHello(line []byte) (hello, *rbee.Error) {
	bad := func(problem string) (hello, *rbee.Error) {
		return hello{}, rbee.Errorf(rbee.CodeInvalidRequest, "cannot let the program in: %s", problem).
			Suggest("join with the programs of rbee %s", rbee.Version)
	}
	var h hello
	if !utf8.Valid(line) || json.Unmarshal(line, &h) != nil {
		return bad("its first line is not what the gate expects")
	}
	// The version first: what else a line says may differ with it.
	if h.APIVersion != rbee.APIVersion {
		return h, rbee.Errorf(rbee.CodeVersionMismatch, "versions differ: the program is %s (API %s), the queen is %s (API %s)",
			clip(h.Version), clip(h.APIVersion), rbee.Version, rbee.APIVersion).
			Suggest("install the same version of rbee on both machines")
	}
	switch {
	case h.Purpose != purposeBus && h.Purpose != purposeTunnel:
		return bad("it does not say what it wants")
	case h.Kind != rbee.JoinHive && h.Kind != rbee.JoinQueen:
		return bad("it is neither a hive nor a queen")
	case !isID(h.ID):
		return bad("its id is not 16 hex digits")
	}
	h.Name, h.Process = clip(h.Name), clip(h.Process)
	return h, nil
}

// clip bounds a text of a stranger that is logged or shown.
func clip(s string) string {
	const most = 64
	n := 0
	for i := range s {
		if n++; n > most {
			return s[:i]
		}
	}
	return s
}

// lineConn is a connection whose first line was read through a buffer.
type lineConn struct {
	net.Conn
	r *bufio.Reader
}

func newLineConn(c net.Conn) *lineConn {
	return &lineConn{Conn: c, r: bufio.NewReaderSize(c, maxLine)}
}

// Read reads what the buffer holds first.
func (c *lineConn) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *lineConn) readLine() ([]byte, error) {
	line, err := c.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, errLine
	}
	return line, err
}

func (c *lineConn) writeLine(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = c.Write(append(b, '\n'))
	return err
}

// parseWelcome reads the answer of a gate, which may be anybody's.
func parseWelcome(line []byte) (welcome, error) {
	var w welcome
	switch {
	case json.Unmarshal(line, &w) != nil:
		return welcome{}, errors.New("what answers there is no gate of a colony")
	case w.Error != nil:
		return welcome{}, w.Error
	case !w.OK:
		return welcome{}, errors.New("what answers there is no gate of a colony")
	}
	return w, nil
}
