package hub

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"time"

	"rbee/internal/download"
)

// What tests of the package need to see.
var (
	DecodeRepository = decodeRepository
	DecodeSearch     = decodeSearch
	UsablePath       = usablePath
	AskedPause       = askedPause
	PauseBefore      = pauseBefore
)

// Hurry makes attempts shorter, and pauses that the hub does not ask for.
func (c *Client) Hurry(attempt time.Duration) {
	c.attemptTime = attempt
	c.pauseBefore = func(n int, failure error) time.Duration {
		if _, asked := errors.AsType[download.Pause](failure); asked {
			return pauseBefore(n, failure)
		}
		return time.Millisecond
	}
}

// Trust makes the client accept the certificates of a test's server.
func (c *Client) Trust(pool *x509.CertPool) {
	c.transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}
