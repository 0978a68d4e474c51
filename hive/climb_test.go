package hive_test

import (
	"net/http"
	"strings"
	"testing"
)

func TestNoPathClimbsOutOfTheWorkersAPI(t *testing.T) {
	r := start(t)
	id, _ := r.ready()
	for _, path := range []string{"..%2fmetrics", "x%2f..%2fshutdown", "x%2f%2fy", "%2e%2e%2fmetrics"} {
		status, body, _ := r.raw(http.MethodPost, "/v1/workers/"+string(id)+"/v1/"+path, "")
		if status != http.StatusBadRequest || !strings.Contains(body, "climbs") {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if n := len(r.workers()); n != 1 {
		t.Errorf("%d workers are left, want the one", n)
	}
}
