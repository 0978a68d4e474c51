package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"rbee/internal/download"
)

// Source is a file of a repository. It remembers where the hub sent it, and what
// the file was called there, for as long as that holds.
type Source struct {
	client *Client
	want   want
	file   File

	mu    sync.Mutex
	etag  string // that the hub gave first, where the listing has no digest
	place *place
}

// place is an address that a hub redirects to. It ends after a while.
type place struct {
	url  *url.URL
	etag string // of the first answer there
}

var _ download.Source = (*Source)(nil)

// Open implements download.Source. It makes one attempt: one request where the
// place of the file is known, and the way there from the hub where it is not or
// does not hold any more. It blocks until the header of the answer is there, at
// most 30 s for each request.
func (s *Source) Open(ctx context.Context, from, to int64) (io.ReadCloser, error) {
	if err := s.client.ready(s.want); err != nil {
		return nil, err
	}
	if from >= to {
		return http.NoBody, nil
	}
	answer, at, err := s.get(ctx, fmt.Sprintf("bytes=%d-%d", from, to-1))
	if err == nil {
		if err = s.check(answer, at, from); err == nil {
			return &body{ctx: ctx, host: at.Host, rest: to - from, from: answer.Body}, nil
		}
		_ = answer.Body.Close()
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, download.ErrChanged) || errors.Is(err, download.ErrNoRanges) || isTemporary(err):
		return nil, err
	}
	return nil, s.client.named(s.want, err)
}

// get sends the request to the place that is known, or by way of the hub.
func (s *Source) get(ctx context.Context, byteRange string) (*http.Response, *url.URL, error) {
	s.mu.Lock()
	known := s.place
	s.mu.Unlock()
	if known != nil {
		answer, err := s.client.send(ctx, known.url, byteRange)
		if err != nil || !ended(answer.StatusCode) {
			return answer, known.url, err
		}
		discard(answer)
		s.mu.Lock()
		if s.place == known {
			s.place = nil
		}
		s.mu.Unlock()
	}
	elements := strings.Split(s.file.Path, "/")
	for i, e := range elements {
		elements[i] = url.PathEscape(e)
	}
	c := s.client
	u, err := url.Parse(c.endpoint.String() + "/" + s.want.repo + "/resolve/" + url.PathEscape(s.want.revision) + "/" + strings.Join(elements, "/"))
	if err != nil {
		return nil, nil, errors.New("the name makes no address")
	}
	answer, at, err := c.follow(ctx, u, byteRange, s.see)
	if err == nil && !c.isEndpoint(at) && answer.StatusCode/100 == 2 {
		s.mu.Lock()
		s.place = &place{url: at}
		s.mu.Unlock()
	}
	return answer, at, err
}

// ended says whether a status is that of a signed address which has expired.
func ended(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusNotFound || status == http.StatusGone
}

// see compares what the hub says of the file with what its listing said.
func (s *Source) see(answer *http.Response) error {
	h := answer.Header
	if answer.StatusCode >= 400 {
		return nil // the tag is that of an error's page
	}
	if size := h.Get("X-Linked-Size"); size != "" && size != strconv.FormatInt(s.file.SizeBytes, 10) {
		return download.ErrChanged
	}
	etag := tag(h, "X-Linked-ETag")
	if etag == "" && answer.StatusCode < 300 { // the tag of a redirect is its own
		etag = tag(h, "ETag")
	}
	switch {
	case etag == "":
		return nil
	case s.file.SHA256 != "" && isHex(etag, 64):
		return changed(etag != s.file.SHA256)
	case s.file.SHA256 == "" && s.file.BlobID != "" && isHex(etag, 40):
		return changed(etag != s.file.BlobID)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return remember(&s.etag, etag)
}

// check says what is wrong with the header of the last answer.
func (s *Source) check(answer *http.Response, at *url.URL, from int64) error {
	size := s.file.SizeBytes
	switch answer.StatusCode {
	case http.StatusPartialContent:
		begin, total, ok := contentRange(answer.Header.Get("Content-Range"))
		if !ok || begin != from {
			return &temporary{words: at.Host + " answered with other bytes than it was asked for"}
		}
		if total != size {
			return download.ErrChanged
		}
	case http.StatusOK:
		if from > 0 {
			return download.ErrNoRanges
		}
		if answer.ContentLength >= 0 && answer.ContentLength != size {
			return download.ErrChanged
		}
	case http.StatusRequestedRangeNotSatisfiable:
		return download.ErrChanged
	default:
		return s.client.refusal(s.want, at, answer)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.place == nil || s.place.url != at {
		return nil
	}
	return remember(&s.place.etag, tag(answer.Header, "ETag"))
}

// remember keeps the first tag and says whether a later one is another.
func remember(known *string, etag string) error {
	if *known == "" {
		*known = etag
	}
	return changed(etag != "" && etag != *known)
}

func changed(is bool) error {
	if is {
		return download.ErrChanged
	}
	return nil
}

// tag is an entity tag without its quotes, and without the mark of a weak one.
func tag(h http.Header, name string) string {
	return strings.Trim(strings.TrimPrefix(h.Get(name), "W/"), `"`)
}

// contentRange reads "bytes BEGIN-END/TOTAL".
func contentRange(s string) (begin, total int64, ok bool) {
	spec, isBytes := strings.CutPrefix(s, "bytes ")
	span, all, _ := strings.Cut(spec, "/")
	start, _, _ := strings.Cut(span, "-")
	begin, err1 := strconv.ParseInt(start, 10, 64)
	total, err2 := strconv.ParseInt(all, 10, 64)
	return begin, total, isBytes && err1 == nil && err2 == nil
}

// body is the bytes that were asked for, whatever else the answer has.
type body struct {
	ctx  context.Context // of the request, for why it ended
	host string
	rest int64
	from io.ReadCloser
}

func (b *body) Read(p []byte) (int, error) {
	if b.rest <= 0 {
		return 0, io.EOF
	}
	n, err := b.from.Read(p[:min(int64(len(p)), b.rest)])
	b.rest -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = failure(b.ctx, b.host, err)
	}
	return n, err
}

func (b *body) Close() error { return b.from.Close() }
