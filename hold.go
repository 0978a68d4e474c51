package rbee

import (
	"maps"
	"time"
)

// Memory is bytes by device; MainMemory is that of the machine itself. Nobody
// changes one that was handed out.
type Memory map[DeviceID]int64

// MainMemory is the device whose memory is that of the machine.
const MainMemory DeviceID = "cpu"

// Total is the bytes on all devices.
func (m Memory) Total() (sum int64) {
	for _, n := range m {
		sum += n
	}
	return sum
}

// Plus is the sum of both.
func (m Memory) Plus(o Memory) Memory {
	sum := maps.Clone(m)
	if sum == nil {
		sum = Memory{}
	}
	for d, n := range o {
		sum[d] += n
	}
	return sum
}

// Holding is what a hive knows of its memory at the moment of a decision.
type Holding struct {
	Free       Memory `json:"free" doc:"bytes that the system shows as free, by device"`
	Leave      Memory `json:"leave,omitempty" doc:"of these, what must stay free for other programs"`
	LimitBytes int64  `json:"limit_bytes,omitempty" doc:"most that all workers together may take, 0 for no limit"`
	Workers    []Held `json:"workers" nullable:"false"`
}

// Held is what one worker holds of a machine's memory.
type Held struct {
	ID       WorkerID    `json:"id"`
	ModelRef ModelRef    `json:"model_ref"`
	State    WorkerState `json:"state" enum:"starting,loading,idle,busy,draining"`
	Pinned   bool        `json:"pinned,omitempty"`
	External bool        `json:"external,omitempty"`
	Awaited  bool        `json:"awaited,omitempty" doc:"nobody has used it yet, and whoever asked for it may be about to"`
	IdleMS   int64       `json:"idle_ms" doc:"since its last activity"`
	ReloadMS int64       `json:"reload_ms" doc:"what it would take to load it again"`
	Memory   Memory      `json:"memory,omitempty" doc:"bytes that its end gives back"`
	Promised Memory      `json:"promised,omitempty" doc:"of these, what the system still shows as free"`
}

// RoomOption is one way to run a worker, and what it takes.
type RoomOption struct {
	Slots         int    `json:"slots"`
	ContextTokens int    `json:"context_tokens" doc:"longest prompt plus answer of one request"`
	KVTokens      int    `json:"kv_tokens" doc:"KV cells that all slots share"`
	Memory        Memory `json:"memory"`
	Shrunk        bool   `json:"shrunk,omitempty" doc:"less than was asked for"`
}

// RoomRequest asks for memory for a new worker.
type RoomRequest struct {
	ModelRef ModelRef     `json:"model_ref"`
	Device   DeviceID     `json:"device" doc:"where it computes"`
	Options  []RoomOption `json:"options" nullable:"false" doc:"best first"`
	MayWait  bool         `json:"may_wait,omitempty" doc:"who asks waits for memory that others hold now"`
}

// Verdict is what a hive does about a RoomRequest.
type Verdict string

// The verdicts.
const (
	VerdictStart  Verdict = "start"  // it fits
	VerdictEvict  Verdict = "evict"  // it fits when idle workers have ended
	VerdictWait   Verdict = "wait"   // it fits when workers that are not idle have ended
	VerdictRefuse Verdict = "refuse" // it does not fit
)

// Ruling is the answer to a RoomRequest.
type Ruling struct {
	Verdict       Verdict     `json:"verdict" enum:"start,evict,wait,refuse"`
	Option        *RoomOption `json:"option,omitempty" doc:"what is to run; absent where nothing fits"`
	Evict         []WorkerID  `json:"evict,omitempty" doc:"idle workers that end for it"`
	Loss          float64     `json:"loss,omitempty" doc:"what their end costs: the sum of reload over idle time"`
	Device        DeviceID    `json:"device" doc:"where memory is scarcest"`
	RequiredBytes int64       `json:"required_bytes" doc:"on that device"`
	FreeBytes     int64       `json:"free_bytes" doc:"on that device, for a new worker"`
	IdleBytes     int64       `json:"idle_bytes" doc:"what idle workers that may end hold there"`
	Sentence      string      `json:"sentence"`
}

