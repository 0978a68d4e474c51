package queen_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"rbee"
	"rbee/internal/bus"
	"rbee/internal/conf"
	"rbee/internal/daemon"
	"rbee/internal/supervise"
)

// hiveMain is a hive that a queen starts: it takes its place, joins by the token
// that it finds, answers, and ends when it is told to or its parent dies. With
// hiveEnv=rude it does not take orders.
func hiveMain(ctx context.Context, args []string) int {
	err := runHive(ctx, args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "Error: %s\n", rbee.AsError(err).Message)
		return 1
	}
	return 0
}

func runHive(ctx context.Context, args []string) error {
	home, err := conf.FindHome(nil)
	if err != nil {
		return err
	}
	ctx, stop := supervise.WatchParent(ctx)
	defer stop()
	place, err := daemon.Claim(home, "hive")
	if err != nil {
		return err
	}
	defer func() { _ = place.Release() }()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:gosec // of a test
		switch {
		case r.URL.Path != "/v1/shutdown":
		case os.Getenv(hiveEnv) == "rude":
			w.WriteHeader(http.StatusInternalServerError)
		default:
			defer end()
		}
		_ = json.NewEncoder(w).Encode(rbee.Alive())
	})}
	var lives sync.WaitGroup
	defer lives.Wait()
	lives.Go(func() {
		<-ctx.Done()
		_ = server.Shutdown(context.WithoutCancel(ctx))
	})
	h := &fakeHive{id: firstHive, url: "http://" + ln.Addr().String()}
	token, err := os.ReadFile(filepath.Join(string(home), "join"))
	if err != nil {
		return err
	}
	conn, err := bus.Join(bus.JoinConfig{Join: strings.TrimSpace(string(token)), Kind: rbee.JoinHive, ID: h.id, Name: "local", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	about := h.about()
	about.ByQueen = slices.Contains(args, "--by-queen")
	lives.Go(func() { _ = conn.Run(ctx) })
	lives.Go(func() { tell(ctx, conn, about, h.now) })
	if err := place.Announce(h.url); err != nil {
		return err
	}
	_ = server.Serve(ln)
	return nil
}
