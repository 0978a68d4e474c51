package bus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rbee"
)

// bucket holds what hives tell.
const bucket = "colony"

// The kinds of keys.
const (
	keyAbout  = "about"
	keyNow    = "now"
	keyPrefix = "prefix"
)

const (
	// ttlNow is how long a hive may say nothing before it is lost.
	ttlNow = 3 * time.Second

	// ttlPrefix is how long what is cached is believed.
	ttlPrefix = 30 * time.Second

	// ttlAbout is how long a lost hive is remembered.
	ttlAbout = 10 * time.Minute

	// ttlMarker is how long a marker says that something went.
	ttlMarker = time.Minute

	// retell is when what did not change is told again.
	retell = 10 * time.Second

	// putTime is what the bus has to take a value.
	putTime = 2 * time.Second
)

// The headers of the bucket's format. A marker that is a purge leaves none when its own time is over.
const (
	headerOp  = "KV-Operation"
	opPurge   = "PURGE"
	headerTTL = jetstream.MsgTTLHeader
)

// markLeft is in the marker of a hive that said goodbye. One that is just not
// heard any more leaves an empty one.
const markLeft = "left"

// refusedFor, and the id of a hive, is where a queen refuses it.
const refusedFor = "refused."

// telling is what was told last under a subject.
type telling struct {
	value []byte
	at    time.Time
}

func subject(kind string, id rbee.HiveID) string {
	return "$KV." + bucket + "." + kind + "." + string(id)
}

// PutAbout tells what a hive is. What the bus knows already costs nothing.
func (c *Conn) PutAbout(ctx context.Context, about rbee.HiveAbout) error {
	c.mu.Lock()
	c.key = about.Key
	c.mu.Unlock()
	return c.put(ctx, subject(keyAbout, about.ID), about, ttlAbout)
}

// PutNow tells what a hive does. Without it the hive is lost within 3 s.
func (c *Conn) PutNow(ctx context.Context, now rbee.HiveNow) error {
	return c.put(ctx, subject(keyNow, now.ID), now, ttlNow)
}

// PutPrefixes tells what a hive has cached. What the bus knows already costs nothing.
func (c *Conn) PutPrefixes(ctx context.Context, prefixes rbee.HivePrefixes) error {
	return c.put(ctx, subject(keyPrefix, prefixes.ID), prefixes, ttlPrefix)
}

// Forget has all forget a hive: it leaves, or a queen has done with it.
func (c *Conn) Forget(ctx context.Context, id rbee.HiveID) error {
	var all error
	for _, kind := range []string{keyPrefix, keyNow, keyAbout} {
		all = errors.Join(all, c.mark(ctx, subject(kind, id), markLeft))
	}
	return all
}

// lose says that a hive was cut off, before its time is over. One that said
// goodbye has left and is not lost.
func (c *Conn) lose(id rbee.HiveID) {
	ctx, cancel := context.WithTimeout(context.Background(), putTime)
	defer cancel()
	heard, err := c.heard(ctx, id)
	if err == nil && heard {
		err = c.mark(ctx, subject(keyNow, id), "")
	}
	if err != nil {
		c.cfg.Log.Debug("a hive was not marked as lost", "hive", id, "err", err)
	}
}

// heard says whether a hive's last word still holds.
func (c *Conn) heard(ctx context.Context, id rbee.HiveID) (bool, error) {
	l, err := c.current()
	if err != nil {
		return false, err
	}
	js, err := jetstream.New(l.nc)
	if err != nil {
		return false, err
	}
	kv, err := js.KeyValue(ctx, bucket)
	if err != nil {
		return false, err
	}
	_, err = kv.Get(ctx, keyNow+"."+string(id))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (c *Conn) put(ctx context.Context, subject string, value any, ttl time.Duration) error {
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if c.known(subject, b) {
		return nil
	}
	msg := &nats.Msg{Subject: subject, Data: b, Header: nats.Header{headerTTL: {ttl.String()}}}
	l, err := c.send(ctx, msg)
	if err != nil || ttl == ttlNow {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == l {
		c.told[subject] = telling{b, time.Now()}
	}
	return nil
}

// known says whether the bus has the value for some time yet.
func (c *Conn) known(subject string, value []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.told[subject]
	return ok && c.link != nil && time.Since(t.at) < retell && bytes.Equal(t.value, value)
}

// mark leaves a marker in the place of a value.
func (c *Conn) mark(ctx context.Context, subject, why string) error {
	msg := &nats.Msg{Subject: subject, Data: []byte(why), Header: nats.Header{headerOp: {opPurge}, headerTTL: {ttlMarker.String()}}}
	_, err := c.send(ctx, msg)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.told, subject)
	return err
}

// send gives the bus a message, and waits until it has it.
func (c *Conn) send(ctx context.Context, msg *nats.Msg) (*link, error) {
	l, err := c.current()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, putTime)
	defer cancel()
	if c.way.own() {
		// The bucket behind a gate acknowledges nothing, see makeBucket.
		if err = l.nc.PublishMsg(msg); err == nil {
			err = l.nc.FlushWithContext(ctx)
		}
	} else {
		var js jetstream.JetStream
		if js, err = jetstream.New(l.nc); err == nil {
			_, err = js.PublishMsg(ctx, msg)
		}
	}
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
		return nil, rbee.Errorf(rbee.CodeConnectionTimeout, "cannot tell the colony: no queen has been on its bus yet")
	}
	return nil, rbee.Errorf(rbee.CodeConnectionTimeout, "cannot tell the colony: %w", err)
}

// makeBucket makes the bucket if there is none. Behind a gate, where hives are
// trusted with their own keys only, it acknowledges nothing and rolls nothing up:
// an acknowledgement goes where the sender says, past its permissions, and a
// header of one message could sweep away what all others told. Without roll-ups
// there are no markers of what is over: there a queen finds out who is silent.
func makeBucket(ctx context.Context, js jetstream.JetStream, replicas int, gate bool) error {
	c := jetstream.StreamConfig{
		Name:              "KV_" + bucket,
		Subjects:          []string{"$KV." + bucket + ".>"},
		Storage:           jetstream.MemoryStorage,
		Replicas:          replicas,
		MaxMsgsPerSubject: 1,
		Discard:           jetstream.DiscardNew,
		DenyDelete:        true,
		DenyPurge:         gate,
		AllowRollup:       !gate,
		AllowDirect:       true,
		AllowMsgTTL:       true,
		NoAck:             gate,
	}
	if !gate {
		c.SubjectDeleteMarkerTTL = ttlMarker
	}
	_, err := js.CreateStream(ctx, c)
	return err
}
