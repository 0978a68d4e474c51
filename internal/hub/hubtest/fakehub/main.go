// Command fakehub is the hub of package hubtest as a program, for demonstrations
// and for tests of whole programs. Its first line of output is HF_ENDPOINT=ADDRESS;
// each request is a line of its standard error. It ends when it is interrupted or,
// with --stdin, when its standard input ends.
//
//	fakehub --repo org/tiny=model.gguf --random org/big/big.Q8_0.gguf=1GiB --rate 50MB
//	fakehub --random org/m/m.gguf=64MiB --fault kind=cut,after=1MiB,times=3
//	fakehub --random org/m/m.gguf=64MiB --fault kind=status,status=503,retry-after=2,times=1,at=listing
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"rbee/internal/hub/hubtest"
)

func main() {
	ctx, release := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, release)
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(2)
	}
}

// settings are what the flags say.
type settings struct {
	address string
	repos   []*hubtest.Repo
	tokens  []string
	faults  []placed
	stdin   bool
}

// placed is a fault of each file, or of each listing.
type placed struct {
	hubtest.Fault
	listing bool
}

// run serves until ctx is done or, if that is asked for, stdin ends.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	set, err := parse(args, stderr)
	if err != nil {
		return err
	}
	var line sync.Mutex
	srv, err := hubtest.Start(hubtest.Address(set.address), hubtest.Each(func(r hubtest.Request) {
		line.Lock()
		defer line.Unlock()
		fmt.Fprintf(stderr, "%s %s %s range=%q authorized=%t status=%d bytes=%d\n", r.Host, r.Method, r.Path, r.Range, r.Authorized, r.Status, r.Bytes)
	}))
	if err != nil {
		return err
	}
	defer srv.Close()
	for _, r := range set.repos {
		srv.Put(*r)
		for _, f := range set.faults {
			if f.listing {
				srv.Fault(r.Name, "", f.Fault)
				continue
			}
			for _, file := range r.Files {
				srv.Fault(r.Name, file.Path, f.Fault)
			}
		}
		for _, token := range set.tokens {
			srv.Accept(token, r.Name)
		}
	}
	fmt.Fprintf(stdout, "HF_ENDPOINT=%s\n", srv.URL)
	if !set.stdin {
		<-ctx.Done()
		return nil
	}
	// The read ends with the program if ctx ends first.
	ended := make(chan struct{}) // closed by the goroutine
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, stdin)
	})
	select {
	case <-ctx.Done():
	case <-ended:
	}
	return nil
}

func parse(args []string, stderr io.Writer) (*settings, error) {
	set := &settings{}
	flags := flag.NewFlagSet("fakehub", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&set.address, "addr", "127.0.0.1:0", "`HOST:PORT` to listen at")
	flags.BoolVar(&set.stdin, "stdin", false, "end when the standard input does")
	flags.Func("repo", "`ORG/NAME=FILE[,FILE]` serves files of this machine; repeatable", set.addFiles)
	flags.Func("random", "`ORG/NAME/FILE=SIZE` serves a file of random bytes, with the header of a model if it ends in .gguf; repeatable", set.addRandom)
	flags.Func("gated", "`ORG/NAME` wants a token of --token for its files; repeatable", func(name string) error {
		set.repo(name).Access = hubtest.Gated
		return nil
	})
	flags.Func("private", "`ORG/NAME` is not there without a token of --token; repeatable", func(name string) error {
		set.repo(name).Access = hubtest.Private
		return nil
	})
	flags.Func("token", "`TOKEN` that is valid for all repositories; repeatable", func(token string) error {
		set.tokens = append(set.tokens, token)
		return nil
	})
	flags.Func("rate", "`BYTES` per second of each connection, such as 10MB", func(s string) error {
		n, err := bytes(s)
		set.faults = append(set.faults, placed{Fault: hubtest.Fault{Kind: hubtest.Throttle, Bytes: n}})
		return err
	})
	flags.Func("cut-after", "`BYTES` after which each connection is cut", func(s string) error {
		n, err := bytes(s)
		set.faults = append(set.faults, placed{Fault: hubtest.Fault{Kind: hubtest.Cut, After: n}})
		return err
	})
	flags.Func("fault", "`kind=KIND[,at=hub|listing][,skip=N][,times=N][,after=BYTES][,bytes=BYTES][,status=N][,retry-after=S][,code=C][,to=URL][,wait=D]`, a fault of package hubtest; repeatable", set.addFault)
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("cannot start: %q is no flag", flags.Arg(0))
	}
	return set, nil
}

func (set *settings) repo(name string) *hubtest.Repo {
	for _, r := range set.repos {
		if r.Name == name {
			return r
		}
	}
	r := &hubtest.Repo{Name: name, Downloads: 1000, Likes: 10, Updated: time.Unix(1700000000, 0)}
	set.repos = append(set.repos, r)
	return r
}

func (set *settings) addFiles(s string) error {
	name, paths, ok := strings.Cut(s, "=")
	if !ok || strings.Count(name, "/") != 1 {
		return fmt.Errorf("it is not ORG/NAME=FILE")
	}
	r := set.repo(name)
	for path := range strings.SplitSeq(paths, ",") {
		content, err := hubtest.OnDisk(path)
		if err != nil {
			return err
		}
		r.Files = append(r.Files, hubtest.File{Path: filepath.Base(path), Content: content})
	}
	return nil
}

func (set *settings) addRandom(s string) error {
	where, size, ok := strings.Cut(s, "=")
	parts := strings.SplitN(where, "/", 3)
	n, err := bytes(size)
	if !ok || len(parts) != 3 || err != nil {
		return fmt.Errorf("it is not ORG/NAME/FILE=SIZE")
	}
	r := set.repo(parts[0] + "/" + parts[1])
	content := hubtest.Random
	if strings.HasSuffix(parts[2], ".gguf") {
		content = hubtest.GGUF
	}
	r.Files = append(r.Files, hubtest.File{Path: parts[2], Content: content(uint64(len(set.repos)<<16+len(r.Files)), n)})
	return nil
}

func (set *settings) addFault(s string) error {
	var f placed
	for pair := range strings.SplitSeq(s, ",") {
		name, value, _ := strings.Cut(pair, "=")
		var err error
		switch name {
		case "kind":
			f.Kind = hubtest.Kind(value)
		case "at":
			if f.listing = value == "listing"; value == "hub" {
				f.At = hubtest.Hub
			}
		case "skip":
			f.Skip, err = strconv.Atoi(value)
		case "times":
			f.Times, err = strconv.Atoi(value)
		case "after":
			f.After, err = bytes(value)
		case "bytes":
			f.Bytes, err = bytes(value)
		case "status":
			f.Status, err = strconv.Atoi(value)
		case "retry-after":
			f.RetryAfter = value
		case "code":
			f.Code = value
		case "to":
			f.To = value
		case "wait":
			f.Wait, err = time.ParseDuration(value)
		default:
			return fmt.Errorf("a fault has no %q", name)
		}
		if err != nil {
			return err
		}
	}
	set.faults = append(set.faults, f)
	return f.Check()
}

// bytes reads a size such as 4096, 10MB or 1GiB.
func bytes(s string) (int64, error) {
	for _, unit := range []struct {
		name  string
		bytes int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"", 1}} {
		if number, ok := strings.CutSuffix(s, unit.name); ok {
			n, err := strconv.ParseFloat(number, 64)
			if err != nil || n < 0 || n*float64(unit.bytes) > 1<<50 {
				return 0, fmt.Errorf("%q is no number of bytes", s)
			}
			return int64(n * float64(unit.bytes)), nil
		}
	}
	return 0, nil
}
