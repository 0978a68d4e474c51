// Package hubtest is a hub for tests and demonstrations: it speaks the protocol
// of the Hugging Face hub over real sockets, and fails as it is told to. It
// listens on two ports of this machine: the hub, which lists repositories and
// redirects to files, and a store of files (Host CDN) that wants signed
// addresses and no token. It logs who asked for what.
//
//	srv := hubtest.New()
//	defer srv.Close()
//	srv.Put(hubtest.Repo{Name: "org/name", Files: []hubtest.File{
//		{Path: "model.Q4_K_M.gguf", Content: hubtest.GGUF(1, 1<<30)},
//		{Path: "README.md", Content: hubtest.Bytes([]byte("# A model\n")), Plain: true},
//	}})
//	srv.Fault("org/name", "model.Q4_K_M.gguf", hubtest.Fault{Kind: hubtest.Cut, After: 1 << 20, Times: 3})
//	client := hub.New(hub.Config{Endpoint: srv.URL})
//
// A fault of a file happens where its bytes are sent unless At says Hub; one
// with no path happens to the listing of the repository, and one with no
// repository to searches:
//
//	srv.Fault("org/name", "", hubtest.Fault{Kind: hubtest.Status, Status: 503, RetryAfter: "2", Times: 1})
//	srv.Fault("org/name", "model.gguf", hubtest.Fault{Kind: hubtest.Throttle, Bytes: 10 << 20})
//	srv.Fault("org/name", "model.gguf", hubtest.Fault{Kind: hubtest.Expired, Skip: 4})
//
// A repository can want a token, and Accept makes one:
//
//	srv.Put(hubtest.Repo{Name: "org/gated", Access: hubtest.Gated, Files: files})
//	srv.Accept("hf_member", "org/gated") // has accepted the terms
//	srv.Accept("hf_other")               // is known, and may read what is public
//
// What went over the wire is in Requests and Counts; content of any size takes no
// memory. The package knows nothing of those who use it.
//
// Protocol: https://huggingface.co/docs/hub/api.
package hubtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

// Host says which of its two ports a Server was asked at.
type Host string

// The ports.
const (
	Hub Host = "hub"
	CDN Host = "cdn" // where files with a digest come from
)

// Request is one line of the log.
type Request struct {
	Host       Host
	Method     string
	Path       string // with its query
	Range      string
	Authorized bool // there was an Authorization header
	UserAgent  string
	Status     int   // 0 as long as there is no answer
	Bytes      int64 // of the body, sent so far
}

// Counts are sums over both ports.
type Counts struct {
	Connections int64 // accepted
	Requests    int64
	Bytes       int64 // of bodies
}

// Server is a hub. It is safe for concurrent use.
type Server struct {
	URL string // of the hub, for HF_ENDPOINT
	CDN string // of the store of files

	each    func(Request)
	address string
	servers []*http.Server
	serving sync.WaitGroup
	running sync.RWMutex // held, shared, by each request
	closed  bool         // guarded by running

	mu          sync.Mutex
	repos       map[string]*repo
	tokens      map[string][]string // to the repositories whose terms were accepted
	signed      map[string]*signature
	issued      int // signatures
	faults      []*fault
	connections int64
	log         []*entry
}

// Option changes a Server.
type Option func(*Server)

// Address makes the hub listen at a host and port; default is a free port of 127.0.0.1.
func Address(hostPort string) Option { return func(s *Server) { s.address = hostPort } }

// Each is called at the end of each request, by several goroutines at once.
func Each(fn func(Request)) Option { return func(s *Server) { s.each = fn } }

// New starts a hub without repositories. It panics if it cannot listen.
func New(options ...Option) *Server {
	s, err := Start(options...)
	if err != nil {
		panic(err)
	}
	return s
}

// Start is New for programs: it fails if the hub cannot listen.
func Start(options ...Option) (*Server, error) {
	s := &Server{
		address: "127.0.0.1:0", each: func(Request) {},
		repos: map[string]*repo{}, tokens: map[string][]string{}, signed: map[string]*signature{},
	}
	for _, o := range options {
		o(s)
	}
	hub, err := net.Listen("tcp", s.address)
	if err != nil {
		return nil, fmt.Errorf("cannot start the hub: %w", err)
	}
	cdn, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start the store of files: %w", err), hub.Close())
	}
	s.URL, s.CDN = "http://"+hub.Addr().String(), "http://"+cdn.Addr().String()
	s.serve(hub, Hub, s.hubRoutes())
	s.serve(cdn, CDN, http.HandlerFunc(s.serveSigned))
	return s, nil
}

// Close ends both ports and the requests that run, and waits for them.
func (s *Server) Close() {
	for _, server := range s.servers {
		_ = server.Close()
	}
	s.serving.Wait()
	s.running.Lock()
	defer s.running.Unlock()
	s.closed = true
}

func (s *Server) serve(l net.Listener, host Host, h http.Handler) {
	ctx, cancel := context.WithCancel(context.Background())
	server := &http.Server{
		Handler:           s.logged(host, h),
		ErrorLog:          log.New(io.Discard, "", 0),
		ReadHeaderTimeout: time.Minute,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				s.mu.Lock()
				s.connections++
				s.mu.Unlock()
			}
		},
	}
	s.servers = append(s.servers, server)
	s.serving.Go(func() {
		defer cancel()
		_ = server.Serve(l) // ends by Close
	})
}

// Requests is the log, in the order in which the requests came.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Request, len(s.log))
	for i, e := range s.log {
		all[i] = e.snapshot()
	}
	return all
}

// Counts are the sums since the start or the last Reset.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := Counts{Connections: s.connections, Requests: int64(len(s.log))}
	for _, e := range s.log {
		c.Bytes += e.bytes.Load()
	}
	return c
}

// Reset empties the log and the counts.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log, s.connections = nil, 0
}
