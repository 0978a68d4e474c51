package rbee

import "time"

// QueenStatus is the body of a queen's GET /v1/status.
type QueenStatus struct {
	Version   string               `json:"version"`
	StartedAt time.Time            `json:"started_at" format:"date-time"`
	Ephemeral bool                 `json:"ephemeral,omitempty" doc:"what she started ends with her, whatever ends her"`
	Bus       BusStatus            `json:"bus"`
	LocalHive LocalHiveStatus      `json:"local_hive"`
	Hives     map[HivePresence]int `json:"hives" doc:"by presence"`
	Workers   map[WorkerState]int  `json:"workers" doc:"of present hives, by state"`
	Models    int                  `json:"models" doc:"different ones that the colony can serve"`
}

// BusStatus is how a queen stands with the bus of her colony.
type BusStatus struct {
	Addr      string `json:"addr,omitempty" doc:"HOST:PORT of her own bus; absent where she joined another's"`
	Connected bool   `json:"connected"`
	Reason    string `json:"reason,omitempty" doc:"why she is not connected"`
}

// LocalHiveStatus is the hive of the queen's machine and state directory.
type LocalHiveStatus struct {
	State  LocalHiveState `json:"state" enum:"off,starting,running,failed"`
	ID     HiveID         `json:"id,omitempty" doc:"in the colony; absent until it has joined"`
	URL    string         `json:"url,omitempty"`
	PID    int            `json:"pid,omitempty"`
	Reason string         `json:"reason,omitempty" doc:"why it does not run"`
}

// LocalHiveState says what a queen did about the hive of her machine.
type LocalHiveState string

// The states of it.
const (
	LocalHiveOff      LocalHiveState = "off" // the settings say that she starts none, and none runs
	LocalHiveStarting LocalHiveState = "starting"
	LocalHiveRunning  LocalHiveState = "running"
	LocalHiveFailed   LocalHiveState = "failed"
)

// ColonyEventKind names what a ColonyEvent tells.
type ColonyEventKind string

// The events of a queen's feed. A reader first gets a snapshot, then changes.
const (
	ColonySnapshot ColonyEventKind = "snapshot" // Hives holds all
	ColonyHiveNew  ColonyEventKind = "hive"     // Hive holds all of one that came, was lost, came back or has other models
	ColonyHiveNow  ColonyEventKind = "now"      // Now holds what changed with its requests
	ColonyHiveGone ColonyEventKind = "gone"     // the hive ID left on purpose
)

// ColonyEvent is one change in a colony, as a queen sees it.
type ColonyEvent struct {
	Kind  ColonyEventKind `json:"kind" enum:"snapshot,hive,now,gone"`
	Time  time.Time       `json:"time" format:"date-time"`
	Hives []ColonyHive    `json:"hives,omitempty"`
	Hive  *ColonyHive     `json:"hive,omitempty"`
	Now   *HiveNow        `json:"now,omitempty"`
	ID    HiveID          `json:"id,omitempty"`
}

// TokenRequest asks a queen for a token with which a hive or queen joins her colony.
type TokenRequest struct {
	Name string   `json:"name,omitempty" maxLength:"64" doc:"what it is for, for people"`
	Kind JoinKind `json:"kind,omitempty" enum:"hive,queen" doc:"default hive"`
}

// NewToken is a token that was made. Its text is told this once.
type NewToken struct {
	Token string `json:"token" doc:"for 'rbee hive start --join'; it holds a secret"`
	JoinToken
}

// TokenList is the body of a queen's GET /v1/tokens.
type TokenList struct {
	Tokens []JoinToken `json:"tokens" nullable:"false"`
}
