package nats_test

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

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/twostep-mq/twostep/broker"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
)

// external starts a server as others run it, with the given options.
func external(t testing.TB, set func(*server.Options)) *server.Server {
	t.Helper()
	opts := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir(),
		JetStreamMaxStore: 8 << 30, JetStreamMaxMemory: 64 << 20}
	if set != nil {
		set(opts)
	}
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server is not ready")
	}
	return s
}

// works publishes a message and has it delivered.
func works(t *testing.T, cfg natsbroker.Config) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	b, err := natsbroker.Connect(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close(context.Background()) }()
	sub := broker.SubscriptionSpec{UID: "reader", Topic: "pay"}
	if err := errors.Join(b.EnsureTopic(ctx, broker.TopicSpec{Name: "pay"}), b.EnsureSubscription(ctx, sub)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	b.Publish(ctx, []*broker.Message{{ID: "m", Topic: "pay", Payload: []byte("x")}}, func(_ int, _ broker.Position, err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(ctx)
	got := 0
	err = b.Consume(ctx, broker.Source{Subscription: sub}, func(_ context.Context, ds []broker.Delivery) error {
		got += len(ds)
		stop()
		return nil
	})
	if err != nil || got != 1 {
		t.Fatalf("%d messages, %v", got, err)
	}
}

// refused wants an error at once, with a word on what to change.
func refused(t *testing.T, cfg natsbroker.Config, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	b, err := natsbroker.Connect(ctx, cfg)
	if err == nil {
		_ = b.Close(ctx)
		t.Fatal("connected")
	}
	if ctx.Err() != nil {
		t.Errorf("it went on trying: %v", err)
	}
	if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q: want one line with %q", err, want)
	}
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	must(t, err)
	a := authority{cert: cert, key: key, file: filepath.Join(t.TempDir(), "ca.pem")}
	must(t, os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return a
}

// issue makes a certificate and its key for a host, as files.
func (a authority) issue(t *testing.T, host string, until time.Time) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		cert.IPAddresses = []net.IP{ip}
	} else {
		cert.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, &key.PublicKey, a.key)
	must(t, err)
	rawKey, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: rawKey}), 0o600))
	return certFile, keyFile
}

