// Package rbee is the vocabulary of the colony: the words that keeper, queen,
// hive and worker share, and their shapes on the wire. Sizes are bytes unless
// a name says MB (10^6 bytes) or MiB, times are milliseconds where a JSON field ends in _ms.
//
// The package holds values and pure functions only. It imports nothing but the
// standard library and does no I/O.
package rbee

// Version is the version of all four programs; they are released together.
const Version = "0.1.0"

// APIVersion names the HTTP API that the programs speak to one another. Two
// programs with different API versions refuse one another with VERSION_MISMATCH.
const APIVersion = "v1"

// VersionHeader carries Version on each response of each daemon.
const VersionHeader = "X-Rbee-Version"

// RequestIDHeader names a request; a daemon takes over the caller's or makes one.
const RequestIDHeader = "X-Request-Id"

// Health is the body of GET /v1/health of each daemon.
type Health struct {
	Status     string `json:"status" enum:"alive" doc:"alive as long as the program answers"`
	Version    string `json:"version" example:"0.1.0" doc:"version of the program"`
	APIVersion string `json:"api_version" example:"v1" doc:"version of the HTTP API"`
}

// Alive is the Health that every running daemon of this version reports.
func Alive() Health {
	return Health{Status: "alive", Version: Version, APIVersion: APIVersion}
}

// Message is the body of a request that succeeds with nothing but a sentence.
type Message struct {
	Message string `json:"message" doc:"what was done"`
}
