package sched

import "rbee"

// Input is what of the colony the decision depends on.
func (d *Decision) Input() rbee.RouteInput {
	m, prefix := d.market, d.request.Prefix
	in := rbee.RouteInput{Hives: make([]rbee.RouteHive, len(m.places))}
	at := make(map[rbee.HiveID]*rbee.RouteHive, len(m.places))
	for i, p := range m.places {
		r := &in.Hives[i]
		*r = rbee.RouteHive{
			ID: p.hive.id, Name: p.hive.name, Excluded: p.hive.excluded, StartsNone: p.hive.startsNone,
			Model: p.model, DownloadMBps: p.hive.downloadMBps,
		}
		if p.model == nil && m.ref.Provider == rbee.ProviderHF {
			r.DownloadBytes = m.bytes
		}
		at[r.ID] = r
	}
	for i := range m.options {
		o, t := &m.options[i], d.seen[i]
		r := at[o.hive.id]
		r.Sent, r.SentTokens, r.SentPrefix = t.door, t.waiting, prefix[:t.hits.doored]
		if o.worker != nil {
			r.Workers = append(r.Workers, rbee.RouteWorker{
				ColonyWorker: *o.worker, Sent: t.requests - o.reported, SentTokens: t.tokens - t.waiting,
				SentPrefix: prefix[:t.hits.seated], Prefixes: prefix[:t.hits.cached],
			})
		}
	}
	return in
}

// FromInput makes a snapshot that leads to the same decisions about a model.
func FromInput(ref rbee.ModelRef, in rbee.RouteInput) *Snapshot {
	f := NewFlights()
	hives := make([]*Hive, len(in.Hives))
	for i, r := range in.Hives {
		h := &Hive{
			ID: r.ID, Name: r.Name, Excluded: r.Excluded, StartsNone: r.StartsNone,
			DownloadMBps: r.DownloadMBps, downloadBytes: r.DownloadBytes, Prefixes: map[rbee.WorkerID][]uint32{},
		}
		if r.Model != nil {
			h.Models = []rbee.ColonyModel{*r.Model}
		}
		flying := f.hive(r.ID)
		flying.model(ref).set(r.Sent, 0, r.SentTokens, r.SentPrefix)
		for _, w := range r.Workers {
			h.Workers = append(h.Workers, w.ColonyWorker)
			h.Prefixes[w.ID] = w.Prefixes
			told := reported(&w.ColonyWorker)
			flying.worker(w.ID).set(told+w.Sent-r.Sent, told, w.SentTokens, w.SentPrefix)
		}
		hives[i] = h
	}
	return NewSnapshot(hives, f)
}

func (c *count) set(open, told, tokens int, chain []uint32) {
	c.open.Store(int64(open))
	c.told.Store(int64(told))
	c.tokens.Store(int64(tokens))
	if len(chain) > 0 {
		c.chains.Store(&[][]uint32{chain})
	}
}
