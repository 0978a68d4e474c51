package bus

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rbee"
)

// greet prepares a link with a cluster of others, where no gate checks anybody:
// a queen makes the bucket, a hive hears refusals.
func (c *Conn) greet(ctx context.Context, nc *nats.Conn, l *link) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	if c.cfg.Kind == rbee.JoinQueen {
		return c.makeClusterBucket(ctx, nc)
	}
	_, err := nc.Subscribe(refusedFor+string(c.cfg.ID), func(m *nats.Msg) {
		refusal := &rbee.Error{}
		if json.Unmarshal(m.Data, refusal) != nil || !refused(refusal) {
			return
		}
		l.mu.Lock()
		l.refusal = refusal
		l.mu.Unlock()
		nc.Close()
	})
	if err == nil {
		err = nc.FlushWithContext(ctx)
	}
	if err != nil {
		return rbee.Errorf(rbee.CodeConnectionTimeout, "cannot listen on the bus of the colony: %w", err)
	}
	return nil
}

// makeClusterBucket makes the bucket with three replicas if the cluster has as many servers.
func (c *Conn) makeClusterBucket(ctx context.Context, nc *nats.Conn) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if _, err := js.Stream(ctx, "KV_"+bucket); err == nil {
		return nil
	}
	for _, replicas := range []int{3, 1} {
		err = makeBucket(ctx, js, replicas, false)
		if err == nil || errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return nil
		}
	}
	return rbee.Errorf(rbee.CodeConnectionTimeout, "cannot make the bucket of the colony: %w", err).
		Suggest("the bus needs NATS 2.11 or later, with JetStream")
}

// refuse tells a hive of another version why it is not seen.
func (c *Conn) refuse(l *link, about *rbee.HiveAbout) {
	refusal := rbee.Errorf(rbee.CodeVersionMismatch, "versions differ: the hive is %s (API %s), the queen is %s (API %s)",
		clip(about.Version), clip(about.APIVersion), rbee.Version, rbee.APIVersion).
		Suggest("install the same version of rbee on both machines")
	c.cfg.Log.Warn("refused on the bus", "hive", clip(about.Name), "id", about.ID, "err", refusal)
	b, err := json.Marshal(refusal)
	if err == nil {
		err = l.nc.Publish(refusedFor+string(about.ID), b)
	}
	if err != nil {
		c.cfg.Log.Debug("a refusal was not sent", "id", about.ID, "err", err)
	}
}
