package hive

import (
	"context"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"rbee"
	"rbee/hive/external"
	"rbee/hive/pool"
	"rbee/hive/store"
	"rbee/internal/conf"
	"rbee/internal/forward"
	"rbee/internal/httpapi"
	"rbee/internal/sse"
)

// externalServers are the servers that the settings name, and what may be at the
// usual ports of this machine, if it is to be looked for.
func externalServers(settings conf.Config) (list []external.Server, err error) {
	named := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(settings.External)) {
		node := settings.External[name]
		key, err := node.ReadKey()
		if err != nil {
			return nil, err
		}
		list = append(list, external.Server{Name: name, URL: node.URL, Key: key.Reveal()})
		named[name], named[loopbackPort(node.URL)] = true, true
	}
	if settings.Hive.Discover != "on" {
		return list, nil
	}
	for _, s := range external.Usual() {
		if !named[s.Name] && !named[loopbackPort(s.URL)] {
			list = append(list, s)
		}
	}
	return list, nil
}

// loopbackPort is the port of a URL of this machine as :PORT, or "".
func loopbackPort(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return ""
	}
	ip := net.ParseIP(u.Hostname())
	if u.Hostname() != "localhost" && !ip.IsLoopback() {
		return ""
	}
	return ":" + u.Port()
}

// others are the servers that are not this hive itself.
func others(list []external.Server, own string) []external.Server {
	port := loopbackPort(own)
	return slices.DeleteFunc(slices.Clone(list), func(s external.Server) bool {
		return s.Guess && loopbackPort(s.URL) == port
	})
}

// elsewhere is the provider of the models of external servers: none comes here.
type elsewhere struct{}

func (elsewhere) Name() rbee.Provider { return rbee.ProviderExternal }

func (elsewhere) Fetch(_ context.Context, t store.Terms) (store.Delivery, error) {
	return store.Delivery{}, notOurs(t.Ref)
}

// notOurs is the error of whoever wants a worker, or a file, of an external model.
func notOurs(ref rbee.ModelRef) error {
	return rbee.Errorf(rbee.CodeInvalidRequest, "%s is at a server that the hive did not start: there is nothing to fetch, and no worker to start", ref).
		Suggest("use it where it is: 'rbee chat --model %s', or POST /v1/chat/completions with this model", ref)
}

// find finds the worker of an external model. One that is not listed may be by
// the time its server has been asked again.
func (h *Hive) find(ctx context.Context, o order) (spawned, error) {
	if !o.Reuse {
		return spawned{}, notOurs(o.ref)
	}
	if list := h.pool.ByModel(o.ref); len(list) > 0 {
		return spawned{worker: *list[0], reused: true}, nil
	}
	ref, _ := o.ref.External()
	watched, err := h.external.Look(ctx, ref.Server)
	if list := h.pool.ByModel(o.ref); len(list) > 0 {
		return spawned{worker: *list[0], reused: true}, nil
	}
	switch {
	case ctx.Err() != nil:
		return spawned{}, context.Cause(ctx)
	case !watched:
		return spawned{}, rbee.Errorf(rbee.CodeModelNotFound, "cannot find %s: the hive knows no server %q", o.ref, ref.Server).
			Suggest("name it under external in config.yaml and start the hive again")
	case err != nil:
		return spawned{}, down(ref.Server, err)
	}
	return spawned{}, rbee.Errorf(rbee.CodeModelNotFound, "cannot find %s: the server %s does not have it, or it was taken off the list", o.ref, ref.Server).
		Suggest("see the workers with 'rbee workers list'; what was taken off it is back when the hive starts again")
}

// down is the error of a server that does not answer as it should.
func down(server string, err error) error {
	why := rbee.AsError(err)
	e := rbee.Errorf(rbee.CodeBackendUnavailable, "the server %s does not answer as it should: %s", server, why.Message).WithCause(err)
	if s := why.Suggestion(); s != "" {
		return e.Suggest("%s", s)
	}
	return e.Suggest("look whether it runs")
}

// foreign answers a request to a worker that does not speak our own API: what
// OpenAI has is handed on, with the name that the server has for the model; what
// our clients ask of each worker the hive knows; the rest is refused.
func (r *relay) foreign(w http.ResponseWriter, req *http.Request, id rbee.WorkerID, target pool.Target, path string) error {
	switch at := req.Method + " " + path; {
	case at == "POST /v1/chat/completions", at == "POST /v1/completions", at == "POST /v1/embeddings":
		body, err := httpapi.Body(req)
		if err != nil {
			return err
		}
		asked, err := forward.Parse(body)
		if err != nil {
			return err
		}
		forward.SetBody(req, asked.Renamed(body, target.Foreign))
		return r.pass(w, req, target, path)
	case at == "GET /v1/models", strings.HasPrefix(at, "GET /v1/models/"):
		return r.pass(w, req, target, path)
	case at == "GET /v1/health":
		return r.hive.foreignHealth(w, req, id)
	case at == "GET /v1/ready":
		return r.hive.foreignReady(w, id)
	case at == "GET /v1/loading/progress":
		out := sse.NewWriter(w)
		if err := out.JSON(rbee.LoadProgress{Stage: rbee.LoadReady}); err != nil {
			return gone(req.Context(), err)
		}
		return out.Done()
	}
	return rbee.Errorf(rbee.CodeInvalidRequest, "worker %s is at a server that does not speak rbee's own API, such as /v1/inference", id).
		Suggest("use POST /v1/chat/completions or /v1/completions, or 'rbee chat' instead of 'rbee infer'")
}

// foreignHealth asks the server now.
func (h *Hive) foreignHealth(w http.ResponseWriter, req *http.Request, id rbee.WorkerID) error {
	worker, err := h.pool.Worker(id)
	if err != nil {
		return err
	}
	ref, _ := worker.ModelRef.External()
	if _, err := h.external.Look(req.Context(), ref.Server); err != nil {
		return down(ref.Server, err)
	}
	return answer(w, rbee.Health{Status: "alive"})
}

func (h *Hive) foreignReady(w http.ResponseWriter, id rbee.WorkerID) error {
	worker, err := h.pool.Worker(id)
	if err != nil {
		return err
	}
	return answer(w, rbee.Readiness{
		Ready: worker.State.Ready(), State: worker.State, ModelLoaded: true, Context: worker.ContextTokens,
		SlotsTotal: worker.SlotsTotal, SlotsBusy: worker.SlotsTotal - worker.SlotsAvailable,
	})
}

func answer(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(v)
}

// refusesUs is an error where a foreign server wants a key that is not the
// hive's to know: its caller has done nothing wrong.
func refusesUs(resp *http.Response) error {
	if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
		return nil
	}
	return rbee.Errorf(rbee.CodeBackendUnavailable, "the server wants a key of the hive, or another one").
		Suggest("give its key under external in the hive's config.yaml")
}
