// Package nats is the broker port on NATS JetStream (nats-server 2.11 or later). A topic is a stream, a subscription a
// durable pull consumer; all inboxes share two work-queue streams, the state is a stream of one message a key; requests and
// bells are core NATS. Names are those of docs/reference.md.
package nats

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/twostep-mq/twostep/broker"
)

// errNotConnected: the connection was lost and did not come back in time. Nothing was sent.
var errNotConnected = errors.New("broker/nats: not connected")

// Broker is one connection to a NATS server. It is safe for concurrent use.
type Broker struct {
	cfg   Config
	names names
	log   *slog.Logger
	nc    *nats.Conn
	js    jetstream.JetStream
	pub   *publisher
	ids   *identities
	link  *link
	// rights are what the server refused.
	rights rights

	mu sync.Mutex
	// watchers are called after each reconnect.
	watchers map[int]func()
	watcher  int
	closed   chan struct{}
	close    sync.Once
}

var _ broker.Broker = (*Broker)(nil)

// Connect reaches the server, trying again until ctx ends, and from then on reconnects for ever. Refused credentials are an
// error at once. Further options of nats.go may be given.
func Connect(ctx context.Context, cfg Config, opts ...nats.Option) (*Broker, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	b := newBroker(cfg)
	own, err := b.options()
	if err != nil {
		return nil, err
	}
	opts = append(own, opts...)
	scratch := nats.GetDefaultOptions()
	for _, opt := range opts { // a file that cannot be read is no reason to try again
		if err := opt(&scratch); err != nil {
			return nil, fmt.Errorf("broker/nats: %w: look at broker.tls.ca_file, broker.tls.cert_file, broker.tls.key_file and broker.creds_file", err)
		}
	}
	for {
		nc, err := nats.Connect(cfg.URL, opts...)
		if err == nil {
			if err := b.open(nc); err != nil {
				nc.Close()
				return nil, err
			}
			return b, nil
		}
		if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) {
			return nil, fmt.Errorf("broker/nats: connect to %s: %w: check broker.user and broker.password, broker.token or broker.creds_file", redact(cfg.URL), err)
		}
		var untrusted *tls.CertificateVerificationError
		if errors.As(err, &untrusted) {
			return nil, fmt.Errorf("broker/nats: connect to %s: %w: give the authority that signed the server's certificate in broker.tls.ca_file, and the name it was made for in broker.url", redact(cfg.URL), err)
		}
		b.log.Warn("broker not reached, trying again", "url", redact(cfg.URL), "error", err)
		if !pause(ctx, cfg.ReconnectWait) {
			return nil, fmt.Errorf("broker/nats: connect to %s: %w: is the server running, is broker.url right?", redact(cfg.URL), err)
		}
	}
}

func newBroker(cfg Config) *Broker {
	return &Broker{cfg: cfg, names: names{cfg.Prefix}, log: cfg.Logger, link: newLink(), watchers: map[int]func(){}, closed: make(chan struct{})}
}

// options of the connection. The handlers may run before open: they touch nothing that open sets without a check.
func (b *Broker) options() ([]nats.Option, error) {
	c := b.cfg
	opts := []nats.Option{
		nats.Name(c.Name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(c.ReconnectWait),
		nats.ReconnectJitter(c.ReconnectWait/2, c.ReconnectWait/2),
		nats.IgnoreAuthErrorAbort(),
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(2 * time.Second),
		nats.FlusherTimeout(c.AckTimeout), // a server that hangs would hold whoever writes for a minute
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { b.disconnected(err) }),
		nats.ReconnectHandler(func(*nats.Conn) { b.reconnected() }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			if to, ok := refusedSubject(err); ok {
				b.refused(to)
			}
			b.log.Warn("broker connection", "subject", subject, "error", err)
		}),
	}
	if c.User != "" || c.Password != "" {
		opts = append(opts, nats.UserInfo(c.User, c.Password))
	}
	if c.Token != "" {
		opts = append(opts, nats.Token(c.Token))
	}
	if c.CredsFile != "" {
		opts = append(opts, nats.UserCredentials(c.CredsFile))
	}
	if c.NKeyFile != "" {
		nkey, err := nats.NkeyOptionFromSeed(c.NKeyFile)
		if err != nil {
			return nil, fmt.Errorf("broker/nats: nkey's seed in %s (key broker.nkey_file): %w", c.NKeyFile, err)
		}
		opts = append(opts, nkey)
	}
	if c.CAFile != "" {
		opts = append(opts, nats.RootCAs(c.CAFile))
	}
	if c.CertFile != "" {
		opts = append(opts, nats.ClientCert(c.CertFile, c.KeyFile))
	}
	return opts, nil
}

