package hive

import (
	"context"

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

type modelIn struct {
	Ref string `path:"ref" doc:"model reference; it may hold slashes and colons"`
}

func (h *Hive) removeModel(ctx context.Context, in *modelIn) (*struct{}, error) {
	ref, err := h.cfg.Settings.Resolve(in.Ref)
	if err != nil {
		return nil, err
	}
	if users := h.pool.ByModel(ref); len(users) > 0 {
		return nil, rbee.Errorf(rbee.CodeConflict, "worker %s uses the model %s", users[0].ID, ref).
			Suggest("end it first with 'rbee workers shutdown %s'", users[0].ID)
	}
	return nil, h.store.Remove(ctx, ref)
}
