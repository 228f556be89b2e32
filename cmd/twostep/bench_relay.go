package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// benchRelayInFlight is the relay's default of unacknowledged messages; the bare side gets the same.
const benchRelayInFlight = 2000

// benchRelay measures how fast a filled outbox is published and its rows deleted, against publishing the same rows.
func benchRelay(ctx context.Context, r *benchRig, o benchOptions) (forms map[string]benchFigures, err error) {
	topic := benchTopic("bench.relay", o.keyed, outbox.DeliveryBroker)
	app := topics.NewApp(r.broker, nil, topics.AppConfig{Name: "bench"})
	topic.Declare(app)
	stop := r.service(ctx, app.Run)
	defer func() { err = errors.Join(err, stop()) }()
	ready, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := app.Ready(ready); err != nil {
		return nil, err
	}
	box, err := outbox.New(ctx, r.store, outbox.Config{})
	if err != nil {
		return nil, err
	}
	ours := func(ctx context.Context) (benchRound, error) {
		if err := r.fill(ctx, box, topic, o.transfers); err != nil {
			return benchRound{}, err
		}
		return r.relayRound(ctx, o)
	}
	naive := func(ctx context.Context) (benchRound, error) {
		if err := r.fill(ctx, box, topic, o.transfers); err != nil {
			return benchRound{}, err
		}
		round, err := r.publishRows(ctx, o)
		if err == nil {
			err = r.throwAway(ctx, o.transfers)
		}
		return round, err
	}
	f, err := runPairs(ctx, o, ours, naive)
	return map[string]benchFigures{formRelay: f}, err
}

// fill empties the topic, which would refuse messages when full, and puts the messages of a run into the outbox.
func (r *benchRig) fill(ctx context.Context, box *outbox.Outbox, topic *topics.Topic[benchTransferred], rows int) error {
	if err := r.broker.DeleteTopic(ctx, topic.Name()); err != nil {
		return err
	}
	if err := r.broker.EnsureTopic(ctx, broker.TopicSpec{Name: topic.Name(), Retained: true}); err != nil {
		return err
	}
	for from := 0; from < rows; from += 500 {
		err := box.Transact(ctx, func(tx outbox.Tx) error {
			for n := from; n < min(rows, from+500); n++ {
				if _, err := box.Publish(ctx, tx, topic.Message(benchTransferOf(n))); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("fill the outbox: %w", err)
		}
	}
	return nil
}

// relayRound starts a relay and waits until it has emptied the outbox. Its start (lease, loading) counts.
func (r *benchRig) relayRound(ctx context.Context, o benchOptions) (benchRound, error) {
	relay := outbox.NewRelay(r.store, r.broker, outbox.RelayConfig{Name: "bench", Batch: benchRelayInFlight})
	before, start := r.counters(), time.Now()
	stop := r.service(ctx, relay.Run)
	err := r.released(ctx)
	round := benchRound{transfers: o.transfers, elapsed: time.Since(start)}
	r.since(before, &round)
	round.batches = round.commits
	return round, errors.Join(err, stop())
}

// publishRows is the bare side: read pages of rows and publish them, at most benchRelayInFlight at a time.
func (r *benchRig) publishRows(ctx context.Context, o benchOptions) (benchRound, error) {
	before, start := r.counters(), time.Now()
	var (
		mu     sync.Mutex
		failed error
		room   = make(chan struct{}, benchRelayInFlight)
		cursor int64
	)
	id, err := r.store.UUID(ctx)
	if err != nil {
		return benchRound{}, err
	}
	for {
		page, err := r.store.Scan(ctx, cursor, 500, true)
		if err != nil {
			return benchRound{}, err
		}
		if len(page.Rows) == 0 {
			break
		}
		ms := make([]*broker.Message, len(page.Rows))
		for i := range page.Rows {
			m := page.Rows[i].Message
			m.Outbox, m.Seq, m.Attempt = id, page.Rows[i].Seq, 1
			ms[i] = &m
			room <- struct{}{}
		}
		cursor = page.Rows[len(page.Rows)-1].Seq
		r.broker.Publish(ctx, ms, func(_ int, _ broker.Position, err error) {
			if err != nil {
				mu.Lock()
				failed = err
				mu.Unlock()
			}
			<-room
		})
	}
	for range benchRelayInFlight { // all acknowledged
		room <- struct{}{}
	}
	round := benchRound{transfers: o.transfers, elapsed: time.Since(start), batches: 1}
	r.since(before, &round)
	mu.Lock()
	defer mu.Unlock()
	return round, failed
}
