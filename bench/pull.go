package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"rbee"
	"rbee/internal/hub/hubtest"
)

const (
	pullBytes = 1 << 30
	pullRepo  = "bench/big-GGUF"
	pullFile  = "big.Q8_0.gguf"
	pullRef   = "hf:" + pullRepo + ":Q8_0"
)

// benchPull downloads 1 GiB from a hub on loopback with the hive, and with curl
// and sha256sum one after the other, in turn.
func benchPull(ctx context.Context, cfg config, out io.Writer) error {
	hub := hubtest.New()
	defer hub.Close()
	big := hubtest.GGUF(1, pullBytes)
	big.SHA256() // which takes a while, once
	hub.Put(hubtest.Repo{Name: pullRepo, Files: []hubtest.File{{Path: pullFile, Content: big}}})
	cfg.env = []string{"HF_ENDPOINT=" + hub.URL}
	col, err := startColony(ctx, cfg)
	if err != nil {
		return err
	}
	var curlRate, ourRate, ratio, growthMiB, againMS []float64
	for i := range cfg.reps + 1 { // the first warms up
		theirs, err := curl(ctx, hub.URL+"/"+pullRepo+"/resolve/main/"+pullFile, filepath.Join(col.home, "curl.gguf"))
		if err != nil {
			return errors.Join(err, col.close())
		}
		p, err := col.pull(ctx, hub)
		if err != nil {
			return errors.Join(err, col.close())
		}
		if i > 0 {
			const mb = pullBytes / 1e6
			curlRate, ourRate = append(curlRate, mb/theirs.Seconds()), append(ourRate, mb/p.took.Seconds())
			ratio = append(ratio, theirs.Seconds()/p.took.Seconds())
			againMS = append(againMS, ms(p.again))
		}
		growthMiB = append(growthMiB, float64(p.grew)/(1<<20)) // the first counts: it grows most
	}
	table(out, cfg, "download of 1 GiB from a hub on loopback", [][]string{
		{"", "median", "min", "max"},
		row("curl, then sha256sum, MB/s", "%.0f", curlRate),
		row("the hive, checked and synced, MB/s", "%.0f", ourRate),
		row("ratio (goal at least 0.9)", "%.2f", ratio),
		row("memory of the hive grows by, MiB (goal at most 32)", "%.1f", growthMiB),
		row("a second pull, no connection to the hub, ms (goal below 50)", "%.1f", againMS),
	})
	return col.close()
}

// curl downloads a file and digests it, as one would without rbee.
func curl(ctx context.Context, url, to string) (time.Duration, error) {
	defer os.Remove(to) //nolint:errcheck // the directory goes, too
	start := time.Now()
	for _, args := range [][]string{{"curl", "-sSfL", "-o", to, url}, {"sha256sum", to}} {
		if b, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("cannot run %s: %w\n%s", args[0], err, b)
		}
	}
	return time.Since(start), nil
}

// pulled is what one download by the hive took.
type pulled struct {
	took  time.Duration
	grew  int64         // memory of the hive, bytes
	again time.Duration // of a second request
}

// pull downloads the model, asks for it again, and removes it.
func (c *colony) pull(ctx context.Context, hub *hubtest.Server) (p pulled, err error) {
	before, err := residentBytes(c.hive.Process.Pid)
	if err != nil {
		return p, err
	}
	over := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			if now, err := residentBytes(c.hive.Process.Pid); err == nil {
				p.grew = max(p.grew, now-before)
			}
			select {
			case <-tick.C:
			case <-over:
				return
			}
		}
	})
	took, err := c.download(ctx, rbee.DownloadComplete)
	close(over)
	watch.Wait()
	if err != nil {
		return p, err
	}
	p.took = took
	connections := hub.Counts().Connections
	if p.again, err = c.download(ctx, rbee.DownloadCached); err != nil {
		return p, err
	}
	if n := hub.Counts().Connections - connections; n != 0 {
		return p, fmt.Errorf("a second pull made %d connections to the hub", n)
	}
	return p, c.calls.RemoveModel(ctx, pullRef)
}

// download asks for the model and waits for the stage that ends it.
func (c *colony) download(ctx context.Context, want rbee.DownloadStage) (time.Duration, error) {
	start := time.Now()
	reply, err := c.calls.Download(ctx, rbee.DownloadRequest{ModelRef: pullRef})
	if err != nil {
		return 0, err
	}
	var last rbee.DownloadProgress
	for p, err := range c.calls.DownloadProgress(ctx, reply.DownloadID) {
		if err != nil {
			return 0, err
		}
		last = p
	}
	if last.Stage != want {
		return 0, fmt.Errorf("the download ended as %s (%v), not as %s", last.Stage, last.Error, want)
	}
	return time.Since(start), nil
}

// residentBytes is the memory of a process as Linux tells it.
func residentBytes(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmRSS:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process %d tells no memory", pid)
}