func (a authority) server(t *testing.T, host string, until time.Time, clients bool) *server.Server {
	t.Helper()
	certFile, keyFile := a.issue(t, host, until)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	must(t, err)
	pool := x509.NewCertPool()
	raw, err := os.ReadFile(a.file)
	must(t, err)
	pool.AppendCertsFromPEM(raw)
	return external(t, func(o *server.Options) {
		o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
		o.TLSTimeout = 5
		if clients {
			o.TLSConfig.ClientAuth, o.TLSConfig.ClientCAs, o.TLSVerify = tls.RequireAndVerifyClientCert, pool, true
		}
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	soon := time.Now().Add(time.Hour)
	good := ca.server(t, "127.0.0.1", soon, false)
	mutual := ca.server(t, "127.0.0.1", soon, true)
	cert, key := ca.issue(t, "service", soon)

	t.Run("verified", func(t *testing.T) { works(t, natsbroker.Config{URL: good.ClientURL(), CAFile: ca.file}) })
	t.Run("client certificate", func(t *testing.T) {
		works(t, natsbroker.Config{URL: mutual.ClientURL(), CAFile: ca.file, CertFile: cert, KeyFile: key})
	})
	t.Run("unknown authority", func(t *testing.T) {
		refused(t, natsbroker.Config{URL: good.ClientURL(), CAFile: other.file}, "broker.tls.ca_file")
	})
	t.Run("no authority named", func(t *testing.T) { refused(t, natsbroker.Config{URL: good.ClientURL()}, "broker.tls.ca_file") })
	t.Run("expired", func(t *testing.T) {
		old := ca.server(t, "127.0.0.1", time.Now().Add(-time.Hour), false)
		refused(t, natsbroker.Config{URL: old.ClientURL(), CAFile: ca.file}, "expired")
	})
	t.Run("another name", func(t *testing.T) {
		wrong := ca.server(t, "elsewhere.example", soon, false)
		refused(t, natsbroker.Config{URL: wrong.ClientURL(), CAFile: ca.file}, "broker.url")
	})
	t.Run("no such file", func(t *testing.T) {
		refused(t, natsbroker.Config{URL: good.ClientURL(), CAFile: "/nowhere/ca.pem"}, "broker.tls.ca_file")
	})
	t.Run("certificate without key", func(t *testing.T) {
		refused(t, natsbroker.Config{URL: good.ClientURL(), CertFile: cert}, "broker.tls.key_file")
	})
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	t.Run("user and password", func(t *testing.T) {
		t.Parallel()
		s := external(t, func(o *server.Options) { o.Username, o.Password = "u", "right" })
		works(t, natsbroker.Config{URL: s.ClientURL(), User: "u", Password: "right"})
		refused(t, natsbroker.Config{URL: s.ClientURL(), User: "u", Password: "wrong-secret"}, "broker.password")
	})
	t.Run("token", func(t *testing.T) {
		t.Parallel()
		s := external(t, func(o *server.Options) { o.Authorization = "right" })
		works(t, natsbroker.Config{URL: s.ClientURL(), Token: "right"})
		refused(t, natsbroker.Config{URL: s.ClientURL(), Token: "wrong-secret"}, "broker.token")
	})
	t.Run("nkey", func(t *testing.T) {
		t.Parallel()
		right, wrong := newUserKey(t), newUserKey(t)
		s := external(t, func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: right.public}} })
		works(t, natsbroker.Config{URL: s.ClientURL(), NKeyFile: right.file})
		refused(t, natsbroker.Config{URL: s.ClientURL(), NKeyFile: wrong.file}, "broker.creds_file")
		refused(t, natsbroker.Config{URL: s.ClientURL(), NKeyFile: "/nowhere/seed"}, "broker.nkey_file")
	})
	t.Run("creds file", func(t *testing.T) {
		t.Parallel()
		s, creds := operatorServer(t)
		works(t, natsbroker.Config{URL: s.ClientURL(), CredsFile: creds})
		_, others := operatorServer(t)
		refused(t, natsbroker.Config{URL: s.ClientURL(), CredsFile: others}, "broker.creds_file")
	})
	t.Run("two ways at once", func(t *testing.T) {
		t.Parallel()
		refused(t, natsbroker.Config{User: "u", Token: "t"}, "choose one")
	})
}

type userKey struct{ public, file string }

func newUserKey(t *testing.T) userKey {
	t.Helper()
	kp, err := nkeys.CreateUser()
	must(t, err)
	public, err := kp.PublicKey()
	must(t, err)
	seed, err := kp.Seed()
	must(t, err)
	k := userKey{public: public, file: filepath.Join(t.TempDir(), "user.nk")}
	must(t, os.WriteFile(k.file, seed, 0o600))
	return k
}

// operatorServer trusts an operator, who has one account with JetStream and one user in it.
func operatorServer(t *testing.T) (s *server.Server, credsFile string) {
	t.Helper()
	operator, err := nkeys.CreateOperator()
	must(t, err)
	account, err := nkeys.CreateAccount()
	must(t, err)
	system, err := nkeys.CreateAccount()
	must(t, err)
	user, err := nkeys.CreateUser()
	must(t, err)
	public := func(kp nkeys.KeyPair) string {
		p, err := kp.PublicKey()
		must(t, err)
		return p
	}
	claims := jwt.NewAccountClaims(public(account))
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1, Streams: -1, Consumer: -1}
	accountJWT, err := claims.Encode(operator)
	must(t, err)
	systemJWT, err := jwt.NewAccountClaims(public(system)).Encode(operator)
	must(t, err)
	userJWT, err := jwt.NewUserClaims(public(user)).Encode(account)
	must(t, err)
	seed, err := user.Seed()
	must(t, err)
	creds, err := jwt.FormatUserConfig(userJWT, seed)
	must(t, err)
	credsFile = filepath.Join(t.TempDir(), "user.creds")
	must(t, os.WriteFile(credsFile, creds, 0o600))
	oc := jwt.NewOperatorClaims(public(operator))
	oc.SystemAccount = public(system)
	resolver := &server.MemAccResolver{}
	must(t, resolver.Store(public(account), accountJWT))
	must(t, resolver.Store(public(system), systemJWT))
	s = external(t, func(o *server.Options) {
		o.TrustedOperators = []*jwt.OperatorClaims{oc}
		o.SystemAccount = public(system)
		o.AccountResolver = resolver
	})
	return s, credsFile
}

