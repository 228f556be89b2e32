package topics_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

func TestBatchExecutesOnceAndAnswersDuplicates(t *testing.T) {
	t.Parallel()
	bothForms(t, func(t *testing.T, b *bench) {
		m1, m2 := msg("m1", 1), msg("m2", 2)
		b.process(m1, m2, m1)
		b.wantEffects("m1", "m2")
		b.wantReceipt(m1, txn.Success)
		b.wantReceipt(m2, txn.Success)
		if !b.cfg.Shared {
			return
		}
		// Another row with the same message (sent again under another number) is answered too, and runs nothing.
		b.process(msg("m1", 7, again(2)), msg("m3", 3))
		b.wantEffects("m1", "m2", "m3")
		b.wantReceipt(msg("m1", 7), txn.Success)
	})
}

func TestSharedBatchIsOneTransaction(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *topics.DispatcherConfig) { c.Shared = true })
	seen := map[outbox.Tx]bool{}
	b.fail = func(_ context.Context, tx outbox.Tx, _ broker.Delivery) error {
		seen[tx] = true
		return nil
	}
	var batch []broker.Delivery
	for i := range 20 {
		batch = append(batch, msg(fmt.Sprintf("m%02d", i), int64(i+1)))
	}
	b.process(batch...)
	if len(seen) != 1 || b.batches != 1 || len(b.effects()) != 20 {
		t.Errorf("%d transactions, %d receipts, %d effects; want 1, 1, 20", len(seen), b.batches, len(b.effects()))
	}
}

func TestReceiptsGoToEachOutboxAndNoneToForeigners(t *testing.T) {
	t.Parallel()
	bothForms(t, func(t *testing.T, b *bench) {
		foreign := msg("x", 0, func(d *broker.Delivery) {
			d.Outbox, d.Seq, d.Attempt = "", 0, 0
			d.ID = broker.ForeignID("bank.trans-in", d.Position, time.Unix(1, 0))
		})
		a, c := msg("a", 1), msg("c", 1, from(outboxB))
		b.process(a, foreign, c)
		b.wantEffects("a", foreign.ID, "c")
		b.wantReceipt(a, txn.Success)
		b.wantReceipt(c, txn.Success)
		if len(b.receipts) != 2 {
			t.Errorf("receipts %v, want two", b.receipts)
		}
	})
}

func TestFailureParksTheMessageAndHoldsItsKeyOnly(t *testing.T) {
	t.Parallel()
	bothForms(t, func(t *testing.T, b *bench) {
		b.fail = failing("a1")
		a1, a2, b1, u := msg("a1", 1, key("a")), msg("a2", 2, key("a"), prev("a1")), msg("b1", 3, key("b")), msg("u", 4)
		b.process(a1, a2, b1, u)
		b.wantEffects("b1", "u")
		b.wantParked("a1:waiting:1", "a2:held:0")
		for _, m := range []broker.Delivery{a1, a2} {
			b.wantReceipt(m, txn.Parked)
			b.wantBarrier(m, txn.Parked)
		}
		b.wantReceipt(b1, txn.Success)
		if r := b.parkedRows()[0].Reason; !strings.Contains(r, "no such account") {
			t.Errorf("reason %q", r)
		}
		// A later batch is held, too, and what comes twice is answered with what stands in the barrier.
		b.process(msg("a3", 5, key("a"), prev("a2")), msg("a1", 1, key("a"), again(2)))
		b.wantParked("a1:waiting:1", "a2:held:0", "a3:held:0")

		// Not due yet; then it fails again; then it works and its successors follow at once, in order.
		if next := b.runParked(); !next.Equal(b.clock().Add(time.Second)) {
			t.Errorf("next %s, want in 1 s of %s", next, b.clock())
		}
		b.pass(time.Second)
		b.runParked()
		b.wantParked("a1:waiting:2", "a2:held:0", "a3:held:0")
		b.fail = nil
		b.pass(2 * time.Second)
		if next := b.runParked(); !next.IsZero() {
			t.Errorf("next %s, want none", next)
		}
		b.wantParked()
		b.wantEffects("b1", "u", "a1", "a2", "a3")
		b.wantBarrier(a1, txn.Success)
		b.wantBarrier(a2, txn.Success)
	})
}

