package keeper

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"rbee"
	"rbee/client"
	"rbee/internal/conf"
)

// place says which worker is wanted, where somebody says so.
type place struct {
	node, worker, model string
	backend, device     string
	slots, context      int
}

// throughQueen is the queen that a command goes through: nil where none runs, and
// where what is wanted is not hers to give, which is a worker that runs already or
// starts in a certain way, a hive that she does not know, and a file that no hive
// has in its catalog. The caller closes it.
func (a *app) throughQueen(ctx context.Context, cfg conf.Config, p place, attempts int) (*colony, error) {
	if p.worker != "" || p.backend != "" || p.device != "" || p.slots != 0 || p.context != 0 {
		return nil, nil
	}
	c, err := openQueen(ctx, cfg)
	if err != nil || c == nil {
		return nil, err
	}
	if err := c.preflight(ctx, attempts); err != nil {
		return nil, c.abandon(ctx, err)
	}
	hers, err := c.canServe(ctx, cfg, p)
	if err != nil {
		return nil, c.abandon(ctx, c.explain(err))
	}
	if !hers {
		c.close(ctx)
		return nil, nil
	}
	c.node = p.node
	return c, nil
}

// canServe says whether a queen knows the hive that is named, and the file.
func (c *colony) canServe(ctx context.Context, cfg conf.Config, p place) (bool, error) {
	if p.node != "" {
		hives, err := c.client.Hives(ctx)
		if err != nil || !slices.ContainsFunc(hives, func(h rbee.ColonyHive) bool { return h.Name == p.node || string(h.ID) == p.node }) {
			return false, err
		}
	}
	if p.model == "" {
		return true, nil
	}
	ref, err := modelRef(cfg, p.model, true)
	if err != nil || ref.Provider != rbee.ProviderFile {
		return true, err
	}
	_, known, err := c.served(ctx, ref)
	return known, err
}

// served is what a queen knows of a model.
func (c *colony) served(ctx context.Context, ref rbee.ModelRef) (rbee.ServedModel, bool, error) {
	models, err := c.client.ServedModels(ctx)
	i := slices.IndexFunc(models, func(m rbee.ServedModel) bool { return m.ID == ref })
	if err != nil || i < 0 {
		return rbee.ServedModel{}, false, err
	}
	return models[i], true, nil
}

// journey is the way of a request through the queen, as it is told while it lasts.
type journey struct {
	out    *output
	colony *colony
	phases bool // beside the text
	bar    *bar // nil while nothing is awaited
	phase  int

	hive   string
	worker rbee.WorkerID
}

// client is that of a request whose way is told.
func (j *journey) client(requestID string) *client.Client {
	return j.colony.client.Routed(client.Routed{
		Node: j.colony.node, RequestID: requestID, Waits: j.waits,
		Place: func(hive, worker string) { j.hive, j.worker = hive, rbee.WorkerID(worker) },
	})
}

// waits shows what the queen says that the request waits for.
func (j *journey) waits(what string) {
	if hive, _, ok := strings.Cut(what, " answers, after "); ok {
		j.hive = hive
		j.arrived()
		return
	}
	phase := 4
	switch {
	case strings.Contains(what, " fetches "):
		phase = 3
	case strings.Contains(what, " loads "):
		phase = 7
	}
	if j.phases && phase == 7 && j.phase != 7 {
		j.arrived()
		j.out.phase(7, "Loading")
	}
	j.phase = phase
	if j.bar == nil {
		j.bar = j.out.bar(phase, "", "")
	}
	j.bar.phase = phase
	if j.bar.label != what {
		j.bar.relabel(what, "")
		j.bar.set(0, 0)
	}
}

// arrived ends what is shown of waiting.
func (j *journey) arrived() {
	if j.bar != nil {
		j.bar.clear()
		j.bar = nil
	}
}

// from says where an answer came from, "" where that is not known.
func (j *journey) from() string {
	switch {
	case j.hive == "":
		return ""
	case j.worker == "":
		return "by " + j.hive
	}
	return fmt.Sprintf("by %s (worker %s)", j.hive, j.worker)
}