// With declare off a missing stream is said, with what to do, and one that others made serves.
func TestDeclareOff(t *testing.T) {
	t.Parallel()
	s := external(t, nil)
	ctx := t.Context()
	off, err := natsbroker.Connect(ctx, natsbroker.Config{URL: s.ClientURL(), DeclareOff: true})
	must(t, err)
	defer func() { _ = off.Close(context.Background()) }()
	for what, err := range map[string]error{
		"topic": off.EnsureTopic(ctx, broker.TopicSpec{Name: "pay"}), "inbox": off.EnsureInbox(ctx, "sub.x"), "receipts": off.EnsureInbox(ctx, "outbox.x"),
		"state": off.PutState(ctx, "k", []byte("v")),
	} {
		if !errors.Is(err, natsbroker.ErrNotDeclared) || !strings.Contains(err.Error(), "broker plan --print") {
			t.Errorf("%s: %v", what, err)
		}
	}
	on, err := natsbroker.Connect(ctx, natsbroker.Config{URL: s.ClientURL()})
	must(t, err)
	defer func() { _ = on.Close(context.Background()) }()
	must(t, errors.Join(on.EnsureTopic(ctx, broker.TopicSpec{Name: "pay"}), on.EnsureInbox(ctx, "sub.y"), on.EnsureInbox(ctx, "outbox.y"), on.PutState(ctx, "k", nil)))
	must(t, errors.Join(off.EnsureTopic(ctx, broker.TopicSpec{Name: "pay"}), off.EnsureInbox(ctx, "sub.x"), off.EnsureInbox(ctx, "outbox.x"), off.PutState(ctx, "k", []byte("v"))))
	if err := off.EnsureTopic(ctx, broker.TopicSpec{Name: "pay", Retained: true}); !errors.Is(err, natsbroker.ErrNotDeclared) {
		t.Errorf("a stream that drops old messages was taken for one that refuses new ones: %v", err)
	}
}

// What the account may not do is said, with the subject, by the call that wanted it.
func TestDenied(t *testing.T) {
	t.Parallel()
	s := external(t, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "all", Password: "p"},
			{Username: "few", Password: "p", Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Allow: []string{"$JS.API.STREAM.INFO.>", "$JS.API.CONSUMER.>", "$JS.ACK.>"}},
			}},
		}
	})
	ctx := t.Context()
	all, err := natsbroker.Connect(ctx, natsbroker.Config{URL: s.ClientURL(), User: "all", Password: "p"})
	must(t, err)
	defer func() { _ = all.Close(context.Background()) }()
	must(t, errors.Join(all.EnsureTopic(ctx, broker.TopicSpec{Name: "pay"}), all.PutState(ctx, "k", nil)))
	few, err := natsbroker.Connect(ctx, natsbroker.Config{URL: s.ClientURL(), User: "few", Password: "p"})
	must(t, err)
	defer func() { _ = few.Close(context.Background()) }()
	published := make(chan error, 1)
	few.Publish(ctx, []*broker.Message{{ID: "m", Topic: "pay"}}, func(_ int, _ broker.Position, err error) { published <- err })
	for what, c := range map[string]struct {
		err     error
		subject string
	}{
		"publish":  {<-published, "twostep.t.pay.p0"},
		"state":    {few.PutState(ctx, "registry.head", []byte("forged")), "twostep.s.registry.head"},
		"creating": {few.EnsureTopic(ctx, broker.TopicSpec{Name: "other"}), "$JS.API.STREAM.CREATE.twostep-t-other"},
	} {
		if !errors.Is(c.err, natsbroker.ErrDenied) || !strings.Contains(c.err.Error(), `"`+c.subject+`"`) {
			t.Errorf("%s: %v", what, c.err)
		}
	}
}
