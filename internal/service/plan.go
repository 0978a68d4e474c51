package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"rbee"
)

// Step is one thing that is done to the machine; exactly one of Write, Remove
// and Run says what.
type Step struct {
	Write   string   `json:"write,omitempty"` // path of a file
	Content string   `json:"content,omitempty"`
	Remove  string   `json:"remove,omitempty"`
	Run     []string `json:"run,omitempty"`

	mayFail bool
}

// String is the step in a line.
func (s Step) String() string {
	switch {
	case s.Write != "":
		return "write " + s.Write
	case s.Remove != "":
		return "remove " + s.Remove
	}
	return "run " + strings.Join(s.Run, " ")
}

// Do carries the step out. It blocks until a command has ended, or ctx.
func (s Step) Do(ctx context.Context) error {
	switch {
	case s.Write != "":
		return s.failed(write(s.Write, s.Content))
	case s.Remove != "":
		if err := os.Remove(s.Remove); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return s.failed(err)
		}
		return nil
	}
	_, err := run(ctx, s.Run...)
	if s.mayFail && ctx.Err() == nil {
		return nil
	}
	return s.failed(err)
}

func (s Step) failed(err error) error {
	if err == nil {
		return nil
	}
	return rbee.Errorf(rbee.CodeInvalidRequest, "cannot %s: %w", s, err)
}

// write replaces a file that the service manager reads: it is there whole, or
// the old one is. Units are no secret.
func write(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // directories of the service manager
		return err
	}
	part := path + ".new"
	if err := os.WriteFile(part, []byte(content), 0o644); err != nil { //nolint:gosec // as above
		return errors.Join(err, os.Remove(part))
	}
	return os.Rename(part, path)
}

// run runs a command and returns what it printed. Its last words are the error.
func run(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out, failure bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failure
	err := cmd.Run()
	if err == nil {
		return out.String(), nil
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if words := strings.Join(strings.Fields(failure.String()), " "); words != "" {
		return "", errors.New(words)
	}
	return "", fmt.Errorf("%s ended with %w", filepath.Base(argv[0]), err)
}
