package sched

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"rbee"
)

// obstacle is why an option cannot be taken for a request.
type obstacle uint8

const (
	free obstacle = iota
	excluded
	elsewhere
	tried
	full
	short
)

func (o *option) obstacle(t tally, req *rbee.RouteRequest, strict bool) obstacle {
	switch {
	case o.excluded:
		return excluded
	case !o.hive.named(req.Node):
		return elsewhere
	case len(req.Tried) > 0 && slices.Contains(req.Tried, o.hive.id):
		return tried
	case o.room > 0 && t.requests >= o.room:
		return full
	case strict && o.context > 0 && req.PromptTokens > o.context:
		return short
	}
	return free
}

func (h *site) named(node string) bool {
	return node == "" || h.name == node || string(h.id) == node
}

// refused says why an option cannot be taken; the code is that of a request that
// has no other.
func (o *option) refused(b obstacle, t tally, req *rbee.RouteRequest) (rbee.Code, string) {
	switch b {
	case excluded:
		return rbee.CodeWorkerNotReady, o.hive.excluded
	case elsewhere:
		return rbee.CodeWorkerNotReady, "another hive was asked for"
	case tried:
		return rbee.CodeWorkerNotReady, "the request failed there already"
	case full:
		return rbee.CodeAllSlotsBusy, fmt.Sprintf("%d requests are there, and worker %s takes %d at once and %d in its queue",
			t.requests, o.worker.ID, o.slots, o.room-o.slots)
	case short:
		return rbee.CodeContextLengthExceeded, fmt.Sprintf("about %d tokens of the prompt do not fit into a context of %d", req.PromptTokens, o.context)
	}
	return "", ""
}

// Explain is the decision with up to n alternatives, and the reason.
func (d *Decision) Explain(n int) rbee.RouteDecision {
	m := d.market
	var open, closed []rbee.Route
	no := verdicts{d: d}
	another := m.another(d.seen, &d.request)
	for i := range m.options {
		o, t := &m.options[i], d.seen[i]
		if i == d.at {
			continue
		}
		r := o.route(o.with(o.delay(t, another), t, d.request.PromptTokens, hit(t.hits.most(), &d.request)))
		b := o.obstacle(t, &d.request, d.strict)
		if b == free {
			open = append(open, r)
			continue
		}
		var code rbee.Code
		code, r.Excluded = o.refused(b, t, &d.request)
		no.add(o.hive, code, r.Excluded)
		closed = append(closed, r)
	}
	byCost := func(a, b rbee.Route) int { return cmp.Compare(a.Cost.Total, b.Cost.Total) }
	slices.SortStableFunc(open, byCost)
	slices.SortStableFunc(closed, byCost)
	for _, x := range m.out {
		no.add(x.hive, x.code, x.why)
		r := rbee.Route{Hive: x.hive.id, HiveName: x.hive.name, Kind: rbee.RouteStart, Excluded: x.why}
		if x.model == nil {
			r.Kind = rbee.RouteDownload
		}
		closed = append(closed, r)
	}
	all := slices.Concat(open, closed)
	out := rbee.RouteDecision{Others: append([]rbee.Route{}, all[:min(n, len(all))]...)}
	r, ok := d.Route()
	if !ok {
		out.Code, out.Sentence = no.sum()
		return out
	}
	out.Chosen, out.Sentence = &r, d.reason(r, open, no)
	return out
}

// verdicts collects why hives cannot take a request.
type verdicts struct {
	d    *Decision
	code rbee.Code
	whys []string
}

// gravest are the codes of a request that no hive can take, the one first that
// says best what to do: wait, or do something.
var gravest = [...]rbee.Code{
	rbee.CodeAllSlotsBusy, rbee.CodeWorkerNotReady, rbee.CodeInsufficientRAM, rbee.CodeContextLengthExceeded, rbee.CodeModelNotFound,
}

func (v *verdicts) add(h *site, code rbee.Code, why string) {
	if !h.named(v.d.request.Node) {
		return
	}
	if v.code == "" || slices.Index(gravest[:], code) < slices.Index(gravest[:], v.code) {
		v.code = code
	}
	v.whys = append(v.whys, h.name+": "+why)
}

// said is at most this many reasons.
const said = 4

func (v *verdicts) list() string {
	if more := len(v.whys) - said; more > 0 {
		return fmt.Sprintf("%s; and %d more", strings.Join(v.whys[:said], "; "), more)
	}
	return strings.Join(v.whys, "; ")
}