func (b *Broker) open(nc *nats.Conn) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("broker/nats: JetStream: %w", err)
	}
	pub, err := newPublisher(nc, b.cfg.MaxInFlight, b.cfg.AckTimeout)
	if err != nil {
		return fmt.Errorf("broker/nats: subscribe to acknowledgements: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nc, b.js, b.pub, b.ids = nc, js, pub, newIdentities()
	if v := nc.ConnectedServerVersion(); !atLeast(v, oldest) {
		b.log.Warn("this NATS server is old: readers of a keyed subscription or an inbox share it instead of standing by for each other, and order is "+
			"kept by sending messages again, which is slow; update the server", "version", v, "wanted", oldest)
	}
	return nil
}

// oldest is the version of nats-server that knows readers that stand by for each other.
const oldest = "2.11.0"

// atLeast compares versions by their numbers; what has none counts as new.
func atLeast(version, least string) bool {
	var v, l [3]int
	_, _ = fmt.Sscanf(least, "%d.%d.%d", &l[0], &l[1], &l[2])
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &v[0], &v[1], &v[2]); n < 2 {
		return true
	}
	return slices.Compare(v[:], l[:]) >= 0
}

// Close ends the connection: what was written before is sent, publishes without an answer fail with broker.ErrClosed.
func (b *Broker) Close(ctx context.Context) error {
	var err error
	b.close.Do(func() {
		close(b.closed)
		if b.nc.IsConnected() {
			fctx, cancel := context.WithTimeout(ctx, apiWait)
			err = b.nc.FlushWithContext(fctx)
			cancel()
		}
		b.nc.Close()
		b.pub.close()
	})
	if err != nil {
		return fmt.Errorf("broker/nats: close: %w", err)
	}
	return nil
}

func (b *Broker) disconnected(err error) {
	b.mu.Lock()
	pub := b.pub
	b.mu.Unlock()
	if pub == nil || b.isClosed() {
		return
	}
	b.log.Warn("broker connection lost, reconnecting", "error", err)
	b.link.lost()
	pub.connectionLost()
}

func (b *Broker) reconnected() {
	b.mu.Lock()
	pub, ids := b.pub, b.ids
	calls := make([]func(), 0, len(b.watchers))
	for _, fn := range b.watchers {
		calls = append(calls, fn)
	}
	b.mu.Unlock()
	if pub == nil {
		return
	}
	b.log.Info("broker connection is back", "server", b.nc.ConnectedServerName())
	ids.forgetAll()
	b.link.lost() // the word that it was lost may come late
	pub.connectionLost()
	for _, fn := range calls {
		fn()
	}
}

// onReconnect has fn called after each reconnect until stop is called. fn must not block.
func (b *Broker) onReconnect(fn func()) (stop func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watcher++
	id := b.watcher
	b.watchers[id] = fn
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.watchers, id)
	}
}

func (b *Broker) isClosed() bool {
	select {
	case <-b.closed:
		return true
	default:
		return false
	}
}

// waitConnected waits until there is a connection, for at most limit.
func (b *Broker) waitConnected(ctx context.Context, limit time.Duration) error {
	if b.nc.IsConnected() {
		return nil
	}
	up := make(chan struct{}, 1)
	stop := b.onReconnect(func() {
		select {
		case up <- struct{}{}:
		default:
		}
	})
	defer stop()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for !b.nc.IsConnected() {
		select {
		case <-up:
		case <-b.closed:
			return broker.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return fmt.Errorf("%w to %s", errNotConnected, redact(b.cfg.URL))
		}
	}
	return nil
}

// pause waits for d; false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
