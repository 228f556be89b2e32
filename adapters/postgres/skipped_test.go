package postgres_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// long tells whether there is time for everything.
func long() bool { return os.Getenv("TWOSTEP_LONG") != "" }

// lastOnly is the store of a relay that pages by "seq > last": no gap is ever looked into.
type lastOnly struct{ outbox.RelayStore }

func (s lastOnly) Probe(ctx context.Context, gaps []outbox.Gap, limit int) (outbox.Page, []outbox.Gap, error) {
	p, _, err := s.RelayStore.Probe(ctx, gaps, limit)
	p.Rows = nil
	return p, gaps, err
}

// writeMany publishes about total messages: 32 writers, 1 to 20 messages a transaction, one in twenty delayed by up to 50 ms before its
// commit, one in twenty rolled back. Half of the transactions are Transact's, in which messages wait for the COMMIT and so hardly ever come out of
// order. It returns how many were committed; their numbers are 1 to that, and those of rolled-back ones negative.
func (w *town) writeMany(topic *topics.Topic[change], total int) int {
	seed := rand.Uint64()
	w.t.Logf("seed %d", seed)
	ctx := w.t.Context()
	var (
		next, never atomic.Int64
		writing     sync.WaitGroup
		no          = errors.New("no")
	)
	for n := range 32 {
		random := rand.New(rand.NewPCG(seed, uint64(n)))
		writing.Go(func() {
			for next.Load() < int64(total) {
				rollback := random.IntN(20) == 0
				rows, delay := int64(1+random.IntN(20)), time.Duration(0)
				if random.IntN(20) == 0 {
					delay = time.Duration(random.IntN(50)) * time.Millisecond
				}
				first := next.Add(rows) - rows + 1
				if rollback {
					next.Add(-rows)
					first = never.Add(-rows)
				}
				err := w.inTransaction(n%2 == 0, func(tx outbox.Transaction) error {
					for i := range rows {
						if _, err := w.box.Publish(ctx, tx, topic.Message(change{ID: int(first + i)})); err != nil {
							return err
						}
					}
					<-time.After(delay)
					if rollback {
						return no
					}
					return nil
				})
				if err != nil && !errors.Is(err, no) {
					w.t.Error(err)
					return
				}
			}
		})
	}
	writing.Wait()
	return int(next.Load())
}

