package external

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"

	"rbee"
)

const (
	// maxAnswer bounds what is read of an answer, in bytes.
	maxAnswer = 4 << 20
	// maxModels bounds how many models of a server are listed.
	maxModels = 256
)

// listed is a model as GET /v1/models tells of it. What is beyond OpenAI's API
// says which server it is.
type listed struct {
	ID          string `json:"id"`
	OwnedBy     string `json:"owned_by"`      // llamacpp of llama-server, library of Ollama
	MaxModelLen count  `json:"max_model_len"` // of vLLM
}

// list asks which models the server has. That is its health check as well:
// paths of those differ.
func (s *server) list(ctx context.Context) ([]listed, error) {
	var answer struct {
		Object string    `json:"object"`
		Data   *[]listed `json:"data"`
	}
	if err := s.ask(ctx, http.MethodGet, "/v1/models", nil, &answer); err != nil {
		return nil, err
	}
	switch {
	case answer.Data == nil && answer.Object != "list":
		return nil, errNotOpenAI()
	case answer.Data == nil: // as Ollama says that it has none
		return nil, nil
	}
	list := *answer.Data
	return list[:min(len(list), maxModels)], nil
}

func errNotOpenAI() error {
	return rbee.Errorf(rbee.CodeBackendUnavailable, "it does not speak OpenAI's API").Suggest("check its address under external in config.yaml")
}

// details are what the makers of some servers tell of a model: how many requests
// it serves in parallel, 1 if nobody says, and how long one may be, 0 if nobody
// says. A server that does not answer has none.
func (s *server) details(ctx context.Context, l listed) (slots, context int) {
	switch {
	case l.MaxModelLen > 0:
		return 1, int(l.MaxModelLen)
	case l.OwnedBy == "llamacpp":
		var props struct {
			Slots    count `json:"total_slots"`
			Defaults struct {
				Context count `json:"n_ctx"` // of one slot
			} `json:"default_generation_settings"`
		}
		if s.ask(ctx, http.MethodGet, "/props", nil, &props) == nil {
			return max(1, int(props.Slots)), int(props.Defaults.Context)
		}
	case l.OwnedBy == "library":
		var show struct {
			Info map[string]json.RawMessage `json:"model_info"`
		}
		if s.ask(ctx, http.MethodPost, "/api/show", map[string]string{"model": l.ID}, &show) == nil {
			for key, value := range show.Info {
				var n count
				if strings.HasSuffix(key, ".context_length") && json.Unmarshal(value, &n) == nil {
					context = int(n)
				}
			}
		}
	}
	return 1, context
}

// count is a whole number, 0 where there is something else: a model is not
// refused for a figure that is nice to have.
type count int

// UnmarshalJSON implements json.Unmarshaler.
func (c *count) UnmarshalJSON(b []byte) error {
	n, err := strconv.Atoi(string(b))
	if err != nil || n < 0 {
		n = 0
	}
	*c = count(n)
	return nil
}

// ask asks the server one question. Errors do not say what it answered.
func (s *server) ask(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if s.Key != "" {
		req.Header.Set("Authorization", "Bearer "+s.Key)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return rbee.Errorf(rbee.CodeBackendUnavailable, "it cannot be reached").WithCause(err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return rbee.Errorf(rbee.CodeBackendUnavailable, "it wants a key, or another one").
			Suggest("give its key under external in config.yaml")
	case resp.StatusCode != http.StatusOK:
		return rbee.Errorf(rbee.CodeBackendUnavailable, "it answers with the status %d", resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return rbee.Errorf(rbee.CodeBackendUnavailable, "its answer was cut").WithCause(err)
	}
	if len(b) > maxAnswer || json.Unmarshal(b, out) != nil {
		return errNotOpenAI()
	}
	return nil
}
