package hive

import (
	"context"
	"encoding/json"
	"net/http"

	"rbee"
	"rbee/internal/forward"
	"rbee/internal/gguf"
	"rbee/internal/sse"
)

func (h *Hive) listModels(ctx context.Context, _ *struct{}) (*reply[rbee.ModelList], error) {
	models, err := h.store.Models(ctx)
	if err != nil {
		return nil, err
	}
	return &reply[rbee.ModelList]{rbee.ModelList{Models: models}}, nil
}

// shownContexts are the contexts, in tokens, that showModel estimates memory for.
var shownContexts = [...]int{2048, 4096, 8192, 16384, 32768, 65536, 131072}

// showModel takes its reference as it stands in the path, with slashes and colons.
func (h *Hive) showModel(w http.ResponseWriter, r *http.Request) error {
	ref, err := h.cfg.Settings.Resolve(r.PathValue("ref"))
	if err != nil {
		return err
	}
	m, there, err := h.store.OnDisk(r.Context(), ref)
	switch {
	case err != nil:
		return err
	case !there:
		return rbee.Errorf(rbee.CodeModelNotFound, "the model %s is not on the disk of %s", ref, hostname()).
			Suggest("see 'rbee models list', or get it with 'rbee models pull %s'", ref)
	}
	f, err := gguf.Read(m.LocalPath)
	if err != nil {
		return err
	}
	d := rbee.ModelDetails{
		Model: m, ChatTemplate: f.ChatTemplate != "", Layers: f.Layers, Embedding: f.Embedding, Vocabulary: f.Vocabulary,
		Memory: h.estimates(r.Context(), f),
	}
	return writeJSON(w, d)
}

// estimates are the needs of a worker with one slot, up to the context that the
// model was trained for.
func (h *Hive) estimates(ctx context.Context, f gguf.File) []rbee.MemoryEstimate {
	where, free := h.roomiest(ctx)
	list := []rbee.MemoryEstimate{}
	add := func(tokens int) {
		need := f.Estimate(tokens, 1, where.backend).Need()
		list = append(list, rbee.MemoryEstimate{ContextTokens: tokens, Slots: 1, Device: where.device, MemoryBytes: need, Fits: need <= free})
	}
	for _, tokens := range shownContexts {
		if f.ContextLength == 0 || tokens < f.ContextLength {
			add(tokens)
		}
	}
	if f.ContextLength > 0 && f.ContextLength <= shownContexts[len(shownContexts)-1] {
		add(f.ContextLength)
	}
	return list
}

type refIn struct {
	Ref string `query:"ref" required:"true" minLength:"1" maxLength:"512" doc:"model reference or alias"`
}

func (h *Hive) listVariants(ctx context.Context, in *refIn) (*reply[rbee.VariantList], error) {
	ref, err := h.cfg.Settings.Resolve(in.Ref)
	if err != nil {
		return nil, err
	}
	list, err := h.provider.Variants(ctx, ref)
	if err != nil {
		return nil, err
	}
	return &reply[rbee.VariantList]{list}, nil
}

type searchIn struct {
	Q     string `query:"q" required:"true" minLength:"1" maxLength:"256" doc:"words to look for"`
	Limit int    `query:"limit" minimum:"1" maximum:"100" default:"20"`
}

func (h *Hive) searchModels(ctx context.Context, in *searchIn) (*reply[rbee.HubModelList], error) {
	found, err := h.provider.Search(ctx, in.Q, in.Limit)
	if err != nil {
		return nil, err
	}
	return &reply[rbee.HubModelList]{rbee.HubModelList{Models: append([]rbee.HubModel{}, found...)}}, nil
}

func (h *Hive) showUsage(ctx context.Context, _ *struct{}) (*reply[rbee.Usage], error) {
	u, err := h.store.Usage(ctx)
	if err != nil {
		return nil, err
	}
	return &reply[rbee.Usage]{u}, nil
}

func (h *Hive) startDownload(ctx context.Context, in *struct{ Body rbee.DownloadRequest }) (*reply[rbee.DownloadReply], error) {
	ref, err := h.cfg.Settings.Resolve(in.Body.ModelRef)
	if err != nil {
		return nil, err
	}
	wish := h.store.Want(ref, in.Body.LimitMBps*megabyte)
	path, err := wish.Path(ctx)
	if err != nil { // it has failed, or who asked has left without its id
		wish.Release()
		return nil, err
	}
	return &reply[rbee.DownloadReply]{rbee.DownloadReply{DownloadID: wish.ID, LocalPath: path}}, nil
}

