package hub_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"rbee"
	"rbee/internal/hub"
)

func TestACertificateThatIsNotValidNowPointsToTheClock(t *testing.T) {
	for name, valid := range map[string][2]time.Duration{"expired": {-48 * time.Hour, -24 * time.Hour}, "not yet valid": {24 * time.Hour, 48 * time.Hour}} {
		t.Run(name, func(t *testing.T) {
			secure, pool := serveUntimely(t, time.Now().Add(valid[0]), time.Now().Add(valid[1]))
			c := newClient(t, hub.Config{Endpoint: secure.URL})
			c.Trust(pool)
			_, err := c.Repository(t.Context(), repo, "")
			e := rbee.AsError(err)
			if e == nil || e.Code != rbee.CodeDownloadFailed || !strings.Contains(e.Message, "is not valid at "+time.Now().UTC().Format(time.DateOnly)+" by the clock of this machine") ||
				!strings.HasPrefix(e.Suggestion(), "set the clock") {
				t.Errorf("got %v, suggestion %q", err, e.Suggestion())
			}
		})
	}
}

// serveUntimely serves with a certificate that is trusted, at another time.
func serveUntimely(t *testing.T, from, to time.Time) (*httptest.Server, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: to, IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(made)
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, pool
}
