package worker

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"

	"rbee"
	"rbee/internal/httpapi"
)

// debugging serves the profiles of the process at a loopback address, behind
// the same front door as the API but without a key: go tool pprof sends none.
// stop ends it and returns when it has ended.
func debugging(addr string, log *slog.Logger) (stop func(), err error) {
	host, _, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot serve profiles at %q: it is no loopback address with a port", addr).
			Suggest("use an address such as 127.0.0.1:6060")
	}
	ln, err := httpapi.Listen(addr, "")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	for path, handler := range map[string]http.HandlerFunc{
		"": pprof.Index, "cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace,
	} {
		mux.HandleFunc("/debug/pprof/"+path, handler)
	}
	api := httpapi.New(httpapi.Config{Role: "worker-debug", Log: log, Routes: []httpapi.Route{
		{Method: http.MethodGet, Path: "/debug/pprof/{profile...}", Summary: "Profiles of the process.", Handler: httpapi.Raw(mux)},
	}})
	ctx, end := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := api.Serve(ctx, ln); err != nil {
			log.Warn("profiles are not served any more", "addr", addr, "err", err)
		}
	})
	log.Info("serving profiles", "addr", "http://"+ln.Addr().String()+"/debug/pprof/")
	return func() {
		end()
		running.Wait()
	}, nil
}