// Decision is a Ruling, and all that it was made of: the same Holding and
// Request always lead to the same Ruling.
type Decision struct {
	ID        int64       `json:"id" doc:"counts from 1 in the life of a hive"`
	Time      time.Time   `json:"time" format:"date-time"`
	RequestID string      `json:"request_id,omitempty"`
	Holding   Holding     `json:"holding"`
	Request   RoomRequest `json:"request"`
	Ruling
}

// DecisionList is the body of GET /v1/decisions, newest first.
type DecisionList struct {
	Decisions []Decision `json:"decisions" nullable:"false"`
}

// Fit is a worker that would fit where another did not, in the details of an error.
type Fit struct {
	ModelRef      ModelRef `json:"model_ref"`
	Slots         int      `json:"slots"`
	ContextTokens int      `json:"context_tokens"`
	RequiredMB    int64    `json:"required"`
}

// HiveState says what a hive takes on.
type HiveState string

// The states of a hive.
const (
	HiveOpen     HiveState = "open"
	HiveCordoned HiveState = "cordoned" // starts no worker; those it has go on
	HiveDraining HiveState = "draining" // takes no request; what runs finishes, then its worker ends
)

// HiveCause says who closed a hive.
type HiveCause string

// What closes a hive.
const (
	ByOperator HiveCause = "operator"
	ByHours    HiveCause = "hours"
	ByBattery  HiveCause = "battery"
)

// HiveStanding is the state of a hive, and why.
type HiveStanding struct {
	State  HiveState `json:"state" enum:"open,cordoned,draining"`
	Cause  HiveCause `json:"cause,omitempty" enum:"operator,hours,battery"`
	Reason string    `json:"reason,omitempty"`
}

// HivePolicy is how much of its machine a hive takes.
type HivePolicy struct {
	Hours           string `json:"hours,omitempty" doc:"when workers may start; absent for always"`
	OnBattery       string `json:"on_battery" enum:"always,never" doc:"whether workers start on battery"`
	LeaveFreeMB     int    `json:"leave_free_mb" doc:"main memory left to other programs"`
	LeaveFreeVRAMMB int    `json:"leave_free_vram_mb" doc:"memory of each accelerator left to other programs"`
	MemoryLimitMB   int    `json:"memory_limit_mb,omitempty" doc:"most that all workers together may take"`
}

// DeviceMemory is how the memory of a device is used.
type DeviceMemory struct {
	Device        DeviceID `json:"device"`
	TotalBytes    int64    `json:"total_bytes"`
	FreeBytes     int64    `json:"free_bytes" doc:"as the system shows it"`
	PromisedBytes int64    `json:"promised_bytes" doc:"of these, what workers have been promised and do not take yet"`
	LeaveBytes    int64    `json:"leave_bytes" doc:"of these, what stays free for other programs"`
	WorkersBytes  int64    `json:"workers_bytes" doc:"what the workers of the hive hold or were promised"`
}

// CrashLoop is a model whose workers fail one after another.
type CrashLoop struct {
	ModelRef ModelRef  `json:"model_ref"`
	Failures int       `json:"failures" doc:"in a row"`
	RetryAt  time.Time `json:"retry_at" format:"date-time" doc:"no worker of it starts before"`
	Last     *Error    `json:"last" doc:"why the last one failed"`
}

// HiveStatus is the body of GET /v1/status.
type HiveStatus struct {
	HiveStanding
	Policy           HivePolicy          `json:"policy"`
	Memory           []DeviceMemory      `json:"memory" nullable:"false"`
	Workers          map[WorkerState]int `json:"workers" doc:"live workers of the hive's own by state"`
	External         int                 `json:"external,omitempty" doc:"workers that others started and the hive does not end"`
	RequestsInFlight int                 `json:"requests_in_flight" doc:"taken and not answered to the end"`
	Waiting          int                 `json:"waiting" doc:"spawns that wait for memory"`
	CrashLoops       []CrashLoop         `json:"crash_loops" nullable:"false"`
	ClockJump        *ClockJump          `json:"clock_jump,omitempty"`
	Colony           *HiveColony         `json:"colony,omitempty" doc:"absent where the hive belongs to none"`
}

// ClockJump is a change of a machine's clock that was no passing of time, as a
// hive met it.
type ClockJump struct {
	At        time.Time `json:"at" format:"date-time" doc:"when it was noticed, by the new time"`
	BySeconds float64   `json:"by_seconds" doc:"negative when the clock was set back; a machine that slept jumps, too"`
}
