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
	"github.com/twostep-mq/twostep/topics/topicstest/memory"
)

var errDatabase = errors.New("connection reset by peer")

// brittle fails each operation of a transaction when told so.
type brittle struct {
	topics.Store
	// fail says whether the n-th operation (from 1) of this name fails; after: it fails after it was done.
	fail  func(op string, n int) (err error, after bool)
	count map[string]int
}

func (s *brittle) do(op string, fn func() error) error {
	s.count[op]++
	err, after := s.fail(op, s.count[op])
	if err != nil && !after {
		return err
	}
	return errors.Join(fn(), err)
}

func (s *brittle) Begin(ctx context.Context) (tx topics.StoreTx, err error) {
	err = s.do("begin", func() (err error) {
		tx, err = s.Store.Begin(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &brittleTx{StoreTx: tx, s: s}, nil
}

type brittleTx struct {
	topics.StoreTx
	s *brittle
}

func (t *brittleTx) Claim(ctx context.Context, uid string, ids []string, as txn.Outcome) (o []txn.Outcome, err error) {
	err = t.s.do("claim", func() (err error) {
		o, err = t.StoreTx.Claim(ctx, uid, ids, as)
		return err
	})
	return o, err
}

func (t *brittleTx) Park(ctx context.Context, ps []topics.Parked) error {
	return t.s.do("park", func() error { return t.StoreTx.Park(ctx, ps) })
}

func (t *brittleTx) Lock(ctx context.Context, uid, id string) (p topics.Parked, err error) {
	err = t.s.do("lock", func() (err error) {
		p, err = t.StoreTx.Lock(ctx, uid, id)
		return err
	})
	return p, err
}

func (t *brittleTx) Settle(ctx context.Context, uid, id string, as txn.Outcome) error {
	return t.s.do("settle", func() error { return t.StoreTx.Settle(ctx, uid, id, as) })
}

func (t *brittleTx) Update(ctx context.Context, p topics.Parked) error {
	return t.s.do("update", func() error { return t.StoreTx.Update(ctx, p) })
}

func (t *brittleTx) Commit(ctx context.Context) error {
	return t.s.do("commit", func() error { return t.StoreTx.Commit(ctx) })
}

// Every operation fails the first few times, once without and once with having been done: nobody's message is parked for it, and
// everything happens once.
func TestDatabaseErrorsAreNobodysFailure(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"begin", "claim", "park", "lock", "settle", "update", "commit"} {
		for _, after := range []bool{false, true} {
			if after && op == "begin" {
				continue
			}
			t.Run(fmt.Sprintf("%s/after=%t", op, after), func(t *testing.T) {
				t.Parallel()
				bothForms(t, func(t *testing.T, b *bench) {
					flaky := &brittle{Store: b.store, count: map[string]int{}, fail: func(o string, n int) (error, bool) {
						if o == op && n%3 != 0 {
							return errDatabase, after
						}
						return nil, false
					}}
					b.store = flaky
					b.restart(func(c *topics.DispatcherConfig) { c.Shared = b.cfg.Shared })
					b.fail = func(_ context.Context, _ outbox.Tx, d broker.Delivery) error {
						if nameOf(d.ID) == "a1" && d.Attempt < 3 {
							return errors.New("not yet")
						}
						return nil
					}
					b.process(msg("u1", 1), msg("a1", 2, key("a")), msg("a2", 3, key("a"), prev("a1")), msg("u2", 4), msg("r", 5, redelivered))
					for range 5 {
						b.pass(time.Minute)
						b.runParked()
					}
					got := strings.Join(b.effects(), " ")
					if len(b.effects()) != 5 || !inOrder(got, "a1 a2") {
						t.Errorf("executed %q", got)
					}
					b.wantParked()
					if flaky.count[op] == 0 {
						t.Errorf("%s was never called", op)
					}
				})
			})
		}
	}
}

// A batch that deadlocks as a whole is halved until it does not, and each message runs once.
func TestDeadlockHalvesTheBatch(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.store = memory.New()
	ran := map[string]int{}
	var sizes []int
	size := 0
	b.restart(func(c *topics.DispatcherConfig) {
		c.Shared = true
		c.Handler = func(_ context.Context, tx outbox.Tx, d broker.Delivery) error {
			memory.OnCommit(tx, func() { ran[nameOf(d.ID)]++ })
			size++
			return nil
		}
		c.Store = &brittle{Store: b.store, count: map[string]int{}, fail: func(op string, _ int) (error, bool) {
			if op != "commit" {
				return nil, false
			}
			defer func() { size = 0 }()
			sizes = append(sizes, size)
			if size > 2 {
				return topics.ErrTryAgain, false
			}
			return nil, false
		}}
	})
	var batch []broker.Delivery
	for i := range 8 {
		batch = append(batch, msg(fmt.Sprintf("m%d", i), int64(i+1)))
	}
	b.process(batch...)
	if fmt.Sprint(sizes) != "[8 4 2 2 4 2 2]" {
		t.Errorf("transactions of %v messages, want 8, then halves", sizes)
	}
	for _, m := range batch {
		if ran[nameOf(m.ID)] != 1 {
			t.Errorf("%s ran %d times", nameOf(m.ID), ran[nameOf(m.ID)])
		}
		b.wantReceipt(m, txn.Success)
	}
}

// The same when it is a handler that met the deadlock.
func TestHandlersDeadlockHalvesTheBatch(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *topics.DispatcherConfig) { c.Shared = true })
	seen := map[outbox.Tx]int{}
	var order []outbox.Tx
	b.fail = func(_ context.Context, tx outbox.Tx, _ broker.Delivery) error {
		if seen[tx]++; seen[tx] == 1 {
			order = append(order, tx)
		}
		if seen[tx] == 4 {
			return topics.ErrTryAgain
		}
		return nil
	}
	var batch []broker.Delivery
	for i := range 6 {
		batch = append(batch, msg(fmt.Sprintf("m%d", i), int64(i+1)))
	}
	b.process(batch...)
	if len(order) != 3 || seen[order[1]] != 3 || seen[order[2]] != 3 {
		t.Errorf("%d transactions of %v messages, want 4 of 6 and then 3 and 3", len(order), seen)
	}
	b.wantEffects("m0", "m1", "m2", "m3", "m4", "m5")
}

