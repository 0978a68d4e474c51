package bus

import (
	"net"
	"slices"
	"sync"

	"rbee"
)

// session is a connection that came through the gate, or is about to.
type session struct {
	hello
	conn net.Conn
	key  string // at a [Door], that its hive told queens

	replaced []string // processes in whose place this one came
}

// maxReplaced bounds how many are known.
const maxReplaced = 8

// sessions are the connections that are there, so that they can be cut.
type sessions struct {
	mu     sync.Mutex
	all    map[*session]bool // true once it was let in
	closed bool
}

func newSessions() *sessions { return &sessions{all: map[*session]bool{}} }

// add notes a connection before it is let in, so that no revocation misses it.
func (s *sessions) add(one *session) (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.all[one] = false
	return true
}

// admit lets a connection in. An older one of the same program goes: its other
// end is gone, or it would not have dialled again. If that was of another process
// which comes back, there are two of them, and they would replace one another for
// ever: the later one stays. Another token may not take the place of a program
// that is there.
func (s *sessions) admit(one *session) *rbee.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var older []*session
	for other, in := range s.all {
		if !in || other.ID != one.ID || other.Kind != one.Kind || other.Purpose != one.Purpose {
			continue
		}
		taken := ""
		switch {
		case other.Token != one.Token:
			taken = "with another token"
		case slices.Contains(other.replaced, one.Process):
			taken = "which came later"
		}
		if taken != "" {
			return rbee.Errorf(rbee.CodeConflict, "cannot join the colony: a %s with the id %s is there, %s", one.Kind, one.ID, taken).
				Suggest("stop the other one; a state directory that was copied needs its file hive-id removed")
		}
		older = append(older, other)
		one.replaced = other.replaced
		if other.Process != one.Process {
			one.replaced = append(slices.Clone(other.replaced[max(0, len(other.replaced)-maxReplaced+1):]), other.Process)
		}
	}
	for _, other := range older {
		delete(s.all, other)
		_ = other.conn.Close() // its own goroutine reports
	}
	s.all[one] = true
	return nil
}

// remove forgets a connection. Last says that the program had no newer one.
func (s *sessions) remove(one *session) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, last = s.all[one]
	delete(s.all, one)
	return last && !s.closed
}

// cut closes what was made with a token.
func (s *sessions) cut(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for one := range s.all {
		if one.Token == token {
			_ = one.conn.Close() // its own goroutine reports
		}
	}
}

// cutAll closes everything, for good.
func (s *sessions) cutAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for one := range s.all {
		_ = one.conn.Close() // its own goroutine reports
	}
}
