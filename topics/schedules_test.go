package topics_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
	"github.com/twostep-mq/twostep/topics/topicstest/memory"
)

// The consumer's side of the schedules that broke simpler designs, by their numbers.

// 1: two subscriptions in one database with one barrier key.
func TestSchedule01TwoSubscriptionsInOneDatabaseBothExecute(t *testing.T) {
	t.Parallel()
	bothForms(t, func(t *testing.T, b *bench) {
		sub := outbox.RegistrySubscription{UID: uuid.NewString(), Topic: b.sub.Topic, Name: "audit", Created: 2}
		other := b.twin(sub, func(c *topics.DispatcherConfig) { c.Shared = b.cfg.Shared })
		m := msg("m", 1)
		b.process(m)
		other.process(m)
		b.wantEffects("m")
		other.wantEffects("m")
		other.wantReceipt(m, txn.Success)
	})
}

// 7: a batch handler commits the shared transaction.
func TestSchedule07HandlerThatCommitsTheSharedTransaction(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *topics.DispatcherConfig) { c.Shared = true })
	b.fail = func(ctx context.Context, tx outbox.Tx, d broker.Delivery) error {
		if nameOf(d.ID) == "m3" {
			_, _ = tx.ExecContext(ctx, "COMMIT") // and swallows what it is told
			return errDone
		}
		return nil
	}
	all := []broker.Delivery{msg("m1", 1), msg("m2", 2), msg("m3", 3), msg("s", 4, redelivered)}
	b.process(all...)
	b.fail = nil
	b.runParked()
	for _, m := range all[:3] {
		if got := b.barrier(m); got != txn.Parked {
			t.Errorf("barrier row of %s is %q, want parked", nameOf(m.ID), got)
		}
		b.wantReceipt(m, txn.Parked)
	}
	dead := 0
	for _, p := range b.parkedRows() {
		if p.State == topics.ParkedDead && strings.HasPrefix(p.Reason, "may have run: ") {
			dead++
		}
	}
	if dead != 3 {
		t.Errorf("%d messages are dead with the reason, want the 3 whose handlers shared the transaction; parked: %+v", dead, b.parkedRows())
	}
	b.wantEffects("s")
	b.wantReceipt(all[3], txn.Parked)
}

// 7, on a database where the handler's commit stands: what shares the transaction may have run or not, whatever the handler returns.
func TestSchedule07CommitThatStands(t *testing.T) {
	t.Parallel()
	for _, fails := range []bool{false, true} {
		t.Run(fmt.Sprintf("fails=%t", fails), func(t *testing.T) {
			t.Parallel()
			store := memory.New()
			b := newBench(t, nil)
			b.store = store
			ran := map[string]int{}
			b.restart(func(c *topics.DispatcherConfig) {
				c.Shared = true
				c.Handler = func(_ context.Context, tx outbox.Tx, d broker.Delivery) error {
					name := nameOf(d.ID)
					memory.OnCommit(tx, func() { ran[name]++ })
					if name == "m2" {
						memory.End(tx, true)
						if fails {
							return errors.New("and then fails")
						}
					}
					return nil
				}
			})
			b.process(msg("m1", 1), msg("m2", 2), msg("m3", 3))
			b.wantParked("m1:dead:1", "m2:dead:1", "m3:dead:1")
			for _, p := range b.parkedRows() {
				if !strings.HasPrefix(p.Reason, "may have run: ") {
					t.Errorf("reason of %s: %q", nameOf(p.Message.ID), p.Reason)
				}
				if o := store.Outcome(b.sub.UID, p.Message.ID); o != txn.Parked {
					t.Errorf("barrier row of %s: %q", nameOf(p.Message.ID), o)
				}
			}
			for name, n := range ran {
				if n > 1 {
					t.Errorf("%s had %d effects", name, n)
				}
			}
		})
	}
}

// 7: a swallowed deadlock: the transaction is gone, the handler says that all is well.
func TestSchedule07SwallowedDeadlock(t *testing.T) {
	t.Parallel()
	for _, parked := range []bool{false, true} {
		t.Run(fmt.Sprintf("parked=%t", parked), func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			b.store = memory.New()
			b.restart(func(c *topics.DispatcherConfig) {
				c.Handler = func(_ context.Context, tx outbox.Tx, _ broker.Delivery) error {
					memory.End(tx, false)
					return nil
				}
			})
			m := msg("m", 1)
			m.Redelivered = parked
			b.process(m)
			b.runParked()
			b.wantParked("m:dead:1")
			if r := b.parkedRows()[0].Reason; !strings.HasPrefix(r, "may have run: ") {
				t.Errorf("reason %q", r)
			}
			b.wantReceipt(m, txn.Parked)
		})
	}
}

