package hive

import (
	"context"
	"net/http"

	"rbee"
)

func (h *Hive) listModels(ctx context.Context, _ *struct{}) (*reply[rbee.ModelList], error) {
	models, err := h.store.Models(ctx)
	if err != nil {
		return nil, err
	}
	return &reply[rbee.ModelList]{rbee.ModelList{Models: models}}, nil
}

func (h *Hive) importModel(ctx context.Context, in *struct{ Body rbee.ImportRequest }) (*reply[rbee.Model], error) {
	m, err := h.store.Import(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	return &reply[rbee.Model]{m}, nil
}

// removeModel takes its reference as it stands in the path, with slashes and colons.
func (h *Hive) removeModel(w http.ResponseWriter, r *http.Request) error {
	ref, err := h.cfg.Settings.Resolve(r.PathValue("ref"))
	if err != nil {
		return err
	}
	if users := h.pool.ByModel(ref); len(users) > 0 {
		return rbee.Errorf(rbee.CodeConflict, "worker %s uses the model %s", users[0].ID, ref).
			Suggest("end it first with 'rbee workers shutdown %s'", users[0].ID)
	}
	if err := h.store.Remove(r.Context(), ref); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
