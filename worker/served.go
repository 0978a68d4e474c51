package worker

import (
	"fmt"
	"hash/fnv"
	"path"
	"strings"
	"time"

	"rbee"
	"rbee/internal/conf"
	"rbee/worker/chat"
	"rbee/worker/engine"
	"rbee/worker/openai"
)

// served is what the worker knows of its model beyond the engine: made once it
// is loaded, and not changed.
type served struct {
	ref         string
	names       map[string]bool // in lower case, what requests may call the model
	template    *chat.Template
	begin       []engine.Token // what the tokenizer puts before each text
	created     time.Time
	fingerprint string
}

func newServed(ref string, eng engine.Engine) (*served, error) {
	begin, err := eng.Tokenize("", true)
	if err != nil {
		return nil, err
	}
	info := eng.Info()
	s := &served{ref: ref, begin: begin[:min(1, len(begin))], created: time.Now(), names: modelNames(ref, info.Name)}
	s.template = chat.NewTemplate(info.ChatTemplate, info.BOS, info.EOS)
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, rbee.Version, ref, info.SizeBytes, info.Parameters, info.Backend) // a hash takes everything
	s.fingerprint = fmt.Sprintf("fp_%016x", h.Sum64())
	return s, nil
}

// modelNames are the reference of a model and its shorter forms.
func modelNames(ref, name string) map[string]bool {
	names := map[string]bool{"": true}
	add := func(n string) { names[strings.ToLower(n)] = true }
	add(ref)
	add(name)
	provider, bare, found := strings.Cut(ref, ":")
	if !found {
		return names
	}
	add(bare)
	switch rbee.Provider(provider) {
	case rbee.ProviderFile:
		add(path.Base(bare))
		add(strings.TrimSuffix(path.Base(bare), ".gguf"))
	case rbee.ProviderHF:
		if parsed, err := rbee.ParseModelRef(ref); err == nil {
			if hub, ok := parsed.Hub(); ok {
				add(hub.Repository)
				add(path.Base(hub.Repository))
			}
		}
	}
	for alias, target := range conf.Defaults().Aliases {
		if parsed, err := rbee.ParseModelRef(target); err == nil && parsed.String() == ref {
			add(alias)
		}
	}
	return names
}

// check refuses a request for another model.
func (s *served) check(model string) error {
	if s.names[strings.ToLower(model)] {
		return nil
	}
	return rbee.Errorf(rbee.CodeModelNotFound, "this worker does not serve the model that the request names").
		With("model", s.ref).Suggest("ask for %q, or leave the model out", s.ref)
}

// tokens are those of a prompt. What begins each text is there once, whether
// the prompt has it or not.
func (s *served) tokens(eng engine.Engine, prompt string) ([]engine.Token, error) {
	tokens, err := eng.Tokenize(prompt, true)
	if err != nil {
		return nil, err
	}
	if len(s.begin) == 1 && len(tokens) > 1 && tokens[0] == s.begin[0] && tokens[1] == s.begin[0] {
		tokens = tokens[1:]
	}
	return tokens, nil
}

// input is a text or the tokens of a request, as tokens.
func (s *served) input(eng engine.Engine, in openai.Input, field string) ([]engine.Token, error) {
	if in.Tokens == nil {
		return s.tokens(eng, in.Text)
	}
	for _, t := range in.Tokens {
		if t < 0 || int(t) >= eng.Info().Vocab {
			return nil, rbee.InvalidRequest(rbee.Fault{Field: field, Problem: fmt.Sprintf("must have tokens from 0 to %d", eng.Info().Vocab-1)})
		}
	}
	return in.Tokens, nil
}
