package registry

import (
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"rbee"
	"rbee/internal/tunnel"
)

const (
	// dialTime bounds how long a hive may take to accept a connection. A busy machine
	// takes its time, and one that is cut off is given up as lost before that.
	dialTime = 5 * time.Second
	// idleConns is how many connections to a hive are kept for the next requests.
	idleConns = 256
)

// Target is how a hive is reached.
type Target struct {
	Base      string // of its API, without a slash at the end
	Key       string // for its door
	Transport http.RoundTripper
}

// link is what leads to a hive.
type link struct {
	direct *http.Transport   // made when first used
	tunnel *tunnel.Transport // dialled by the hive; nil if it did not
	key    string            // of the process that dialled it, "" where the gate of the bus vouches for it
	clear  bool              // it was said that requests are not secret on their way
}

// Reach says how a hive is reached: on its own machine directly, else by https if
// it has a certificate, else through its tunnel, else at its address. It fails
// with HIVE_NOT_FOUND for a hive that is not there.
func (r *Registry) Reach(id rbee.HiveID) (Target, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.hives[id]
	if h == nil || h.about == nil {
		return Target{}, rbee.Errorf(rbee.CodeHiveNotFound, "there is no hive %s in the colony", id).Suggest("list the hives with 'rbee status'")
	}
	if h.lost {
		return Target{}, rbee.Errorf(rbee.CodeHiveNotFound, "the hive %s is lost: nothing is heard of it", h.about.Name).
			Suggest("see whether its machine and its network are up")
	}
	t := Target{Base: h.about.URL, Key: h.about.Key}
	switch tr := h.through(); {
	case r.near(h.about):
		t.Transport = h.link.directly()
	case tr != nil:
		t.Base, t.Transport = "http://localhost", tr // at the other end that is the hive
	case nowhere(h.about):
		return Target{}, rbee.Errorf(rbee.CodeHiveNotFound, "the hive %s cannot be reached: its address is %s, and it has not dialled this queen", h.about.Name, h.about.URL).
			Suggest("see in its log why, and whether its machine reaches the gate of this queen; or have it listen on its network with hive.addr and hive.key")
	default:
		t.Transport = h.link.directly()
		if !h.link.clear {
			h.link.clear = true
			r.cfg.Log.Warn("prompts and the key of a hive go over the network in clear: let it join by a token of this queen, or give it a certificate",
				"hive", h.about.Name, "addr", h.about.URL)
		}
	}
	return t, nil
}

// near says that a hive is reached directly: on this machine, or by https.
func (r *Registry) near(a *rbee.HiveAbout) bool {
	return r.cfg.Machine != "" && a.Machine == r.cfg.Machine || strings.HasPrefix(a.URL, "https://") && !nowhere(a)
}

// nowhere says that the address of a hive leads to it on its own machine only.
func nowhere(a *rbee.HiveAbout) bool {
	u, err := url.Parse(a.URL)
	return err != nil || local(u.Hostname())
}

// through is the tunnel to the process that the bus tells of, nil if there is none.
func (h *hive) through() *tunnel.Transport {
	if h.link.key != "" && h.link.key != h.about.Key {
		return nil
	}
	return h.link.tunnel
}

// local says whether a host is that of whoever asks.
func local(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || strings.EqualFold(host, "localhost") || ip != nil && (ip.IsLoopback() || ip.IsUnspecified())
}

func (l *link) directly() *http.Transport {
	if l.direct == nil {
		l.direct = &http.Transport{ // Proxy is none: hives are never behind the proxy of the web
			DialContext:         (&net.Dialer{Timeout: dialTime, KeepAlive: dialTime}).DialContext,
			TLSHandshakeTimeout: dialTime,
			MaxIdleConnsPerHost: idleConns,
			IdleConnTimeout:     time.Minute,
			DisableCompression:  true,
		}
	}
	return l.direct
}

// drop closes what nobody uses. The tunnel stays: it may be that of a hive that
// comes back, or of its next process.
func (l *link) drop() {
	if l.direct != nil {
		l.direct.CloseIdleConnections()
		l.direct = nil
	}
}

// end is drop, and closes the tunnel.
func (l *link) end() {
	l.drop()
	if l.tunnel != nil {
		_ = l.tunnel.Close() // it may be closed
		l.tunnel = nil
	}
}

// Guests are the hives that do well to dial a queen whose bus is another's, and
// the keys that they told.
func (r *Registry) Guests() map[rbee.HiveID]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := map[rbee.HiveID]string{}
	for id, h := range r.hives {
		if h.about != nil && h.about.Key != "" && !h.lost && !r.near(h.about) {
			keys[id] = h.about.Key
		}
	}
	return keys
}

// Key is what a hive that is heard of told to be reached with.
func (r *Registry) Key(id rbee.HiveID) (key string, heard bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.hives[id]
	if h == nil || h.about == nil || h.lost {
		return "", false
	}
	return h.about.Key, true
}

// Tunnel takes over a connection that a hive dialled to be reached by, and
// returns when it is of no use any more.
func (r *Registry) Tunnel(id rbee.HiveID, conn net.Conn) { r.Invited(id, "", conn) }

// Invited is Tunnel for a process of a hive that dialled since it was invited. It
// is reached that way as long as it is the one that the bus tells of.
func (r *Registry) Invited(id rbee.HiveID, key string, conn net.Conn) {
	t := tunnel.New(conn)
	r.mu.Lock()
	h := r.known(id)
	old := h.link.tunnel
	h.link.tunnel, h.link.key, h.failures = t, key, 0
	r.mu.Unlock()
	if old != nil {
		_ = old.Close() // it may be closed
	}
	r.change()
	<-t.Done()
	r.mu.Lock()
	if h.link.tunnel == t {
		h.link.tunnel = nil
	}
	r.mu.Unlock()
}

// close ends what leads to the hives.
func (r *Registry) close() {
	r.feed.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.hives {
		h.link.end()
	}
}
