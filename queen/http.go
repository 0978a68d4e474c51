package queen

import (
	"context"
	"net/http"
	"time"

	"rbee"
	"rbee/internal/sse"
)

// reply is a reply with a body and nothing else.
type reply[T any] struct{ Body T }

func (q *Queen) health(context.Context, *struct{}) (*reply[rbee.Health], error) {
	return &reply[rbee.Health]{rbee.Alive()}, nil
}

func (q *Queen) orderShutdown(context.Context, *struct{}) (*reply[rbee.Message], error) {
	q.asked()
	return &reply[rbee.Message]{rbee.Message{Message: "The queen shuts down"}}, nil
}

func (q *Queen) listHives(context.Context, *struct{}) (*reply[rbee.HiveList], error) {
	return &reply[rbee.HiveList]{rbee.HiveList{Hives: q.registry.Hives()}}, nil
}

func (q *Queen) listWorkers(context.Context, *struct{}) (*reply[rbee.PlacedWorkerList], error) {
	list := rbee.PlacedWorkerList{Workers: []rbee.PlacedWorker{}}
	for _, h := range q.registry.Hives() {
		if h.Presence != rbee.HivePresent {
			continue
		}
		for _, w := range h.Workers {
			list.Workers = append(list.Workers, rbee.PlacedWorker{Hive: h.ID, HiveName: h.Name, ColonyWorker: w})
		}
	}
	return &reply[rbee.PlacedWorkerList]{list}, nil
}

func (q *Queen) listDevices(context.Context, *struct{}) (*reply[rbee.PlacedDeviceList], error) {
	list := rbee.PlacedDeviceList{Devices: []rbee.PlacedDevice{}}
	for _, h := range q.registry.Hives() {
		if h.Presence != rbee.HivePresent {
			continue
		}
		free := map[rbee.DeviceID]int64{}
		for _, m := range h.Memory {
			free[m.Device] = m.FreeBytes
		}
		for _, d := range h.Devices {
			if now, ok := free[d.ID]; ok {
				d.MemoryFree = now
			}
			list.Devices = append(list.Devices, rbee.PlacedDevice{Hive: h.ID, HiveName: h.Name, Device: d})
		}
	}
	return &reply[rbee.PlacedDeviceList]{list}, nil
}

func (q *Queen) busStatus() (s rbee.BusStatus) {
	if q.gate != nil {
		s.Addr = q.gate.Addr()
	}
	ok, err := q.conn.Connected()
	s.Connected = ok
	if err != nil {
		s.Reason = rbee.AsError(err).Message
	}
	return s
}

func (q *Queen) showStatus(context.Context, *struct{}) (*reply[rbee.QueenStatus], error) {
	s := rbee.QueenStatus{
		Version: rbee.Version, StartedAt: q.started, Ephemeral: q.cfg.Ephemeral, Bus: q.busStatus(), LocalHive: q.local.status(),
	}
	s.Hives, s.Workers, s.Models = count(q.registry.Hives())
	return &reply[rbee.QueenStatus]{s}, nil
}

// streamEvents tells a snapshot, then changes. A reader that falls behind is cut
// off without the end mark and comes again.
func (q *Queen) streamEvents(ctx context.Context, _ *struct{}, w http.ResponseWriter) error {
	hives, changes := q.registry.Feed().Subscribe(ctx)
	out := sse.NewWriter(w)
	if err := out.JSON(rbee.ColonyEvent{Kind: rbee.ColonySnapshot, Time: time.Now(), Hives: hives}); err != nil {
		return gone(ctx, err)
	}
	for e, err := range changes {
		if err != nil {
			return nil //nolint:nilerr // the reader left or is too slow; both know
		}
		if err := out.JSON(e); err != nil {
			return gone(ctx, err)
		}
	}
	return gone(ctx, out.Done())
}

// gone is nil for the error of a write to a reader that left, which is no failure.
func gone(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return nil
	}
	return rbee.Errorf(rbee.CodeRequestCanceled, "the reader is gone").WithCause(err)
}

// ownGate fails for a queen who joined the bus of another: its tokens are not hers.
func (q *Queen) ownGate() error {
	if q.gate != nil {
		return nil
	}
	return rbee.Errorf(rbee.CodeInvalidRequest, "this queen has no tokens: the bus of the colony is another's").
		Suggest("ask the queen whose bus it is, or the owner of the cluster")
}

func (q *Queen) listTokens(context.Context, *struct{}) (*reply[rbee.TokenList], error) {
	if err := q.ownGate(); err != nil {
		return nil, err
	}
	list := q.gate.Tokens()
	if list == nil {
		list = []rbee.JoinToken{}
	}
	return &reply[rbee.TokenList]{rbee.TokenList{Tokens: list}}, nil
}

func (q *Queen) makeToken(_ context.Context, in *struct{ Body rbee.TokenRequest }) (*reply[rbee.NewToken], error) {
	if err := q.ownGate(); err != nil {
		return nil, err
	}
	kind := in.Body.Kind
	if kind == "" {
		kind = rbee.JoinHive
	}
	text, token, err := q.gate.NewToken(in.Body.Name, kind)
	if err != nil {
		return nil, err
	}
	return &reply[rbee.NewToken]{rbee.NewToken{Token: text, JoinToken: token}}, nil
}

type tokenIn struct {
	ID string `path:"id" maxLength:"64"`
}

func (q *Queen) revokeToken(_ context.Context, in *tokenIn) (*struct{}, error) {
	if err := q.ownGate(); err != nil {
		return nil, err
	}
	return nil, q.gate.Revoke(in.ID)
}
