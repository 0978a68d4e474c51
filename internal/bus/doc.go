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
// A queen whose bus is another's has a gate for tunnels alone, a door. She invites
// the hives of that bus to dial it, each under a subject that no other may hear.
// The key that a hive tells in its about.ID, which queens alone may read, proves
// each to the other: with it she signs where she is, and it signs that it is the
// hive. So nobody else sends a hive anywhere, and no hive comes as another. In a
// cluster that holds as far as its permissions keep hives from what others tell.
//
// Keys are about.ID, now.ID and prefix.ID, where ID is that of a hive. A hive
// may write its own and read none; a queen may read all. Each has a time to
// live, and the one of now.ID is short: a hive without it is lost. Values are
// in memory only; of tokens, what is needed to check them is on disk.
//
// The package does not know what the values mean, nor how requests travel.
package bus
