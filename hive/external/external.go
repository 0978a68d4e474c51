// Package external watches servers that no hive started and that speak OpenAI's
// API, such as llama-server, vLLM, Ollama or LM Studio, and lists each model that
// one serves as a worker: as long as the server answers and has the model.
//
// It asks only, and only servers that it was given; it never ends one, and knows
// nothing of requests.
package external

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"rbee"
	"rbee/hive/pool"
)

// The numbers of the contract, section 6.
const (
	Every    = pool.HealthEvery
	Timeout  = pool.HealthTimeout // of all that a server is asked at a time
	Failures = pool.HealthFailures
)

// Server is a server to watch.
type Server struct {
	Name  string
	URL   string // with or without /v1 at its end
	Key   string // that it demands; "" for none
	Guess bool   // nobody says that there is one
}

// Usual are the servers that may be at the usual ports of this machine's
// loopback: those of Ollama, LM Studio, vLLM and llama-server.
func Usual() []Server {
	var list []Server
	for _, s := range []struct{ name, port string }{
		{"ollama", "11434"}, {"lmstudio", "1234"}, {"port8000", "8000"}, {"port8080", "8080"}, {"port8081", "8081"},
	} {
		list = append(list, Server{Name: s.name, URL: "http://127.0.0.1:" + s.port, Guess: true})
	}
	return list
}

// Workers is where models are listed as workers; a pool is one.
type Workers interface {
	Adopt(f pool.Foreign) error
	Renew(f pool.Foreign) bool
	Lose(id rbee.WorkerID, cause *rbee.Error, reason string)
}

// Watcher watches servers. Make one with New and Run it once.
type Watcher struct {
	servers map[string]*server
	done    chan struct{} // closed when Run returns
}

// New makes a watcher of servers with different names.
func New(servers []Server, workers Workers, log *slog.Logger) *Watcher {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil // who names a server means that one
	t.DisableKeepAlives = true
	w := &Watcher{servers: map[string]*server{}, done: make(chan struct{})}
	asker := &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for _, s := range servers {
		s.URL = strings.TrimSuffix(strings.TrimRight(s.URL, "/"), "/v1")
		w.servers[s.Name] = &server{
			Server: s, port: localPort(s.URL), http: asker, workers: workers, log: log.With("server", s.Name),
			looks: make(chan chan error), models: map[string]*model{},
		}
	}
	return w
}

// localPort is the port of a server on this machine's loopback, or 0.
func localPort(base string) int {
	u, err := url.Parse(base)
	if err != nil {
		return 0
	}
	ip := net.ParseIP(u.Hostname())
	if u.Hostname() != "localhost" && !ip.IsLoopback() {
		return 0
	}
	port, err := net.LookupPort("tcp", u.Port())
	if err != nil {
		return 0
	}
	return port
}

// Run asks each server every 30 s until ctx ends. It returns when nothing of it
// runs any more.
func (w *Watcher) Run(ctx context.Context) {
	defer close(w.done)
	var all sync.WaitGroup
	for _, s := range w.servers {
		all.Go(func() { s.run(ctx) })
	}
	all.Wait()
}

// Look asks a server now, unless it was asked within the last second, and
// returns when what it says has been taken over, or why it does not answer. It
// reports false for a name that is not watched.
func (w *Watcher) Look(ctx context.Context, name string) (watched bool, err error) {
	s, ok := w.servers[name]
	if !ok {
		return false, nil
	}
	answer := make(chan error, 1)
	select {
	case s.looks <- answer:
	case <-w.done:
		return true, rbee.Errorf(rbee.CodeWorkerNotReady, "the hive shuts down")
	case <-ctx.Done():
		return true, context.Cause(ctx)
	}
	select {
	case err := <-answer:
		return true, err
	case <-ctx.Done():
		return true, context.Cause(ctx)
	}
}

// server is one that is watched. All below belongs to the goroutine of run.
type server struct {
	Server
	port    int // on loopback, or 0
	http    *http.Client
	workers Workers
	log     *slog.Logger
	looks   chan chan error

	models   map[string]*model // by the server's name for it
	listener listener
	misses   int
	asked    time.Time
	err      error  // of the last time it was asked
	said     string // what was logged of it last
}

// model is one that a server has.
type model struct {
	pool.Foreign
	dismissed bool // somebody took it off the list, and there it stays
}

