package registry

import (
	"fmt"
	"strings"

	"rbee"
	"rbee/queen/sched"
)

// makeView is the hive as decisions see it.
func (h *hive) makeView() *sched.Hive {
	return &sched.Hive{
		ID: h.about.ID, Name: h.about.Name, Seq: h.now.Seq,
		Excluded: h.excluded(), StartsNone: h.startsNone(), DownloadMBps: h.about.DownloadMBps,
		Models: h.about.Models, Workers: h.now.Workers, Prefixes: h.prefixes,
	}
}

// excluded is why the hive gets no requests, "" if it gets some.
func (h *hive) excluded() string {
	switch {
	case h.lost:
		return "nothing is heard of it"
	case h.about.APIVersion != rbee.APIVersion || release(h.about.Version) != release(rbee.Version):
		return fmt.Sprintf("its version is %s (API %s), the queen's is %s (API %s)", h.about.Version, h.about.APIVersion, rbee.Version, rbee.APIVersion)
	case h.now.Standing.State == rbee.HiveDraining:
		return "it drains" + because(h.now.Standing)
	case !h.avoid.IsZero():
		return h.failure
	}
	return ""
}

// startsNone is why the hive starts no worker, "" if it does.
func (h *hive) startsNone() string {
	if h.now.Standing.State == rbee.HiveCordoned {
		return "it starts no workers" + because(h.now.Standing)
	}
	return ""
}

func because(s rbee.HiveStanding) string {
	if s.Reason == "" {
		return ""
	}
	return ": " + s.Reason
}

// release is the part of a version that programs must have in common.
func release(version string) string {
	parts := strings.SplitN(version, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// colonyHive is the hive as people see it.
func (h *hive) colonyHive() rbee.ColonyHive {
	c := rbee.ColonyHive{
		ID: h.about.ID, Name: h.about.Name, Presence: rbee.HivePresent, Reason: h.excluded(), LastHeard: h.heard,
		Version: h.about.Version, ByQueen: h.about.ByQueen, StartedAt: h.about.StartedAt, Standing: h.now.Standing,
		Devices: some(h.about.Devices), Memory: some(h.now.Memory), Models: some(h.about.Models), Workers: some(h.now.Workers),
		DownloadMBps: h.about.DownloadMBps,
	}
	if h.lost {
		c.Presence = rbee.HiveLost
	}
	if h.through() == nil {
		c.URL = h.about.URL
	}
	return c
}

// some is a list that is never null on the wire.
func some[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
