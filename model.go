package rbee

import "time"

// Model is a row of a hive's catalog: a model that is on disk.
type Model struct {
	Reference     string      `json:"reference" doc:"what follows the provider in the model reference"`
	Provider      Provider    `json:"provider" enum:"builtin,file,hf"`
	LocalPath     string      `json:"local_path" doc:"its file, or the first part of a split model"`
	SizeBytes     int64       `json:"size_bytes" doc:"of all parts"`
	DownloadedAt  time.Time   `json:"downloaded_at" format:"date-time"`
	SHA256        string      `json:"sha256,omitempty" doc:"digest of the file; a split model has one for each part"`
	Parts         []ModelFile `json:"parts,omitempty" doc:"the files of a split model, in order"`
	Name          string      `json:"name,omitempty" doc:"what its header, or the store that it came from, calls it"`
	FileName      string      `json:"file_name,omitempty" doc:"path in the repository, or name of the file, that it came from"`
	Quantisation  string      `json:"quantisation,omitempty" example:"Q4_K_M"`
	Architecture  string      `json:"architecture,omitempty" example:"llama"`
	ContextLength int         `json:"context_length,omitempty" doc:"tokens the model was trained for"`
	Parameters    int64       `json:"parameters,omitempty"`
	Revision      string      `json:"revision,omitempty" doc:"commit of the repository"`
	ETag          string      `json:"etag,omitempty"`
	LastUsed      time.Time   `json:"last_used,omitzero" format:"date-time"`
	UseCount      int64       `json:"use_count"`
}

// Ref is the model reference that names the row.
func (m Model) Ref() ModelRef { return ModelRef{Provider: m.Provider, Reference: m.Reference} }

// Files are the files of the model; one, unless it is split.
func (m Model) Files() []ModelFile {
	if len(m.Parts) > 0 {
		return m.Parts
	}
	return []ModelFile{{Path: m.LocalPath, SizeBytes: m.SizeBytes, SHA256: m.SHA256}}
}

// ModelFile is a file of a model on disk.
type ModelFile struct {
	Path      string `json:"path"`
	SizeBytes int64  `json:"size_bytes"`
	SHA256    string `json:"sha256,omitempty" doc:"64 hex digits"`
}

// ModelList is the body of GET /v1/models of a hive.
type ModelList struct {
	Models []Model `json:"models" nullable:"false"`
}

// ModelDetails is the body of GET /v1/models/{ref}: the row, and what the
// header of the file tells.
type ModelDetails struct {
	Model
	ChatTemplate bool             `json:"chat_template" doc:"the file brings a chat template"`
	Layers       int              `json:"layers,omitempty"`
	Embedding    int              `json:"embedding,omitempty" doc:"length of a token's vector"`
	Vocabulary   int              `json:"vocabulary,omitempty" doc:"tokens"`
	Memory       []MemoryEstimate `json:"memory" nullable:"false" doc:"what a worker with one slot takes at several contexts"`
}

// MemoryEstimate is the memory that a worker is going to take.
type MemoryEstimate struct {
	ContextTokens int      `json:"context_tokens" doc:"longest prompt plus answer of one request"`
	Slots         int      `json:"slots" doc:"requests served in parallel"`
	Device        DeviceID `json:"device"`
	MemoryBytes   int64    `json:"memory_bytes"`
	Fits          bool     `json:"fits" doc:"as much is free on the device now"`
}

// Variant is one way to have a model of a hub: a file, or the parts of one, of
// its repository.
type Variant struct {
	ModelRef     ModelRef `json:"model_ref" doc:"reference that asks for just this variant"`
	Quantisation string   `json:"quantisation,omitempty" example:"Q4_K_M"`
	Files        []string `json:"files" nullable:"false" doc:"paths in the repository"`
	SizeBytes    int64    `json:"size_bytes" doc:"of all files"`
	MemoryBytes  int64    `json:"memory_bytes" doc:"estimated need of a worker with one slot"`
	Fits         bool     `json:"fits" doc:"as much memory is free on the hive's machine now"`
	OnDisk       bool     `json:"on_disk" doc:"the store of the hive has its bytes"`
	Chosen       bool     `json:"chosen" doc:"what the hive takes for the reference that was asked for"`
}

// VariantList is the body of GET /v1/models/variants: best first.
type VariantList struct {
	Repository string    `json:"repository" example:"Qwen/Qwen2.5-0.5B-Instruct-GGUF"`
	Revision   string    `json:"revision" doc:"commit of the repository"`
	Variants   []Variant `json:"variants" nullable:"false"`
}

// HubModel is a repository that a search on the hub found.
type HubModel struct {
	ModelRef  ModelRef  `json:"model_ref"`
	Downloads int64     `json:"downloads" doc:"as the hub counts them"`
	Likes     int64     `json:"likes"`
	Gated     bool      `json:"gated" doc:"its terms must be accepted on the hub first"`
	UpdatedAt time.Time `json:"updated_at,omitzero" format:"date-time"`
}

// HubModelList is the body of GET /v1/models/search.
type HubModelList struct {
	Models []HubModel `json:"models" nullable:"false"`
}

