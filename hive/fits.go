package hive

import (
	"context"

	"rbee"
	"rbee/hive/pool"
	"rbee/hive/room"
	"rbee/internal/gguf"
)

// maxFits bounds what a refusal offers instead.
const maxFits = 4

// fits is what would fit in place of a worker that does not: the model with a
// shorter context, then other variants of it that are on disk.
func (h *Hive) fits(ctx context.Context, d rbee.Decision, o order, where place, model estimator) (list []rbee.Fit) {
	unknown := func(int, int, int) (pool.Weight, bool) { return pool.Weight{}, false }
	try := func(ref rbee.ModelRef, m estimator, context int) bool {
		smallest := wish{ref: ref, slots: 1, context: context}
		for _, opt := range options(smallest, where, m, unknown) {
			req := rbee.RoomRequest{ModelRef: ref, Device: d.Request.Device, Options: []rbee.RoomOption{opt.RoomOption}}
			if room.Decide(d.Holding, req).Verdict != rbee.VerdictRefuse {
				required, _ := room.MB(opt.Memory[memoryOf(where.device)], 0)
				list = append(list, rbee.Fit{ModelRef: ref, Slots: opt.Slots, ContextTokens: opt.ContextTokens, RequiredMB: required})
				return true
			}
		}
		return false
	}
	wanted := d.Request.Options[0].ContextTokens
	for context := wanted; context >= minShrunkContext; context /= 2 {
		if try(o.ref, model, context) {
			break
		}
	}
	models, err := h.store.Models(ctx)
	if err != nil {
		return list // the refusal says what matters
	}
	for _, other := range models {
		if len(list) == maxFits {
			break
		}
		if !variants(o.ref, models, other) {
			continue
		}
		file, err := gguf.Read(other.LocalPath)
		if err != nil {
			continue
		}
		if context, err := contextFor(0, wanted, file.ContextLength); err == nil {
			try(other.Ref(), file, context)
		}
	}
	return list
}

// variants says whether a model on disk is another variant of the one that ref names.
func variants(ref rbee.ModelRef, models []rbee.Model, other rbee.Model) bool {
	if other.Ref() == ref {
		return false
	}
	if a, ok := ref.Hub(); ok {
		if b, ok := other.Ref().Hub(); ok && a.Repository == b.Repository {
			return true
		}
	}
	for _, m := range models {
		if m.Ref() == ref {
			return m.Name != "" && m.Name == other.Name && m.Architecture == other.Architecture && m.SizeBytes != other.SizeBytes
		}
	}
	return false
}
