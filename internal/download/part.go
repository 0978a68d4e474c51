package download

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"rbee/internal/durable"
)

// Part is a file on its way, which nobody else may write: KEY.part in a
// directory, and beside it
//
//	KEY.json   what of it is durable, written after each sync of the part
//	KEY.live   what of it was written; as good as long as the machine runs on
//	KEY.lock   held by the process that writes it
type Part struct {
	base string
	lock *flock.Flock
}

// lookAgain is the pause between two looks at a part that somebody else has.
const lookAgain = 250 * time.Millisecond

// Open waits until nobody else has the part of a key in a directory, which it
// makes, and takes it. Meanwhile it tells how far the other one is. The caller
// closes the part.
func Open(ctx context.Context, dir, key string, report func(Progress)) (*Part, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, explain("write to "+dir, err)
	}
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		p, err := tryOpen(dir, key)
		if p != nil || err != nil {
			return p, err
		}
		if j, ok := readJournal(filepath.Join(dir, key) + ".live"); ok {
			report(Progress{Done: j.Spans.total(), Total: j.SizeBytes, Note: "somebody else is fetching it already"})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// tryOpen returns nil if somebody else has the part.
func tryOpen(dir, key string) (*Part, error) {
	p := &Part{base: filepath.Join(dir, key)}
	p.lock = flock.New(p.base + ".lock")
	ok, err := p.lock.TryLock()
	if err != nil {
		return nil, explain("lock "+p.lock.Path(), err)
	}
	if !ok {
		return nil, nil
	}
	// Who had it before may have removed the file that we locked just now.
	mine, err := p.lock.Stat()
	if err == nil {
		if there, statErr := os.Stat(p.lock.Path()); statErr == nil && os.SameFile(mine, there) {
			return p, nil
		}
	}
	return nil, errors.Join(err, p.lock.Unlock())
}

// Path is the file. After Fetch it is whole, checked and synced, and the caller
// may rename it before Close.
func (p *Part) Path() string { return p.base + ".part" }

// Discard removes the part: it is of no use to a later fetch.
func (p *Part) Discard() error {
	var err error
	for _, suffix := range suffixes[:len(suffixes)-1] { // the lock is held
		err = errors.Join(err, gone(os.Remove(p.base+suffix)))
	}
	return err
}

// Close gives the part up. It stays for a later fetch, unless it was renamed or discarded.
func (p *Part) Close() error {
	var err error
	if _, statErr := os.Stat(p.Path()); errors.Is(statErr, fs.ErrNotExist) {
		err = errors.Join(p.Discard(), gone(os.Remove(p.lock.Path())))
	}
	return errors.Join(err, p.lock.Unlock())
}

// suffixes are those of the files of a part, behind its key.
var suffixes = [...]string{".part", ".json", ".json.new", ".live", ".live.new", ".lock"}

// IsOfPart says whether a file with this name belongs to a part.
func IsOfPart(name string) bool {
	key, _, _ := strings.Cut(name, ".")
	return key != "" && slices.Contains(suffixes[:], name[len(key):])
}

// Abandoned lists the files of the parts in a directory that nobody fetches at
// this moment. A directory that is not there has none.
func Abandoned(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, gone(err)
	}
	keys := map[string]bool{}
	for _, e := range entries {
		if key, _, _ := strings.Cut(e.Name(), "."); key != "" {
			keys[key] = true
		}
	}
	var left []string
	for key := range keys {
		p, openErr := tryOpen(dir, key)
		if openErr != nil || p == nil {
			err = errors.Join(err, openErr)
			continue
		}
		if _, statErr := os.Stat(p.Path()); statErr == nil {
			left = append(left, p.Path())
		}
		err = errors.Join(err, p.Close())
	}
	return left, err
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// journal says what of a part is there.
type journal struct {
	Version   int    `json:"version"`
	Stamp     string `json:"stamp"` // of the request
	SizeBytes int64  `json:"size_bytes"`
	Boot      string `json:"boot,omitempty"` // run of the machine in which it was true
	Spans     spans  `json:"spans"`
}

const journalVersion = 1

// MarshalJSON writes a span as [from, to].
func (s span) MarshalJSON() ([]byte, error) { return json.Marshal([2]int64{s.From, s.To}) }

// UnmarshalJSON reads [from, to].
func (s *span) UnmarshalJSON(b []byte) error {
	var pair [2]int64
	err := json.Unmarshal(b, &pair)
	s.From, s.To = pair[0], pair[1]
	return err
}

// readJournal is false for one that is not there, or says what cannot be.
func readJournal(path string) (journal, bool) {
	var j journal
	b, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(b, &j) != nil || j.Version != journalVersion || !j.Spans.within(j.SizeBytes) {
		return journal{}, false
	}
	return j, true
}

// resume is what the part has of the file that the request is for.
func (p *Part) resume(r Request) spans {
	info, err := os.Stat(p.Path())
	if err != nil {
		return nil
	}
	var had spans // the later of the journals is not always the fuller one
	for _, name := range []string{".live", ".json"} {
		j, ok := readJournal(p.base + name)
		same := j.Stamp == r.Stamp && j.SizeBytes == r.SizeBytes
		if ok && same && info.Size() == j.SizeBytes && (name == ".json" || j.Boot != "" && j.Boot == bootID()) {
			for _, s := range j.Spans {
				had = had.add(s)
			}
		}
	}
	return had
}

// foreign says whether the part is of another file than the request's.
func (p *Part) foreign(r Request) bool {
	j, ok := readJournal(p.base + ".json")
	return ok && (j.Stamp != r.Stamp || j.SizeBytes != r.SizeBytes)
}

// writeLive notes what was written. It need not survive a power cut.
func (p *Part) writeLive(j journal) error {
	b, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("cannot encode a journal: %w", err)
	}
	aside := p.base + ".live.new"
	if err := os.WriteFile(aside, b, 0o600); err != nil {
		return err
	}
	return os.Rename(aside, p.base+".live")
}

// writeDurable notes what was synced.
func (p *Part) writeDurable(j journal) error {
	b, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("cannot encode a journal: %w", err)
	}
	f, err := os.OpenFile(p.base+".json.new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return durable.Rename(f.Name(), p.base+".json")
}
