// Package bus is what the programs of a colony know of one another: a bucket of
// short-lived values that hives write and queens read. It is NATS, embedded in a
// queen behind a gate of our own, or a cluster of others by URL.
//
// The gate speaks TLS 1.3 with a certificate that the token of a client names.
// A client's first line says who it is; the gate answers with one line, and
// then the connection carries the bus, or a tunnel (package tunnel):
//
//	hive                         gate                      bus
//	  ── TLS, pinned ─────────────>│
//	  ── {purpose, token, …} ─────>│ token, kind, version
//	  <─ {ok, user, password} ─────│── one-time user ────────>│
//	  <═══════════════════════════ NATS ═════════════════════>│
//
// Keys are about.ID, now.ID and prefix.ID, where ID is that of a hive. A hive
// may write its own and read none; a queen may read all. Each has a time to
// live, and the one of now.ID is short: a hive without it is lost. Values are
// in memory only; of tokens, what is needed to check them is on disk.
//
// The package does not know what the values mean, nor how requests travel.
package bus