// Usage is the body of GET /v1/models/usage: what the models take on the disk.
type Usage struct {
	Directory    string      `json:"directory"`
	Files        []UsedFile  `json:"files" nullable:"false" doc:"files of models, largest first; one that several references share is there once"`
	Spare        []SpareFile `json:"spare" nullable:"false" doc:"files that no model needs; gc removes them"`
	StoreBytes   int64       `json:"store_bytes" doc:"of the files in the store, each counted once"`
	SpareBytes   int64       `json:"spare_bytes"`
	OutsideBytes int64       `json:"outside_bytes" doc:"of the files that are used where they lie"`
	QuotaBytes   int64       `json:"quota_bytes,omitempty" doc:"most that the store may hold, 0 for no bound"`
	FreeBytes    int64       `json:"free_bytes" doc:"free on the disk of the store"`
}

// UsedFile is a file on disk and the models that it serves.
type UsedFile struct {
	ModelFile
	InStore bool       `json:"in_store" doc:"false for a file that is used where it lies"`
	Models  []ModelRef `json:"models" nullable:"false"`
}

// SpareKind says why a file is spare.
type SpareKind string

// The kinds of files that no model needs.
const (
	SparePartial    SpareKind = "partial"    // of a download that was broken off and could be resumed
	SpareTemporary  SpareKind = "temporary"  // half written by a program that was killed
	SpareOrphan     SpareKind = "orphan"     // no row of the catalog has it
	SpareQuarantine SpareKind = "quarantine" // damaged, set aside by verify
	SpareEvicted    SpareKind = "evicted"    // of a model that the quota has no room for
)

// SpareFile is a file that gc removes, and why.
type SpareFile struct {
	Path      string    `json:"path"`
	SizeBytes int64     `json:"size_bytes"`
	Kind      SpareKind `json:"kind" enum:"partial,temporary,orphan,quarantine,evicted"`
	ModelRef  *ModelRef `json:"model_ref,omitempty" doc:"the model that an evicted file was of"`
	LastUsed  time.Time `json:"last_used,omitzero" format:"date-time"`
}

// GCRequest asks a hive to remove the files that no model needs, and the models
// that the quota has no room for, those first that were not used for longest.
type GCRequest struct {
	DryRun   bool   `json:"dry_run,omitempty" doc:"only say what would go"`
	MaxBytes *int64 `json:"max_bytes,omitempty" minimum:"0" doc:"most that the store may hold; default the quota of the settings"`
}

// GCReply says what was removed, or would be.
type GCReply struct {
	DryRun     bool        `json:"dry_run"`
	Removed    []SpareFile `json:"removed" nullable:"false"`
	FreedBytes int64       `json:"freed_bytes"`
	StoreBytes int64       `json:"store_bytes" doc:"what the store holds then"`
	QuotaBytes int64       `json:"quota_bytes,omitempty"`
	Kept       []Kept      `json:"kept,omitempty" doc:"what would have to go for the quota and may not"`
}

// Kept is a model that gc must not remove, and why.
type Kept struct {
	ModelRef ModelRef `json:"model_ref"`
	Reason   string   `json:"reason"`
}

// ImportRequest asks a hive to take GGUF files into its store: a file, the
// first part of a split model, or a directory that another program keeps its
// models in.
type ImportRequest struct {
	Path     string `json:"path" minLength:"1" maxLength:"4096" doc:"absolute path on the hive's machine of a GGUF file, a Hugging Face cache, an Ollama or LM Studio store, an llorch-models directory, or any directory with GGUF files"`
	SHA256   string `json:"sha256,omitempty" pattern:"^[0-9a-f]{64}$" doc:"digest that the file must have"`
	ModelRef string `json:"model_ref,omitempty" maxLength:"512" doc:"reference to have the file under; default file:PATH"`
	Copy     bool   `json:"copy,omitempty" doc:"copy what cannot be linked; otherwise it is skipped"`
}

// VerifyRequest asks a hive to read model files and compare their digests.
type VerifyRequest struct {
	ModelRefs []string `json:"model_refs,omitempty" maxItems:"1024" doc:"default all models"`
}

// ExportRequest asks a hive to give a model a name outside its store.
type ExportRequest struct {
	ModelRef string `json:"model_ref" minLength:"1" maxLength:"512"`
	Path     string `json:"path" minLength:"1" maxLength:"4096" doc:"absolute path on the hive's machine; in an existing directory the file keeps the name that it came with"`
	Link     bool   `json:"link,omitempty" doc:"make a hard link, which takes no space; whoever changes the file then changes the model"`
}

// StoreStage is a step of StoreProgress.
type StoreStage string

// Stages of verify, import and export. One of the last five ends each file.
const (
	StoreReading  StoreStage = "reading"  // BytesDone of BytesTotal
	StoreIntact   StoreStage = "intact"   // the digest is right
	StoreDamaged  StoreStage = "damaged"  // Error says how, and where the file is now
	StoreImported StoreStage = "imported" // Model is its row
	StoreExported StoreStage = "exported" // Path is the new name
	StoreSkipped  StoreStage = "skipped"  // Error says why
)

// StoreProgress is one event of POST /v1/models/verify, import and export.
type StoreProgress struct {
	Stage      StoreStage `json:"stage" enum:"reading,intact,damaged,imported,exported,skipped"`
	ModelRef   *ModelRef  `json:"model_ref,omitempty"`
	Path       string     `json:"path,omitempty"`
	BytesDone  int64      `json:"bytes_done"`
	BytesTotal int64      `json:"bytes_total"`
	Model      *Model     `json:"model,omitempty"`
	Error      *Error     `json:"error,omitempty" doc:"why the file was skipped or is damaged, or, without a stage, why all of it failed"`
}