// persistent is infer with the workers that a queen has.
func (r *inference) persistent(ctx context.Context) error {
	defer r.colony.close(ctx)
	var err error
	if r.model, err = modelRef(r.cfg, r.flags.model, true); err != nil {
		return err
	}
	r.journey = &journey{out: r.out, colony: r.colony, phases: true}
	if err := r.colony.explain(r.survey(ctx)); err != nil {
		return err
	}
	return r.generate(ctx)
}

// survey is phases 1 to 4: what there is, and where the request would go.
func (r *inference) survey(ctx context.Context) error {
	hives, err := r.colony.client.Hives(ctx)
	if err != nil {
		return err
	}
	present, workers := 0, 0
	for _, h := range hives {
		if h.Presence != rbee.HivePresent {
			continue
		}
		present++
		for _, w := range h.Workers {
			if w.ModelRef == r.model {
				workers++
			}
		}
	}
	r.out.phase(1, "Registry: %s, %s of %s", plural(present, "hive"), plural(workers, "worker"), r.model)
	r.out.phase(2, "Preflight")
	r.out.done(2, "Queen on %s", r.colony.host)
	r.out.done(2, "Pool health: healthy (%s, version %s)", r.colony.health.Status, r.colony.health.Version)
	r.out.phase(3, "Model %s", r.model)
	model, known, err := r.colony.served(ctx, r.model)
	if err != nil {
		return err
	}
	if known {
		r.out.done(3, "%s, download skipped%s", placesText(model), after(", ", sizeText(model.SizeBytes)))
	} else {
		r.out.done(3, "On no disk of the colony yet")
	}
	r.out.phase(4, "Route")
	plan, err := r.colony.client.Plan(ctx, planned{r.model.String(), r.req.Prompt}, r.colony.node)
	if err != nil {
		return err
	}
	if plan.Chosen == nil {
		r.out.happened(4, "It "+plan.Sentence)
		return nil
	}
	r.out.done(4, "%s, first token expected in %s s", routeText(*plan.Chosen), secondsText(plan.Chosen.Cost.Total))
	return nil
}

// placesText says where a model is.
func placesText(m rbee.ServedModel) string {
	var ready, disk []string
	for _, p := range m.Places {
		list := &disk
		if p.Status != rbee.ModelOnDisk {
			list = &ready
		}
		if !slices.Contains(*list, p.HiveName) {
			*list = append(*list, p.HiveName)
		}
	}
	var parts []string
	if len(ready) > 0 {
		parts = append(parts, "loaded on "+strings.Join(ready, ", "))
	}
	if len(disk) > 0 {
		parts = append(parts, "on disk of "+strings.Join(disk, ", "))
	}
	text := strings.Join(parts, ", ")
	return strings.ToUpper(text[:min(1, len(text))]) + text[min(1, len(text)):]
}

// sizeText is a size that is known.
func sizeText(bytes int64) string {
	if bytes <= 0 {
		return ""
	}
	return size(bytes)
}

// routeText says what a hive does for a request.
func routeText(r rbee.Route) string {
	switch r.Kind {
	case rbee.RouteReady:
		return fmt.Sprintf("%s has it loaded (worker %s)", r.HiveName, r.Worker)
	case rbee.RouteLoading:
		return fmt.Sprintf("%s is loading it (worker %s)", r.HiveName, r.Worker)
	case rbee.RouteStart:
		return r.HiveName + " loads it from its disk"
	}
	return r.HiveName + " fetches and loads it"
}

// lastUsed is the model of the worker that did something last, else the only one
// that there is.
func (c *colony) lastUsed(ctx context.Context) (rbee.ModelRef, error) {
	workers, err := c.client.ColonyWorkers(ctx)
	if err != nil {
		return rbee.ModelRef{}, err
	}
	var best rbee.PlacedWorker
	for _, w := range workers {
		if w.State.Ready() && !w.LastActivity.Before(best.LastActivity) {
			best = w
		}
	}
	if best.ID != "" {
		return best.ModelRef, nil
	}
	return rbee.ModelRef{}, rbee.Errorf(rbee.CodeModelNotFound, "cannot choose a model: no hive of the colony has one loaded").
		Suggest("name one, such as --model qwen, or --model builtin:bee-tiny to try without a download")
}
