package bus

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"

	"github.com/nats-io/nats.go"

	"rbee"
)

// parseWay reads by what a colony is joined.
func parseWay(cfg JoinConfig, h hello) (way, error) {
	join := strings.TrimSpace(cfg.Join)
	switch {
	case strings.HasPrefix(join, "nats://"), strings.HasPrefix(join, "tls://"):
		return parseCluster(join)
	case !strings.HasPrefix(join, tokenPrefix) && isAddress(join):
		return &throughGate{gate{ticket: ticket{Addresses: []string{join}}, hello: h}}, nil
	}
	t, err := parseTicket(join)
	if err != nil {
		return nil, err
	}
	if t.Kind != cfg.Kind {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot join the colony: the token is for a %s, and the program is a %s", t.Kind, cfg.Kind).
			Suggest("make one for a %s with 'rbee queen token'", cfg.Kind)
	}
	h.Token, h.Secret = t.ID, t.Secret
	return &throughGate{gate{ticket: t, hello: h}}, nil
}

// Leads says where a token or the URL of a bus that [Join] takes leads, and by what one
// knows that two of them lead to the same place. Neither is secret.
func Leads(join string) (where, mark string) {
	if t, err := parseTicket(join); err == nil {
		return strings.Join(t.Addresses, ", "), t.Pin
	}
	var hosts []string
	for one := range strings.SplitSeq(strings.TrimSpace(join), ",") {
		if u, err := url.Parse(one); err == nil && u.Host != "" {
			one = u.Host // else it is an address alone
		}
		hosts = append(hosts, one)
	}
	where = strings.Join(hosts, ", ")
	return where, where
}

// throughGate connects through the gate of a queen.
type throughGate struct{ gate }

func (*throughGate) own() bool { return true }

func (g *throughGate) connect(ctx context.Context, _ *Conn, options []nats.Option) (*nats.Conn, error) {
	conn, answer, err := g.dial(ctx, purposeBus)
	if err != nil {
		return nil, err
	}
	nc, err := nats.Connect(nats.DefaultURL, append(options,
		nats.SetCustomDialer(dialed{conn}), nats.UserInfo(answer.User, answer.Password), nats.IgnoreDiscoveredServers())...)
	if err != nil {
		_ = conn.Close() // the error says more
		return nil, rbee.Errorf(rbee.CodeConnectionTimeout, "cannot join the bus of the colony: %w", err)
	}
	return nc, nil
}

// dialed is a dialer of a connection that is there already.
type dialed struct{ conn net.Conn }

// Dial implements [nats.CustomDialer].
func (d dialed) Dial(string, string) (net.Conn, error) { return d.conn, nil }

// inProcess connects with the bus of this process.
type inProcess struct{ server *Server }

func (inProcess) own() bool { return true }

func (w inProcess) connect(_ context.Context, c *Conn, options []nats.Option) (*nats.Conn, error) {
	user, password, end := w.server.grants.make(c.cfg.Kind, c.cfg.ID)
	defer end()
	nc, err := nats.Connect("", append(options, nats.InProcessServer(w.server.nats), nats.UserInfo(user, password))...)
	if err != nil {
		return nil, rbee.Errorf(rbee.CodeConnectionTimeout, "cannot join the bus of this process: %w", err)
	}
	return nc, nil
}

// cluster connects with a NATS cluster of others.
type cluster struct {
	urls  string // with credentials
	shown string // without
}

func parseCluster(join string) (way, error) {
	var shown []string
	for one := range strings.SplitSeq(join, ",") {
		u, err := url.Parse(strings.TrimSpace(one))
		if err != nil || u.Host == "" || u.Scheme != "nats" && u.Scheme != "tls" {
			// The cause would quote the URL, and with it a password.
			return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the URL of the bus").
				Suggest("give it as nats://HOST:PORT or tls://HOST:PORT, several with commas between them")
		}
		shown = append(shown, u.Scheme+"://"+u.Host)
	}
	return cluster{urls: join, shown: strings.Join(shown, ", ")}, nil
}

func (cluster) own() bool { return false }

func (w cluster) connect(ctx context.Context, _ *Conn, options []nats.Option) (*nats.Conn, error) {
	nc, err := nats.Connect(w.urls, append(options, nats.SetCustomDialer(cancelled{ctx}))...)
	switch {
	case err == nil:
		return nc, nil
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return nil, rbee.Errorf(rbee.CodeInvalidAPIKey, "cannot join the bus at %s: its servers do not know the credentials", w.shown).
			Suggest("give them in the URL: nats://USER:PASSWORD@HOST:PORT")
	}
	return nil, rbee.Errorf(rbee.CodeConnectionTimeout, "cannot reach the bus at %s: %w", w.shown, err)
}

// cancelled dials until a context ends.
type cancelled struct{ ctx context.Context }

// Dial implements [nats.CustomDialer].
func (d cancelled) Dial(network, addr string) (net.Conn, error) {
	return (&net.Dialer{Timeout: dialTime}).DialContext(d.ctx, network, addr)
}
