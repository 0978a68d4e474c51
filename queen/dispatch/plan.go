package dispatch

import (
	"bytes"
	"context"
	"encoding/json"

	"rbee"
	"rbee/queen/sched"
)

// PlanIn is a request as it would be sent to one of the endpoints that compute.
type PlanIn struct {
	Node string          `query:"node" maxLength:"256" doc:"the hive that must serve it, by name or id"`
	Body json.RawMessage `doc:"a body of /v1/chat/completions, /v1/completions or /v1/embeddings"`
}

// PlanReply is where it would go.
type PlanReply struct{ Body rbee.Plan }

// Plan serves POST /v1/plan: it decides, and sends nothing.
func (d *Dispatcher) Plan(_ context.Context, in *PlanIn) (*PlanReply, error) {
	f := &flight{d: d, path: pathOf(in.Body)}
	if _, err := f.read(in.Body, in.Node); err != nil {
		return nil, err
	}
	return &PlanReply{planOf(sched.Decide(d.cfg.Colony.Snapshot(), &f.req), f.req)}, nil
}

// pathOf is the endpoint that a body is for, as far as its fields tell.
func pathOf(body []byte) string {
	var fields map[string]json.RawMessage
	dec := json.NewDecoder(bytes.NewReader(body))
	_ = dec.Decode(&fields) // what is wrong with it is found out later
	switch {
	case fields["messages"] != nil:
		return "/v1/chat/completions"
	case fields["input"] != nil:
		return "/v1/embeddings"
	}
	return "/v1/completions"
}

func planOf(d *sched.Decision, req rbee.RouteRequest) rbee.Plan {
	return rbee.Plan{Request: req, RouteDecision: d.Explain(shownOthers)}
}

// DecisionsIn says how many.
type DecisionsIn struct {
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

// DecisionsReply is a list of decisions.
type DecisionsReply struct{ Body rbee.DecisionRecordList }

// ListDecisions serves GET /v1/decisions.
func (d *Dispatcher) ListDecisions(_ context.Context, in *DecisionsIn) (*DecisionsReply, error) {
	list := []rbee.DecisionRecord{}
	for _, r := range d.journal.newest(in.Limit) {
		list = append(list, r.tell(false))
	}
	return &DecisionsReply{rbee.DecisionRecordList{Decisions: list}}, nil
}

// DecisionIn names a request.
type DecisionIn struct {
	ID string `path:"id" maxLength:"128"`
}

// DecisionReply is what was decided for it.
type DecisionReply struct{ Body rbee.DecisionRecord }

// ShowDecision serves GET /v1/decisions/{id}.
func (d *Dispatcher) ShowDecision(_ context.Context, in *DecisionIn) (*DecisionReply, error) {
	r := d.journal.find(in.ID)
	if r == nil {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "no request with this id is known: the queen keeps the last %d, fewer in a large colony", maxRecords).
			Suggest("see the last ones with 'rbee why'")
	}
	return &DecisionReply{r.tell(true)}, nil
}
