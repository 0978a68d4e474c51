package rbee

import (
	"slices"
	"time"
)

// WorkerID names a worker, unique in its hive.
type WorkerID string

// WorkerState is where a worker is in its life. The string is the same on the
// wire, in the log and on the screen.
type WorkerState string

// The life of a worker:
//
//	starting → loading → idle ⇄ busy
//	idle, busy → draining → stopped
//	starting, loading → draining
//	starting, loading, idle, busy, draining → failed
const (
	WorkerStarting WorkerState = "starting" // the process was started and has not called back
	WorkerLoading  WorkerState = "loading"  // it answers and loads its model
	WorkerIdle     WorkerState = "idle"     // ready, no request in flight
	WorkerBusy     WorkerState = "busy"     // ready, at least one request in flight
	WorkerDraining WorkerState = "draining" // finishes what runs, takes nothing new
	WorkerStopped  WorkerState = "stopped"  // ended on purpose
	WorkerFailed   WorkerState = "failed"   // ended by itself, or was killed for cause
)

var workerTransitions = map[WorkerState][]WorkerState{
	WorkerStarting: {WorkerLoading, WorkerDraining, WorkerFailed},
	WorkerLoading:  {WorkerIdle, WorkerDraining, WorkerFailed},
	WorkerIdle:     {WorkerBusy, WorkerDraining, WorkerFailed},
	WorkerBusy:     {WorkerIdle, WorkerDraining, WorkerFailed},
	WorkerDraining: {WorkerStopped, WorkerFailed},
	WorkerStopped:  {},
	WorkerFailed:   {},
}

// WorkerStates lists all states in the order of a life.
func WorkerStates() []WorkerState {
	return []WorkerState{WorkerStarting, WorkerLoading, WorkerIdle, WorkerBusy, WorkerDraining, WorkerStopped, WorkerFailed}
}

// Can says whether a worker may go from state s to state to.
func (s WorkerState) Can(to WorkerState) bool { return slices.Contains(workerTransitions[s], to) }

// Ready says whether a worker in this state takes requests.
func (s WorkerState) Ready() bool { return s == WorkerIdle || s == WorkerBusy }

// Final says whether a worker in this state is gone.
func (s WorkerState) Final() bool { return s == WorkerStopped || s == WorkerFailed }

// Worker is what a hive tells of one worker.
type Worker struct {
	ID             WorkerID    `json:"id"`
	URL            string      `json:"url" doc:"base under which the hive serves the worker's API"`
	ModelRef       ModelRef    `json:"model_ref"`
	Backend        Backend     `json:"backend"`
	Device         DeviceID    `json:"device"`
	State          WorkerState `json:"state" enum:"starting,loading,idle,busy,draining,stopped,failed"`
	LastActivity   time.Time   `json:"last_activity" format:"date-time" doc:"end of the last request, or the last change of state"`
	SlotsTotal     int         `json:"slots_total"`
	SlotsAvailable int         `json:"slots_available"`
	PID            int         `json:"pid,omitempty" doc:"process id; absent for an external worker"`
	External       bool        `json:"external,omitempty" doc:"not started by this hive: health-checked, never killed"`
	StartedAt      time.Time   `json:"started_at" format:"date-time"`
	MemoryBytes    int64       `json:"memory_bytes,omitempty" doc:"weights, KV cache and compute buffers where it computes: an estimate, then what was measured"`
	Memory         Memory      `json:"memory,omitempty" doc:"bytes that its end gives back, by device; cpu is main memory"`
	Promised       Memory      `json:"promised,omitempty" doc:"of these, what the system still shows as free: it loads, rests, or has its model file mapped"`
	Measured       bool        `json:"measured,omitempty" doc:"its memory was measured and is no estimate"`
	ContextTokens  int         `json:"context_tokens,omitempty" doc:"longest prompt plus answer of one request, in tokens"`
	KVTokens       int         `json:"kv_tokens,omitempty" doc:"KV cells that all slots share"`
	LoadMS         int64       `json:"load_ms,omitempty" doc:"from the start of its process until it was ready"`
	Requests       int64       `json:"requests,omitempty" doc:"requests that it was given"`
	Pinned         bool        `json:"pinned,omitempty" doc:"neither idleness nor another model ends it"`
	Resting        bool        `json:"resting,omitempty" doc:"it gave its KV cache back until the next request"`
	Reason         string      `json:"reason,omitempty" doc:"why it failed or stopped"`
	ExitCause      string      `json:"exit_cause,omitempty" doc:"how the process ended, such as 'signal: killed'"`
	Failure        *Error      `json:"failure,omitempty" doc:"why it failed, with a code"`
	LastLogs       []string    `json:"last_logs,omitempty" doc:"the last lines the worker wrote, when it failed"`
}

