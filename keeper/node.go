package keeper

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/kevinburke/ssh_config"

	"rbee"
	"rbee/internal/conf"
)

// hivePort is where a hive listens unless its configuration says otherwise.
const hivePort = "8080"

// target is where a hive should answer.
type target struct {
	base      string // http://host:port
	host      string // host:port, for messages
	key       conf.Secret
	keyPlace  string // where the key is set, for messages
	local     bool   // on this machine, so paths mean the same here and there
	remedy    string // what to check when nothing answers
	ownDaemon bool   // run/hive.json names it
}

// localTarget is the hive of this machine: the daemon of the state directory
// if it lives, else the address of the configuration.
func localTarget(cfg conf.Config) (target, error) {
	key, err := cfg.Hive.ReadKey()
	if err != nil {
		return target{}, err
	}
	base := "http://" + reachable(cfg.Hive.Addr)
	if cfg.Hive.URL != "" {
		base = cfg.Hive.URL
	}
	record, alive := readHiveRecord(cfg.Home)
	if alive {
		base = record.URL
	}
	t, err := newTarget(base)
	if err != nil {
		return target{}, err
	}
	t.key, t.keyPlace, t.local, t.ownDaemon = key, "hive.key in "+cfg.Home.ConfigFile(), true, alive
	return t, nil
}

// findTarget reads what a user calls a node: localhost, a name of the
// configuration or of ~/.ssh/config, a host, host:port or URL.
func findTarget(cfg conf.Config, node string) (target, error) {
	if node == "" || node == "localhost" {
		return localTarget(cfg)
	}
	if n, ok := cfg.Nodes[node]; ok {
		key, err := n.ReadKey()
		if err != nil {
			return target{}, err
		}
		t, err := newTarget(n.URL)
		t.key, t.keyPlace = key, "nodes."+node+".key in "+cfg.Home.ConfigFile()
		return t, err
	}
	base := node
	if !strings.Contains(node, "://") {
		host := node
		if !hostPattern.MatchString(node) {
			return target{}, errNode()
		}
		if name := sshHostName(node); name != "" {
			host = name
		}
		base = "http://" + withPort(host)
	}
	t, err := newTarget(base)
	if err != nil {
		return target{}, err
	}
	t.keyPlace = "nodes." + node + ".key in " + cfg.Home.ConfigFile()
	if name, _, err := net.SplitHostPort(t.host); err == nil && loopback(name) {
		// The key of this machine's hive must not be shown to any other.
		if t.key, err = cfg.Hive.ReadKey(); err != nil {
			return target{}, err
		}
		t.local, t.keyPlace = true, "hive.key in "+cfg.Home.ConfigFile()
	}
	return t, nil
}

// hostPattern is a host name or an address, with a port or without.
var hostPattern = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.%]+\])(:[0-9]{1,5})?$`)

func newTarget(base string) (target, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || !hostPattern.MatchString(u.Host) {
		return target{}, errNode()
	}
	host := u.Host
	if u.Port() == "" {
		port := "80"
		if u.Scheme == "https" {
			port = "443"
		}
		host = net.JoinHostPort(u.Hostname(), port)
	}
	return target{
		base:   strings.TrimRight(base, "/"),
		host:   host,
		remedy: "Check if rbee-hive is running on " + u.Hostname(),
	}, nil
}

func errNode() error {
	return rbee.Errorf(rbee.CodeInvalidRequest, "cannot find the node: it is neither a name of the configuration nor a host").
		Suggest("use localhost, a name under nodes: in config.yaml or in ~/.ssh/config, or HOST:PORT")
}

// withPort adds the default port to a host without one.
func withPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), hivePort)
}

// reachable turns an address to listen on into one to call.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// sshHostName is the HostName that ~/.ssh/config gives a name, or "". A file
// that cannot be read gives none: it is ssh's file, and ssh will say so.
func sshHostName(name string) string {
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	file, err := os.Open(filepath.Join(home, ".ssh", "config")) //nolint:gosec // the user's own file
	if err != nil {
		return ""
	}
	defer func() { _ = file.Close() }()
	cfg, err := ssh_config.Decode(file)
	if err != nil {
		return ""
	}
	host, err := cfg.Get(name, "HostName")
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(host, "%h", name)
}
