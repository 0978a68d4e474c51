package bus

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rbee"
)

// Update is one thing that a watcher hears. One of its fields is set; Lost
// belongs to Gone.
type Update struct {
	About    *rbee.HiveAbout
	Now      *rbee.HiveNow
	Prefixes *rbee.HivePrefixes
	Gone     rbee.HiveID // a hive that left
	Lost     bool        // it did not leave, it is just not heard any more; a bus behind a gate tells this of cut connections only
	Synced   bool        // all that was on the bus was told: hives without a Now since the connection are not there
}

// Watch calls f with what is on the bus, and then with each change, until ctx
// ends. After each reconnection it begins anew. What hives tell arrives in any
// order, so a Now may come before its About.
func (c *Conn) Watch(ctx context.Context, f func(Update)) error {
	for {
		l := c.await(ctx)
		if l == nil {
			return nil
		}
		if err := c.watch(ctx, l, f); err != nil && ctx.Err() == nil {
			c.cfg.Log.Debug("cannot watch the colony", "err", err)
		}
		if !pause(ctx, backoffFirst) {
			return nil
		}
	}
}

// watch watches as long as the link lives.
func (c *Conn) watch(ctx context.Context, l *link, f func(Update)) error {
	js, err := jetstream.New(l.nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin, done := context.WithTimeout(ctx, putTime)
	kv, err := js.KeyValue(begin, bucket)
	done()
	if err != nil {
		return err
	}
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return err
	}
	defer drain(w)
	r := reader{c: c, l: l, f: f, refused: map[string]bool{}}
	for {
		select {
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return nil
			case e == nil:
				f(Update{Synced: true})
			default:
				r.read(e)
			}
		case <-l.lost:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// drain ends a watcher. What it has yet to say must be taken, or it never ends.
func drain(w jetstream.KeyWatcher) {
	_ = w.Stop() // the connection may be gone
	late := time.NewTimer(time.Second)
	defer late.Stop()
	for {
		select {
		case _, ok := <-w.Updates():
			if !ok {
				return
			}
		case <-late.C:
			return
		}
	}
}

// reader makes updates of entries.
type reader struct {
	c       *Conn
	l       *link
	f       func(Update)
	refused map[string]bool // ids of hives of another version
}

func (r *reader) read(e jetstream.KeyValueEntry) {
	kind, id, _ := strings.Cut(e.Key(), ".")
	if !isID(rbee.HiveID(id)) {
		return
	}
	if e.Operation() != jetstream.KeyValuePut {
		lost := string(e.Value()) != markLeft
		if kind == keyNow || kind == keyAbout {
			// A hive whose About is over was lost for long; now it is gone.
			r.f(Update{Gone: rbee.HiveID(id), Lost: lost && kind == keyNow})
		}
		return
	}
	var u Update
	var said rbee.HiveID
	var err error
	switch kind {
	case keyAbout:
		u.About = &rbee.HiveAbout{}
		err = json.Unmarshal(e.Value(), u.About)
		said = u.About.ID
	case keyNow:
		u.Now = &rbee.HiveNow{}
		err = json.Unmarshal(e.Value(), u.Now)
		said = u.Now.ID
	case keyPrefix:
		u.Prefixes = &rbee.HivePrefixes{}
		err = json.Unmarshal(e.Value(), u.Prefixes)
		said = u.Prefixes.ID
	default:
		return
	}
	if a := u.About; a != nil && a.APIVersion != rbee.APIVersion && a.APIVersion != "" {
		if a.ID = rbee.HiveID(id); !r.refused[id] {
			r.refused[id] = true
			r.c.refuse(r.l, a)
			r.f(Update{Gone: a.ID})
		}
		return
	}
	if err != nil || said != rbee.HiveID(id) {
		r.c.cfg.Log.Warn("a hive tells what cannot be read", "id", id, "err", err)
		return
	}
	if u.About != nil {
		delete(r.refused, id)
	}
	if !r.refused[id] {
		r.f(u)
	}
}
