package bus

import (
	"sync"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"rbee"
)

// grants are users of the bus that may log in once.
type grants struct {
	mu     sync.Mutex
	byUser map[string]grant
}

type grant struct {
	password    string
	permissions *natsserver.Permissions // nil for all
}

func newGrants() *grants { return &grants{byUser: map[string]grant{}} }

// make makes a user for a program. End forgets it if it never logged in.
func (g *grants) make(kind rbee.JoinKind, id rbee.HiveID) (user, password string, end func()) {
	user, password = random(16), random(16)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.byUser[user] = grant{password: password, permissions: permissions(kind, id)}
	return user, password, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.byUser, user)
	}
}

// Check implements [natsserver.Authentication].
func (g *grants) Check(c natsserver.ClientAuthentication) bool {
	opts := c.GetOpts()
	g.mu.Lock()
	granted, ok := g.byUser[opts.Username]
	if ok = ok && granted.password == opts.Password; ok {
		delete(g.byUser, opts.Username)
	}
	g.mu.Unlock()
	if ok {
		c.RegisterUser(&natsserver.User{Username: opts.Username, Permissions: granted.permissions})
	}
	return ok
}

// permissions of a hive: its own keys, to write. All it hears is which queens invite it.
func permissions(kind rbee.JoinKind, id rbee.HiveID) *natsserver.Permissions {
	if kind == rbee.JoinQueen {
		return nil
	}
	var own []string
	for _, kind := range []string{keyAbout, keyNow, keyPrefix} {
		own = append(own, subject(kind, id))
	}
	return &natsserver.Permissions{
		Publish:   &natsserver.SubjectPermission{Allow: own},
		Subscribe: &natsserver.SubjectPermission{Allow: []string{invitedFor + string(id)}},
	}
}
