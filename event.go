package rbee

import "time"

// EventKind names what an Event tells.
type EventKind string

// The events of a hive's feed. A reader first gets a snapshot, then changes.
const (
	EventSnapshot     EventKind = "snapshot"      // Workers and Downloads hold all, Hive its state
	EventWorker       EventKind = "worker"        // Worker holds its new state
	EventWorkerGone   EventKind = "worker_gone"   // Worker holds its last state
	EventModel        EventKind = "model"         // Model was catalogued or changed
	EventModelRemoved EventKind = "model_removed" // Model was removed
	EventDownload     EventKind = "download"      // Download holds its progress
	EventDecision     EventKind = "decision"      // Decision tells of memory: workers ended for another, or none was started
	EventHive         EventKind = "hive"          // Hive holds the new state of the hive
	EventShutdown     EventKind = "shutdown"      // the hive ends
)

// Event is one change in a hive.
type Event struct {
	Kind      EventKind     `json:"kind"`
	Time      time.Time     `json:"time" format:"date-time"`
	Workers   []Worker      `json:"workers,omitempty"`
	Worker    *Worker       `json:"worker,omitempty"`
	Model     *Model        `json:"model,omitempty"`
	Downloads []Download    `json:"downloads,omitempty"`
	Download  *Download     `json:"download,omitempty"`
	Decision  *Decision     `json:"decision,omitempty"`
	Hive      *HiveStanding `json:"hive,omitempty"`
}
