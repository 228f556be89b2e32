package watermill

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/twostep-mq/twostep/outbox"
)

// OutboxPublisher is a Watermill publisher through an outbox. The messages of one Publish are committed together, and the outbox's relay
// carries them.
type OutboxPublisher struct {
	box  *outbox.Outbox
	life life
}

var _ message.Publisher = (*OutboxPublisher)(nil)

// NewOutboxPublisher makes a publisher through box. Messages whose context has a transaction (Tx) are written in it: what a handler of a
// BarrierSubscriber publishes with its message's context exists if and only if that message counts as handled. The outbox must then lie
// in the subscriber's database. Without one, Publish has a transaction of its own.
func NewOutboxPublisher(box *outbox.Outbox) *OutboxPublisher {
	return &OutboxPublisher{box: box, life: newLife()}
}

// Publish writes the messages into the outbox: all of them or, on an error, none.
func (p *OutboxPublisher) Publish(topic string, messages ...*message.Message) error {
	if !p.life.begin() {
		return ErrClosed
	}
	defer p.life.end()
	in, err := commonTx(messages)
	if err != nil {
		return fmt.Errorf("adapters/watermill: publish to %s: %w", topic, err)
	}
	ctx, release := contextOf(messages)
	defer release()
	if in != nil {
		return publishTx(ctx, p.box, in.tx, topic, messages)
	}
	err = p.box.Transact(ctx, func(tx outbox.Tx) error { return publishTx(ctx, p.box, tx, topic, messages) })
	if err != nil {
		return fmt.Errorf("adapters/watermill: publish to %s: %w", topic, err)
	}
	return nil
}

// commonTx finds the transaction in the messages' contexts; nil: they have none.
func commonTx(messages []*message.Message) (common *inContext, err error) {
	for i, m := range messages {
		of := fromContext(m.Context())
		if i > 0 && of != common {
			return nil, fmt.Errorf("message %d belongs to another transaction than the ones before it: publish it by itself", i)
		}
		common = of
	}
	return common, nil
}

// Close waits for the calls of Publish that run.
func (p *OutboxPublisher) Close() error {
	p.life.close()
	return nil
}

// txPublisher publishes in one transaction of the caller's.
type txPublisher struct {
	box *outbox.Outbox
	tx  outbox.Transaction
}

// PublisherTx is a Watermill publisher that writes into box's outbox in tx, which the caller commits or rolls back: its messages exist
// if and only if tx commits. It is made for one transaction and costs nothing; Close does nothing.
func PublisherTx(box *outbox.Outbox, tx outbox.Transaction) message.Publisher {
	return txPublisher{box, tx}
}

// Publish writes the messages. After an error roll the transaction back.
func (p txPublisher) Publish(topic string, messages ...*message.Message) error {
	ctx, release := contextOf(messages)
	defer release()
	return publishTx(ctx, p.box, p.tx, topic, messages)
}

func (txPublisher) Close() error { return nil }

func publishTx(ctx context.Context, box *outbox.Outbox, tx outbox.Transaction, topic string, messages []*message.Message) error {
	for _, m := range messages {
		out, err := encode(m)
		if err != nil {
			return err
		}
		_, err = box.Publish(ctx, tx, outbox.Message{
			Topic: topic, Key: out.key, ContentType: out.contentType, Payload: out.payload, Headers: out.headers,
		})
		if err != nil {
			return fmt.Errorf("adapters/watermill: message %s: %w", m.UUID, err)
		}
	}
	return nil
}
