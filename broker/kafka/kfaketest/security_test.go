package kfaketest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/twostep-mq/twostep/broker"
	kafkabroker "github.com/twostep-mq/twostep/broker/kafka"
)

// tryConnect connects, with little patience.
func tryConnect(t *testing.T, cfg kafkabroker.Config) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	b, err := kafkabroker.Connect(ctx, cfg)
	if err == nil {
		err = b.Close(ctx)
	}
	return err
}

func TestLogins(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1, kfake.EnableSASL(), kfake.Superuser("PLAIN", "plain", "secret"), kfake.Superuser("SCRAM-SHA-256", "s256", "secret"),
		kfake.Superuser("SCRAM-SHA-512", "s512", "secret"))
	right := []func(*kafkabroker.Config){
		func(c *kafkabroker.Config) { c.Mechanism, c.User, c.Password = "PLAIN", "plain", "secret" },
		func(c *kafkabroker.Config) { c.Mechanism, c.User, c.Password = "SCRAM-SHA-256", "s256", "secret" },
		func(c *kafkabroker.Config) { c.User, c.Password = "s512", "secret" },
		func(c *kafkabroker.Config) { c.SASL = counted{plain.Mechanism{Username: "plain", Password: "secret"}} },
	}
	for i, set := range right {
		cfg := f.config()
		set(&cfg)
		b := f.connect(t, cfg)
		src := mustEnsure(t, b, "t")
		mustPublish(t, b, messages("t", "k", i+1, i+1))
		if _, err := b.Positions(t.Context(), "t", []string{src.Subscription.UID}); err != nil {
			t.Error(err)
		}
	}
	wrong := map[string]func(*kafkabroker.Config){
		"password": func(c *kafkabroker.Config) { c.User, c.Password = "s512", "wrong-secret" },
		"user":     func(c *kafkabroker.Config) { c.Mechanism, c.User, c.Password = "PLAIN", "nobody", "wrong-secret" },
	}
	for name, set := range wrong {
		cfg := f.config()
		set(&cfg)
		began := time.Now()
		err := tryConnect(t, cfg)
		if err == nil || !strings.Contains(err.Error(), "broker.password") || strings.Contains(err.Error(), "wrong-secret") || strings.Contains(err.Error(), "\n") {
			t.Errorf("wrong %s: %v", name, err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("wrong %s: it took %v", name, took)
		}
	}
	cfg := f.config()
	cfg.Mechanism, cfg.User = "GSSAPI", "u"
	if err := tryConnect(t, cfg); err == nil || !strings.Contains(err.Error(), "Config.SASL") {
		t.Errorf("unknown mechanism: %v", err)
	}
}

// counted is a mechanism of the user's own.
type counted struct{ sasl.Mechanism }

// authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

func (a authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a authority) server(t *testing.T, address string, until time.Time) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kafka"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		IPAddresses: []net.IP{net.ParseIP(address)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	hour := time.Now().Add(time.Hour)
	f := startCluster(t, 1, kfake.TLS(a.server(t, "127.0.0.1", hour)))
	cfg := f.config()
	cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: a.pool()}
	b := f.connect(t, cfg)
	mustEnsure(t, b, "t")
	mustPublish(t, b, messages("t", "k", 1, 10))

	expired := startCluster(t, 1, kfake.TLS(a.server(t, "127.0.0.1", time.Now().Add(-time.Minute))))
	elsewhere := startCluster(t, 1, kfake.TLS(a.server(t, "192.0.2.1", hour)))
	for name, bad := range map[string]func() kafkabroker.Config{
		"another authority": func() kafkabroker.Config {
			cfg := f.config()
			cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: newAuthority(t).pool()}
			return cfg
		},
		"expired":      func() kafkabroker.Config { c := expired.config(); c.TLS = cfg.TLS; return c },
		"another name": func() kafkabroker.Config { c := elsewhere.config(); c.TLS = cfg.TLS; return c },
	} {
		began := time.Now()
		err := tryConnect(t, bad())
		if err == nil || !strings.Contains(err.Error(), "broker.tls") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s: it took %v", name, took)
		}
	}
	if err := tryConnect(t, f.config()); err == nil {
		t.Error("connected without TLS")
	}
	old := f.config()
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	if err := tryConnect(t, old); err == nil || !strings.Contains(err.Error(), "1.2") {
		t.Errorf("TLS 1.1: %v", err)
	}
}

