package outboxtest

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/twostep-mq/twostep/outbox"
)

func testLease(t *testing.T, h Harness) {
	t.Run("taken, beaten, given away", func(t *testing.T) {
		d := h.Open(t)
		ctx := testContext(t)
		free, err := d.Relay.Lease(ctx)
		must(t, err)
		if free.Owner != "" {
			t.Fatalf("a new outbox is relayed by %q", free.Owner)
		}
		mine, err := d.Relay.Take(ctx, free, "a")
		must(t, err)
		if mine.Owner != "a" || mine.Epoch <= free.Epoch {
			t.Fatalf("taken: %+v, before %+v", mine, free)
		}
		beaten, err := d.Relay.Beat(ctx, mine, false)
		must(t, err)
		if beaten.Owner != "a" || beaten.Epoch != mine.Epoch || beaten.Beat <= mine.Beat {
			t.Fatalf("beaten: %+v, before %+v", beaten, mine)
		}
		if read, err := d.Another(t).Relay.Lease(ctx); err != nil || read != beaten {
			t.Fatalf("read %+v (%v), want %+v", read, err, beaten)
		}
		given, err := d.Relay.Beat(ctx, beaten, true)
		must(t, err)
		if given.Owner != "" || given.Epoch != mine.Epoch || given.Beat <= beaten.Beat {
			t.Fatalf("given away: %+v", given)
		}
		for _, late := range []outbox.Lease{beaten, given} {
			if _, err := d.Relay.Beat(ctx, late, false); !errors.Is(err, outbox.ErrLeaseLost) {
				t.Errorf("beat of %+v after giving it away: %v", late, err)
			}
		}
		next, err := d.Relay.Take(ctx, given, "b")
		must(t, err)
		if next.Epoch <= mine.Epoch {
			t.Fatalf("epoch %d after %d", next.Epoch, mine.Epoch)
		}
	})

	t.Run("an owner needs a name", func(t *testing.T) {
		d := h.Open(t)
		free, err := d.Relay.Lease(testContext(t))
		must(t, err)
		if _, err := d.Relay.Take(testContext(t), free, ""); err == nil {
			t.Fatal("taken by nobody")
		}
		if _, err := d.Relay.Commit(testContext(t), free, outbox.Checkpoint{}); !errors.Is(err, outbox.ErrLeaseLost) {
			t.Fatalf("checkpoint without a lease: %v", err)
		}
	})

	t.Run("of two takers one wins", func(t *testing.T) {
		d := h.Open(t)
		ctx := testContext(t)
		for range 5 {
			seen, err := d.Relay.Lease(ctx)
			must(t, err)
			var won atomic.Int32
			atOnce(4, func(i int) {
				_, err := d.Relay.Take(ctx, seen, fmt.Sprint(i))
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, outbox.ErrLeaseLost) {
					t.Error(err)
				}
			})
			if won.Load() != 1 {
				t.Fatalf("%d won", won.Load())
			}
		}
	})

	t.Run("a lease that beats cannot be taken", func(t *testing.T) {
		d := h.Open(t)
		ctx := testContext(t)
		mine := take(t, d, "a")
		seen := mine
		_, err := d.Relay.Beat(ctx, mine, false)
		must(t, err)
		if _, err := d.Relay.Take(ctx, seen, "b"); !errors.Is(err, outbox.ErrLeaseLost) {
			t.Fatalf("%v, want ErrLeaseLost", err)
		}
	})

	t.Run("a zombie writes nothing", func(t *testing.T) {
		d := h.Open(t)
		ctx := testContext(t)
		publishN(t, d, 2)
		zombie := take(t, d, "a")
		loaded, err := d.Relay.Load(ctx)
		must(t, err)
		row := scanAll(t, d)[0]
		// The same name again is another relay, too: a restarted process.
		for _, name := range []string{"b", "a"} {
			take(t, d, name)
			if _, err := d.Relay.Beat(ctx, zombie, false); !errors.Is(err, outbox.ErrLeaseLost) {
				t.Errorf("beat: %v", err)
			}
			if _, err := d.Relay.Beat(ctx, zombie, true); !errors.Is(err, outbox.ErrLeaseLost) {
				t.Errorf("resign: %v", err)
			}
			_, err := d.Relay.Commit(ctx, zombie, outbox.Checkpoint{
				Server: loaded.Server, Release: []outbox.RowID{{Seq: row.Seq, ID: row.ID}},
				Bits: []outbox.Bits{{Confirmer: "broker", Bitmap: []byte{1}, Cursor: 9}},
				Head: &outbox.RegistryHead{Owner: "x", Version: 9},
			})
			if !errors.Is(err, outbox.ErrLeaseLost) {
				t.Errorf("checkpoint: %v", err)
			}
		}
		after, err := d.Relay.Load(ctx)
		must(t, err)
		if len(scanAll(t, d)) != 2 || len(after.Bits) != 0 || after.Head.Version != 0 {
			t.Fatalf("the zombie has written: %+v", after)
		}
	})
}

// take makes owner the relay, whoever is.
func take(t *testing.T, d Database, owner string) outbox.Lease {
	t.Helper()
	seen, err := d.Relay.Lease(testContext(t))
	must(t, err)
	l, err := d.Relay.Take(testContext(t), seen, owner)
	must(t, err)
	return l
}
