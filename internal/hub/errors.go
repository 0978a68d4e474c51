package hub

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"rbee"
	"rbee/internal/download"
)

// maxPause bounds what a Pause of a Source asks for.
const maxPause = 5 * time.Minute

// want is what a request is for, as its errors name it.
type want struct{ repo, revision, file string }

func (w want) String() string {
	switch {
	case w.repo == "":
		return "search for models"
	case w.file == "":
		return "list " + w.repo
	}
	return "download " + w.file + " of " + w.repo
}

// temporary is a failure that may be over at the next attempt.
type temporary struct {
	words string // for a user
	cause error  // for a log
}

func (e *temporary) Error() string { return e.words }
func (e *temporary) Unwrap() error { return e.cause }

// paused is temporary, and over at a time that the hub named.
type paused struct {
	temporary
	after time.Duration
}

// RetryAfter implements download.Pause.
func (e *paused) RetryAfter() time.Duration { return e.after }

// untimely is a certificate that is not valid now, as the clock of this machine
// has it: more often that is wrong than the certificate.
type untimely struct {
	host  string
	at    time.Time
	cause error
}

func (e *untimely) Error() string {
	return fmt.Sprintf("the certificate of %s is not valid at %s by the clock of this machine", e.host, e.at.UTC().Format(time.DateOnly))
}

func (e *untimely) Unwrap() error { return e.cause }

func isTemporary(err error) bool {
	_, simple := errors.AsType[*temporary](err)
	_, pause := errors.AsType[download.Pause](err)
	return simple || pause
}

// ready says why the hub cannot be asked at all, or nil.
func (c *Client) ready(w want) error {
	if c.unusable != nil {
		return c.unusable
	}
	if c.cfg.Offline {
		return c.failed(w, "HF_HUB_OFFLINE is set").
			Suggest("unset HF_HUB_OFFLINE and start the hive again, or use a model of 'rbee models list'")
	}
	return nil
}

// failed is DOWNLOAD_FAILED with a reason.
func (c *Client) failed(w want, reason string) *rbee.Error {
	return rbee.Errorf(rbee.CodeDownloadFailed, "cannot %s on %s: %s", w, c.endpoint.Host, reason)
}

// gaveUp is the error after the last attempt.
func (c *Client) gaveUp(w want, last error) error {
	return c.failed(w, fmt.Sprintf("%s, in %d attempts", last, attempts)).WithCause(last).
		Suggest("check the network, HTTPS_PROXY and HF_ENDPOINT, then try again")
}

// named makes a final error of one that says what is wrong with an answer.
func (c *Client) named(w want, err error) error {
	if rbee.CodeOf(err) != "" {
		return err
	}
	if e, ok := errors.AsType[*untimely](err); ok {
		return c.failed(w, e.Error()).WithCause(err).
			Suggest("set the clock of this machine; if it is right, the certificate of %s has expired", e.host)
	}
	return c.failed(w, "the hub's answer cannot be used: "+err.Error()).WithCause(err).
		Suggest("check that HF_ENDPOINT and HTTPS_PROXY lead to a hub")
}

// refusal is the error of an answer that brings nothing. Of what the hub sends,
// its code is used and its message is not repeated.
func (c *Client) refusal(w want, at *url.URL, answer *http.Response) error {
	status, code := answer.StatusCode, answer.Header.Get("X-Error-Code")
	// What is not the hub knows files by addresses that end, and no repositories.
	elsewhere := !c.isEndpoint(at) && w.file != "" && code == ""
	page := c.endpoint.String() + "/" + w.repo
	switch {
	case status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout || elsewhere:
		return later(at.Host, answer)
	case code == "GatedRepo":
		return c.failed(w, w.repo+" is gated: its terms must be accepted").
			Suggest("accept them on %s, then set HF_TOKEN to a token of that account and start the hive again", page)
	case code == "RevisionNotFound":
		return c.missing(w, fmt.Sprintf("%s has no revision %s", w.repo, w.revision)).
			Suggest("look for the branches, tags and commits on %s", page)
	case code == "EntryNotFound":
		return c.missing(w, fmt.Sprintf("revision %s has no such file", w.revision)).
			Suggest("look for its name with 'rbee models pull %s --list'", w.repo)
	case code == "" && status == http.StatusUnauthorized && c.cfg.Token != "":
		return c.failed(w, "the hub does not know the token").
			Suggest("set HF_TOKEN to a token that is valid on %s and start the hive again, or unset it", c.endpoint.Host)
	case code == "RepoNotFound" || status == http.StatusUnauthorized || status == http.StatusNotFound || status == http.StatusGone:
		return c.absent(w)
	case status == http.StatusForbidden && c.cfg.Token == "":
		return c.failed(w, "the hub forbids it without a token").
			Suggest("set HF_TOKEN and start the hive again")
	case status == http.StatusForbidden:
		return c.failed(w, "the hub forbids it to the account of the token").
			Suggest("set HF_TOKEN to a token that may read %s and start the hive again", w.repo)
	}
	return c.failed(w, fmt.Sprintf("the hub answered %d", status)).
		Suggest("check that HF_ENDPOINT and HTTPS_PROXY lead to a hub")
}

