package store

import (
	"context"
	"errors"
	"os"
)

// Settled waits for a rebuild.
func (s *Store) Settled(ctx context.Context) error { return s.settled(ctx) }

// Temporary makes a file for a copy.
func (f Files) Temporary(dir string) (*os.File, error) { return f.temporary(dir) }

// Writing keeps collectors out.
func (f Files) Writing() (func() error, error) { return f.writing() }

// WithoutLinks makes a store that lies on another disk than everything else.
func (s *Store) WithoutLinks() {
	s.share = func(content, string) error { return errors.ErrUnsupported }
}
