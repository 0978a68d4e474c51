package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"rbee"
)

const (
	maxRedirects   = 10
	dialTime       = 10 * time.Second
	headerTime     = 30 * time.Second
	maxConnections = 16 // that wait for another range
)

// newTransport speaks HTTP/1.1 only: ranges that are fetched in parallel are to
// be connections of their own, not streams of one.
func newTransport() *http.Transport {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTime}).DialContext,
		TLSHandshakeTimeout:   dialTime,
		ResponseHeaderTimeout: headerTime,
		IdleConnTimeout:       headerTime,
		MaxIdleConnsPerHost:   maxConnections,
		ReadBufferSize:        64 << 10,
		DisableCompression:    true,
		Protocols:             protocols,
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
			if answer.StatusCode != http.StatusOK {
				return &temporary{words: fmt.Sprintf("the proxy answered %d", answer.StatusCode)}
			}
			return nil
		},
	}
}

// send makes one GET request. It goes past http.Client, which would let the
// token follow to hosts below the hub's, and writes addresses into errors.
func (c *Client) send(ctx context.Context, u *url.URL, byteRange string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errors.New("it sent an address that is none")
	}
	req.Header.Set("User-Agent", "rbee/"+rbee.Version)
	req.Header.Set("Accept-Encoding", "identity")
	if byteRange != "" {
		req.Header.Set("Range", byteRange)
	}
	if c.cfg.Token != "" && c.isEndpoint(u) {
		req.Header.Set("Authorization", "Bearer "+c.cfg.Token)
	}
	answer, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, failure(ctx, u.Host, err)
	}
	return answer, nil
}

// follow sends a request to the endpoint and then wherever it is sent on to, up
// to an answer that is no redirect. See is shown what the endpoint itself answers.
func (c *Client) follow(ctx context.Context, u *url.URL, byteRange string, see func(*http.Response) error) (*http.Response, *url.URL, error) {
	for range maxRedirects + 1 {
		answer, err := c.send(ctx, u, byteRange)
		if err != nil {
			return nil, nil, err
		}
		if c.isEndpoint(u) {
			err = see(answer)
		}
		location := answer.Header.Get("Location")
		if err == nil && (answer.StatusCode/100 != 3 || location == "") {
			return answer, u, nil
		}
		discard(answer)
		if err != nil {
			return nil, nil, err
		}
		next, err := u.Parse(location)
		switch {
		case err != nil || next.Host == "" || next.Scheme != "http" && next.Scheme != "https":
			return nil, nil, errors.New("it redirects to something that is no address")
		case next.Scheme == "http" && c.endpoint.Scheme == "https":
			return nil, nil, errors.New("it redirects to a connection that is not encrypted")
		}
		next.User, next.Fragment = nil, ""
		u = next
	}
	return nil, nil, fmt.Errorf("it redirects more than %d times", maxRedirects)
}

// document gets a small answer of the hub's API.
func (c *Client) document(ctx context.Context, w want, path string) ([]byte, error) {
	u, err := url.Parse(c.endpoint.String() + path)
	if err != nil {
		return nil, errors.New("the name makes no address")
	}
	answer, at, err := c.follow(ctx, u, "", func(*http.Response) error { return nil })
	if err != nil {
		return nil, err
	}
	defer discard(answer)
	if answer.StatusCode != http.StatusOK {
		return nil, c.refusal(w, at, answer)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxDocumentBytes+1))
	if err != nil {
		return nil, failure(ctx, at.Host, err)
	}
	if len(body) > maxDocumentBytes {
		return nil, fmt.Errorf("it has more than %d MiB", maxDocumentBytes>>20)
	}
	return body, nil
}

// isEndpoint says whether an address belongs to the hub itself: same scheme, host
// and port.
func (c *Client) isEndpoint(u *url.URL) bool { return origin(u) == origin(c.endpoint) }

func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// discard ends an answer so that its connection can be used again, if little of
// it is left.
func discard(answer *http.Response) {
	_, _ = io.CopyN(io.Discard, answer.Body, 16<<10)
	_ = answer.Body.Close()
}
