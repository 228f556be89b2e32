package nats

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// EnsureInbox makes the inbox: a subject of the work-queue stream that all inboxes of its kind share, and a durable consumer.
func (b *Broker) EnsureInbox(ctx context.Context, inbox string) error {
	_, _, err := b.ensureInbox(ctx, inbox)
	return err
}

func (b *Broker) ensureInbox(ctx context.Context, inbox string) (*jetstream.StreamInfo, *jetstream.ConsumerInfo, error) {
	if err := checkName("inbox", inbox); err != nil {
		return nil, nil, err
	}
	stream, err := b.ensureInboxStream(ctx, inbox)
	if err != nil {
		return nil, nil, err
	}
	at := b.names.inbox(inbox)
	cfg := b.consumerConfig(at.durable, true)
	cfg.FilterSubject = at.subject
	cfg.DeliverPolicy = jetstream.DeliverAllPolicy
	consumer, err := b.ensureConsumer(ctx, at.stream, cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("broker/nats: make inbox %q: %w", inbox, err)
	}
	return stream, consumer, nil
}

// ensureInboxStream makes the stream that holds the inbox. A full inbox refuses new messages and leaves the others alone.
func (b *Broker) ensureInboxStream(ctx context.Context, inbox string) (*jetstream.StreamInfo, error) {
	info, err := b.ensureStream(ctx, b.cfg.inboxStream(inbox))
	if err != nil {
		return nil, fmt.Errorf("broker/nats: make inbox %q: %w", inbox, err)
	}
	return info, nil
}

// DeleteInbox removes the consumer and what the inbox holds.
func (b *Broker) DeleteInbox(ctx context.Context, inbox string) error {
	if err := checkName("inbox", inbox); err != nil {
		return err
	}
	at := b.names.inbox(inbox)
	err := b.api(ctx, func(ctx context.Context) error {
		if err := b.js.DeleteConsumer(ctx, at.stream, at.durable); err != nil && !noConsumer(err) {
			return err
		}
		stream, err := b.js.Stream(ctx, at.stream)
		if err != nil {
			return err
		}
		return stream.Purge(ctx, jetstream.WithPurgeSubject(at.subject))
	})
	if err != nil && !noStream(err) {
		return fmt.Errorf("broker/nats: delete inbox %q: %w", inbox, err)
	}
	return nil
}
