package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/outbox"
	outboxmem "github.com/twostep-mq/twostep/outbox/outboxtest/memory"
)

// Schedules that broke simpler designs, played on the production relay. Each fails when the decision against it is
// undone: see testdata/mutants.

// TestSchedule2ReceiptNeverStandsForAnotherRow: row 1 commits after row 2 was executed and confirmed. Nothing said about row 2 may
// release row 1.
func TestSchedule2ReceiptNeverStandsForAnotherRow(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	sub := g.reader("pay", "accounts")
	g.announce(g.topic("pay", sub))
	late, early := g.message("pay", "", "late"), g.message("pay", "", "early")
	tx := g.open(late)
	g.commit(early)

	r := g.relay("r1")
	r.run(2*time.Second, sub)
	sub.demandExecuted("early")
	g.demandWaiting()

	sub.mute = true
	g.must(tx.Commit())
	r.run(500*time.Millisecond, sub)
	sub.demandExecuted("early", "late")
	// Words about other rows: the next one, the one before by number with this one's id, this one's number with another id.
	g.receipt(g.uuid, sub.uid, entry(2, early), entry(2, late), entry(1, early), entry(3, late))
	r.run(500 * time.Millisecond)
	g.demandWaiting("late")
	// And a word about it by nobody whom the registry knows.
	g.receipt(g.uuid, uuid.NewString(), entry(1, late))
	r.run(500 * time.Millisecond)
	g.demandWaiting("late")

	g.receipt(g.uuid, sub.uid, entry(1, late))
	r.run(500 * time.Millisecond)
	g.demandWaiting()
}

// TestSchedule3NumbersHandedOutAgain: after a restore the database gives row 3 to another message. The receipt for the old one is
// still under way.
func TestSchedule3NumbersHandedOutAgain(t *testing.T) {
	t.Parallel()
	for _, counted := range []bool{false, true} {
		t.Run(fmt.Sprintf("counted=%v", counted), func(t *testing.T) {
			t.Parallel()
			g := newRig(t, outboxmem.Config{Counted: counted})
			sub := g.reader("pay", "accounts")
			g.announce(g.topic("pay", sub))
			r := g.relay("r1")
			g.commit(g.message("pay", "", "one"), g.message("pay", "", "two"))
			r.run(time.Second)
			backup := g.store.Backup()
			old := g.message("pay", "", "old three")
			g.commit(old)
			r.run(time.Second, sub)
			g.demandWaiting()

			g.store.Restore(backup)
			sub.mute = true
			g.commit(g.message("pay", "", "new three"))
			g.receipt(g.uuid, sub.uid, entry(3, old))
			r.run(2*time.Second, sub)
			if !slices.Contains(g.waiting(), "new three") {
				t.Fatal("an old receipt released a new row")
			}
			sub.mute = false
			r.run(10*time.Second, sub)
			g.demandWaiting()
			sub.demandExecuted("one", "two", "old three", "new three")
		})
	}
}

// TestSchedule3RecordedBitsOfOldRows: the bits that a relay before recorded are of rows whose numbers others have now.
func TestSchedule3RecordedBitsOfOldRows(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	here, away := g.reader("pay", "here"), g.reader("pay", "away")
	g.announce(g.topic("pay", here, away))
	r1 := g.relay("r1")
	g.commit(g.message("pay", "", "a"), g.message("pay", "", "b"))
	r1.run(time.Second, here) // "here" has confirmed 1 and 2; the rows wait for "away"
	r1.kill()
	g.store.Truncate()
	g.commit(g.message("pay", "", "c"), g.message("pay", "", "d"))
	r2 := g.relay("r2")
	r2.run(takeoverTime+time.Second, away)
	away.demandExecuted("a", "b", "c", "d")
	g.demandWaiting("c", "d") // "here" has not executed these
	r2.run(10*time.Second, here, away)
	here.demandExecuted("a", "b", "c", "d")
	g.demandWaiting()
}

// TestSchedule3TwoOutboxesOfOneName: a receipt for row 1 of one outbox says nothing about row 1 of another with the same label.
func TestSchedule3TwoOutboxesOfOneName(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	sub := g.reader("pay", "accounts")
	sub.mute = true
	g.announce(g.topic("pay", sub))
	mine, theirs := g.message("pay", "", "mine"), g.message("pay", "", "theirs")
	g.commit(mine)
	r := g.relayWith(outbox.RelayConfig{Owner: "r1", Name: "shop"})
	r.run(time.Second, sub)
	g.receipt(g.uuid, sub.uid, entry(1, theirs)) // misdirected
	r.run(time.Second)
	g.demandWaiting("mine")

	other := outboxmem.New(outboxmem.Config{UUID: uuid.NewString()})
	tx := other.Begin()
	_, err := tx.Insert(theirs)
	g.must(err)
	g.must(tx.Commit())
	conn := g.server.Connect("other")
	r2 := outbox.NewRelay(other, conn, outbox.RelayConfig{Name: "shop", Now: func() time.Time { return g.now }})
	_, err = r2.Step(g.ctx)
	g.must(err)
	g.server.PublishAll()
	sub.read()
	boxes := map[string]string{}
	for _, m := range sub.got {
		boxes[g.names[m.ID]] = m.Outbox
	}
	if boxes["mine"] != g.uuid || boxes["theirs"] == g.uuid || boxes["theirs"] == "" {
		t.Fatalf("messages do not say which outbox they are from: %v", boxes)
	}
}