// While this process rolls a failed message back, another executes it: then it is no failure here.
func TestFailedHereExecutedElsewhere(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	other := b.twin(b.sub, nil)
	m := msg("m", 1)
	b.store = &brittle{Store: b.store, count: map[string]int{}, fail: func(op string, n int) (error, bool) {
		if op == "begin" && n == 2 {
			other.process(m)
		}
		return nil, false
	}}
	b.restart(nil)
	b.fail = failing("m")
	b.process(m)
	b.wantEffects("m")
	b.wantParked()
	b.wantReceipt(m, txn.Success)
}

// A handler whose database always asks to try again gives way to the others, and never becomes a dead letter for it.
func TestTryAgainForEverIsParkedButNeverDead(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.fail = func(_ context.Context, _ outbox.Tx, d broker.Delivery) error {
		if nameOf(d.ID) == "m1" {
			return topics.ErrTryAgain
		}
		return nil
	}
	b.process(msg("m1", 1), msg("m2", 2))
	b.wantEffects("m2")
	for range 5 {
		b.pass(time.Minute)
		b.runParked()
	}
	b.wantParked("m1:waiting:0")
	b.fail = nil
	b.pass(time.Minute)
	b.runParked()
	b.wantEffects("m2", "m1")
}

// Somebody else's process runs the same parked messages: each runs once, and a slow attempt's end changes nothing of a newer one.
func TestTwoProcessesRunParkedMessagesOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	var batch []broker.Delivery
	for i := range 30 {
		batch = append(batch, msg(fmt.Sprintf("m%02d", i), int64(i+1), key(fmt.Sprint(i%3)), redelivered))
	}
	b.process(batch...)
	other := b.twin(b.sub, nil)
	done := make(chan error, 2)
	for _, d := range []*topics.Dispatcher{b.d, other.d} {
		go func() {
			_, err := d.RunParked(t.Context())
			done <- err
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	b.pass(time.Minute)
	b.runParked()
	got := b.effects()
	if len(got) != 30 {
		t.Errorf("%d effects, want 30", len(got))
	}
	seen := map[string]bool{}
	for _, n := range got {
		if seen[n] {
			t.Errorf("%s ran twice", n)
		}
		seen[n] = true
	}
}

// A receipt that cannot be sent settles the batch all the same: the relay asks again, and gets the stored word.
func TestLostReceiptIsAnsweredLater(t *testing.T) {
	t.Parallel()
	bothForms(t, func(t *testing.T, b *bench) {
		b.restart(func(c *topics.DispatcherConfig) {
			c.Shared = b.cfg.Shared
			c.Send = func(context.Context, string, []*broker.Message) (int, error) { return 0, broker.ErrFull }
		})
		m := msg("m", 1)
		b.process(m)
		b.restart(func(c *topics.DispatcherConfig) { c.Shared = b.cfg.Shared })
		b.process(msg("m", 1, again(2)))
		b.wantReceipt(m, txn.Success)
		b.wantEffects("m")
	})
}

// What a foreign producer may write must not stand in everybody's way, whether it runs or is parked.
func TestUnsoundMessagesDoNotBlock(t *testing.T) {
	t.Parallel()
	bothForms(t, func(t *testing.T, b *bench) {
		b.fail = failing("parked")
		unsound := func(name string, offset uint64, change func(*broker.Delivery)) broker.Delivery {
			d := msg(name, 0, func(d *broker.Delivery) { d.Outbox, d.Seq, d.Position.Offset = "", 0, offset })
			change(&d)
			return d
		}
		b.process(
			unsound("m1", 1, func(d *broker.Delivery) { d.Key = "a\xff" }),
			unsound("m2", 2, func(d *broker.Delivery) { d.Key = "a\xfe\x00" }),
			unsound("m3", 3, func(d *broker.Delivery) { d.Prev = "\xff" }),
			unsound("", 4, func(d *broker.Delivery) { d.ID = "" }),
			unsound("", 5, func(d *broker.Delivery) { d.ID = strings.Repeat("x", 300) }),
			unsound("", 6, func(d *broker.Delivery) { d.ID = "\xff" }),
			unsound("parked", 7, func(d *broker.Delivery) {
				d.Key, d.GID, d.ContentType = "k\xff", "g\x00", "t\xff"
				d.Headers = map[string]string{"h\xff": "v\x00"}
			}),
			unsound("behind", 8, func(d *broker.Delivery) { d.Key = "k\xff" }),
		)
		if got := b.effects(); len(got) != 6 {
			t.Errorf("executed %q, want six", got)
		}
		b.wantParked("parked:waiting:1", "behind:held:0")
	})
}