// lookAgain is how soon a server is asked again because somebody looks.
const lookAgain = time.Second

func (s *server) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			s.check(ctx)
			s.count()
			timer.Reset(Every)
		case answer := <-s.looks:
			if time.Since(s.asked) >= lookAgain {
				s.check(ctx)
			}
			answer <- s.err
		case <-ctx.Done():
			return
		}
	}
}

// check asks the server once and takes over what it says.
func (s *server) check(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	list, err := s.list(bounded)
	if ctx.Err() != nil {
		return // what it says comes too late
	}
	s.asked, s.err = time.Now(), err
	s.tell(err, len(list))
	if err == nil {
		s.misses = 0
		s.take(bounded, list)
	}
}

// count counts the failures of the regular questions, the last of which has the
// server's workers off the list.
func (s *server) count() {
	if s.err == nil {
		return
	}
	if s.misses++; s.misses < Failures {
		return
	}
	why := rbee.Errorf(rbee.CodeWorkerCrashed, "the server %s did not answer %d times in a row", s.Name, s.misses).WithCause(s.err).
		Suggest("look whether it runs; its models are listed again when it answers")
	for _, m := range s.models {
		s.workers.Lose(m.ID, why, "")
	}
	clear(s.models)
}

// take lists what the server has.
func (s *server) take(ctx context.Context, list []listed) {
	weight, has := s.weigh(), map[string]bool{}
	for _, l := range list {
		if has[l.ID] {
			continue
		}
		has[l.ID] = true
		m := s.models[l.ID]
		fresh := m == nil
		if fresh {
			f, err := s.foreign(ctx, l)
			m = &model{Foreign: f, dismissed: err != nil}
			s.models[l.ID] = m
			if err != nil {
				s.log.WarnContext(ctx, "a model of a server cannot be a worker", "model", l.ID, "err", err)
			}
		}
		if m.dismissed {
			continue
		}
		m.Weight, weight = weight, pool.Weight{} // all models share the process, so one has its memory
		switch {
		case fresh:
			if err := s.workers.Adopt(m.Foreign); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "a model of a server cannot be a worker", "model", l.ID, "err", err)
				delete(s.models, l.ID)
			}
		case !s.workers.Renew(m.Foreign):
			m.dismissed = true
		}
	}
	for name, m := range s.models {
		if !has[name] {
			s.workers.Lose(m.ID, nil, "its server has the model no more")
			delete(s.models, name)
		}
	}
}

// foreign makes a worker of a model that is new.
func (s *server) foreign(ctx context.Context, l listed) (pool.Foreign, error) {
	ref, err := rbee.ParseModelRef(string(rbee.ProviderExternal) + ":" + s.Name + "/" + l.ID)
	if err != nil {
		return pool.Foreign{}, err
	}
	slots, context := s.details(ctx, l)
	return pool.Foreign{
		ID: idOf(ref), Ref: ref, URL: s.URL, Key: s.Key, Model: l.ID, Slots: slots, Context: context,
	}, nil
}

// idOf is the same for a model each time. The digest tells apart what looks alike.
func idOf(ref rbee.ModelRef) rbee.WorkerID {
	name := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' {
			return c
		}
		return '-'
	}, ref.Reference)
	digest := sha256.Sum256([]byte(ref.String()))
	return rbee.WorkerID(fmt.Sprintf("x-%s-%s", name[:min(len(name), 64)], hex.EncodeToString(digest[:3])))
}

// weigh measures what a server on this machine takes.
func (s *server) weigh() pool.Weight {
	if s.port == 0 {
		return pool.Weight{}
	}
	own, mapped := s.listener.memory(s.port)
	if own+mapped == 0 {
		return pool.Weight{}
	}
	return pool.Weight{Memory: rbee.Memory{rbee.MainMemory: own + mapped}, Mapped: mapped}
}

// tell logs how a server is, once for each change.
func (s *server) tell(err error, models int) {
	said := "answers"
	if err != nil {
		said = err.Error()
	}
	if said == s.said {
		return
	}
	first := s.said == ""
	s.said = said
	switch {
	case err == nil:
		s.log.Info("an external server answers", "addr", s.URL, "models", models)
	case s.Guess && first:
		s.log.Debug("no external server answers", "addr", s.URL, "err", err)
	default:
		s.log.Warn("an external server does not answer", "addr", s.URL, "err", err)
	}
}
