package hive

import (
	"context"
	"time"

	"rbee"
)

func (h *Hive) pinWorker(_ context.Context, in *workerIn) (*reply[rbee.Worker], error) {
	return h.pin(in.ID, true)
}

func (h *Hive) unpinWorker(_ context.Context, in *workerIn) (*reply[rbee.Worker], error) {
	return h.pin(in.ID, false)
}

func (h *Hive) pin(id rbee.WorkerID, pinned bool) (*reply[rbee.Worker], error) {
	w, err := h.pool.Pin(id, pinned)
	if err != nil {
		return nil, err
	}
	return &reply[rbee.Worker]{w}, nil
}

func (h *Hive) listDecisions(context.Context, *struct{}) (*reply[rbee.DecisionList], error) {
	return &reply[rbee.DecisionList]{rbee.DecisionList{Decisions: h.decisions.list()}}, nil
}

func (h *Hive) cordon(context.Context, *struct{}) (*reply[rbee.HiveStanding], error) {
	return &reply[rbee.HiveStanding]{h.standing.order(rbee.HiveCordoned)}, nil
}

func (h *Hive) uncordon(context.Context, *struct{}) (*reply[rbee.HiveStanding], error) {
	return &reply[rbee.HiveStanding]{h.standing.order(rbee.HiveOpen)}, nil
}

func (h *Hive) drain(context.Context, *struct{}) (*reply[rbee.HiveStanding], error) {
	return &reply[rbee.HiveStanding]{h.standing.order(rbee.HiveDraining)}, nil
}

func (h *Hive) showStatus(ctx context.Context, _ *struct{}) (*reply[rbee.HiveStatus], error) {
	now := h.clock.now()
	live := h.pool.Workers()
	settings := h.cfg.Settings.Hive
	s := rbee.HiveStatus{
		HiveStanding: h.standing.now(),
		Policy: rbee.HivePolicy{
			Hours: settings.Hours.String(), OnBattery: settings.OnBattery, LeaveFreeMB: settings.LeaveFreeMB,
			LeaveFreeVRAMMB: settings.LeaveFreeVRAMMB, MemoryLimitMB: settings.MemoryLimitMB,
		},
		Workers: map[rbee.WorkerState]int{},
		Waiting: h.pool.Waiting(), CrashLoops: h.crashes.List(now), ClockJump: h.clock.jumped(),
	}
	_, s.RequestsInFlight, _ = h.standing.state()
	for _, w := range live {
		if w.External {
			s.External++
		} else {
			s.Workers[w.State]++
		}
	}
	s.Memory = h.usedMemory(h.memories(ctx), live, now)
	s.Colony = h.member.Load().state()
	return &reply[rbee.HiveStatus]{s}, nil
}

// usedMemory is how the memory of devices is used.
func (h *Hive) usedMemory(list []rbee.Device, live []rbee.Worker, now time.Time) []rbee.DeviceMemory {
	settings := h.cfg.Settings.Hive
	hold := rbee.Holding{Leave: rbee.Memory{}}
	for _, d := range list {
		hold.Leave[d.ID] = int64(settings.LeaveFreeVRAMMB) * megabyte
	}
	hold.Leave[rbee.MainMemory] = int64(settings.LeaveFreeMB) * megabyte
	for _, w := range live {
		hold.Workers = append(hold.Workers, heldBy(w, now))
	}
	return heldMemory(list, hold)
}

// statusFresh is how old the memory of accelerators may be in a status: to ask
// for it takes a child.
const statusFresh = 30 * time.Second

// memories are the devices with memory of their own.
func (h *Hive) memories(ctx context.Context) []rbee.Device {
	list := []rbee.Device{h.host.memory()}
	if fastestOf(h.engines.Status()) == rbee.BackendCPU {
		return list
	}
	for _, d := range h.devices.list(ctx, time.Now().Add(-statusFresh)).Devices {
		if memoryOf(d.ID) != rbee.MainMemory {
			list = append(list, d)
		}
	}
	return list
}