// TestSchedule15FailoverThatNobodyNotices: no connection breaks; the database that answers has another history.
func TestSchedule15FailoverThatNobodyNotices(t *testing.T) {
	t.Parallel()
	for _, counted := range []bool{false, true} {
		t.Run(fmt.Sprintf("counted=%v", counted), func(t *testing.T) {
			t.Parallel()
			g := newRig(t, outboxmem.Config{Counted: counted, GapAge: time.Second})
			sub := g.reader("pay", "accounts")
			g.announce(g.topic("pay", sub))
			r := g.relay("r1")
			g.commit(g.message("pay", "", "one"), g.message("pay", "", "two"), g.message("pay", "", "three"))
			r.run(3*time.Second, sub)
			g.demandWaiting()
			g.store.Failover() // the table is empty, so its numbers begin at 1
			tx := g.open(g.message("pay", "", "open over the failover's first look"))
			g.commit(g.message("pay", "", "four"))
			r.run(3*time.Second, sub)
			g.must(tx.Commit())
			g.commit(g.message("pay", "", "five"))
			r.run(10*time.Second, sub)
			g.demandWaiting()
			sub.demandExecuted("one", "two", "three", "four", "open over the failover's first look", "five")
		})
	}
}

// TestSchedule15DeleteThatCountsShort: the table was emptied and filled again, and nothing but the missing row tells.
func TestSchedule15DeleteThatCountsShort(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{GapAge: time.Second})
	sub := g.reader("pay", "accounts")
	g.announce(g.topic("pay", sub))
	r := g.relay("r1")
	g.commit(g.message("pay", "", "one"), g.message("pay", "", "two"))
	r.run(time.Second)
	g.store.Truncate()
	g.commit(g.message("pay", "", "new one"), g.message("pay", "", "new two"))
	r.run(10*time.Second, sub)
	g.demandWaiting()
	sub.demandExecuted("one", "two", "new one", "new two")
}

// between calls a hook between the relay's reads of the table.
type between struct {
	outbox.RelayStore
	hook *func()
}

func (b between) call() {
	if f := *b.hook; f != nil {
		*b.hook = nil
		f()
	}
}

func (b between) Scan(ctx context.Context, after int64, limit int, payload bool) (outbox.Page, error) {
	defer b.call()
	return b.RelayStore.Scan(ctx, after, limit, payload)
}

func (b between) Probe(ctx context.Context, gaps []outbox.Gap, limit int) (outbox.Page, []outbox.Gap, error) {
	defer b.call()
	return b.RelayStore.Probe(ctx, gaps, limit)
}

// TestSchedule16GapsAreProbedAfterTheScan: between the two reads a predecessor and then its successor commit. The successor must not come
// out first.
func TestSchedule16GapsAreProbedAfterTheScan(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	var hook func()
	g.dbOf = func(s outbox.RelayStore) outbox.RelayStore { return between{s, &hook} }
	sub := g.reader("pay", "accounts")
	g.announce(g.topic("pay", sub))
	r := g.relay("r1")
	tx := g.open(g.message("pay", "k", "predecessor"))
	g.commit(g.message("pay", "", "other"))
	r.run(time.Second)
	hook = func() {
		g.must(tx.Commit())
		g.commit(g.message("pay", "k", "successor"))
	}
	r.run(2 * time.Second)
	if hook != nil {
		t.Fatal("the table was not read")
	}
	sub.mute = true
	sub.read()
	sub.demandExecuted("other", "predecessor", "successor")
	if got, want := g.names[sub.got[2].Prev], "predecessor"; got != want {
		t.Errorf("the successor names %q, want %q", got, want)
	}
}

// cutOff fails to probe once, when it is told to.
type cutOff struct {
	outbox.RelayStore
	once *bool
}

func (c cutOff) Probe(ctx context.Context, gaps []outbox.Gap, limit int) (outbox.Page, []outbox.Gap, error) {
	if *c.once {
		*c.once = false
		return outbox.Page{}, nil, errors.New("connection reset")
	}
	return c.RelayStore.Probe(ctx, gaps, limit)
}