func TestSuccessorRunsInItsPlaceAgainAfterTheKeyIsFree(t *testing.T) {
	t.Parallel()
	bothForms(t, func(t *testing.T, b *bench) {
		b.fail = failing("a1")
		b.process(msg("a1", 1, key("a")))
		b.fail = nil
		b.pass(time.Second)
		b.runParked()
		b.process(msg("a2", 2, key("a"), prev("a1")))
		b.wantEffects("a1", "a2")
		b.wantParked()
	})
}

func TestRedeliveredIsParkedFirst(t *testing.T) {
	t.Parallel()
	bothForms(t, func(t *testing.T, b *bench) {
		b.fail = func(context.Context, outbox.Tx, broker.Delivery) error { return errors.New("handler ran") }
		m1, m2 := msg("m1", 1, key("k"), redelivered), msg("m2", 2, key("k"), prev("m1"))
		b.process(m1, m2)
		b.wantParked("m1:waiting:0", "m2:held:0")
		b.wantReceipt(m1, txn.Parked)
		b.fail = nil
		b.runParked()
		b.wantEffects("m1", "m2")
	})
}

func TestPanicIsThatMessagesFailure(t *testing.T) {
	t.Parallel()
	bothForms(t, func(t *testing.T, b *bench) {
		b.fail = func(_ context.Context, _ outbox.Tx, d broker.Delivery) error {
			if nameOf(d.ID) == "m2" {
				panic("index out of range")
			}
			return nil
		}
		b.process(msg("m1", 1), msg("m2", 2), msg("m3", 3))
		b.wantEffects("m1", "m3")
		b.wantParked("m2:waiting:1")
		if r := b.parkedRows()[0].Reason; r != "panic: index out of range" {
			t.Errorf("reason %q", r)
		}
	})
}

func TestDeadErrorAndUsedUpAttemptsAreDeadLetters(t *testing.T) {
	t.Parallel()
	bothForms(t, func(t *testing.T, b *bench) {
		b.fail = func(_ context.Context, _ outbox.Tx, d broker.Delivery) error {
			switch nameOf(d.ID) {
			case "final":
				return fmt.Errorf("credit: %w", topics.Dead(errors.New("account closed")))
			case "never":
				return errors.New("no")
			}
			return nil
		}
		b.process(msg("final", 1, key("f")), msg("after", 2, key("f"), prev("final")), msg("never", 3))
		b.wantParked("final:dead:1", "after:held:0", "never:waiting:1")
		for range 3 {
			b.pass(time.Minute)
			b.runParked()
		}
		b.wantParked("final:dead:1", "after:held:0", "never:dead:3")
		b.wantEffects()
	})
}

func TestContinueOnDeadPassesDeadLettersOver(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *topics.DispatcherConfig) { c.HoldOnDead = false })
	b.fail = func(_ context.Context, _ outbox.Tx, d broker.Delivery) error {
		if nameOf(d.ID) == "a1" {
			return topics.Dead(errors.New("no"))
		}
		return nil
	}
	b.process(msg("a1", 1, key("a")), msg("a2", 2, key("a"), prev("a1")))
	b.process(msg("a3", 3, key("a"), prev("a2")))
	b.wantEffects("a2", "a3")
	b.wantParked("a1:dead:1")
}

func TestReasonIsBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.fail = func(context.Context, outbox.Tx, broker.Delivery) error {
		return errors.New(strings.Repeat("é", 2000) + "\xff")
	}
	b.process(msg("m", 1))
	if r := b.parkedRows()[0].Reason; len(r) > 1024 || !strings.HasSuffix(r, "é…") {
		t.Errorf("reason of %d bytes ends in %q", len(r), r[len(r)-8:])
	}
}

