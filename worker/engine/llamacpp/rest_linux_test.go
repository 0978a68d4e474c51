package llamacpp

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"rbee/worker/engine"
)

// resident is the memory of this process in bytes.
func resident(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

func TestARestGivesTheMemoryBackToTheSystem(t *testing.T) {
	before := resident(t)
	e := loadTiny(t, func(o *engine.Options) { o.KVTokens = 1 << 17 })
	r := engine.Request{Tokens: words(t, e, 60, 80, "sun"), MaxTokens: 10, IgnoreEOS: true}
	for range 3 {
		awake := resident(t)
		if err := e.Rest(); err != nil {
			t.Fatal(err)
		}
		atRest := resident(t)
		t.Logf("%d MB before the load, %d with a context, %d at rest", before>>20, awake>>20, atRest>>20)
		if took := awake - before; took < 64<<20 || awake-atRest < took*8/10 {
			t.Errorf("of %d MB a rest gave %d back", took>>20, (awake-atRest)>>20)
		}
		if result, _ := ask(t, e, r); result.Tokens != 10 {
			t.Errorf("after the rest: %+v", result)
		}
	}
}