// TestSchedule16FailedProbeIsRepeated: the scan has brought a successor, the probe fails, and the next round follows at once. It may
// not publish before it has probed.
func TestSchedule16FailedProbeIsRepeated(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	var fail bool
	g.dbOf = func(s outbox.RelayStore) outbox.RelayStore { return cutOff{s, &fail} }
	sub := g.reader("pay", "accounts")
	g.announce(g.topic("pay", sub))
	r := g.relay("r1")
	tx := g.open(g.message("pay", "k", "predecessor"))
	g.commit(g.message("pay", "", "other"))
	r.run(time.Second)
	g.must(tx.Commit())
	g.commit(g.message("pay", "k", "successor"))
	fail = true
	g.must(r.Ring(g.ctx, ""))
	if err := r.step(); err == nil || fail {
		t.Fatal("the gap was not probed")
	}
	g.pass(time.Millisecond)
	g.must(r.step())
	r.run(time.Second, sub)
	sub.demandExecuted("other", "predecessor", "successor")
}

// TestSchedule16EveryGapIsProbed: there are more gaps than one read asks about, and more rows in them than one read brings. The
// predecessor is in the oldest, its successor in the youngest or behind all of them.
func TestSchedule16EveryGapIsProbed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ late, pageBytes int }{{0, 0}, {1300, 0}, {1300, 100}} {
		late := c.late
		t.Run(fmt.Sprintf("%d rows in the gaps, %d bytes a page", late, c.pageBytes), func(t *testing.T) {
			t.Parallel()
			g := newRig(t, outboxmem.Config{PageBytes: c.pageBytes})
			sub := g.reader("pay", "accounts")
			sub.mute = true
			g.announce(g.topic("pay", sub))
			r := g.relayWith(outbox.RelayConfig{Owner: "r1", Batch: 5000})
			predecessor := g.open(g.message("pay", "k", "predecessor"))
			g.commit(g.message("pay", "", "-"))
			var txs []*outboxmem.Tx
			for range 700 {
				tx := g.open(g.message("pay", "", "-"))
				for range late / 700 {
					_, err := tx.Insert(g.message("pay", "", "-"))
					g.must(err)
				}
				txs = append(txs, tx)
				g.commit(g.message("pay", "", "-"))
			}
			r.run(time.Second, sub)
			g.must(predecessor.Commit())
			if late > 0 {
				for _, tx := range txs {
					g.must(tx.Commit())
				}
			}
			g.commit(g.message("pay", "k", "successor"))
			sub.executed = nil
			r.run(time.Second, sub)
			got := slices.DeleteFunc(sub.executed, func(n string) bool { return n == "-" })
			if want := []string{"predecessor", "successor"}; !slices.Equal(got, want) {
				t.Errorf("order %v, want %v", got, want)
			}
		})
	}
}

// TestSchedule17PredecessorThatNeverComes: a message never names a predecessor that was rolled back, or that a new subscription does
// not own.
func TestSchedule17PredecessorThatNeverComes(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	first, second := g.reader("pay", "first"), g.reader("pay", "second")
	g.announce(g.topic("pay", first))
	r := g.relay("r1")
	tx := g.open(g.message("pay", "k", "rolled back"))
	tx.Rollback()
	g.commit(g.message("pay", "k", "m1"))
	r.run(time.Second, first)
	g.commit(g.message("pay", "k", "m2"))
	first.mute = true
	r.run(time.Second, first)
	g.pass(time.Second)
	second.created = g.now.UnixNano()
	g.announce(g.topic("pay", first, second))
	g.commit(g.message("pay", "k", "m3"))
	r.run(5*time.Second, second)
	prevs := map[string]string{}
	for _, m := range slices.Concat(first.got, second.got) {
		prevs[g.names[m.ID]] = m.Prev
	}
	if prevs["m1"] != "" || prevs["m2"] != "" || g.names[prevs["m3"]] != "m2" {
		t.Errorf("predecessors named: %v, want none but m3's, which is m2", prevs)
	}
	second.demandExecuted("m3", "m2") // without a barrier here; what is named tells the dispatcher to wait
}

// TestSchedule19OnlyAReceiptHeals: the subscription's position on the broker passes rows that it never got.
func TestSchedule19OnlyAReceiptHeals(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	sub, fine := g.reader("pay", "accounts"), g.reader("pay", "fine")
	g.announce(g.topic("pay", sub, fine))
	r := g.relay("r1")
	want := names(5, "m%d")
	for _, n := range want {
		g.commit(g.message("pay", "k", n))
		r.run(100*time.Millisecond, fine)
	}
	g.server.Skip("pay", sub.uid)
	r.run(time.Second, fine)
	g.demandWaiting(want...)
	r.run(10*time.Second, sub, fine)
	sub.demandExecuted(want...)
	g.demandWaiting()
	if fine.duplicates > 0 {
		t.Errorf("the other subscription got %d duplicates", fine.duplicates)
	}
}
