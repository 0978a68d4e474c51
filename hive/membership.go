package hive

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"time"

	"rbee"
	"rbee/hive/colony"
	"rbee/internal/bus"
	"rbee/internal/conf"
)

const (
	// joinTime bounds how long a colony may take to answer a hive that asks to join.
	joinTime = 15 * time.Second
	// joinLook is how often one looks whether it has.
	joinLook = 20 * time.Millisecond
)

// membership is the hive's place in a colony, from a join until it leaves. That of
// a hive without a colony is nil.
type membership struct {
	*colony.Member
	join  conf.Secret
	key   string        // opens the API for the colony's queens
	leave chan struct{} // closed by become, when another takes its place
}

// colonyKey is "" without a colony.
func (h *Hive) colonyKey() string {
	if m := h.member.Load(); m != nil {
		return m.key
	}
	return ""
}

func (m *membership) used() {
	if m != nil {
		m.Used()
	}
}

func (m *membership) cached() {
	if m != nil {
		m.Cached()
	}
}

// state is how the hive stands with its colony, nil without one.
func (m *membership) state() *rbee.HiveColony {
	if m == nil {
		return nil
	}
	there, why := m.Connected()
	return &rbee.HiveColony{Connected: there, Error: rbee.AsError(why)}
}

// newMembership reads a token or the URL of a bus. Nothing runs before become.
func (h *Hive) newMembership(join conf.Secret) (*membership, error) {
	id, err := hiveID(h.cfg.Settings.Home.HiveIDFile())
	if err != nil {
		return nil, err
	}
	conn, err := bus.Join(bus.JoinConfig{Join: join.Reveal(), Kind: rbee.JoinHive, ID: id, Name: h.name, Log: h.log})
	if err != nil {
		return nil, err
	}
	o := &outlook{hive: h, key: rand.Text(), ways: map[string]ways{}}
	return &membership{join: join, key: o.key, leave: make(chan struct{}), Member: colony.New(colony.Config{
		Bus: conn, ID: id, About: o.about, Now: h.reportNow, Prefixes: h.reportPrefixes, API: h.api.Handler(), Log: h.log,
	})}, nil
}

// become makes another membership, or none, the hive's. The one before ends.
func (h *Hive) become(m *membership) {
	if before := h.member.Swap(m); before != nil {
		close(before.leave)
	}
	select {
	case h.moved <- struct{}{}:
	default:
	}
}

// attendColonies is a member of the colony that is the hive's at a time, until
// living ends. Then queens reach the hive until serving ends.
func (h *Hive) attendColonies(living, serving context.Context) {
	for living.Err() == nil {
		if m := h.member.Load(); m != nil {
			h.belong(living, serving, m)
			continue
		}
		select {
		case <-h.moved:
		case <-living.Done():
		}
	}
}

// belong is a member of a colony until the hive leaves it or ends.
func (h *Hive) belong(living, serving context.Context, m *membership) {
	open, cut := context.WithCancel(serving)
	var tunnel sync.WaitGroup
	defer tunnel.Wait()
	defer cut()
	tunnel.Go(func() { m.KeepTunnel(open) })
	h.attendColony(living, m)
	if living.Err() != nil {
		<-serving.Done() // the last streams say goodbye through the tunnel
		return
	}
	if h.member.Load() == nil {
		h.traffic.keep(nil)
	}
}

// joinColony has the hive join a colony while it runs. A refusal changes nothing.
func (h *Hive) joinColony(ctx context.Context, in *struct{ Body rbee.JoinRequest }) (*reply[rbee.HiveColony], error) {
	h.moving.Lock()
	defer h.moving.Unlock()
	join := conf.Secret(strings.TrimSpace(in.Body.Join))
	next, err := h.mayJoin(join)
	if err != nil {
		return nil, err
	}
	now := h.member.Load()
	where, mark := bus.Leads(join.Reveal())
	if now != nil {
		if other, itsMark := bus.Leads(now.join.Reveal()); itsMark != mark {
			return nil, rbee.Errorf(rbee.CodeConflict, "cannot join the colony at %s: the hive is in another one, at %s", where, other).
				Suggest("leave that first, with 'rbee hive leave'")
		}
		if there, _ := now.Connected(); there {
			return &reply[rbee.HiveColony]{*now.state()}, nil
		}
	}
	settings := h.cfg.Settings
	kept, _ := settings.ReadJoin() // what cannot be read is written anew
	if kept != join {
		if err := settings.JoinIsNamed(); err != nil {
			return nil, err
		}
	}
	_, notYet := next.Connected()
	h.become(next)
	err = awaitColony(ctx, next, notYet)
	if err == nil && kept != join {
		err = settings.KeepJoin(join)
	}
	if err != nil {
		h.become(h.again(now))
		return nil, err
	}
	h.log.InfoContext(ctx, "the hive has joined a colony", "addr", where)
	return &reply[rbee.HiveColony]{*next.state()}, nil
}

// mayJoin reads what somebody asks the hive to join by.
func (h *Hive) mayJoin(join conf.Secret) (*membership, error) {
	if h.cfg.Private {
		return nil, errPrivate
	}
	if strings.ContainsFunc(join.Reveal(), func(c rune) bool { return c <= ' ' || c > '~' }) {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the join token: it is more than one word").
			Suggest("give one token as 'rbee queen token' printed it; it begins with rbee1.")
	}
	return h.newMembership(join)
}

var errPrivate = rbee.Errorf(rbee.CodeConflict, "a hive that one command started for itself belongs to no colony").
	Suggest("start one that stays with 'rbee hive start'")

// again is a membership that takes the place of one that was given up.
func (h *Hive) again(m *membership) *membership {
	if m == nil {
		return nil
	}
	anew, err := h.newMembership(m.join)
	if err != nil { // it was read before, so it is the hive's id that cannot be
		h.log.Error("the hive is in no colony any more", "err", err)
	}
	return anew
}

// awaitColony blocks until the hive is in a colony, or knows why it is not.
func awaitColony(ctx context.Context, m *membership, notYet error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, joinTime,
		rbee.Errorf(rbee.CodeConnectionTimeout, "cannot join the colony: it does not answer within %s", joinTime))
	defer cancel()
	tick := time.NewTicker(joinLook)
	defer tick.Stop()
	for {
		there, why := m.Connected()
		if there {
			return nil
		}
		if !errors.Is(why, notYet) {
			e := *rbee.AsError(why)
			if e.Code == rbee.CodeMissingAPIKey || e.Code == rbee.CodeInvalidAPIKey {
				e.Code = rbee.CodeInvalidRequest // it is not the caller's key that is wrong
			}
			return &e
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// leaveColony has the hive leave its colony. It returns when that does not hear it
// any more.
func (h *Hive) leaveColony(ctx context.Context, _ *struct{}) (*struct{}, error) {
	if h.cfg.Private {
		return nil, errPrivate
	}
	h.moving.Lock()
	defer h.moving.Unlock()
	if err := h.cfg.Settings.ForgetJoin(); err != nil {
		return nil, err
	}
	m := h.member.Load()
	if m == nil {
		return nil, nil
	}
	h.become(nil)
	h.log.InfoContext(ctx, "the hive leaves its colony")
	tick := time.NewTicker(joinLook)
	defer tick.Stop()
	for there, _ := m.Connected(); there; there, _ = m.Connected() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return nil, nil
}
