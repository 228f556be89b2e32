package nats

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/twostep-mq/twostep/broker"
)

const (
	// headerOperation marks a deleted key, as in NATS's own key-value buckets.
	headerOperation = "KV-Operation"
	operationDelete = "DEL"
	// tombstoneLife is how long a deleted key is remembered, in the form of Nats-TTL. A watcher that is away for longer
	// misses the deletion.
	tombstoneLife = "168h"
)

// ensureState makes the state's stream: the last message of each subject.
func (b *Broker) ensureState(ctx context.Context) (*jetstream.StreamInfo, error) {
	info, err := b.ensureStream(ctx, b.cfg.stateStream())
	if err != nil {
		return nil, fmt.Errorf("broker/nats: make the state: %w", err)
	}
	return info, nil
}

// PutState stores the value and waits for the acknowledgement.
func (b *Broker) PutState(ctx context.Context, key string, value []byte) error {
	return b.writeState(ctx, key, value, nil)
}

// DeleteState stores a tombstone.
func (b *Broker) DeleteState(ctx context.Context, key string) error {
	return b.writeState(ctx, key, nil, nats.Header{
		headerOperation:        {operationDelete},
		jetstream.MsgTTLHeader: {tombstoneLife},
	})
}

func (b *Broker) writeState(ctx context.Context, key string, value []byte, header nats.Header) error {
	if err := checkName("state key", key); err != nil {
		return err
	}
	msg := &nats.Msg{Subject: b.names.stateSubject(key), Data: value, Header: header}
	err := b.sendOne(ctx, msg)
	if errors.Is(err, broker.ErrNoTopic) {
		if _, err = b.ensureState(ctx); err == nil {
			err = b.sendOne(ctx, msg)
		}
	}
	if err != nil {
		return fmt.Errorf("broker/nats: write state %q: %w", key, err)
	}
	return nil
}

// sendOne publishes one message and waits for its acknowledgement.
func (b *Broker) sendOne(ctx context.Context, m *nats.Msg) error {
	if b.isClosed() {
		return broker.ErrClosed
	}
	if err := b.waitConnected(ctx, b.cfg.AckTimeout); err != nil {
		return err
	}
	result := make(chan error, 1)
	if err := b.pub.send(ctx, m, func(_ uint64, err error) { result <- err }); err != nil {
		return err
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
