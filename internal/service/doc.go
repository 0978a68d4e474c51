// Package service is how a daemon of ours is run by the machine's service
// manager, systemd or launchd: what is written for the manager, what it is told
// to do, and what the running daemon says to it (Notifier).
//
// It knows no role and asks no hive. The units in packaging are what it writes.
package service
