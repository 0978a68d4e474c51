package keeper

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/muesli/cancelreader"
	"golang.org/x/term"

	"rbee"
)

// ctrlC is the key, and spareKey the one that the line editor gets in its
// place: it takes Ctrl-C for the end of the input.
const (
	ctrlC    = 0x03
	spareKey = 0x1c
)

// lines are what somebody types or a program writes to standard input.
type lines interface {
	// open prepares for the lines of one message. The function that is returned
	// leaves what is read from as it was.
	open() (func(), error)
	// next shows a prompt, where somebody looks, and blocks for one line. A
	// pasted line is one of several, and no end of what is meant. It fails with
	// io.EOF at the end, and with the cause of ctx when that ends.
	next(ctx context.Context, prompt string) (line string, pasted bool, err error)
	close()
}

// interruptible makes reads of standard input ones that can be given up. A
// file and what is no file at all never block for long.
func interruptible(in io.Reader) cancelreader.CancelReader {
	if r, err := cancelreader.NewReader(in); err == nil {
		return r
	}
	type reader struct{ io.Reader } // hides that it is a file
	r, _ := cancelreader.NewReader(reader{in})
	return r
}

// pipedLines reads from what is no terminal.
type pipedLines struct {
	in   cancelreader.CancelReader
	text *bufio.Reader
}

func newPipedLines(in io.Reader) *pipedLines {
	r := interruptible(in)
	return &pipedLines{in: r, text: bufio.NewReader(io.LimitReader(r, 64*rbee.MaxPromptBytes))}
}

func (*pipedLines) open() (func(), error) { return func() {}, nil }

func (p *pipedLines) next(ctx context.Context, _ string) (string, bool, error) {
	defer context.AfterFunc(ctx, func() { p.in.Cancel() })()
	line, err := p.text.ReadString('\n')
	switch {
	case ctx.Err() != nil:
		return "", false, context.Cause(ctx)
	case errors.Is(err, io.EOF) && line != "":
	case err != nil:
		return "", false, err
	}
	return strings.TrimRight(line, "\r\n"), false, nil
}

func (p *pipedLines) close() { _ = p.in.Close() }

// typedLines reads from a terminal: with editing, and with the lines of before
// on the arrow keys. Only while it reads the terminal is in raw mode.
type typedLines struct {
	in     cancelreader.CancelReader
	screen *os.File
	fd     int
	editor *term.Terminal
	advice string // to somebody who types Ctrl-C on an empty line
}

// newTypedLines reads what is typed at in, and shows it on screen.
func newTypedLines(in, screen *os.File, advice string) *typedLines {
	t := &typedLines{in: interruptible(in), screen: screen, fd: int(in.Fd()), advice: advice}
	t.editor = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{readerFunc(t.read), screen}, "")
	t.editor.AutoCompleteCallback = t.key
	return t
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// read hands keys to the editor, which is told of a new size of the window first.
func (t *typedLines) read(b []byte) (int, error) {
	n, err := t.in.Read(b)
	for i := range b[:n] {
		if b[i] == ctrlC {
			b[i] = spareKey
		}
	}
	t.resize()
	return n, err
}

func (t *typedLines) resize() {
	if width, height, err := term.GetSize(t.fd); err == nil && width > 0 {
		_ = t.editor.SetSize(width, height) // what it cannot write now it cannot write later
	}
}

// key is called for keys that the editor has no use for.
func (t *typedLines) key(line string, at int, key rune) (string, int, bool) {
	switch {
	case key == spareKey && line == "":
		_, _ = io.WriteString(t.editor, t.advice+"\n")
		return "", 0, true
	case key == spareKey:
		return "", 0, true
	case key == '\t' && strings.HasPrefix(line, "/") && at == len(line):
		return completeCommand(line)
	}
	return "", 0, false
}

// open takes the terminal for as long as a message takes: what a paste sends
// while it is not in raw mode would be echoed.
func (t *typedLines) open() (func(), error) {
	before, err := term.MakeRaw(t.fd)
	if err != nil {
		return nil, rbee.Errorf(rbee.CodeInternalError, "cannot read from the terminal: %w", err)
	}
	t.editor.SetBracketedPasteMode(true)
	return func() {
		t.editor.SetBracketedPasteMode(false)
		_ = term.Restore(t.fd, before) // a terminal that is gone needs nothing
	}, nil
}

func (t *typedLines) next(ctx context.Context, prompt string) (string, bool, error) {
	t.editor.SetPrompt(prompt)
	t.resize()
	defer context.AfterFunc(ctx, func() { t.in.Cancel() })()
	line, err := t.editor.ReadLine()
	switch {
	case ctx.Err() != nil:
		_, _ = io.WriteString(t.screen, "\r\n")
		return "", false, context.Cause(ctx)
	case errors.Is(err, term.ErrPasteIndicator):
		return line, true, nil
	case errors.Is(err, io.EOF):
		_, _ = io.WriteString(t.screen, "\r\n")
	}
	return line, false, err
}

func (t *typedLines) close() { _ = t.in.Close() }

// block is the mark before and after a text of several lines.
const block = `"""`

// readMessage reads what is meant as one: a line, or several that a backslash
// at the end, a paste or three quotation marks hold together.
func readMessage(ctx context.Context, in lines, prompt, more string) (string, error) {
	leave, err := in.open()
	if err != nil {
		return "", err
	}
	defer leave()
	var text strings.Builder
	quoted, first := false, true
	for {
		if !first {
			prompt = more
		}
		line, pasted, err := in.next(ctx, prompt)
		if errors.Is(err, io.EOF) && !first {
			return text.String(), nil
		}
		if err != nil {
			return "", err
		}
		goesOn := false
		switch before, after, found := strings.Cut(line, block); {
		case quoted:
			quoted = !found
			line, goesOn = before, quoted
		case found && (before == "" || first && isCommand(before)):
			line, _, found = strings.Cut(after, block)
			line, quoted, goesOn = before+line, !found, !found
		case pasted:
			goesOn = true
		default:
			line, goesOn = strings.CutSuffix(line, `\`)
		}
		if !first && !(line == "" && !goesOn) {
			text.WriteByte('\n')
		}
		text.WriteString(line)
		if !goesOn {
			return text.String(), nil
		}
		first = false
	}
}

// isCommand says whether text before three quotation marks is /NAME.
func isCommand(text string) bool {
	return strings.HasPrefix(text, "/") && strings.Count(text, " ") == 1 && strings.HasSuffix(text, " ")
}
