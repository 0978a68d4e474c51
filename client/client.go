// Package client is the only code that calls the HTTP APIs of rbee's daemons.
// A failure that a daemon reported comes back as the same *rbee.Error; a
// daemon that cannot be reached is a CONNECTION_TIMEOUT naming the address.
//
// It never retries and never prints: whoever calls decides.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"rbee"
	"rbee/internal/sse"
)

// maxReplyBytes bounds a reply that is read whole.
const maxReplyBytes = 64 << 20

// Client calls one daemon. It is safe for concurrent use.
type Client struct {
	base string
	key  string
	http *http.Client

	routed Routed
}

// Option changes a Client under construction.
type Option func(*Client)

// Key sends the bearer key with each request; "" sends none.
func Key(key string) Option { return func(c *Client) { c.key = key } }

// New makes a client for the daemon at base, such as http://127.0.0.1:8080,
// or for a worker behind a hive, such as http://127.0.0.1:8080/v1/workers/w1.
func New(base string, opts ...Option) *Client {
	// A transport of its own, so that a daemon that goes takes no foreign connections with it.
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil // our daemons are never behind the proxy of the web
	c := &Client{base: strings.TrimRight(base, "/"), http: &http.Client{Transport: t}}
	for _, o := range opts {
		o(c)
	}
	return c
}

// Base is the address the client was made for.
func (c *Client) Base() string { return c.base }

// At is a client with the same key and transport for another base, such as a worker's URL.
func (c *Client) At(base string) *Client {
	return &Client{base: strings.TrimRight(base, "/"), key: c.key, http: c.http}
}

// Close drops the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// send makes a request and returns the response of a success; the caller closes its body.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("cannot encode the request %s %s: %w", method, path, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot make a request to %s: %w", c.base, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	c.routed.ask(req.Header)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		return nil, c.failure(resp)
	}
	return resp, nil
}

// unreachable tells a request that the caller gave up from a daemon that did not answer.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return context.Cause(ctx)
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // without the URL, which the message already names
	}
	return rbee.Errorf(rbee.CodeConnectionTimeout, "cannot reach %s: %w", c.base, err)
}

// failure rebuilds the error that the daemon reported.
func (c *Client) failure(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return rbee.Errorf(rbee.CodeConnectionTimeout, "cannot read the reply of %s: %w", c.base, err)
	}
	var body rbee.ErrorBody
	if json.Unmarshal(b, &body) == nil && body.Error != nil && body.Error.Code != "" {
		return body.Error
	}
	return rbee.Errorf(rbee.CodeInternalError, "%s answered %s and is not a program of rbee", c.base, resp.Status).
		Suggest("check the address")
}

// call makes a request and decodes the reply into an Out.
func call[Out any](ctx context.Context, c *Client, method, path string, in any) (Out, error) {
	var out Out
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		return out, nil
	}
	return out, c.decode(ctx, resp, &out)
}

func (c *Client) decode(ctx context.Context, resp *http.Response, out any) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReplyBytes))
	if err != nil {
		return c.unreachable(ctx, err)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return rbee.Errorf(rbee.CodeInternalError, "cannot read the reply of %s: it is not what a program of rbee says", c.base).
			WithCause(err).Suggest("check the address")
	}
	return nil
}

// stream makes a request and yields the events of the reply. Leaving the loop
// closes the connection, which tells the daemon to stop.
func stream[T any](ctx context.Context, c *Client, method, path string, in any) func(func(T, error) bool) {
	return func(yield func(T, error) bool) {
		var zero T
		resp, err := c.send(ctx, method, path, in)
		if err != nil {
			yield(zero, err)
			return
		}
		defer resp.Body.Close()
		for v, err := range sse.Read[T](c.routed.hear(resp)) {
			if err != nil && ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			if !yield(v, err) {
				return
			}
		}
	}
}

// Health asks whether the daemon lives, and its versions.
func (c *Client) Health(ctx context.Context) (rbee.Health, error) {
	return call[rbee.Health](ctx, c, http.MethodGet, "/v1/health", nil)
}

// Shutdown tells the daemon to end: it drains, ends what it started, and exits.
// It returns when the daemon has taken the order, not when it is gone.
func (c *Client) Shutdown(ctx context.Context) (rbee.Message, error) {
	return call[rbee.Message](ctx, c, http.MethodPost, "/v1/shutdown", nil)
}

// Metrics returns the daemon's figures in the text format of Prometheus.
func (c *Client) Metrics(ctx context.Context) (string, error) {
	return c.text(ctx, "/metrics")
}

// OpenAPI returns the daemon's OpenAPI document (JSON).
func (c *Client) OpenAPI(ctx context.Context) (string, error) {
	return c.text(ctx, "/openapi.json")
}

func (c *Client) text(ctx context.Context, path string) (string, error) {
	resp, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReplyBytes))
	if err != nil {
		return "", c.unreachable(ctx, err)
	}
	return string(b), nil
}
