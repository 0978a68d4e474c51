package keeper

import (
	"context"
	"io"
	"os"
	"strings"

	"github.com/muesli/cancelreader"
	"golang.org/x/term"

	"rbee"
)

// The escape sequences of a screen of our own, which leaves the lines of
// before as they were.
const (
	ownScreen   = "\x1b[?1049h\x1b[?25l"
	usualScreen = "\x1b[?25h\x1b[?1049l"
	toTheTop    = "\x1b[H"
	restOfLine  = "\x1b[K"
	restOfPage  = "\x1b[J"
)

// window is the size of a terminal.
type window struct{ width, height int }

// screen is the whole of a terminal while a command draws on it.
type screen struct {
	out    *os.File
	in     cancelreader.CancelReader // nil where nobody can type
	fd     int
	before *term.State
}

// openScreen takes the terminal. It must be closed, or the shell is left
// without a cursor.
func openScreen(in io.Reader, out *os.File) (*screen, error) {
	s := &screen{out: out}
	if f, ok := in.(*os.File); ok && isTerminal(in) {
		var err error
		s.fd = int(f.Fd())
		if s.before, err = term.MakeRaw(s.fd); err != nil {
			return nil, rbee.Errorf(rbee.CodeInternalError, "cannot use the terminal: %w", err).Suggest("print the table with --once")
		}
		s.in = interruptible(f)
	}
	s.write(ownScreen)
	return s, nil
}

func (s *screen) close() {
	s.write(usualScreen)
	if s.in != nil {
		_ = s.in.Close()
		_ = term.Restore(s.fd, s.before) // there is nobody to tell
	}
}

// write writes to the terminal; one that is gone shows as the end of the input.
func (s *screen) write(text string) { _, _ = io.WriteString(s.out, text) }

// size is the size of the terminal, and that of an old one where it is not known.
func (s *screen) size() window {
	width, height, err := term.GetSize(int(s.out.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		return window{80, 24}
	}
	return window{width, height}
}

// draw shows lines in the place of those that stand there. In raw mode a line
// break goes down and not back.
func (s *screen) draw(lines []string) {
	s.write(toTheTop + strings.Join(lines, restOfLine+"\r\n") + restOfLine + restOfPage)
}

// readKeys hands out what is typed until ctx ends.
func (s *screen) readKeys(ctx context.Context, keys chan<- byte) error {
	if s.in == nil {
		return nil
	}
	defer context.AfterFunc(ctx, func() { s.in.Cancel() })()
	var b [16]byte
	for {
		n, err := s.in.Read(b[:])
		for _, key := range b[:n] {
			select {
			case keys <- key:
			case <-ctx.Done():
				return nil
			}
		}
		if err != nil {
			return errLeft // the terminal is gone, or ctx has ended
		}
	}
}
