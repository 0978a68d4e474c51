package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"rbee"
)

// Plan asks a queen where a request of OpenAI's API would go, and why; nothing
// is sent. The node is a hive that must serve it, or "".
func (c *Client) Plan(ctx context.Context, request any, node string) (rbee.Plan, error) {
	return call[rbee.Plan](ctx, c, http.MethodPost, "/v1/plan"+"?node="+url.QueryEscape(node), request)
}

// RouteDecisions lists up to limit requests of a queen, newest first, and where
// they went.
func (c *Client) RouteDecisions(ctx context.Context, limit int) ([]rbee.DecisionRecord, error) {
	l, err := call[rbee.DecisionRecordList](ctx, c, http.MethodGet, "/v1/decisions"+"?limit="+strconv.Itoa(limit), nil)
	return l.Decisions, err
}

// RouteDecision tells where a request went, why, and of what that was decided.
func (c *Client) RouteDecision(ctx context.Context, requestID string) (rbee.DecisionRecord, error) {
	return call[rbee.DecisionRecord](ctx, c, http.MethodGet, "/v1/decisions/"+url.PathEscape(requestID), nil)
}

// ServedModels lists the models that a queen can have served.
func (c *Client) ServedModels(ctx context.Context) ([]rbee.ServedModel, error) {
	l, err := call[rbee.ServedModelList](ctx, c, http.MethodGet, "/v1/models", nil)
	return l.Data, err
}
