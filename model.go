package rbee

import "time"

// Model is a row of a hive's catalog: a model file that is on disk.
type Model struct {
	Reference     string    `json:"reference" doc:"what follows the provider in the model reference"`
	Provider      Provider  `json:"provider" enum:"builtin,file,hf"`
	LocalPath     string    `json:"local_path"`
	SizeBytes     int64     `json:"size_bytes"`
	DownloadedAt  time.Time `json:"downloaded_at" format:"date-time"`
	SHA256        string    `json:"sha256,omitempty"`
	Quantisation  string    `json:"quantisation,omitempty" example:"Q4_K_M"`
	Architecture  string    `json:"architecture,omitempty" example:"llama"`
	ContextLength int       `json:"context_length,omitempty" doc:"tokens the model was trained for"`
	Parameters    int64     `json:"parameters,omitempty"`
	Revision      string    `json:"revision,omitempty"`
	ETag          string    `json:"etag,omitempty"`
	LastUsed      time.Time `json:"last_used,omitzero" format:"date-time"`
	UseCount      int64     `json:"use_count"`
}

// Ref is the model reference that names the row.
func (m Model) Ref() ModelRef { return ModelRef{Provider: m.Provider, Reference: m.Reference} }

// ModelList is the body of GET /v1/models of a hive.
type ModelList struct {
	Models []Model `json:"models" nullable:"false"`
}

// ImportRequest asks a hive to take an existing GGUF file into its store.
type ImportRequest struct {
	Path   string `json:"path" minLength:"1" maxLength:"4096" doc:"absolute path on the hive's machine"`
	SHA256 string `json:"sha256,omitempty" pattern:"^[0-9a-f]{64}$" doc:"digest that the file must have"`
}
