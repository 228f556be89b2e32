package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// ensureState makes the state's topic: the last value of each key, kept by compaction. A deleted key is remembered for a week; a watcher
// that is away for longer misses the deletion.
func (b *Broker) ensureState(ctx context.Context) (topicInfo, error) {
	info, _, err := b.ensure(ctx, b.names.state(), 1, stateSettings())
	if err != nil {
		return info, fmt.Errorf("broker/kafka: make the state: %w", err)
	}
	return info, nil
}

func stateSettings() []setting {
	return []setting{{"cleanup.policy", "compact"}, {"delete.retention.ms", week}, {"segment.ms", "3600000"}, {"min.cleanable.dirty.ratio", "0.1"}}
}

// PutState stores the value and waits for the acknowledgement.
func (b *Broker) PutState(ctx context.Context, key string, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	return b.writeState(ctx, key, value)
}

// DeleteState stores a tombstone.
func (b *Broker) DeleteState(ctx context.Context, key string) error {
	return b.writeState(ctx, key, nil)
}

func (b *Broker) writeState(ctx context.Context, key string, value []byte) error {
	if err := checkName("state key", key); err != nil {
		return err
	}
	if b.isClosed() {
		return broker.ErrClosed
	}
	batch := []record{{key: []byte(key), value: value}}
	write := func() error {
		_, _, err := b.storeUntil(ctx, b.names.state(), 0, batch, time.Now().Add(b.cfg.AckTimeout))
		return err
	}
	err := write()
	if errors.Is(err, broker.ErrNoTopic) {
		if _, err = b.ensureState(ctx); err == nil {
			err = write()
		}
	}
	if b.isClosed() && err != nil {
		return broker.ErrClosed
	}
	if err != nil {
		return fmt.Errorf("broker/kafka: write state %q: %w", key, refusal(err))
	}
	return nil
}