// allow is an entry for all topics or groups with the prefix.
func allow(kind kmsg.ACLResourceType, name string, op kmsg.ACLOperation) kfake.ACL {
	return kfake.ACL{Resource: kind, Name: name, Pattern: kmsg.ACLResourcePatternTypePrefixed, Operation: op, Allow: true}
}

// An account that may read and write but make nothing: what is missing is named, and everything else works.
func TestNoRightToCreate(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1, kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "admin"), kfake.User("PLAIN", "user", "user",
		allow(kmsg.ACLResourceTypeTopic, "twostep.", kmsg.ACLOperationRead), allow(kmsg.ACLResourceTypeTopic, "twostep.", kmsg.ACLOperationWrite),
		allow(kmsg.ACLResourceTypeTopic, "twostep.", kmsg.ACLOperationDescribe), allow(kmsg.ACLResourceTypeGroup, "twostep.", kmsg.ACLOperationRead),
		allow(kmsg.ACLResourceTypeGroup, "twostep.", kmsg.ACLOperationDescribe), allow(kmsg.ACLResourceTypeGroup, "twostep.", kmsg.ACLOperationDelete)))
	as := func(user string, declareOff bool) *kafkabroker.Broker {
		cfg := f.config()
		cfg.Mechanism, cfg.User, cfg.Password, cfg.DeclareOff = "PLAIN", user, user, declareOff
		return f.connect(t, cfg)
	}
	admin, user, off := as("admin", false), as("user", false), as("user", true)
	err := user.EnsureTopic(t.Context(), broker.TopicSpec{Name: "t"})
	if err == nil || !strings.Contains(err.Error(), "broker.declare") || strings.Contains(err.Error(), "\n") {
		t.Errorf("EnsureTopic: %v", err)
	}
	err = off.EnsureTopic(t.Context(), broker.TopicSpec{Name: "t"})
	if !errors.Is(err, kafkabroker.ErrNotDeclared) || !strings.Contains(err.Error(), "twostep.t.t") {
		t.Errorf("EnsureTopic with declare off: %v", err)
	}
	if err := off.EnsureInbox(t.Context(), "sub.u"); err == nil || !strings.Contains(err.Error(), "no right") {
		t.Errorf("EnsureInbox with declare off: %v", err)
	}
	if err := off.PutState(t.Context(), "k", nil); !errors.Is(err, kafkabroker.ErrNotDeclared) {
		t.Errorf("PutState with declare off: %v", err)
	}
	src := mustEnsure(t, admin, "t")
	for _, b := range []*kafkabroker.Broker{user, off} {
		mustEnsure(t, b, "t")
		mustPublish(t, b, messages("t", "k", 1, 10))
		r := read(t, b, src, nil)
		r.until(10)
		r.stop()
	}
	if err := user.DeleteTopic(t.Context(), "t"); err == nil || !strings.Contains(err.Error(), "no right") {
		t.Errorf("DeleteTopic: %v", err)
	}
	if err := off.DeleteTopic(t.Context(), "t"); err != nil {
		t.Errorf("DeleteTopic with declare off: %v", err)
	}
	if _, err := admin.Positions(t.Context(), "t", nil); err != nil {
		t.Errorf("the topic is gone: %v", err)
	}
}

