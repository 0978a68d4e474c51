package conf

import (
	"os"
	"path/filepath"

	"rbee"
)

// Home is the state directory, an absolute path. Nothing of rbee is written
// outside it, apart from the partial result of a stream that broke.
type Home string

// ModelsDB is the file of the model catalog, the only database.
func (h Home) ModelsDB() string { return filepath.Join(string(h), "models.db") }

// ModelsDir holds the model files.
func (h Home) ModelsDir() string { return filepath.Join(string(h), "models") }

// EnginesDir holds the engine's libraries, unless engine.dir says otherwise.
func (h Home) EnginesDir() string { return filepath.Join(string(h), "engines") }

// ConfigFile is the file of the settings.
func (h Home) ConfigFile() string { return filepath.Join(string(h), "config.yaml") }

// JoinFile is the file with what hive.join says, if neither that nor
// hive.join_file is set.
func (h Home) JoinFile() string { return filepath.Join(string(h), "join") }

// HiveIDFile is the file with the id of the hive.
func (h Home) HiveIDFile() string { return filepath.Join(string(h), "hive-id") }

// LogsDir holds the logs of detached daemons.
func (h Home) LogsDir() string { return filepath.Join(string(h), "logs") }

// RunDir holds what describes running processes: ledgers and locks.
func (h Home) RunDir() string { return filepath.Join(string(h), "run") }

// Create makes the state directory and the folders in it where they are
// missing, readable by their owner only, and checks that files can be written.
// It fails with INVALID_REQUEST, since what to do is up to the user.
func (h Home) Create() error {
	for _, dir := range []string{string(h), h.ModelsDir(), h.LogsDir(), h.RunDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return h.refuse(err)
		}
	}
	// Permission bits do not tell: a read-only mount, a full disk and access
	// lists show only when a file is made.
	f, err := os.CreateTemp(h.RunDir(), ".writable-*")
	if err != nil {
		return h.refuse(err)
	}
	_ = f.Close() // empty, so nothing can be lost
	if err := os.Remove(f.Name()); err != nil {
		return h.refuse(err)
	}
	return nil
}

func (h Home) refuse(err error) error {
	return rbee.Errorf(rbee.CodeInvalidRequest, "cannot use the state directory %s: %w", string(h), err).
		With("path", string(h)).
		Suggest("make it writable for you, or set RBEE_HOME to a directory that is")
}
