package room

import (
	"fmt"
	"strings"
	"time"

	"rbee"
)

const megabyte = 1_000_000

// MB is bytes in whole megabytes: what is needed rounded up, so that what is
// short by a byte never reads as enough.
func MB(required, free int64) (requiredMB, freeMB int64) {
	return (required + megabyte - 1) / megabyte, max(0, free) / megabyte
}

// sentence says what was decided, and why.
func sentence(r rbee.Ruling, ending []candidate) string {
	required, free := MB(r.RequiredBytes, r.FreeBytes)
	need := fmt.Sprintf("it needs %d MB on %s, where %d MB are free", required, r.Device, free)
	_, idle := MB(0, r.IdleBytes)
	switch r.Verdict {
	case rbee.VerdictStart:
		return "starts: " + need
	case rbee.VerdictEvict:
		names := make([]string, len(ending))
		for i, w := range ending {
			names[i] = fmt.Sprintf("%s (%s, idle for %s, loaded in %s)", w.ID, w.ModelRef, span(w.IdleMS), span(w.ReloadMS))
		}
		return fmt.Sprintf("ends %s: %s", strings.Join(names, " and "), need)
	case rbee.VerdictWait:
		return fmt.Sprintf("waits for workers that are not idle: %s and %d MB held by idle workers", need, idle)
	}
	return fmt.Sprintf("refused: %s and %d MB held by idle workers", need, idle)
}

func span(ms int64) time.Duration {
	d := time.Duration(ms) * time.Millisecond
	if d > time.Second {
		return d.Round(time.Second)
	}
	return d
}
