package queen

import (
	"context"
	"path/filepath"
	"time"

	"rbee"
	"rbee/internal/bus"
)

// openDoor opens a port where hives can dial a queen whose bus is another's. A
// port that is taken, as by the queen whose bus it is, only keeps them from that.
func (q *Queen) openDoor() error {
	settings := q.cfg.Settings
	door, err := bus.OpenDoor(bus.DoorConfig{
		Addr: settings.Queen.BusAddr, Dir: filepath.Join(string(settings.Home), role), Names: settings.Queen.Names.Items(),
		Key: q.registry.Key, Tunnel: q.registry.Invited, Log: q.log,
	})
	if rbee.CodeOf(err) == rbee.CodeConflict {
		q.log.Warn("hives of other machines cannot dial this queen: choose another address with queen.bus_addr", "err", err)
		return nil
	}
	if err == nil {
		q.door = door
	}
	return err
}

// invite asks hives of other machines to dial her, until ctx ends.
func (q *Queen) invite(ctx context.Context) error {
	tick := time.NewTicker(bus.InviteEvery)
	defer tick.Stop()
	for {
		if err := q.door.Invite(q.conn, q.registry.Guests()); err != nil {
			q.log.DebugContext(ctx, "no hive was invited", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
