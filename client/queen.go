package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	"rbee"
)

// Hives lists the hives of a queen's colony.
func (c *Client) Hives(ctx context.Context) ([]rbee.ColonyHive, error) {
	l, err := call[rbee.HiveList](ctx, c, http.MethodGet, "/v1/hives", nil)
	return l.Hives, err
}

// ColonyWorkers lists the live workers of all hives of a queen's colony.
func (c *Client) ColonyWorkers(ctx context.Context) ([]rbee.PlacedWorker, error) {
	l, err := call[rbee.PlacedWorkerList](ctx, c, http.MethodGet, "/v1/workers", nil)
	return l.Workers, err
}

// ColonyDevices lists the devices of all hives of a queen's colony.
func (c *Client) ColonyDevices(ctx context.Context) ([]rbee.PlacedDevice, error) {
	l, err := call[rbee.PlacedDeviceList](ctx, c, http.MethodGet, "/v1/devices", nil)
	return l.Devices, err
}

// ColonyEvents yields a snapshot of a queen's colony, then its changes, until the
// queen ends or the reader falls behind; then the last error says so and the
// caller may call again.
func (c *Client) ColonyEvents(ctx context.Context) iter.Seq2[rbee.ColonyEvent, error] {
	return stream[rbee.ColonyEvent](ctx, c, http.MethodGet, "/v1/events", nil)
}

// QueenStatus tells how a queen stands with her colony.
func (c *Client) QueenStatus(ctx context.Context) (rbee.QueenStatus, error) {
	return call[rbee.QueenStatus](ctx, c, http.MethodGet, "/v1/status", nil)
}

// Tokens lists the tokens with which hives and queens join a queen's colony.
func (c *Client) Tokens(ctx context.Context) ([]rbee.JoinToken, error) {
	l, err := call[rbee.TokenList](ctx, c, http.MethodGet, "/v1/tokens", nil)
	return l.Tokens, err
}

// NewToken has a queen make a token. Its text is told this once.
func (c *Client) NewToken(ctx context.Context, req rbee.TokenRequest) (rbee.NewToken, error) {
	return call[rbee.NewToken](ctx, c, http.MethodPost, "/v1/tokens", req)
}

// RevokeToken has a queen take nobody in with a token any more, and cut off who
// came with it.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, "/v1/tokens/"+url.PathEscape(id), nil)
	return err
}