func TestShutdownParksNothing(t *testing.T) {
	t.Parallel()
	bothForms(t, func(t *testing.T, b *bench) {
		ctx, cancel := context.WithCancel(t.Context())
		b.fail = func(ctx context.Context, _ outbox.Tx, _ broker.Delivery) error {
			cancel()
			return ctx.Err()
		}
		if err := b.d.Process(ctx, []broker.Delivery{msg("m1", 1), msg("m2", 2)}); !errors.Is(err, context.Canceled) {
			t.Fatalf("process: %v, want the context's error", err)
		}
		b.wantParked()
		b.wantBarrier(msg("m1", 1), "")
		if len(b.receipts) > 0 {
			t.Errorf("receipts %v", b.receipts)
		}
	})
}

func TestShutdownGivesTheAttemptBack(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.process(msg("m", 1, redelivered))
	ctx, cancel := context.WithCancel(t.Context())
	b.fail = func(ctx context.Context, _ outbox.Tx, _ broker.Delivery) error {
		cancel()
		return ctx.Err()
	}
	if _, err := b.d.RunParked(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("run parked: %v", err)
	}
	b.wantParked("m:waiting:0")
}

func TestAttemptCountsExecutionsNotSends(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	var seen []int
	b.fail = func(_ context.Context, _ outbox.Tx, d broker.Delivery) error {
		seen = append(seen, d.Attempt)
		if len(seen) < 3 {
			return errors.New("not yet")
		}
		return nil
	}
	b.process(msg("m", 1, again(9)))
	b.pass(time.Second)
	b.runParked()
	b.pass(2 * time.Second)
	b.runParked()
	if fmt.Sprint(seen) != "[1 2 3]" {
		t.Errorf("attempts %v, want [1 2 3]", seen)
	}
}

// A batch of repetitions costs one transaction, not one each, and their receipts say what the barrier says.
func TestRepetitionsAreSiftedInOneTransaction(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	counted := &countingStore{Store: b.store}
	b.store = counted
	b.restart(nil)
	b.fail = failing("m00")
	var batch []broker.Delivery
	for i := range 50 {
		batch = append(batch, msg(fmt.Sprintf("m%02d", i), int64(i+1)))
	}
	b.process(batch...)
	for i := range batch {
		batch[i].Attempt = 2
	}
	b.process(batch[:1]...) // so that the receipts below are the second batch's
	clear(b.receipts)
	counted.begun = 0
	b.process(append(batch, msg("new", 99))...)
	if counted.begun != 2 {
		t.Errorf("%d transactions, want 2: the repetitions' and the new message's", counted.begun)
	}
	b.wantReceipt(batch[0], txn.Parked)
	b.wantReceipt(batch[1], txn.Success)
	b.wantReceipt(batch[49], txn.Success)
	if got := b.effects(); len(got) != 50 || got[49] != "new" {
		t.Errorf("effects %q", got)
	}
}

// A batch in which a suspect stands behind a message that runs keeps the key's order.
func TestSiftingKeepsTheKeysOrder(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.process(
		msg("a1", 1, key("a")), msg("a2", 2, key("a"), prev("a1"), redelivered), msg("a3", 3, key("a"), prev("a2")),
		msg("b1", 4, key("b"), redelivered), msg("b2", 5, key("b"), prev("b1")))
	b.wantEffects("a1")
	b.wantParked("b1:waiting:0", "b2:held:0", "a2:waiting:0", "a3:held:0")
	b.runParked()
	got := strings.Join(b.effects(), " ")
	for _, order := range []string{"a1 a2 a3", "b1 b2"} {
		if !inOrder(got, order) {
			t.Errorf("executed %s, want %s in order", got, order)
		}
	}
}

func inOrder(all, part string) bool {
	at := 0
	for _, w := range strings.Fields(part) {
		i := strings.Index(all[at:], w)
		if i < 0 {
			return false
		}
		at += i
	}
	return true
}

type countingStore struct {
	topics.Store
	begun int
}

func (s *countingStore) Begin(ctx context.Context) (topics.StoreTx, error) {
	s.begun++
	return s.Store.Begin(ctx)
}
