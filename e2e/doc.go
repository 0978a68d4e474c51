// Package e2e tests rbee from outside: the four real programs, built with the
// race detector, the real engine and real signals. Each test has a state
// directory of its own, and fails if a process, a port or a temporary file of
// it is left, or if any of its processes raced or panicked.
//
// It must not look inside the programs: it sees processes, files, HTTP through
// client, standard output and exit codes.
package e2e