// 7: a deadlock that the handler returned is no failure and nobody's end.
func TestSchedule07ReturnedDeadlockIsTriedAgain(t *testing.T) {
	t.Parallel()
	bothForms(t, func(t *testing.T, b *bench) {
		store := memory.New()
		b.store = store
		left, ran := 3, map[string]int{}
		b.restart(func(c *topics.DispatcherConfig) {
			c.Shared = b.cfg.Shared
			c.Handler = func(_ context.Context, tx outbox.Tx, d broker.Delivery) error {
				if name := nameOf(d.ID); name == "m2" && left > 0 {
					left--
					memory.End(tx, false)
					return fmt.Errorf("credit: %w", topics.ErrTryAgain)
				}
				memory.OnCommit(tx, func() { ran[nameOf(d.ID)]++ })
				return nil
			}
		})
		b.process(msg("m1", 1), msg("m2", 2), msg("m3", 3))
		b.wantParked()
		if fmt.Sprint(ran) != "map[m1:1 m2:1 m3:1]" {
			t.Errorf("executed %v", ran)
		}
	})
}

// 10: message 1 of a key is lost with the broker, 2 comes, 1 is sent again.
func TestSchedule10SuccessorOfALostMessageIsNotTaken(t *testing.T) {
	t.Parallel()
	bothForms(t, func(t *testing.T, b *bench) {
		a1, a2, a3 := msg("a1", 1, key("a")), msg("a2", 2, key("a"), prev("a1")), msg("a3", 3, key("a"), prev("a2"))
		b.process(a2, a3, msg("b1", 4, key("b")))
		b.wantEffects("b1")
		for _, m := range []broker.Delivery{a2, a3} {
			b.wantBarrier(m, "")
			b.wantReceipt(m, "")
		}
		// Sent again, in order; and once more out of order within a batch, where each is only taken behind its predecessor.
		b.process(a1, a2, a3)
		b.wantEffects("b1", "a1", "a2", "a3")
		c1, c2 := msg("c1", 5, key("c")), msg("c2", 6, key("c"), prev("c1"))
		b.process(c2, c1)
		b.wantEffects("b1", "a1", "a2", "a3", "c1")
		b.wantReceipt(c2, "")
		b.process(c2)
		b.wantEffects("b1", "a1", "a2", "a3", "c1", "c2")
	})
}

// 10: the same message out of order and again, in one batch: it is taken where it may be.
func TestSchedule10RefusedAndTakenInOneBatch(t *testing.T) {
	t.Parallel()
	bothForms(t, func(t *testing.T, b *bench) {
		c1, c2 := msg("c1", 1, key("c")), msg("c2", 2, key("c"), prev("c1"))
		b.process(c2, c1, c2)
		b.wantEffects("c1", "c2")
		b.wantReceipt(c2, txn.Success)
	})
}

// 11: a dead letter replayed after its successors. With on_dead: hold they wait for it.
func TestSchedule11DeadLetterReplayedAfterItsSuccessors(t *testing.T) {
	t.Parallel()
	bothForms(t, func(t *testing.T, b *bench) {
		b.fail = failing("a1")
		b.process(msg("a1", 1, key("a")), msg("a2", 2, key("a"), prev("a1")), msg("b1", 3, key("b")))
		for range 3 {
			b.pass(time.Minute)
			b.runParked()
		}
		b.process(msg("a3", 4, key("a"), prev("a2")))
		b.wantParked("a1:dead:3", "a2:held:0", "a3:held:0")
		b.wantEffects("b1")

		if r := b.ask(topics.ParkedRequest{Op: topics.ParkedReplay, ID: idOf("a2")}); r.Code != topics.ParkedCodeConflict {
			t.Errorf("replay of a held message: %+v, want a conflict", r)
		}
		b.fail = nil
		if r := b.ask(topics.ParkedRequest{Op: topics.ParkedReplay, ID: idOf("a1")}); r.Error != "" || r.Parked[0].State != topics.ParkedWaiting || r.Parked[0].Attempts != 0 {
			t.Fatalf("replay: %+v", r)
		}
		b.runParked()
		b.wantEffects("b1", "a1", "a2", "a3")
		b.wantParked()
	})
}

// 11: the dead letter is dropped: its successors go on without it, and it never runs.
func TestSchedule11DeadLetterDropped(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.fail = func(_ context.Context, _ outbox.Tx, d broker.Delivery) error {
		if nameOf(d.ID) == "a1" {
			return topics.Dead(errors.New("account closed"))
		}
		return nil
	}
	a1 := msg("a1", 1, key("a"))
	b.process(a1, msg("a2", 2, key("a"), prev("a1")))
	b.runParked()
	b.wantEffects()
	if r := b.ask(topics.ParkedRequest{Op: topics.ParkedDrop, ID: idOf("a1")}); r.Error != "" {
		t.Fatalf("drop: %+v", r)
	}
	b.fail = nil
	b.runParked()
	clear(b.receipts)
	b.process(msg("a1", 1, key("a"), again(2)), msg("a3", 3, key("a"), prev("a2")))
	b.wantEffects("a2", "a3")
	b.wantBarrier(a1, txn.Dropped)
	b.wantReceipt(a1, txn.Parked)
}

