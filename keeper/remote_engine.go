package keeper

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"sync"

	"rbee"
	"rbee/internal/engines"
)

// enginePlace says where the engine of the far side came from.
type enginePlace string

const (
	enginePresent   enginePlace = "present"   // it was there
	engineCopied    enginePlace = "copied"    // this machine's
	engineInstalled enginePlace = "installed" // the far side fetched it itself
	engineMissing   enginePlace = "missing"   // it could not; the first model will try again
)

// remoteEngines is what 'rbee engine list --json' prints.
type remoteEngines struct {
	Version string            `json:"version"`
	Dir     string            `json:"dir"`
	Engines []engines.Install `json:"engines"`
}

func (e remoteEngines) usable() bool {
	for _, i := range e.Engines {
		if i.Available {
			return true
		}
	}
	return false
}

// placeEngine sees that the far side has an engine: this machine's, where that
// is for the same platform, else the one it fetches itself. A hive without one
// is no failure: it fetches the engine when it needs it.
func (a *app) placeEngine(ctx context.Context, h *remoteHive, platform string, phase int) (enginePlace, error) {
	var there remoteEngines
	if err := h.ask(ctx, &there, "engine", "list"); err != nil {
		return "", err
	}
	if there.usable() {
		return enginePresent, nil
	}
	store, err := a.store()
	if err != nil {
		return "", err
	}
	if platform == runtime.GOOS+"/"+runtime.GOARCH && there.Version == engines.Version && len(store.Verify()) == 0 {
		if dir, err := engines.Find(store.LibDir()); err == nil {
			err := a.sendEngine(ctx, h, dir, there.Dir, phase)
			if err == nil {
				return engineCopied, nil
			}
			if ctx.Err() != nil || rbee.CodeOf(err) == rbee.CodeInsufficientDisk {
				return "", err
			}
			a.out.happened(phase, "The engine of this machine could not be copied: "+rbee.AsError(err).Message)
		}
	}
	var report engines.Report
	err = h.ask(ctx, &report, "engine", "install")
	var e *rbee.Error
	switch {
	case err == nil:
		return engineInstalled, nil
	case ctx.Err() != nil || !errors.As(err, &e):
		return "", err
	}
	a.out.warn("%s; %s", e.Message, e.Suggestion())
	return engineMissing, nil
}

// wholeMark is the last file of an engine on its way: all others came before it.
const wholeMark = ".whole"

// unpackScript unpacks an engine beside its place, and gives it its name when it
// is there whole, unless there is one. The state directory is its owner's alone.
const unpackScript = `t="$1.part-$$"; clean() { rm -rf "$t"; }; trap clean EXIT; trap "exit 1" HUP INT TERM; ` +
	`(umask 077; mkdir -p "$2"); umask 022; mkdir -p "$t" && tar -xpf - -C "$t" && [ -f "$t/$3" ] && rm -f "$t/$3" && ` +
	`{ [ -d "$1" ] && rmdir "$1" || :; } && { [ -d "$1" ] && exit 5 || :; } && mv "$t" "$1"`

// sendEngine copies the libraries of this machine to a directory of the far side.
func (a *app) sendEngine(ctx context.Context, h *remoteHive, from, to string, phase int) error {
	home, err := h.stateDir(ctx)
	if err != nil {
		return err
	}
	total, err := sizeOfFiles(from)
	if err != nil {
		return err
	}
	b := a.out.bar(phase, "copying the engine", "bytes")
	in, out := io.Pipe()
	var packing sync.WaitGroup
	packing.Go(func() {
		done := int64(0)
		_ = out.CloseWithError(packFiles(out, from, func(n int64) { // the reader fails with it
			done += n
			b.set(done, total)
		}))
	})
	_, err = h.run(ctx, in, unpackScript, path.Clean(to), home, wholeMark)
	_ = in.Close()
	packing.Wait()
	b.clear()
	if err != nil {
		return h.refuse("cannot copy the engine to "+to+" on "+h.host, err)
	}
	var verified struct{}
	return h.ask(ctx, &verified, "engine", "verify")
}

func sizeOfFiles(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	total := int64(0)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			total += info.Size()
		}
	}
	return total, err
}

// packFiles writes the files and links of a directory as a tar archive, with
// their times: the manifest of the engine has them.
func packFiles(out io.Writer, dir string, tell func(int64)) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	for _, e := range entries {
		if err := packFile(w, filepath.Join(dir, e.Name()), tell); err != nil {
			return err
		}
	}
	err = w.WriteHeader(&tar.Header{Name: wholeMark, Mode: 0o600, Typeflag: tar.TypeReg})
	return errors.Join(err, w.Close())
}

func packFile(w *tar.Writer, path string, tell func(int64)) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	h := &tar.Header{Name: filepath.Base(path), Mode: 0o644, ModTime: info.ModTime(), Format: tar.FormatPAX}
	switch {
	case info.Mode()&os.ModeSymlink != 0:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = os.Readlink(path); err != nil {
			return err
		}
		return w.WriteHeader(h)
	case !info.Mode().IsRegular():
		return nil
	}
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	f, err := os.Open(path) //nolint:gosec // a library of ours
	if err != nil {
		return err
	}
	_, err = io.Copy(w, &countedReader{in: f, tell: tell})
	return errors.Join(err, f.Close())
}
