package keeper

import (
	"context"
	"fmt"
	"time"

	"rbee"
	"rbee/client"
)

// followTries bounds how often a feed of progress that broke off without a
// single event is asked for again.
const followTries = 3

// follower shows a download.
type follower struct {
	bar   *bar
	phase int
	last  rbee.DownloadProgress
}

func (a *app) follower(phase int) *follower {
	return &follower{bar: a.out.bar(phase, "looking for the model", ""), phase: phase}
}

// download brings a model to the disk of a hive and shows how far it is. When
// the user interrupts it, the hive keeps what has arrived.
func (a *app) download(ctx context.Context, c *colony, req rbee.DownloadRequest, phase int) (rbee.DownloadProgress, error) {
	f := a.follower(phase)
	defer f.bar.clear()
	f.bar.set(0, 0)
	reply, err := c.client.Download(ctx, req)
	if err != nil {
		return rbee.DownloadProgress{}, err
	}
	p, err := f.follow(ctx, c, reply.DownloadID)
	if p.LocalPath == "" {
		p.LocalPath = reply.LocalPath
	}
	return p, err
}

// follow shows a download until its end. When the user interrupts it, the
// download is cancelled.
func (f *follower) follow(ctx context.Context, c *colony, id rbee.DownloadID) (rbee.DownloadProgress, error) {
	defer f.bar.clear()
	for silent := 0; ; {
		seen, err := f.watch(ctx, c, id)
		switch {
		case err == nil:
			return f.last, nil
		case interrupted(ctx):
			f.cancel(ctx, c, id)
			return f.last, context.Cause(ctx)
		case f.last.Stage.Final() || !client.IsCut(err):
			return f.last, err
		case seen:
			silent = 0
		}
		// A hive cuts a reader off that is too slow; who comes again gets the present state.
		if silent++; silent == followTries || !c.alive(ctx) {
			return f.last, c.lost(ctx, err)
		}
	}
}

// watch shows a download until its end, or until its feed breaks off. It says
// whether there was an event.
func (f *follower) watch(ctx context.Context, c *colony, id rbee.DownloadID) (seen bool, err error) {
	for p, err := range c.client.DownloadProgress(ctx, id) {
		if err != nil {
			return seen, err
		}
		if p.Error != nil {
			if p.Stage == rbee.DownloadError {
				f.last = p
			}
			return true, p.Error
		}
		seen = true
		f.show(p)
		if p.Stage.Final() {
			return seen, nil
		}
	}
	return seen, rbee.Errorf(rbee.CodeConnectionTimeout, "the hive ended the progress of the download before its end").
		Suggest("run the command again: the download goes on from where it is")
}

func (f *follower) show(p rbee.DownloadProgress) {
	if p.Note != "" && p.Note != f.last.Note {
		f.bar.clear()
		f.bar.out.happened(f.phase, p.Note)
	}
	f.last = p
	switch p.Stage {
	case rbee.DownloadDownloading:
		f.bar.relabel("downloading", "bytes")
		f.bar.setPace(p.BytesDownloaded, p.BytesTotal, pace{
			mbps: p.SpeedMBps, left: time.Duration(p.ETASeconds * float64(time.Second)), connections: p.Connections,
		})
	case rbee.DownloadVerifying:
		f.bar.relabel("verifying", "")
		f.bar.set(0, 0)
	case rbee.DownloadResolving:
		f.bar.set(0, 0)
	}
}

// cancel ends the download, and says that it is not lost.
func (f *follower) cancel(ctx context.Context, c *colony, id rbee.DownloadID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTime)
	defer cancel()
	f.bar.clear()
	// A hive that is gone downloads no more.
	if err := c.client.CancelDownload(ctx, id); err != nil && !client.IsCut(err) {
		f.bar.out.warn("cannot cancel the download: %s", asError(err).Message)
	}
	if arrived := f.last.BytesDownloaded; arrived > 0 && !f.bar.out.json {
		f.bar.out.note("What has arrived (%s) is kept; the same command goes on from there.", size(arrived))
	}
}

// sizeOf is the size of a download that is over, in brackets, "" if it is not known.
func sizeOf(p rbee.DownloadProgress) string {
	if p.BytesTotal <= 0 {
		return ""
	}
	return fmt.Sprintf(" (%s)", size(p.BytesTotal))
}
