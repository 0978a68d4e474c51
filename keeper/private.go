package keeper

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"rbee"
	"rbee/client"
	"rbee/internal/conf"
	"rbee/internal/daemon"
	"rbee/internal/logging"
	"rbee/internal/supervise"
)

const (
	// hiveStartTime bounds how long a hive may take until it listens.
	hiveStartTime = 20 * time.Second
	// hiveStopTime is what a hive may take to end its workers and itself: the
	// 5 s of a worker, a signal to it, and some time to spare.
	hiveStopTime = 8 * time.Second
)

// privateHive is a hive for one command, a child of this process.
type privateHive struct {
	url     string
	key     conf.Secret
	process *supervise.Process
	end     context.CancelFunc
	lives   *sync.WaitGroup
}

// startPrivateHive starts a hive on a free port. It returns when the hive
// listens. Whatever ends this process ends the hive and its workers, too.
func startPrivateHive(ctx context.Context, cfg conf.Config) (*privateHive, error) {
	program, err := daemon.Program("rbee-hive")
	if err != nil {
		return nil, err
	}
	if err := cfg.Home.Create(); err != nil {
		return nil, err
	}
	ledger, err := supervise.OpenLedger(cfg.Home.RunDir())
	if err != nil {
		return nil, err
	}
	spawner := supervise.NewSpawner(ledger, logging.New(io.Discard, logging.Options{Role: "keeper"}))
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	p := &privateHive{key: conf.Secret(rand.Text()), end: end, lives: &sync.WaitGroup{}}
	p.lives.Go(func() { _ = spawner.Run(life) }) // it returns nothing but nil
	greeting := newFirstLine()
	p.process, err = spawner.Start(supervise.Spec{
		Path:        program,
		Args:        []string{"daemon", "--private", "--addr", "127.0.0.1:0"},
		Env:         privateEnviron(os.Environ(), p.key),
		Stdout:      greeting,
		DeathSignal: syscall.SIGTERM,
	})
	if err != nil {
		p.stop(ctx)
		return nil, rbee.Errorf(rbee.CodeInternalError, "cannot start a hive: %w", err).Suggest("see 'rbee doctor'")
	}
	timer := time.NewTimer(hiveStartTime)
	defer timer.Stop()
	var hello struct {
		URL string `json:"url"`
	}
	select {
	case line := <-greeting.line:
		if json.Unmarshal(line, &hello) == nil && hello.URL != "" {
			p.url = hello.URL
			return p, nil
		}
		err = rbee.Errorf(rbee.CodeVersionMismatch, "cannot start a hive: %s is not the rbee-hive of this rbee", program).
			Suggest("install the programs of one release together")
	case <-p.process.Done():
		err = whyEnded(p.process)
	case <-timer.C:
		err = rbee.Errorf(rbee.CodeConnectionTimeout, "cannot start a hive: it does not listen after %s", hiveStartTime).
			Suggest("see 'rbee doctor'")
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	p.stop(context.WithoutCancel(ctx))
	return nil, err
}

// privateEnviron gives the hive a key that nobody else knows, instead of the
// one of the configuration.
func privateEnviron(environ []string, key conf.Secret) []string {
	env := make([]string, 0, len(environ)+1)
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "RBEE_HIVE_KEY", "RBEE_HIVE_KEY_FILE", "RBEE_HIVE_URL":
		default:
			env = append(env, kv)
		}
	}
	return append(env, "RBEE_HIVE_KEY="+key.Reveal())
}

// stop asks the hive to end, and kills it if it does not. It blocks until the
// process and all that it started are gone.
func (p *privateHive) stop(ctx context.Context) {
	defer p.lives.Wait()
	defer p.end()
	if p.process == nil {
		return
	}
	if p.url != "" {
		ask, cancel := context.WithTimeout(ctx, time.Second)
		c := client.New(p.url, client.Key(p.key.Reveal()))
		_, err := c.Shutdown(ask)
		cancel()
		c.Close()
		if err == nil {
			timer := time.NewTimer(hiveStopTime)
			defer timer.Stop()
			select {
			case <-p.process.Done():
				return
			case <-timer.C:
			}
		}
	}
	p.process.Stop(ctx, hiveStopTime)
}

// whyEnded makes an error of what a program said before it ended.
func whyEnded(p *supervise.Process) error {
	return daemon.LastWords("the hive ended at once", p.Exit().String(), p.Log().Lines())
}

// firstLine takes the output of a program and hands out its first line.
type firstLine struct {
	line chan []byte // closed never: one line is sent, at most
	mu   sync.Mutex
	buf  []byte
	sent bool
}

func newFirstLine() *firstLine { return &firstLine{line: make(chan []byte, 1)} }

// Write never blocks and never fails.
func (f *firstLine) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sent {
		return len(b), nil
	}
	f.buf = append(f.buf, b...)
	if i := bytes.IndexByte(f.buf, '\n'); i >= 0 {
		f.sent = true
		f.line <- f.buf[:i]
	}
	return len(b), nil
}
