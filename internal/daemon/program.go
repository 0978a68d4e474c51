package daemon

import (
	"os"
	"os/exec"
	"path/filepath"

	"rbee"
)

// Program looks for another of our programs beside this one, then in PATH.
func Program(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		for _, path := range []string{self, resolved(self)} {
			if found, err := exec.LookPath(filepath.Join(filepath.Dir(path), name)); err == nil {
				return found, nil
			}
		}
	}
	found, err := exec.LookPath(name)
	if err != nil { // also one in the working directory, which may be anybody's
		return "", rbee.Errorf(rbee.CodeInternalError, "cannot find the program %s beside this one or in PATH", name).
			Suggest("install all programs of rbee into one directory")
	}
	return filepath.Abs(found)
}

func resolved(path string) string {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target
	}
	return path
}
