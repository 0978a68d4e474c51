package rbee

import "time"

// HiveID names a hive in its colony: 16 hex digits, made once for each state
// directory, so that a hive that comes back is the same one.
type HiveID string

// HiveAbout is what a hive tells its colony of itself and what changes seldom.
// It travels on the bus of the colony only: it holds a key.
type HiveAbout struct {
	ID         HiveID    `json:"id"`
	Name       string    `json:"name" doc:"of its machine"`
	Version    string    `json:"version"`
	APIVersion string    `json:"api_version"`
	URL        string    `json:"url" doc:"base of its API; of no use elsewhere if it names loopback"`
	Machine    string    `json:"machine" doc:"the same for all programs of one machine, as long as it is not restarted"`
	Key        string    `json:"key" doc:"opens its API for queens, as long as this process lives"`
	ByQueen    bool      `json:"by_queen,omitempty" doc:"a queen started it, and ends it with herself"`
	StartedAt  time.Time `json:"started_at" format:"date-time"`
	Devices    []Device  `json:"devices" nullable:"false"`

	Models       []ColonyModel `json:"models" nullable:"false" doc:"on its disk, and external ones"`
	DownloadMBps float64       `json:"download_mbps,omitempty" doc:"as measured, 10^6 bytes per second; 0 while nothing was"`
}

// ColonyModel is a model that a hive can serve, and what its start would cost there now.
type ColonyModel struct {
	ModelRef      ModelRef `json:"model_ref"`
	SizeBytes     int64    `json:"size_bytes,omitempty"`
	Digest        string   `json:"digest,omitempty" doc:"SHA-256 of the file"`
	Quantisation  string   `json:"quantisation,omitempty"`
	ContextLength int      `json:"context_length,omitempty"`
	Verdict       Verdict  `json:"verdict" enum:"start,evict,wait,refuse" doc:"what the hive's rules say to a start now"`
	LoadMS        int64    `json:"load_ms" doc:"what a load takes: measured, or its bytes over the bandwidth of the disk"`
	LossMS        int64    `json:"loss_ms,omitempty" doc:"what the workers that would end for it cost to load again, weighed by how idle they are"`
	Reason        string   `json:"reason,omitempty" doc:"of a refusal"`
	PrefillPerSec float64  `json:"prefill_per_sec,omitempty" doc:"prompt tokens per second that its last worker computed here; 0 while there was none"`
}

// HiveNow is what changes with each request. It is small, comes once a second at
// least, and a hive without a recent one is gone.
type HiveNow struct {
	ID       HiveID         `json:"id"`
	Seq      uint64         `json:"seq" doc:"counts up in the life of the hive's process"`
	Standing HiveStanding   `json:"standing"`
	Memory   []DeviceMemory `json:"memory" nullable:"false"`
	Workers  []ColonyWorker `json:"workers" nullable:"false"`
}

// ColonyWorker is a worker as its hive sees it, and what it was measured to do.
type ColonyWorker struct {
	ID             WorkerID    `json:"id"`
	ModelRef       ModelRef    `json:"model_ref"`
	Backend        Backend     `json:"backend"`
	Device         DeviceID    `json:"device"`
	State          WorkerState `json:"state" enum:"starting,loading,idle,busy,draining"`
	External       bool        `json:"external,omitempty"`
	SlotsTotal     int         `json:"slots_total"`
	SlotsBusy      int         `json:"slots_busy"`
	Waiting        int         `json:"waiting" doc:"requests that wait for a slot"`
	QueueCapacity  int         `json:"queue_capacity"`
	ContextTokens  int         `json:"context_tokens,omitempty"`
	PrefillPerSec  float64     `json:"prefill_per_sec,omitempty" doc:"prompt tokens per second, measured; 0 while nothing was"`
	TokenMS        float64     `json:"token_ms,omitempty" doc:"between two tokens of one request, measured"`
	RequestMS      float64     `json:"request_ms,omitempty" doc:"that a request holds its slot, on average"`
	LoadedFraction float64     `json:"loaded_fraction,omitempty" doc:"of a worker that loads, 0 to 1"`
	LoadLeftMS     int64       `json:"load_left_ms,omitempty" doc:"of a worker that loads, as far as one can tell"`
	MemoryBytes    int64       `json:"memory_bytes,omitempty"`
	LastActivity   time.Time   `json:"last_activity" format:"date-time"`
}

// HiveColony is how a hive stands with its colony.
type HiveColony struct {
	Connected bool   `json:"connected"`
	Error     *Error `json:"error,omitempty" doc:"why it is not connected, as the gate of the colony said or the network did"`
}

// JoinRequest has a hive that runs join a colony.
type JoinRequest struct {
	Join string `json:"join" maxLength:"4095" doc:"a token, as 'rbee queen token' prints it, or the URL of a bus; it holds a secret"`
}

// HivePrefixes is what the workers of a hive have in their caches, as chains of
// hashes (package prefix): a short list for each, newest first.
type HivePrefixes struct {
	ID      HiveID                `json:"id"`
	Workers map[WorkerID][]uint32 `json:"workers"`
}

// HivePresence says whether a queen hears of a hive.
type HivePresence string

// The presences.
const (
	HivePresent HivePresence = "present"
	HiveLost    HivePresence = "lost" // nothing was heard for some seconds; it gets no requests
)

