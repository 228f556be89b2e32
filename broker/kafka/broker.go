// Package kafka is the broker port on Apache Kafka 2.8 or later, by segmentio/kafka-go. A topic is a Kafka topic, a subscription a
// consumer group, an inbox a topic with one group; the state is a compacted topic, and requests and bells are records of a
// short-lived one. Names are those of docs/reference.md, "Broker names (Kafka)".
//
// An offset of the port is Kafka's plus one, so that 0 means nothing.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/twostep-mq/twostep/broker"
)

const (
	// retryPause is the wait before something is tried again, doubled up to retryPauseMax.
	retryPause    = 20 * time.Millisecond
	retryPauseMax = 500 * time.Millisecond
	// apiWait bounds one administrative call with its repetitions, callWait one request.
	apiWait  = 10 * time.Second
	callWait = 5 * time.Second
	// freshPause is the least time between two renewals of what the client knows of the cluster.
	freshPause = 50 * time.Millisecond
)

// Broker is one client of a Kafka cluster. It is safe for concurrent use.
type Broker struct {
	cfg       Config
	names     names
	log       *slog.Logger
	transport *kafka.Transport
	client    *kafka.Client
	topics    *topicCache
	pub       *publisher
	rooms     *rooms
	calls     *calls

	mu sync.Mutex
	// renewed is when the client last forgot the cluster's nodes.
	renewed time.Time
	// life ends with Close.
	life  context.Context
	close context.CancelFunc
}

var _ broker.Broker = (*Broker)(nil)

// Connect reaches the cluster, trying again until ctx ends, and from then on waits lost connections out. A refused login or
// certificate is an error at once, and so is a cluster that is too old.
func Connect(ctx context.Context, cfg Config) (*Broker, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	login, err := cfg.login()
	if err != nil {
		return nil, err
	}
	encryption, err := cfg.encryption()
	if err != nil {
		return nil, err
	}
	b := newBroker(cfg)
	b.transport.SASL, b.transport.TLS = login, encryption
	hungUp, trouble := 0, complaint{}
	for wait := retryPause; ; wait = min(2*wait, retryPauseMax) {
		err := b.probe(ctx)
		if err == nil {
			return b, nil
		}
		if login != nil && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
			// Some brokers say so that they do not know the user; one that is just starting may hang up, too.
			if hungUp++; hungUp >= 3 {
				err = fmt.Errorf("%w: the broker hangs up at the login", kafka.SASLAuthenticationFailed)
			}
		}
		if refusedForGood(err) || errors.Is(err, kafka.UnsupportedVersion) {
			b.shutdown()
			return nil, fmt.Errorf("broker/kafka: connect to %s: %w", cfg.Brokers, explain(err, "connect"))
		}
		b.log.Log(ctx, trouble.level(), "broker not reached, trying again", "brokers", cfg.Brokers, "error", err)
		b.renew()
		if !pause(ctx, wait) {
			b.shutdown()
			return nil, fmt.Errorf("broker/kafka: connect to %s: %w: is the cluster running, is broker.url right?", cfg.Brokers, err)
		}
	}
}

func newBroker(cfg Config) *Broker {
	b := &Broker{cfg: cfg, names: names{cfg.Prefix}, log: cfg.Logger}
	b.life, b.close = context.WithCancel(context.Background())
	b.transport = &kafka.Transport{
		ClientID: cfg.Name, DialTimeout: callWait, IdleTimeout: 30 * time.Second, MetadataTTL: cfg.MetadataTTL,
		// What is kept of topics is kept here (topicCache); of the cluster kafka-go only has to know its nodes.
		MetadataTopics: []string{b.names.state()}, Context: b.life,
	}
	b.client = &kafka.Client{Addr: kafka.TCP(cfg.addresses()...), Transport: bounded{b}}
	b.topics = newTopicCache(b)
	b.pub = newPublisher(b)
	b.rooms = newRooms(b)
	b.calls = newCalls(b)
	return b
}

// probe asks the cluster for its versions.
func (b *Broker) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	answer, err := b.client.ApiVersions(ctx, &kafka.ApiVersionsRequest{})
	if err != nil {
		return err
	}
	if answer.Error != nil {
		return answer.Error
	}
	for _, key := range answer.ApiKeys {
		if key.ApiKey == int(protocol.Metadata) && key.MaxVersion < metadataVersion {
			return fmt.Errorf("%w: its Metadata version is %d, %d is needed: use Kafka 2.8 or later", kafka.UnsupportedVersion, key.MaxVersion, metadataVersion)
		}
	}
	_, err = b.roundTrip(ctx, &metadataRequest{clientID: b.cfg.Name})
	return err
}

// Close ends the client. Publishes without an answer fail with broker.ErrClosed. Consumers that still run end like killed ones.
func (b *Broker) Close(context.Context) error {
	b.shutdown()
	b.pub.close()
	b.calls.close()
	return nil
}

func (b *Broker) shutdown() {
	b.close()
	b.transport.CloseIdleConnections()
}

func (b *Broker) isClosed() bool { return b.life.Err() != nil }

// roundTrip sends one request, bounded by callWait unless ctx says less or more.
func (b *Broker) roundTrip(ctx context.Context, req protocol.Message) (protocol.Message, error) {
	if b.isClosed() {
		return nil, broker.ErrClosed
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callWait)
		defer cancel()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(b.life, cancel)()
	m, err := b.transport.RoundTrip(ctx, b.client.Addr, req)
	if err != nil && b.isClosed() {
		return nil, broker.ErrClosed
	}
	return m, err
}

// bounded has kafka-go's own calls end with the Broker, too.
type bounded struct{ b *Broker }

func (t bounded) RoundTrip(ctx context.Context, _ net.Addr, req protocol.Message) (protocol.Message, error) {
	return t.b.roundTrip(ctx, req)
}

// renew has the client ask for the cluster's nodes again, on new connections: kafka-go offers no other way. What is under way
// goes on.
func (b *Broker) renew() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.renewed) < freshPause {
		return
	}
	b.renewed = time.Now()
	b.transport.CloseIdleConnections()
}

// retry calls what may be called twice until it succeeds, fails for good, or apiWait is over.
func (b *Broker) retry(ctx context.Context, call func(context.Context) error) error {
	deadline := time.Now().Add(apiWait)
	for wait := retryPause; ; wait = min(2*wait, retryPauseMax) {
		err := call(ctx)
		if b.isClosed() {
			return broker.ErrClosed
		}
		if err == nil || !passing(err) || time.Now().After(deadline) {
			return err
		}
		if !pause(ctx, wait) {
			return err
		}
		if stale(err) {
			b.renew()
		}
	}
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
