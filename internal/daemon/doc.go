// Package daemon is what surrounds a daemon: a terminal that may go away,
// readers of its output that leave, a service manager that wants to know how it
// is, and the file by which others on this machine find it.
//
// It knows no role: what a daemon does it is told.
package daemon