type downloadIn struct {
	ID rbee.DownloadID `query:"id" required:"true" maxLength:"128" doc:"download_id of the download"`
}

// followDownload tells the present state, then each change.
func (h *Hive) followDownload(ctx context.Context, in *downloadIn, w http.ResponseWriter) error {
	wish, err := h.store.Wish(in.ID)
	if err != nil {
		return err
	}
	ctx, release := forward.Lasting(ctx)
	defer release()
	now, changes := wish.Progress(ctx)
	out := sse.NewWriter(w)
	if err := out.JSON(now); err != nil {
		return gone(ctx, err)
	}
	return tellChanges(ctx, out, changes)
}

type cancelIn struct {
	ID rbee.DownloadID `path:"id" maxLength:"128"`
}

// cancelDownload takes a wish back; one that this hive does not know is over.
func (h *Hive) cancelDownload(_ context.Context, in *cancelIn) (*struct{}, error) {
	if wish, err := h.store.Wish(in.ID); err == nil {
		wish.Release()
	}
	return nil, nil
}

func (h *Hive) verifyModels(ctx context.Context, in *struct{ Body rbee.VerifyRequest }, w http.ResponseWriter) error {
	var refs []rbee.ModelRef
	for _, name := range in.Body.ModelRefs {
		ref, err := h.cfg.Settings.Resolve(name)
		if err != nil {
			return err
		}
		refs = append(refs, ref)
	}
	return tellSteps(ctx, w, func(ctx context.Context, report func(rbee.StoreProgress)) error {
		return h.store.Verify(ctx, refs, report)
	})
}

func (h *Hive) importModels(ctx context.Context, in *struct{ Body rbee.ImportRequest }, w http.ResponseWriter) error {
	return tellSteps(ctx, w, func(ctx context.Context, report func(rbee.StoreProgress)) error {
		return h.store.Import(ctx, in.Body, report)
	})
}

func (h *Hive) exportModel(ctx context.Context, in *struct{ Body rbee.ExportRequest }, w http.ResponseWriter) error {
	ref, err := h.cfg.Settings.Resolve(in.Body.ModelRef)
	if err != nil {
		return err
	}
	req := in.Body
	req.ModelRef = ref.String()
	return tellSteps(ctx, w, func(ctx context.Context, report func(rbee.StoreProgress)) error {
		return h.store.Export(ctx, req, report)
	})
}

// tellSteps streams what long work on the store reports. The reply begins with
// the first step, so that work which fails before it is an error reply. A reader
// that goes away ends the work.
func tellSteps(ctx context.Context, w http.ResponseWriter, work func(context.Context, func(rbee.StoreProgress)) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var out *sse.Writer
	report := func(p rbee.StoreProgress) {
		if out == nil {
			out = sse.NewWriter(w)
		}
		if out.JSON(p) != nil {
			cancel()
		}
	}
	err := work(ctx, report)
	switch {
	case err != nil && out == nil:
		return err
	case err != nil:
		report(rbee.StoreProgress{Error: rbee.AsError(err)})
	case out == nil:
		out = sse.NewWriter(w)
	}
	if err := out.Done(); err != nil {
		return gone(ctx, err)
	}
	return nil
}

func (h *Hive) collectModels(ctx context.Context, in *struct{ Body rbee.GCRequest }) (*reply[rbee.GCReply], error) {
	r, err := h.store.GC(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	return &reply[rbee.GCReply]{r}, nil
}

// removeModel takes its reference as showModel does.
func (h *Hive) removeModel(w http.ResponseWriter, r *http.Request) error {
	ref, err := h.cfg.Settings.Resolve(r.PathValue("ref"))
	if err != nil {
		return err
	}
	if users := h.pool.ByModel(ref); len(users) > 0 {
		return rbee.Errorf(rbee.CodeConflict, "worker %s uses the model %s", users[0].ID, ref).
			Suggest("end it first with 'rbee workers shutdown %s'", users[0].ID)
	}
	if why := h.inUse(rbee.Model{Provider: ref.Provider, Reference: ref.Reference}); why != "" {
		return rbee.Errorf(rbee.CodeConflict, "the model %s is in use: %s", ref, why).Suggest("try again in a moment")
	}
	if err := h.store.Remove(r.Context(), ref); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func writeJSON(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(v)
}