func (c *Client) missing(w want, reason string) *rbee.Error {
	return rbee.Errorf(rbee.CodeModelNotFound, "cannot %s on %s: %s", w, c.endpoint.Host, reason)
}

// absent is the error for what the hub does not have, or does not show.
func (c *Client) absent(w want) *rbee.Error {
	switch {
	case w.repo == "":
		return c.missing(w, "there is no search").Suggest("check that HF_ENDPOINT leads to a hub")
	case c.cfg.Token == "":
		return c.missing(w, w.repo+" is not there, or needs a token").
			Suggest("check the name; for a private repository set HF_TOKEN and start the hive again")
	}
	return c.missing(w, w.repo+" is not there, or the account of the token may not see it").
		Suggest("check the name, and whose token HF_TOKEN is")
}

// later is the error of an answer that may be another one next time.
func later(host string, answer *http.Response) error {
	e := temporary{words: fmt.Sprintf("%s answered %d", host, answer.StatusCode)}
	if answer.StatusCode == http.StatusTooManyRequests {
		e.words = host + " wants fewer requests (429)"
	}
	if answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusServiceUnavailable {
		if pause := askedPause(answer.Header, time.Now()); pause > 0 {
			return &paused{temporary: e, after: min(pause, maxPause)}
		}
	}
	return &e
}

// askedPause reads how long a server wants no request: from Retry-After, in
// seconds or as a date, or from the hub's RateLimit, such as "api";r=0;t=17.
func askedPause(h http.Header, now time.Time) time.Duration {
	seconds := strings.TrimSpace(h.Get("Retry-After"))
	if date, err := http.ParseTime(seconds); err == nil {
		return date.Sub(now)
	}
	if seconds == "" {
		for parameter := range strings.SplitSeq(h.Get("RateLimit"), ";") {
			if t, ok := strings.CutPrefix(strings.TrimSpace(parameter), "t="); ok {
				seconds = t
			}
		}
	}
	n, err := strconv.ParseUint(seconds, 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// failure says in words why a connection to a host brought no answer, or not all
// of it. When ctx is done, that is the reason.
func failure(ctx context.Context, host string, err error) error {
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return context.Cause(ctx)
	}
	if t, ok := errors.AsType[*temporary](err); ok {
		return t
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return &untimely{host: host, at: time.Now(), cause: err}
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("the certificate of %s is not to be trusted", host)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return fmt.Errorf("%s does not speak TLS", host)
	}
	words := "the connection to " + host + " failed"
	op, _ := errors.AsType[*net.OpError](err)
	dns, _ := errors.AsType[*net.DNSError](err)
	timeout, _ := errors.AsType[net.Error](err)
	switch {
	case op != nil && op.Op == "proxyconnect":
		words = "the proxy cannot be reached"
	case dns != nil && dns.IsNotFound:
		words = "the name " + host + " is not known"
	case dns != nil:
		words = "the name " + host + " cannot be looked up"
	case timeout != nil && timeout.Timeout():
		words = host + " did not answer in time"
	case errors.Is(err, syscall.ECONNREFUSED):
		words = "nothing listens at " + host
	case errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH):
		words = "there is no way to " + host
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
		words = "the connection to " + host + " was cut"
	}
	return &temporary{words: words, cause: err}
}
