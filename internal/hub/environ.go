package hub

import (
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rbee"
)

// DefaultEndpoint is the public hub.
const DefaultEndpoint = "https://huggingface.co"

// FromEnviron reads the settings that the hub's own programs read, from
// NAME=value pairs such as os.Environ gives: HF_ENDPOINT, HF_TOKEN or the file
// HF_TOKEN_PATH, HF_HUB_CACHE, HF_HUB_OFFLINE, and HF_HOME for what these do not
// say. It fails with INVALID_REQUEST.
func FromEnviron(environ []string) (Config, error) {
	env := func(name string) string {
		for _, pair := range slices.Backward(environ) { // of two, the last counts
			if n, value, _ := strings.Cut(pair, "="); n == name {
				return strings.TrimSpace(value)
			}
		}
		return ""
	}
	home := first(env("HOME"), env("USERPROFILE"))
	expand := func(path string) string {
		if rest, ok := strings.CutPrefix(path, "~"); ok && home != "" && (rest == "" || os.IsPathSeparator(rest[0])) {
			return home + rest
		}
		return path
	}
	hfHome := expand(env("HF_HOME"))
	if base := first(expand(env("XDG_CACHE_HOME")), below(home, ".cache")); hfHome == "" {
		hfHome = below(base, "huggingface")
	}
	cfg := Config{
		Endpoint: first(env("HF_ENDPOINT"), DefaultEndpoint),
		Token:    env("HF_TOKEN"),
		CacheDir: first(expand(env("HF_HUB_CACHE")), below(hfHome, "hub")),
		Offline:  slices.Contains([]string{"1", "on", "yes", "true"}, strings.ToLower(env("HF_HUB_OFFLINE"))),
	}
	endpoint, err := parseEndpoint(cfg.Endpoint)
	if err != nil {
		return Config{}, err
	}
	cfg.Endpoint = endpoint.String()
	from := "HF_TOKEN"
	if cfg.Token == "" {
		from = first(expand(env("HF_TOKEN_PATH")), below(hfHome, "token"))
		if cfg.Token, err = readToken(from); err != nil {
			return Config{}, err
		}
	}
	if strings.ContainsFunc(cfg.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Config{}, rbee.Errorf(rbee.CodeInvalidRequest, "cannot use the token of %s: it has characters that no token has", from).
			Suggest("set HF_TOKEN to a token as the hub shows it")
	}
	return cfg, nil
}

// parseEndpoint reads the address of a hub; empty is the default. What is wrong
// with it is said without repeating it: it may hold a password.
func parseEndpoint(s string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(first(s, DefaultEndpoint), "/"))
	why := ""
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		why = "it is no address"
	case u.Scheme != "http" && u.Scheme != "https":
		why = "it begins neither with https:// nor with http://"
	case u.User != nil:
		why = "it has a user or a password"
	case u.RawQuery != "" || u.Fragment != "":
		why = "it has more than a host and a path"
	default:
		return u, nil
	}
	return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot use HF_ENDPOINT: %s", why).
		Suggest("set HF_ENDPOINT to an address such as %s, or unset it", DefaultEndpoint)
}

// readToken reads a file that need not be there.
func readToken(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the hub's token from %s", path).WithCause(err).
			Suggest("make the file readable, or set HF_TOKEN")
	}
	return strings.TrimSpace(string(text)), nil
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// below is a path in a directory, "" if the directory is not known.
func below(dir, name string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, name)
}
