package hive

import (
	"strings"
	"testing"

	"rbee"
	"rbee/internal/conf"
)

func TestTheHiveWatchesItselfByTheNearestWay(t *testing.T) {
	for name, c := range map[string]struct{ base, addr, url, want string }{
		"as it is reached":         {"http://127.0.0.1:4711", "127.0.0.1:0", "", "http://127.0.0.1:4711"},
		"by others through a name": {"https://hive.example", "127.0.0.1:8080", "https://hive.example", "http://127.0.0.1:8080"},
		"on all interfaces":        {"https://hive.example", "0.0.0.0:8080", "https://hive.example", "http://127.0.0.1:8080"},
		"on all of version 6":      {"https://hive.example", "[::]:8080", "https://hive.example", "http://127.0.0.1:8080"},
		"on any":                   {"https://hive.example", ":8080", "https://hive.example", "http://127.0.0.1:8080"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := nearest(c.base, conf.Hive{Addr: c.addr, URL: c.url}); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestTheLogOfAWorkerIsNamedForItsModel(t *testing.T) {
	for ref, want := range map[string]string{
		"builtin:bee-tiny":                              "builtin_bee-tiny-w-1.log",
		"hf:org/Repo-GGUF:Q4_K_M":                       "hf_org_Repo-GGUF_Q4_K_M-w-1.log",
		"file:/models/../a b.gguf":                      "",
		"file:/m/" + strings.Repeat("x", 300) + ".gguf": strings.Repeat("x", 75) + ".gguf-w-1.log",
		"file:/models/.hidden.gguf":                     "file__models_.hidden.gguf-w-1.log",
	} {
		parsed, err := rbee.ParseModelRef(ref)
		if err != nil {
			if want != "" {
				t.Errorf("%s: %v", ref, err)
			}
			continue
		}
		if got := logName("w-1", parsed); got != want {
			t.Errorf("%s: %s, want %s", ref, got, want)
		}
	}
}

func TestTheKernelsBoundLiesAboveWhatIsAdmitted(t *testing.T) {
	for limit, want := range map[int]int64{0: 0, 8000: 9_000_000_000} {
		if got := memoryBound(conf.Hive{MemoryLimitMB: limit}); got != want {
			t.Errorf("%d MB: bound %d, want %d", limit, got, want)
		}
	}
}