// WorkerList is the body of GET /v1/workers/list.
type WorkerList struct {
	Workers []Worker `json:"workers" nullable:"false"`
}

// SpawnRequest asks a hive for a new worker. Zero values leave the choice to the hive.
type SpawnRequest struct {
	ModelRef  string   `json:"model_ref" minLength:"1" maxLength:"512" example:"builtin:bee-tiny"`
	Backend   Backend  `json:"backend,omitempty" doc:"cpu, cuda, vulkan or metal; default the fastest one that is usable"`
	Device    DeviceID `json:"device,omitempty" doc:"an id from /v1/devices"`
	Slots     int      `json:"slots,omitempty" minimum:"1" maximum:"64" doc:"requests served in parallel"`
	Context   int      `json:"context,omitempty" minimum:"64" maximum:"1048576" doc:"longest prompt plus answer of one request, in tokens"`
	Queue     *int     `json:"queue,omitempty" minimum:"0" maximum:"1024" doc:"requests that may wait for a slot"`
	KeepAlive string   `json:"keep_alive,omitempty" doc:"idle time after which the worker ends: a duration such as 5m, 0, or forever"`

	AllowSmaller bool   `json:"allow_smaller,omitempty" doc:"take fewer slots or a shorter context rather than be refused for memory"`
	Reuse        bool   `json:"reuse,omitempty" doc:"take a worker of the model that is there already, if it does what is asked for"`
	Wait         string `json:"wait,omitempty" maxLength:"32" example:"30s" doc:"how long to wait for memory that other workers hold now, at most 10m; default not at all"`
}

// MaxSpawnWait bounds how long a spawn waits for memory.
const MaxSpawnWait = 10 * time.Minute

// SpawnReply is the answer to SpawnRequest: a new worker loads and is not ready yet.
type SpawnReply struct {
	WorkerID   WorkerID    `json:"worker_id"`
	URL        string      `json:"url" doc:"base under which the hive serves the worker's API"`
	State      WorkerState `json:"state" enum:"starting,loading,idle,busy" doc:"loading for a new worker"`
	Reused     bool        `json:"reused,omitempty" doc:"the worker was there already"`
	DownloadID DownloadID  `json:"download_id,omitempty" doc:"the model is not on disk and is fetched first; the worker's state is starting until then"`
}

// ReadyRequest is what a worker tells its hive once it answers on its port.
type ReadyRequest struct {
	WorkerID WorkerID `json:"worker_id" minLength:"1" maxLength:"128" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$"`
	URL      string   `json:"url" format:"uri" maxLength:"2048"`
	ModelRef string   `json:"model_ref" minLength:"1" maxLength:"512"`
	Backend  Backend  `json:"backend"`
	Device   DeviceID `json:"device"`
}

// Readiness is the body of a worker's GET /v1/ready: status 503 while loading, 200 after.
type Readiness struct {
	Ready       bool        `json:"ready"`
	State       WorkerState `json:"state"`
	ModelLoaded bool        `json:"model_loaded,omitempty"`
	ProgressURL string      `json:"progress_url,omitempty" doc:"where to follow the loading"`
	SlotsTotal  int         `json:"slots_total,omitempty"`
	SlotsBusy   int         `json:"slots_busy,omitempty"`
	Context     int         `json:"context_tokens,omitempty" doc:"longest prompt plus answer of one request, in tokens"`
}

// LoadStage is a step of LoadProgress.
type LoadStage string

// Stages of loading.
const (
	LoadToVRAM LoadStage = "loading_to_vram"
	LoadReady  LoadStage = "ready"
	LoadError  LoadStage = "error"
)

// LoadProgress is one event of GET /v1/loading/progress.
type LoadProgress struct {
	Stage        LoadStage `json:"stage"`
	LayersLoaded int       `json:"layers_loaded"`
	LayersTotal  int       `json:"layers_total"`
	VRAMMB       float64   `json:"vram_mb" doc:"weights in the device's memory so far, in 10^6 bytes"`
	Error        *Error    `json:"error,omitempty"`
}