// sum is the code and the reason for a request that no hive can take.
func (v *verdicts) sum() (rbee.Code, string) {
	m, node := v.d.market, v.d.request.Node
	switch {
	case len(m.places) == 0:
		return rbee.CodeWorkerNotReady, "goes nowhere: no hive is in the colony"
	case len(v.whys) == 0:
		return rbee.CodeHiveNotFound, fmt.Sprintf("goes nowhere: none of the %d hives of the colony is called %s", len(m.places), node)
	}
	return v.code, fmt.Sprintf("goes nowhere, since no hive can serve %s now: %s", m.ref, v.list())
}

// reason says why a route was chosen.
func (d *Decision) reason(r rbee.Route, open []rbee.Route, no verdicts) string {
	var b strings.Builder
	fmt.Fprintf(&b, "goes to %s, %s: the first token is expected in %s", r.HiveName, state(r), seconds(r.Cost.Total))
	if parts := d.parts(r); len(parts) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(parts, ", "))
	}
	switch {
	case len(open) > 0:
		next := open[0]
		fmt.Fprintf(&b, ". Next best is %s, %s: %s", next.HiveName, state(next), seconds(next.Cost.Total))
		if dearest := dearest(next.Cost); dearest != "" {
			fmt.Fprintf(&b, ", most of it %s", dearest)
		}
	case d.request.Node != "":
		b.WriteString(". It was asked for by name")
	default:
		b.WriteString(". No other can take it now")
		if len(no.whys) > 0 {
			fmt.Fprintf(&b, " (%s)", no.list())
		}
	}
	return b.String()
}

// state says what a route begins with.
func state(r rbee.Route) string {
	switch r.Kind {
	case rbee.RouteReady:
		return fmt.Sprintf("whose worker %s is ready", r.Worker)
	case rbee.RouteLoading:
		return fmt.Sprintf("whose worker %s is loading the model", r.Worker)
	case rbee.RouteStart:
		return "which has the model on its disk"
	default:
		return "which downloads the model"
	}
}

// parts tells the parts of a cost, those that count.
func (d *Decision) parts(r rbee.Route) (list []string) {
	c, t := r.Cost, d.seen[d.at]
	add := func(s float64, format string, args ...any) {
		if s >= 0.0005 {
			list = append(list, seconds(s)+" "+fmt.Sprintf(format, args...))
		}
	}
	add(c.Download, "to download the model")
	add(c.Load, "until it is loaded")
	add(c.Evict, "that others lose when idle workers end for it")
	switch o := &d.market.options[d.at]; {
	case o.wait > 0:
		add(c.Queue, "until busy workers give memory back")
	case t.requests >= o.slots:
		add(c.Queue, "until one of its %d slots is free for this request, with %d before it", o.slots, t.requests)
	default:
		add(c.Queue, "to compute about %d prompt tokens of requests before it", t.tokens)
	}
	if c.CachedTokens > 0 {
		add(c.Prefill, "to compute %d of about %d prompt tokens, the others are in its cache", c.UncachedTokens, d.request.PromptTokens)
	} else {
		add(c.Prefill, "to compute about %d prompt tokens", c.UncachedTokens)
	}
	if t.door == 0 && r.Worker == "" {
		add(c.Guard, "because the model is loaded, or being loaded, elsewhere already")
	} else {
		add(c.Guard, "because it computes %d other requests meanwhile", t.requests)
	}
	return list
}

// dearest names the greatest part of a cost.
func dearest(c rbee.RouteCost) string {
	name, most := "", 0.0
	parts := []struct {
		s    float64
		name string
	}{
		{c.Queue, "waiting for others"},
		{c.Load, "loading the model"},
		{c.Evict, "what ending idle workers costs"},
		{c.Download, "downloading the model"},
		{c.Prefill, "computing the prompt"},
		{c.Guard, "being busy already"},
	}
	for _, p := range parts {
		if p.s > most {
			name, most = p.name, p.s
		}
	}
	return name
}

// seconds is a time as one would say it.
func seconds(s float64) string {
	switch {
	case s < 1:
		return fmt.Sprintf("%.0f ms", 1000*s)
	case s < 10:
		return fmt.Sprintf("%.1f s", s)
	case s < 600:
		return fmt.Sprintf("%.0f s", s)
	default:
		return fmt.Sprintf("%.0f min", s/60)
	}
}
