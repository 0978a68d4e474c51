package supervise

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// oomKills counts the processes that the kernel has ended for lack of memory
// since it booted, in any control group; 0 where it does not say.
func oomKills() uint64 {
	text, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0
	}
	return counter(text, "oom_kill")
}

// counter is the number of a line "name number".
func counter(text []byte, name string) uint64 {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(name+" ")); ok {
			n, _ := strconv.ParseUint(string(bytes.TrimSpace(rest)), 10, 64)
			return n
		}
	}
	return 0
}

// setOOMScore makes the kernel rather end this process than others. What is
// refused (a sandbox may) is left as it was.
func setOOMScore(pid, score int) {
	if score > 0 {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), strconv.AppendInt(nil, int64(score), 10), 0)
	}
}
