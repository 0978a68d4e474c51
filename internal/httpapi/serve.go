package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"rbee"
)

// ErrShutdown is the cause with which the contexts of running requests end
// when the daemon does.
var ErrShutdown = errors.New("the daemon shuts down")

// closeBudget bounds how long running requests may take to end after their
// contexts did.
const closeBudget = 5 * time.Second

// Listen opens the daemon's port. An address beyond loopback without a key is
// refused: anyone on the network could use the machine.
func Listen(addr, key string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot listen on %q: it is not HOST:PORT", addr).
			Suggest("use an address such as 127.0.0.1:8080")
	}
	if key == "" && !loopbackHost(host) {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "refusing to listen on %s without a key: the whole network could use this machine", addr).
			Suggest("set a key with 'rbee config init' and in config.yaml, or listen on 127.0.0.1")
	}
	ln, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, rbee.Errorf(rbee.CodeConflict, "cannot listen on %s: the port is taken", addr).
			Suggest("stop the program that has it, or choose another with --addr")
	case err != nil:
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot listen on %s: %w", addr, err).
			Suggest("choose another address with --addr")
	}
	return ln, nil
}

// Serve answers on ln until ctx ends. Then the contexts of running requests
// end with ErrShutdown, so streams end first, and Serve returns when all are
// done, after closeBudget at the latest.
func (a *API) Serve(ctx context.Context, ln net.Listener) error {
	base, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(ErrShutdown)
	srv := &http.Server{
		Handler:           a.Handler(),
		BaseContext:       func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(a.cfg.Log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		end(ErrShutdown)
		budget, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeBudget)
		defer cancel()
		err := srv.Shutdown(budget)
		if err != nil {
			err = srv.Close()
		}
		stopped <- err
	})
	err := srv.Serve(ln)
	if stop() { // the listener failed by itself
		return errors.Join(err, srv.Close())
	}
	return <-stopped
}
