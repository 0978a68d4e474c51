package conf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"rbee"
	"rbee/internal/durable"
)

const (
	maxFileBytes = 1 << 20
	maxKeyBytes  = 4096

	// othersMask are the permission bits that neither group nor others may have.
	othersMask fs.FileMode = 0o077
	// credentialMask lets a group read: for a service that runs as a user of
	// its own systemd opens the file by an access list, which shows there.
	credentialMask fs.FileMode = 0o037
)

// ReadKey is the key that the hive demands: hive.key, or the content of
// hive.key_file; "" if there is neither.
func (h Hive) ReadKey() (Secret, error) { return readKey("hive", h.Key, h.KeyFile) }

// ReadKey is the key that the queen demands: queen.key, or the content of
// queen.key_file; "" if there is neither.
func (q Queen) ReadKey() (Secret, error) { return readKey("queen", q.Key, q.KeyFile) }

// ReadKey is the key that the node demands; "" if there is none.
func (n Node) ReadKey() (Secret, error) { return readKey("node", n.Key, n.KeyFile) }

// ReadJoin is how the hive finds its colony: hive.join, or the content of
// hive.join_file, or of the file join in the state directory; "" if there is none
// of these.
func (c Config) ReadJoin() (Secret, error) {
	if c.Hive.Join != "" {
		return c.Hive.Join, nil
	}
	file, named := string(c.Hive.JoinFile), c.Hive.JoinFile != ""
	if !named {
		file = c.Home.JoinFile()
	}
	b, err := readPrivate(file, maxKeyBytes, othersMask)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return "", nil
	}
	text := strings.TrimSpace(string(b))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = rbee.Errorf(rbee.CodeInvalidRequest, "cannot join a colony: the file %s does not exist", file)
	case err == nil && !keyOK(text):
		err = rbee.Errorf(rbee.CodeInvalidRequest, "cannot join a colony: the file %s must hold one line, a token or a URL", file)
	default:
		return Secret(text), err
	}
	return "", rbee.AsError(err).With("file", file).Suggest("write what 'rbee queen token' prints where the queen is into it, with mode 0600")
}

// JoinIsNamed says why KeepJoin and ForgetJoin would change nothing: the settings
// name a colony. It is nil where they do not.
func (c Config) JoinIsNamed() error {
	if c.Hive.Join == "" && c.Hive.JoinFile == "" {
		return nil
	}
	return rbee.Errorf(rbee.CodeConflict, "the settings name a colony already, and that is what counts").
		Suggest("take hive.join and hive.join_file out of %s and of the environment", c.Home.ConfigFile())
}

// KeepJoin has ReadJoin give a token or URL from now on.
func (c Config) KeepJoin(join Secret) error {
	if err := c.JoinIsNamed(); err != nil {
		return err
	}
	if err := durable.Write(c.Home.JoinFile(), ".join-*", []byte(join.Reveal()+"\n")); err != nil {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot keep the token: %w", err).Suggest("see 'rbee doctor'")
	}
	return nil
}

// ForgetJoin removes what KeepJoin kept.
func (c Config) ForgetJoin() error {
	if err := c.JoinIsNamed(); err != nil {
		return err
	}
	if err := os.Remove(c.Home.JoinFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot remove the token: %w", err).Suggest("see 'rbee doctor'")
	}
	return nil
}

func readKey(section string, key Secret, file Path) (Secret, error) {
	if file == "" {
		return key, nil
	}
	return ReadKeyFile(section, string(file))
}

// ReadKeyFile reads a key from a file that nobody but its owner may read.
// White space around the key is not part of it. The section names whose key it
// is in the error, an INVALID_REQUEST.
func ReadKeyFile(section, file string) (Secret, error) {
	mask := othersMask
	if filepath.Dir(file) == os.Getenv("CREDENTIALS_DIRECTORY") {
		mask = credentialMask
	}
	b, err := readPrivate(file, maxKeyBytes, mask)
	if errors.Is(err, fs.ErrNotExist) {
		return "", rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the %s key: the file %s does not exist", section, file).
			With("file", file).
			Suggest("make it: (umask 077 && openssl rand -hex 32 >%s)", file)
	}
	if err != nil {
		return "", err
	}
	key := strings.TrimSpace(string(b))
	if !keyOK(key) {
		return "", rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the %s key: the file %s must hold one line of printable ASCII without spaces", section, file).
			With("file", file).
			Suggest("make a new key: (umask 077 && openssl rand -hex 32 >%s)", file)
	}
	return Secret(key), nil
}

// keyOK accepts what can stand in an Authorization header as it is.
func keyOK(key string) bool {
	return key != "" && strings.IndexFunc(key, func(c rune) bool { return c <= ' ' || c > '~' }) < 0
}

// takeCredentials uses the keys that systemd hands over (LoadCredential=) where
// the settings name none. A lower rank than the settings: what someone wrote
// for rbee itself says more than what came with the unit.
func (c *Config) takeCredentials(environ map[string]string) {
	dir := environ["CREDENTIALS_DIRECTORY"]
	if dir == "" {
		return
	}
	take := func(key string, secret Secret, file *Path, credential string) {
		path := filepath.Join(dir, credential)
		if _, err := os.Stat(path); err != nil || secret != "" || *file != "" {
			return
		}
		*file = Path(path)
		c.origins[key] = Origin{Variable: "CREDENTIALS_DIRECTORY"}
	}
	take("hive.key_file", c.Hive.Key, &c.Hive.KeyFile, "rbee-hive-key")
	take("queen.key_file", c.Queen.Key, &c.Queen.KeyFile, "rbee-queen-key")
}

// readPrivate reads a file that may hold secrets and refuses one that has any
// of the forbidden permission bits. A missing file is fs.ErrNotExist; all
// other errors are INVALID_REQUEST with what to do.
func readPrivate(path string, limit int64, forbidden fs.FileMode) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	refuse := func(cause error, suggestion string, args ...any) error {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot read %s: %w", path, cause).
			With("file", path).Suggest(suggestion, args...)
	}
	if err != nil {
		return nil, refuse(bare(err), "make it a file that you own: chown $USER %s", path)
	}
	defer f.Close()
	info, err := f.Stat() // of the open file, so that nobody can swap it in between
	if err != nil {
		return nil, refuse(bare(err), "check the disk")
	}
	if !info.Mode().IsRegular() {
		return nil, refuse(errors.New("it is not a file"), "move it out of the way")
	}
	if tooOpen(info.Mode(), forbidden) {
		return nil, refuse(fmt.Errorf("others may read or change it (mode %04o), and it may hold keys", info.Mode().Perm()), "chmod 600 %s", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, refuse(bare(err), "check the disk")
	}
	if int64(len(b)) > limit {
		return nil, refuse(fmt.Errorf("it has more than %d bytes", limit), "check that it is the right file")
	}
	return b, nil
}

// bare is the cause of a failed file operation without the path, which the
// message around it already names.
func bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
