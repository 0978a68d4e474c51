// Package e2e tests rbee from outside: the four real programs, built with the
// race detector, the real engine and real signals. Each test has a state
// directory of its own, and fails if a process, a port or a temporary file of
// it is left, or if any of its processes raced or panicked.
//
// For a long run on a quiet machine: E2E_ROUNDS=20 goes through the kill tables
// so often, E2E_LIMIT=5s bounds how long traces may take to go, and
// E2E_STANDSTILL=30s is how long a stopped hive stands still.
//
// Tests of colonies give each hive a network namespace of its own, which takes
// root; without, the hives have different addresses of loopback. What a killed
// run left of these is removed by the next.
//
// It must not look inside the programs: it sees processes, files, HTTP through
// client, standard output and exit codes.
package e2e