// ColonyHive is a hive as a queen tells of it.
type ColonyHive struct {
	ID           HiveID         `json:"id"`
	Name         string         `json:"name"`
	Presence     HivePresence   `json:"presence" enum:"present,lost"`
	Reason       string         `json:"reason,omitempty" doc:"why it gets no requests"`
	LastHeard    time.Time      `json:"last_heard" format:"date-time"`
	URL          string         `json:"url,omitempty" doc:"under which the queen reaches it; absent where the hive dialled the queen"`
	Version      string         `json:"version"`
	ByQueen      bool           `json:"by_queen,omitempty" doc:"a queen started it, and ends it with herself"`
	StartedAt    time.Time      `json:"started_at" format:"date-time"`
	Standing     HiveStanding   `json:"standing"`
	Devices      []Device       `json:"devices" nullable:"false"`
	Memory       []DeviceMemory `json:"memory" nullable:"false"`
	Models       []ColonyModel  `json:"models" nullable:"false"`
	Workers      []ColonyWorker `json:"workers" nullable:"false"`
	DownloadMBps float64        `json:"download_mbps,omitempty"`
}

// HiveList is the body of a queen's GET /v1/hives.
type HiveList struct {
	Hives []ColonyHive `json:"hives" nullable:"false"`
}

// PlacedWorker is a worker and its place.
type PlacedWorker struct {
	Hive     HiveID `json:"hive"`
	HiveName string `json:"hive_name"`
	ColonyWorker
}

// PlacedWorkerList is the body of a queen's GET /v1/workers.
type PlacedWorkerList struct {
	Workers []PlacedWorker `json:"workers" nullable:"false"`
}

// PlacedDevice is a device and its place.
type PlacedDevice struct {
	Hive     HiveID `json:"hive"`
	HiveName string `json:"hive_name"`
	Device
}

// PlacedDeviceList is the body of a queen's GET /v1/devices.
type PlacedDeviceList struct {
	Devices []PlacedDevice `json:"devices" nullable:"false"`
}

// ModelStatus says what a model needs before it computes.
type ModelStatus string

// The statuses, the one with least to do first.
const (
	ModelReady   ModelStatus = "ready"   // a worker of it is ready
	ModelLoading ModelStatus = "loading" // a worker of it loads
	ModelOnDisk  ModelStatus = "on_disk"
)

// ServedModel is a model that a queen can have served. It is what OpenAI's
// clients know as a model, and more.
type ServedModel struct {
	ID            ModelRef     `json:"id"`
	Object        string       `json:"object" enum:"model"`
	Created       int64        `json:"created" doc:"since when a hive that has it is up, in seconds since 1970"`
	OwnedBy       string       `json:"owned_by" doc:"the provider"`
	Status        ModelStatus  `json:"status" enum:"ready,loading,on_disk" doc:"the best of its places"`
	Aliases       []string     `json:"aliases,omitempty" doc:"other names that requests may use"`
	SizeBytes     int64        `json:"size_bytes,omitempty"`
	Quantisation  string       `json:"quantisation,omitempty"`
	ContextLength int          `json:"context_length,omitempty"`
	Digest        string       `json:"digest,omitempty" doc:"SHA-256 of the file"`
	Places        []ModelPlace `json:"places" nullable:"false"`
}

// ModelPlace is where a model is.
type ModelPlace struct {
	Hive     HiveID      `json:"hive"`
	HiveName string      `json:"hive_name"`
	Status   ModelStatus `json:"status" enum:"ready,loading,on_disk"`
	Worker   WorkerID    `json:"worker,omitempty"`
	Verdict  Verdict     `json:"verdict,omitempty" doc:"what the hive's rules say to a start now"`
	Reason   string      `json:"reason,omitempty" doc:"of a refusal"`
}

// ServedModelList is the body of a queen's GET /v1/models.
type ServedModelList struct {
	Object string        `json:"object" enum:"list"`
	Data   []ServedModel `json:"data" nullable:"false"`
}

// The headers by which a queen says where a request went and what it waited for.
const (
	HiveHeader      = "X-Rbee-Hive"         // name of the hive
	WorkerHeader    = "X-Rbee-Worker"       // id of the worker in its hive
	DigestHeader    = "X-Rbee-Model-Digest" // sha256:...
	QueueMSHeader   = "X-Rbee-Queue-Ms"     // waited for a slot
	LoadMSHeader    = "X-Rbee-Load-Ms"      // waited for the model to load
	PrefillMSHeader = "X-Rbee-Prefill-Ms"   // the prompt was computed; of a stream also what it waited for a slot of its worker, which its last event tells apart
	NodeHeader      = "X-Rbee-Node"         // of a request: the hive that must serve it, by name or id
)

// JoinKind is what a join token is for.
type JoinKind string

// The kinds of tokens.
const (
	JoinHive  JoinKind = "hive"
	JoinQueen JoinKind = "queen"
)

// JoinToken is a token by which programs join the colony, without its secret.
type JoinToken struct {
	ID        string    `json:"id"`
	Name      string    `json:"name" doc:"what it was made for"`
	Kind      JoinKind  `json:"kind" enum:"hive,queen"`
	CreatedAt time.Time `json:"created_at" format:"date-time"`
	LastUsed  time.Time `json:"last_used,omitzero" format:"date-time"`
	RevokedAt time.Time `json:"revoked_at,omitzero" format:"date-time" doc:"it opens nothing since"`
}