// poisonDB, if set, makes this test binary the process that a message kills.
const poisonDB = "TWOSTEP_TEST_POISON_DB"

// 12: a message that kills the process, redelivered for ever. The process is a real one and dies by SIGKILL.
func TestSchedule12MessageThatKillsTheProcessIsFound(t *testing.T) {
	if path := os.Getenv(poisonDB); path != "" {
		poisonedProcess(t, path)
		return
	}
	t.Parallel()
	b := newBench(t, nil)
	var path string
	if err := b.db.QueryRowContext(t.Context(), `SELECT file FROM pragma_database_list WHERE name = 'main'`).Scan(&path); err != nil {
		t.Fatal(err)
	}
	kills := 0
	for ; kills < 20; kills++ {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSchedule12MessageThatKillsTheProcessIsFound$", "-test.count=1")
		cmd.Env = append(os.Environ(), poisonDB+"="+path, "TWOSTEP_TEST_UID="+b.sub.UID)
		out, err := cmd.CombinedOutput()
		if err == nil {
			break
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Exited() {
			t.Fatalf("child: %v\n%s", err, out)
		}
	}
	// Once directly, then three counted attempts; the next process finds it dead and lives.
	if kills != 4 {
		t.Errorf("%d processes were killed, want 4", kills)
	}
	b.wantParked("poison:dead:3", "after:held:0")
	if r := b.parkedRows()[0].Reason; !strings.Contains(r, "killed the process") {
		t.Errorf("reason %q", r)
	}
	b.wantEffects("other")
}

// poisonedProcess is a consumer that gets the same two messages again, since they were never settled.
func poisonedProcess(t *testing.T, path string) {
	db, err := sqlite.Open(filepath.Clean(path))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	store, err := sqlite.NewConsumer(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, db: db, store: store, now: time.Now(), receipts: map[string]txn.Outcome{},
		sub: outbox.RegistrySubscription{UID: os.Getenv("TWOSTEP_TEST_UID"), Topic: "bank.trans-in", Name: "accounts", Created: 1}}
	b.restart(func(c *topics.DispatcherConfig) { c.Backoff = func(int) time.Duration { return 0 } })
	b.fail = func(_ context.Context, _ outbox.Tx, d broker.Delivery) error {
		if nameOf(d.ID) == "poison" {
			self, err := os.FindProcess(os.Getpid())
			if err == nil {
				err = self.Kill()
			}
			return errors.Join(err, errors.New("still alive"))
		}
		return nil
	}
	var before int
	if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM effect`).Scan(&before); err != nil {
		t.Fatal(err)
	}
	poison := msg("poison", 1, key("p"))
	poison.Redelivered = before > 0
	b.process(msg("other", 3), poison, msg("after", 2, key("p"), prev("poison")))
	b.runParked()
}

// 17: a predecessor that never comes: it was rolled back or is older than the subscription. The relay then names none, and the message,
// which was refused while it was named, is taken.
func TestSchedule17PredecessorThatNeverComes(t *testing.T) {
	t.Parallel()
	bothForms(t, func(t *testing.T, b *bench) {
		refused := msg("a2", 2, key("a"), prev("ghost"))
		b.process(refused)
		b.wantEffects()
		b.wantReceipt(refused, "")
		b.wantBarrier(refused, "")
		b.process(msg("a2", 2, key("a"), again(2)), msg("a3", 3, key("a"), prev("a2")))
		b.wantEffects("a2", "a3")
		b.wantParked()
	})
}

// 18: a foreign producer's position is used again after the topic was made anew.
func TestSchedule18ForeignPositionUsedAgain(t *testing.T) {
	t.Parallel()
	bothForms(t, func(t *testing.T, b *bench) {
		foreign := func(stored time.Time) broker.Delivery {
			d := broker.Delivery{Message: &broker.Message{Topic: "bank.trans-in", Payload: []byte(`{}`)}, Position: broker.Position{Stream: "s", Offset: 5001}, Stored: stored}
			d.ID = broker.ForeignID(d.Topic, d.Position, stored)
			return d
		}
		first, second := foreign(time.Unix(100, 1)), foreign(time.Unix(200, 2))
		b.process(first)
		b.process(first)
		b.process(second)
		b.wantEffects(first.ID, second.ID)
		if len(b.receipts) > 0 {
			t.Errorf("receipts for foreign messages: %v", b.receipts)
		}
	})
}