// An account without rights is told so at once, in one line for each thing.
func TestNoRights(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1, kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "admin"), kfake.User("PLAIN", "user", "user"))
	as := func(user string) *kafkabroker.Broker {
		cfg := f.config()
		cfg.Mechanism, cfg.User, cfg.Password = "PLAIN", user, user
		return f.connect(t, cfg)
	}
	src := mustEnsure(t, as("admin"), "t")
	b := as("user")
	_, errs := publish(t, b, messages("t", "k", 1, 1))
	_, positions := b.Positions(t.Context(), "t", nil)
	for what, err := range map[string]error{
		"Publish": errs[0], "Positions": positions, "EnsureSubscription": b.EnsureSubscription(t.Context(), src.Subscription),
	} {
		if err == nil || !strings.Contains(err.Error(), "no right") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A cluster that is too old is refused with the version that is needed.
func TestOldCluster(t *testing.T) {
	t.Parallel()
	old := startCluster(t, 1, kfake.MaxVersions(kversion.V2_7_0()))
	if err := tryConnect(t, old.config()); err == nil || !strings.Contains(err.Error(), "2.8") {
		t.Errorf("Kafka 2.7: %v", err)
	}
	oldest := startCluster(t, 1, kfake.MaxVersions(kversion.V2_8_0()))
	b := oldest.connect(t, oldest.config())
	src := mustEnsure(t, b, "t")
	mustPublish(t, b, messages("t", "k", 1, 10))
	r := read(t, b, src, nil)
	r.until(10)
	r.stop()
	if err := b.DeleteSubscription(t.Context(), "t", src.Subscription.UID); err != nil {
		t.Error(err)
	}
}

func TestConnectEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := kafkabroker.Connect(ctx, kafkabroker.Config{Brokers: "127.0.0.1:1"})
	if err == nil || !strings.Contains(err.Error(), "broker.url") {
		t.Errorf("Connect: %v", err)
	}
}

// file writes PEM blocks.
func file(t *testing.T, name string, blocks ...*pem.Block) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	var out []byte
	for _, b := range blocks {
		out = append(out, pem.EncodeToMemory(b)...)
	}
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Certificates from files, the client's own among them, which the cluster asks for.
func TestTLSFromFiles(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	server := a.server(t, "127.0.0.1", time.Now().Add(time.Hour))
	server.ClientAuth, server.ClientCAs = tls.RequireAndVerifyClientCert, a.pool()
	f := startCluster(t, 1, kfake.TLS(server))
	own := a.server(t, "127.0.0.1", time.Now().Add(time.Hour)).Certificates[0]
	key, err := x509.MarshalECPrivateKey(own.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	cfg := f.config()
	cfg.CAFile = file(t, "ca.pem", &pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	if err := tryConnect(t, cfg); err == nil || !strings.Contains(err.Error(), "broker.tls") {
		t.Errorf("without a certificate of our own: %v", err)
	}
	cfg.CertFile = file(t, "cert.pem", &pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]})
	if err := tryConnect(t, cfg); err == nil || !strings.Contains(err.Error(), "broker.tls.key_file") {
		t.Errorf("without the key: %v", err)
	}
	cfg.KeyFile = file(t, "key.pem", &pem.Block{Type: "EC PRIVATE KEY", Bytes: key})
	b := f.connect(t, cfg)
	mustEnsure(t, b, "t")
	mustPublish(t, b, messages("t", "k", 1, 10))
	cfg.CAFile = filepath.Join(t.TempDir(), "none")
	if err := tryConnect(t, cfg); err == nil || !strings.Contains(err.Error(), "broker.tls.ca_file") {
		t.Errorf("no such file: %v", err)
	}
	cfg.CAFile = file(t, "empty.pem")
	if err := tryConnect(t, cfg); err == nil || !strings.Contains(err.Error(), "broker.tls.ca_file") {
		t.Errorf("an empty file: %v", err)
	}
	blind := f.config()
	blind.TLS = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
	if err := tryConnect(t, blind); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("without verifying: %v", err)
	}
}
