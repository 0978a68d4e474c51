package dispatch

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"time"

	"rbee"
	"rbee/internal/forward"
)

// ModelsReply is all that can be asked for.
type ModelsReply struct{ Body rbee.ServedModelList }

// ListModels serves GET /v1/models.
func (d *Dispatcher) ListModels(context.Context, *struct{}) (*ModelsReply, error) {
	return &ModelsReply{rbee.ServedModelList{Object: "list", Data: d.models()}}, nil
}

// ShowModel serves GET /v1/models/{model...}, whose references have slashes.
func (d *Dispatcher) ShowModel(w http.ResponseWriter, r *http.Request) error {
	ref, err := d.cfg.Settings.Resolve(r.PathValue("model"))
	if err != nil {
		return forward.NoModel(err)
	}
	for _, m := range d.models() {
		if m.ID == ref {
			w.Header().Set("Content-Type", "application/json")
			return json.NewEncoder(w).Encode(m)
		}
	}
	return rbee.Errorf(rbee.CodeModelNotFound, "no hive has %s", ref).
		Suggest("see the models with GET /v1/models, or get it with 'rbee models pull %s'", ref)
}

// models is the union of what the hives that are present have, the readiest first.
func (d *Dispatcher) models() []rbee.ServedModel {
	known := map[rbee.ModelRef]*rbee.ServedModel{}
	of := func(ref rbee.ModelRef) *rbee.ServedModel {
		m := known[ref]
		if m == nil {
			m = &rbee.ServedModel{ID: ref, Object: "model", OwnedBy: string(ref.Provider), Status: rbee.ModelOnDisk, Places: []rbee.ModelPlace{}}
			known[ref] = m
		}
		return m
	}
	for _, h := range d.cfg.Colony.Hives() {
		if h.Presence == rbee.HivePresent {
			place(h, of)
		}
	}
	for alias, target := range d.cfg.Settings.Aliases {
		if ref, err := rbee.ParseModelRef(target); err == nil && known[ref] != nil {
			known[ref].Aliases = append(known[ref].Aliases, alias)
		}
	}
	list := make([]rbee.ServedModel, 0, len(known))
	for _, m := range slices.SortedFunc(maps.Values(known), func(a, b *rbee.ServedModel) int {
		return cmp.Or(cmp.Compare(rank(a.Status), rank(b.Status)), cmp.Compare(a.ID.String(), b.ID.String()))
	}) {
		slices.Sort(m.Aliases)
		list = append(list, *m)
	}
	return list
}

// place adds what one hive has.
func place(h rbee.ColonyHive, of func(rbee.ModelRef) *rbee.ServedModel) {
	for _, has := range h.Models {
		m := of(has.ModelRef)
		m.SizeBytes, m.ContextLength = max(m.SizeBytes, has.SizeBytes), max(m.ContextLength, has.ContextLength)
		m.Quantisation, m.Digest = cmp.Or(m.Quantisation, has.Quantisation), cmp.Or(m.Digest, has.Digest)
		m.Created = since(m.Created, h.StartedAt)
		if !slices.ContainsFunc(h.Workers, func(w rbee.ColonyWorker) bool { return w.ModelRef == has.ModelRef }) {
			m.Places = append(m.Places, rbee.ModelPlace{Hive: h.ID, HiveName: h.Name, Status: rbee.ModelOnDisk, Verdict: has.Verdict, Reason: has.Reason})
		}
	}
	for _, w := range h.Workers {
		status := rbee.ModelLoading
		switch {
		case w.State.Ready():
			status = rbee.ModelReady
		case w.State == rbee.WorkerDraining || w.State.Final():
			continue
		}
		m := of(w.ModelRef)
		m.Created = since(m.Created, h.StartedAt)
		if rank(status) < rank(m.Status) {
			m.Status = status
		}
		m.Places = append(m.Places, rbee.ModelPlace{Hive: h.ID, HiveName: h.Name, Status: status, Worker: w.ID})
	}
}

// since is the earlier of two times, in seconds; 0 is none.
func since(known int64, t time.Time) int64 {
	if at := t.Unix(); known == 0 || at < known {
		return at
	}
	return known
}

func rank(s rbee.ModelStatus) int {
	return slices.Index([]rbee.ModelStatus{rbee.ModelReady, rbee.ModelLoading, rbee.ModelOnDisk}, s)
}
