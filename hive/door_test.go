package hive_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// TestNoRouteIsOpenToStrangers tries each route of the hive, and one behind the
// relay, from where nobody may come.
func TestNoRouteIsOpenToStrangers(t *testing.T) {
	const key = "0123456789abcdef0123456789abcdef"
	type stranger struct {
		header http.Header
		host   string
		status int
	}
	page := func(header ...string) http.Header {
		h := http.Header{"Origin": {"https://evil.example"}}
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return h
	}
	for name, c := range map[string]struct {
		env       []string
		strangers map[string]stranger
	}{
		"a hive on the network": {[]string{"RBEE_HIVE_KEY=" + key, "RBEE_HIVE_ADDR=0.0.0.0:0"}, map[string]stranger{
			"without the key":        {nil, "", http.StatusUnauthorized},
			"with another key":       {http.Header{"Authorization": {"Bearer " + key + "0"}}, "", http.StatusUnauthorized},
			"from a page with a key": {page("Authorization", "Bearer "+key), "", http.StatusForbidden},
		}},
		"a hive without a key": {nil, map[string]stranger{
			"from a page":             {page(), "", http.StatusForbidden},
			"from a page, by its tag": {http.Header{"Sec-Fetch-Site": {"cross-site"}}, "", http.StatusForbidden},
			"by a rebound name":       {nil, "evil.example", http.StatusForbidden},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, c.env...)
			for _, route := range r.routes() {
				for name, s := range c.strangers {
					req, err := http.NewRequestWithContext(t.Context(), route.method, r.Base()+route.path, http.NoBody)
					must(t, err)
					req.Header, req.Host, req.Close = s.header.Clone(), s.host, true
					resp, err := http.DefaultClient.Do(req)
					must(t, err)
					must(t, resp.Body.Close())
					if resp.StatusCode != s.status {
						t.Errorf("%s %s %s: status %d, want %d", route.method, route.path, name, resp.StatusCode, s.status)
					}
				}
			}
			if len(r.workers()) != 0 {
				t.Error("a stranger started a worker")
			}
		})
	}
}

type route struct{ method, path string }

// routes are those of the hive that want a key, and one behind the relay.
func (r *running) routes() []route {
	r.t.Helper()
	document, err := r.OpenAPI(r.t.Context())
	must(r.t, err)
	var doc struct{ Paths map[string]map[string]any }
	must(r.t, json.Unmarshal([]byte(document), &doc))
	list := []route{{http.MethodPost, "/v1/workers/w-1/v1/inference"}}
	for path, methods := range doc.Paths {
		for method := range methods {
			if path != "/health" && path != "/v1/health" {
				list = append(list, route{strings.ToUpper(method), strings.NewReplacer("{id}", "w-1", "{ref}", "hf:a/b").Replace(path)})
			}
		}
	}
	if len(list) < 30 {
		r.t.Errorf("only %d routes", len(list))
	}
	return list
}
