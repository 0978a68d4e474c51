package client

import (
	"bytes"
	"io"
	"net/http"

	"rbee"
)

// Routed is what a caller wants of the way that a queen chooses for a request,
// and wants to know of it.
type Routed struct {
	Node      string                    // the hive that must serve it, by name or id; "" for any
	RequestID string                    // "" for one that the queen makes
	Waits     func(what string)         // called with each line about what the request waits for
	Place     func(hive, worker string) // called once it is known; never where the wait was long
}

// Routed is a client with the same key and transport whose requests go as r says.
func (c *Client) Routed(r Routed) *Client {
	routed := *c
	routed.routed = r
	return &routed
}

// ask writes into the headers what is wanted.
func (r Routed) ask(h http.Header) {
	if r.Node != "" {
		h.Set(rbee.NodeHeader, r.Node)
	}
	if r.RequestID != "" {
		h.Set(rbee.RequestIDHeader, r.RequestID)
	}
}

// hear tells the caller what a reply says of its way, and returns its body.
func (r Routed) hear(resp *http.Response) io.Reader {
	if hive := resp.Header.Get(rbee.HiveHeader); hive != "" && r.Place != nil {
		r.Place(hive, resp.Header.Get(rbee.WorkerHeader))
	}
	if r.Waits == nil {
		return resp.Body
	}
	return &commentReader{r: resp.Body, tell: r.Waits}
}

// maxComment bounds what is kept of a line.
const maxComment = 1 << 10

// commentReader hands a stream of events on as it is, and tells the comments in
// it, which readers of events never see.
type commentReader struct {
	r    io.Reader
	tell func(string)
	line []byte // what there is of a line that may be a comment
	over bool   // the rest of the line is none
}

// Read implements io.Reader.
func (c *commentReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		part, after, ended := bytes.Cut(rest, []byte("\n"))
		c.take(part)
		if ended {
			c.end()
		}
		rest = after
	}
	return n, err
}

func (c *commentReader) take(part []byte) {
	if c.over || len(part) == 0 {
		return
	}
	if c.over = len(c.line) == 0 && part[0] != ':'; !c.over {
		c.line = append(c.line, part[:min(len(part), maxComment-len(c.line))]...)
	}
}

func (c *commentReader) end() {
	if text := bytes.TrimSpace(bytes.TrimPrefix(c.line, []byte(":"))); len(text) > 0 {
		c.tell(string(text))
	}
	c.line, c.over = c.line[:0], false
}
