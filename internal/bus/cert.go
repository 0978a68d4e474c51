package bus

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"rbee"
	"rbee/internal/durable"
)

// certificate is the gate's own, made when there is none. Clients know it by
// its key, not by its name, so its dates bind nobody.
func certificate(dir string) (tls.Certificate, error) {
	crt, key := filepath.Join(dir, "gate.crt"), filepath.Join(dir, "gate.key")
	_, crtErr := os.Stat(crt)
	_, keyErr := os.Stat(key)
	if errors.Is(crtErr, fs.ErrNotExist) || errors.Is(keyErr, fs.ErrNotExist) {
		if err := makeCertificate(crt, key); err != nil {
			return tls.Certificate{}, rbee.Errorf(rbee.CodeInvalidRequest, "cannot make the certificate of the colony: %w", err).
				Suggest("make %s writable for this user", dir)
		}
	}
	c, err := tls.LoadX509KeyPair(crt, key)
	if err != nil {
		return c, rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the certificate of the colony: %w", err).
			Suggest("put gate.crt and gate.key in %s back, or remove both and give the hives new tokens", dir)
	}
	return c, nil
}

func makeCertificate(crt, key string) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "rbee colony"},
		NotBefore:    now.Add(-24 * time.Hour),
		NotAfter:     now.AddDate(100, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	// The key first: a certificate without its key is made anew.
	if err := durable.Write(key, ".gate-*", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})); err != nil {
		return err
	}
	return durable.Write(crt, ".gate-*", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// pinOf is by what a token names a certificate.
func pinOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}
