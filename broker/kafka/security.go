package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// encryption is what the configuration asks for; nil: none.
func (c Config) encryption() (*tls.Config, error) {
	if c.TLS == nil && c.CAFile == "" && c.CertFile == "" {
		return nil, nil
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.TLS != nil {
		out = c.TLS.Clone()
		out.MinVersion = max(out.MinVersion, tls.VersionTLS12)
	}
	if out.MaxVersion != 0 && out.MaxVersion < tls.VersionTLS12 {
		return nil, errors.New("broker/kafka: TLS below 1.2 is refused: raise MaxVersion")
	}
	if out.InsecureSkipVerify && out.VerifyConnection == nil && out.VerifyPeerCertificate == nil {
		return nil, errors.New("broker/kafka: TLS without verifying the brokers' certificates is refused: give their authority (key broker.tls.ca_file)")
	}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("broker/kafka: read the authority's certificate (key broker.tls.ca_file): %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("broker/kafka: %s holds no certificate in PEM form (key broker.tls.ca_file)", c.CAFile)
		}
	}
	if c.CertFile != "" {
		own, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("broker/kafka: our own certificate (keys broker.tls.cert_file, broker.tls.key_file): %w", err)
		}
		out.Certificates = []tls.Certificate{own}
	}
	return out, nil
}

// login is the mechanism that the configuration asks for; nil: none.
func (c Config) login() (sasl.Mechanism, error) {
	if c.SASL != nil || c.Mechanism == "" {
		return c.SASL, nil
	}
	switch strings.ToUpper(c.Mechanism) {
	case "PLAIN":
		return plain.Mechanism{Username: c.User, Password: c.Password}, nil
	case scram.SHA256.Name():
		return scramWith(scram.SHA256, c)
	case scram.SHA512.Name():
		return scramWith(scram.SHA512, c)
	}
	return nil, fmt.Errorf("broker/kafka: SASL mechanism %q: use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, or give Config.SASL", c.Mechanism)
}

func scramWith(algorithm scram.Algorithm, c Config) (sasl.Mechanism, error) {
	m, err := scram.Mechanism(algorithm, c.User, c.Password)
	if err != nil {
		return nil, fmt.Errorf("broker/kafka: user and password for %s: %w", algorithm.Name(), err)
	}
	return m, nil
}