func (w *town) inTransaction(managed bool, fn func(outbox.Transaction) error) error {
	if managed {
		return w.box.Transact(w.t.Context(), func(tx outbox.Tx) error { return fn(tx) })
	}
	tx, err := w.db.BeginTx(w.t.Context(), nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// TestNoRowIsSkipped: every committed message has one effect, and no other message has one. With a relay that pages by "seq > last" instead
// the same run loses messages, or this test would show nothing.
func TestNoRowIsSkipped(t *testing.T) {
	total := 10_000
	if long() {
		total = 100_000
	}
	topic := topics.New(topics.Config[change]{Name: "bank.t"})
	t.Run("relay", func(t *testing.T) {
		w := newTown(t, nil)
		w.serve(topic, noteEffect)
		committed := w.writeMany(topic, total)
		waitUntil(t, "all messages have an effect and are released", func() bool {
			return w.count(countEffects) >= committed && w.count(`SELECT count(*) FROM twostep_outbox`) == 0
		})
		if n, distinct := w.count(countEffects), w.count(`SELECT count(DISTINCT id) FROM effect WHERE id > 0`); n != committed || distinct != committed {
			t.Errorf("%d effects of %d messages, %d were committed", n, distinct, committed)
		}
		t.Logf("%d messages", committed)
	})
	t.Run("planted: seq > last", func(t *testing.T) {
		w := newTown(t, func(s outbox.RelayStore) outbox.RelayStore { return lastOnly{s} })
		w.serve(topic, noteEffect)
		committed := w.writeMany(topic, min(total, 10_000))
		before, since := 0, time.Now()
		waitUntil(t, "nothing happens any more", func() bool {
			if n := w.count(countEffects); n != before {
				before, since = n, time.Now()
			}
			return time.Since(since) > 3*time.Second
		})
		if before >= committed {
			t.Error("it has lost nothing: the test is too tame")
		}
		t.Logf("%d of %d messages lost", committed-before, committed)
	})
}

// TestLongTransaction: one transaction stays open while many messages pass: none of them waits for it, the relay's memory of it is one
// gap, and its message is not skipped.
func TestLongTransaction(t *testing.T) {
	total, open := 10_000, time.Duration(0)
	if long() {
		total, open = 100_000, time.Minute
	}
	w := newTown(t, nil)
	ctx := t.Context()
	topic := topics.New(topics.Config[change]{Name: "bank.t"})
	w.serve(topic, noteEffect)
	began := time.Now()
	late, err := w.db.BeginTx(ctx, nil)
	noError(t, err)
	defer func() { _ = late.Rollback() }()
	noError(t, errOf(w.box.Publish(ctx, late, topic.Message(change{ID: 0}))))
	const group, wait = 100, 10 * time.Second
	for n := 0; n < total; n += group {
		noError(t, w.box.Transact(ctx, func(tx outbox.Tx) error {
			for i := range group {
				if _, err := w.box.Publish(ctx, tx, topic.Message(change{ID: n + i + 1})); err != nil {
					return err
				}
			}
			return nil
		}))
		if n%5000 == 0 { // nothing stalls: what is published is done within seconds
			since := time.Now()
			waitUntil(t, "messages pass", func() bool { return w.count(countEffects) >= n })
			if took := time.Since(since); took > wait {
				t.Errorf("after %d messages it took %v", n, took)
			}
		}
		// The same number of messages in each second of the time.
		if pause := time.Until(began.Add(open * time.Duration(n) / time.Duration(total))); pause > 0 {
			<-time.After(pause)
		}
	}
	waitUntil(t, "all but the late one are done and released", func() bool {
		return w.count(countEffects) == total && w.count(`SELECT count(*) FROM twostep_outbox`) == 0
	})
	noError(t, late.Commit())
	committed := time.Now()
	waitUntil(t, "the late one is done and released", func() bool {
		return w.count(`SELECT count(*) FROM effect WHERE id = 0`) == 1 && w.count(`SELECT count(*) FROM twostep_outbox`) == 0
	})
	t.Logf("open for %v, the late message was done %v after its commit", time.Since(began).Round(time.Millisecond), time.Since(committed).Round(time.Millisecond))
	if n := w.count(countEffects); n != total+1 {
		t.Errorf("%d effects of %d messages", n, total+1)
	}
}

// TestSharedTransactionWorkers: four services of one subscription, each with a shared transaction over a batch, on 1,000 accounts. With keys
// their locks are taken in the keys' order. Without, batches lock in any order; left to themselves they would spend their time on deadlocks,
// at a fiftieth of the rate.
func TestSharedTransactionWorkers(t *testing.T) {
	// A machine that others use too, or the race detector, halves a rate now and then: the short run looks for the collapse alone.
	messages, pairs, least := 6_000, 2, 0.25
	if long() {
		messages, pairs, least = 10_000, 5, 0.8
	}
	account := func(c change) string { return strconv.Itoa(c.Account) }
	for name, key := range map[string]func(change) string{"keyed": account, "without keys": nil} {
		t.Run(name, func(t *testing.T) {
			w := newTown(t, nil)
			topic := topics.New(topics.Config[change]{Name: "bank.t", Key: key})
			total := 0
			w.workersRate(topic, 1, 500, &total) // registers the subscription
			var ratios []float64
			for range pairs {
				one, four := w.workersRate(topic, 1, messages, &total), w.workersRate(topic, 4, messages, &total)
				ratios = append(ratios, four/one)
				t.Logf("one worker %.0f/s, four %.0f/s", one, four)
			}
			slices.Sort(ratios)
			if r := ratios[len(ratios)/2]; r < least {
				t.Errorf("four workers reach %.2f of one's rate, want %.2f", r, least)
			}
			if n := w.count(`SELECT sum(balance) FROM account`); n != total {
				t.Errorf("%d changes of %d", n, total)
			}
		})
	}
}

// workersRate is how many messages a second so many services handle that find them on the broker.
func (w *town) workersRate(topic *topics.Topic[change], workers, messages int, total *int) float64 {
	ctx := w.t.Context()
	for n := 0; n < messages; n += 500 {
		noError(w.t, w.box.Transact(ctx, func(tx outbox.Tx) error {
			for i := range 500 {
				*total++
				if _, err := w.box.Publish(ctx, tx, topic.Message(change{ID: n + i, Account: rand.IntN(1000)})); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	waitUntil(w.t, "all are on the broker", w.allPublished)
	var stops []func()
	for range workers {
		stops = append(stops, w.serve(topic, func(ctx context.Context, tx outbox.Tx, m topics.Received[change]) error {
			_, err := tx.ExecContext(ctx, `UPDATE account SET balance = balance + 1 WHERE n = $1`, m.Data.Account)
			return err
		}))
	}
	// The broker takes its time to share messages among new readers, and services to notice that they meet: that is not measured.
	done := func() int { return messages - *total + w.count(`SELECT sum(balance) FROM account`) }
	waitUntil(w.t, "changes are made", func() bool { return done() >= messages/2 })
	first, began := done(), time.Now()
	waitUntil(w.t, "all changes are made", func() bool { return done() >= messages })
	took := time.Since(began)
	for _, stop := range stops {
		stop()
	}
	return float64(messages-first) / took.Seconds()
}
