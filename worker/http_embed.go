package worker

import (
	"fmt"
	"net/http"

	"rbee"
	"rbee/worker/engine"
	"rbee/worker/openai"
)

// embed answers POST /v1/embeddings.
func (o *openAI) embed(req *openai.EmbeddingRequest) error {
	length := o.eng.Info().Embedding
	if req.Dimensions != 0 && length != 0 && req.Dimensions != length {
		return rbee.InvalidRequest(rbee.Fault{Field: "dimensions", Problem: fmt.Sprintf("must be %d, the length of this model's vectors", length)})
	}
	reply := openai.EmbeddingReply{Object: "list", Model: o.model.ref, Data: []openai.Embedding{}}
	inputs := make([][]engine.Token, len(req.Inputs))
	for i, in := range req.Inputs {
		if len(in.Text) > maxPromptBytes {
			return tooLong("input")
		}
		var err error
		if inputs[i], err = o.model.input(o.eng, in, fmt.Sprintf("input[%d]", i)); err != nil {
			return err
		}
		reply.Usage.PromptTokens += len(inputs[i])
	}
	reply.Usage.TotalTokens = reply.Usage.PromptTokens
	o.outcomes = []outcome{{done: rbee.InferDone{PromptTokens: reply.Usage.PromptTokens}}}
	vectors, err := o.eng.Embed(o.ctx, inputs)
	switch {
	case o.ctx.Err() != nil:
		return endOf(o.ctx)
	case err != nil:
		return refuse(err)
	}
	for i, v := range vectors {
		e := openai.Embedding{Object: "embedding", Index: i, Values: v}
		if req.Base64 {
			e.Values = openai.Base64(v)
		}
		reply.Data = append(reply.Data, e)
	}
	return writeJSON(o.rw, reply)
}

// listModels answers GET /v1/models: the one model that is loaded.
func (w *Worker) listModels(rw http.ResponseWriter, _ *http.Request) error {
	m, err := w.describeModel()
	if err != nil {
		return err
	}
	return writeJSON(rw, openai.ModelList{Object: "list", Data: []openai.Model{m}})
}

// showModel answers GET /v1/models/{model}.
func (w *Worker) showModel(rw http.ResponseWriter, r *http.Request) error {
	m, err := w.describeModel()
	if err != nil {
		return err
	}
	if err := w.served.check(r.PathValue("model")); err != nil {
		return err
	}
	return writeJSON(rw, m)
}

func (w *Worker) describeModel() (openai.Model, error) {
	eng, err := w.floor.use()
	if err != nil {
		return openai.Model{}, err
	}
	info := eng.Info()
	return openai.Model{
		ID: w.served.ref, Object: "model", Created: w.served.created.Unix(), OwnedBy: "rbee",
		Meta: openai.ModelMeta{
			Name: info.Name, Architecture: info.Architecture, Quantisation: info.Quantisation, Parameters: info.Parameters,
			SizeBytes: info.SizeBytes, Vocabulary: info.Vocab, ContextTokens: info.Context, Embedding: info.Embedding,
			FillsGaps: info.FIM.OK, Adapters: info.Adapters,
		},
	}, nil
}
