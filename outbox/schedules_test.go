package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
	outboxmem "github.com/twostep-mq/twostep/outbox/outboxtest/memory"
)

// The schedules of docs that broke simpler designs, played on the production relay. Each fails when the decision against it is
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

// TestSchedule5TakeoverWithRowsWaitingForOneAbsentSubscription: the relay is killed and replaced ten times while 100,000 rows wait for
// one subscription. The other one gets at most one batch again each time, and a waiting row costs little memory.
func TestSchedule5TakeoverWithRowsWaitingForOneAbsentSubscription(t *testing.T) {
	const rows, batch, takeovers = 100_000, 1000, 10
	g := newRig(t, outboxmem.Config{GapAge: time.Second})
	here, away := g.reader("pay", "here"), g.reader("pay", "away")
	here.keep = false
	g.announce(g.topic("pay", here, away))
	key := func(i int) string { return fmt.Sprint("k", i%997) }
	for i := range rows {
		g.commit(g.message("pay", key(i), "x"))
	}
	before := memoryInUse()
	cfg := outbox.RelayConfig{Owner: "r0", Batch: batch}
	r := g.relayWith(cfg)
	for n := 0; len(here.executed) < rows; n++ {
		if n > 3000 {
			t.Fatalf("only %d of %d rows arrive", len(here.executed), rows)
		}
		r.run(50*time.Millisecond, here)
	}
	r.run(3*time.Second, here)
	t.Logf("memory of a relay that published them: %d bytes a row, the broker's and the reader's included", (memoryInUse()-before)/rows)
	if here.duplicates > 0 {
		t.Fatalf("%d duplicates without a takeover", here.duplicates)
	}
	for i := range takeovers {
		// In the middle of work: some rows published and not acknowledged, some acknowledged and not in a checkpoint, some read and
		// not confirmed.
		for j := range 2 * batch {
			g.commit(g.message("pay", key(j), "y"))
		}
		for range i {
			g.pass(5 * time.Millisecond)
			_ = r.Ring(g.ctx, "")
			g.must(r.step())
			ps := g.server.Publishing()
			for _, p := range ps[:len(ps)/2] {
				p.Store()
			}
			here.read()
			for _, p := range g.server.Publishing() {
				if p.Stored() {
					p.Ack()
				}
			}
		}
		r.kill()
		here.duplicates = 0
		cfg.Owner = fmt.Sprint("r", i+1)
		unused := memoryInUse()
		r = g.relayWith(cfg)
		g.must(r.step())
		g.pass(takeoverTime)
		g.must(r.step())
		perRow := (memoryInUse() - unused) / (rows + 2*batch*int64(i+1))
		r.run(8*time.Second, here)
		t.Logf("takeover %d: %d duplicates, %d bytes a waiting row", i+1, here.duplicates, perRow)
		if here.duplicates > batch {
			t.Errorf("takeover %d: %d duplicates for one who was there, at most %d are allowed", i+1, here.duplicates, batch)
		}
		if perRow > 120 {
			t.Errorf("takeover %d: %d bytes a waiting row", i+1, perRow)
		}
	}
	if want := rows + takeovers*2*batch; len(here.executed) != want {
		t.Errorf("%d of %d messages arrived", len(here.executed), want)
	}
	if n := len(g.store.Rows()); n != rows+takeovers*2*batch {
		t.Errorf("%d rows left, nobody may release what one lacks", n)
	}
}

func memoryInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestSchedule6StaleRegistryAndAWipedBroker: a subscription that the outbox has recorded is unknown to the relay that takes over, and
// the broker that announced it is wiped.
func TestSchedule6StaleRegistryAndAWipedBroker(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	first, second := g.reader("pay", "first"), g.reader("pay", "second")
	g.announce(g.topic("pay", first))
	stale := g.relay("stale")
	for ev, ok := stale.state.Next(); ok; ev, ok = stale.state.Next() {
		stale.Announce(ev) // it hears of the first version, and never of another
	}
	stale.deaf = true
	r := g.relay("r1")
	g.announce(g.topic("pay", first, second))
	r.run(time.Second)
	if g.store.Recorded()[second.uid].Subscription.UID != second.uid {
		t.Fatal("the second subscription was not recorded")
	}
	r.kill()
	g.server.Wipe()
	g.commit(g.message("pay", "", "m"))
	stale.run(takeoverTime+3*time.Second, first)
	first.demandExecuted("m")
	g.demandWaiting("m")

	stale.deaf = false
	g.announce(g.topic("pay", first, second))
	stale.run(10*time.Second, first, second)
	second.demandExecuted("m")
	g.demandWaiting()
}

// TestSchedule6EmptyRegistryReleasesNothing: the server comes back with an empty registry, a new one, and says so.
func TestSchedule6EmptyRegistryReleasesNothing(t *testing.T) {
	t.Parallel()
	for name, head := range map[string]outbox.RegistryHead{
		"another owner":                   {Owner: "other", Version: 50},
		"a lower version":                 {Owner: "owner", Version: 0},
		"another owner that took us over": {Owner: "other", Version: 50, Merged: []string{"BOX"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newRig(t, outboxmem.Config{})
			for i := range head.Merged {
				head.Merged[i] = g.uuid
			}
			sub, other := g.reader("pay", "accounts"), g.reader("pay", "other")
			g.announce(g.topic("pay", sub, other))
			r1 := g.relay("r1")
			r1.run(time.Second)
			r1.kill()
			g.server.Wipe()
			empty := g.topic("pay")
			empty.NoSubscribers = outbox.NoSubscribersDrop
			g.announceAs(head, empty)
			g.commit(g.message("pay", "", "m"))
			r2 := g.relay("r2")
			r2.run(takeoverTime+5*time.Second, other)
			other.demandExecuted("m")
			g.demandWaiting("m")
			if head.Merged == nil {
				g.announce(g.topic("pay", sub, other))
			}
			r2.run(10*time.Second, sub, other)
			sub.demandExecuted("m")
			g.demandWaiting()
		})
	}
}

// TestSchedule6SubscriptionOwnsWhatIsUnreleased: one that is registered while a row waits owns it.
func TestSchedule6SubscriptionOwnsWhatIsUnreleased(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	first, second := g.reader("pay", "first"), g.reader("pay", "second")
	g.announce(g.topic("pay", first))
	r := g.relay("r1")
	g.commit(g.message("pay", "k", "m1"), g.message("pay", "k", "m2"))
	r.run(time.Second)
	g.pass(time.Second)
	second.created = g.now.UnixNano()
	g.announce(g.topic("pay", first, second))
	r.run(time.Second, first)
	first.demandExecuted("m1", "m2")
	g.demandWaiting("m1", "m2")
	r.run(10*time.Second, first, second)
	second.demandExecuted("m1", "m2")
	g.demandWaiting()
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

// TestSchedule16EveryGapIsProbed: there are more gaps than one read asks about, and more rows in them than one read brings. The
// predecessor is in the oldest, its successor in the youngest or behind all of them.
func TestSchedule16EveryGapIsProbed(t *testing.T) {
	t.Parallel()
	for _, late := range []int{0, 1300} {
		t.Run(fmt.Sprintf("%d rows in the gaps", late), func(t *testing.T) {
			t.Parallel()
			g := newRig(t, outboxmem.Config{})
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
		prevs[g.names[m.ID]] = g.names[m.Prev]
	}
	if prevs["m1"] != "" || prevs["m2"] != "" || prevs["m3"] != "m2" {
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

// TestReceiptsUnderWayAreWaitedFor: a subscription has passed the rows, and its receipts lie in the inbox. Nothing is sent again.
func TestReceiptsUnderWayAreWaitedFor(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	sub := g.reader("pay", "accounts")
	g.announce(g.topic("pay", sub))
	r := g.relay("r1")
	r.run(time.Second)
	for i := range 200 {
		g.commit(g.message("pay", "", fmt.Sprint("m", i)))
		_ = r.Ring(g.ctx, "")
		g.must(r.step())
		g.server.PublishAll()
		sub.read()
		g.pass(20 * time.Millisecond)
	}
	r.run(3*time.Second, sub)
	g.demandWaiting()
	if sub.duplicates > 0 {
		t.Errorf("%d messages were sent again although their receipts were there", sub.duplicates)
	}
}

// TestZombieRelayWritesNothing: a relay that slept past its lease and wakes up in the middle of a round.
func TestZombieRelayWritesNothing(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	var hook func()
	g.dbOf = func(s outbox.RelayStore) outbox.RelayStore { return between{s, &hook} }
	sub := g.reader("pay", "accounts")
	g.announce(g.topic("pay", sub))
	zombie := g.relay("zombie")
	g.commit(g.message("pay", "", "m"))
	zombie.run(300 * time.Millisecond)
	epoch := g.store.Owner().Epoch
	heir := g.relay("heir")
	_ = heir.step()
	woke := false
	hook = func() { // the zombie sleeps here, for a lease
		g.pass(6 * time.Second)
		_ = heir.Ring(g.ctx, "")
		g.must(heir.step())
		if !heir.Leads() {
			t.Error("nobody took over")
		}
		woke = true
	}
	commits := -1
	for range 20 {
		g.pass(100 * time.Millisecond)
		_ = zombie.Ring(g.ctx, "")
		err := zombie.step()
		if woke && commits < 0 {
			commits = g.store.Commits()
		}
		if woke && errors.Is(err, outbox.ErrLeaseLost) {
			break
		}
	}
	if g.store.Owner().Epoch != epoch+1 || zombie.Leads() {
		t.Fatalf("lease %+v, the zombie leads: %v", g.store.Owner(), zombie.Leads())
	}
	if n := g.store.Commits(); n != commits {
		t.Errorf("%d checkpoints after the takeover by the zombie", n-commits)
	}
}

// TestReceiptsAreSettledWithTheirCheckpoint: a relay is killed after it has read receipts and before it has written what they say. The
// next one finds them; nothing is sent again.
func TestReceiptsAreSettledWithTheirCheckpoint(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	sub := g.reader("pay", "accounts")
	g.announce(g.topic("pay", sub))
	r1 := g.relay("r1")
	g.commit(g.message("pay", "", "a"), g.message("pay", "", "b"))
	r1.run(time.Second)
	sub.read()
	commits := g.store.Commits()
	g.must(r1.step()) // it reads the receipts; what they say is gathered for a while
	if n := g.server.Waiting(outbox.Inbox(g.uuid)); n == 0 || g.store.Commits() != commits {
		t.Fatalf("%d receipts in the inbox after %d checkpoints", n, g.store.Commits()-commits)
	}
	r1.kill()
	r2 := g.relay("r2")
	r2.run(takeoverTime+time.Second, sub)
	g.demandWaiting()
	if sub.duplicates > 0 {
		t.Errorf("%d messages were sent again", sub.duplicates)
	}
}

// TestOneUnacknowledgedMessageOfAKey: what may be stored twice, or late, is never overtaken by its successor.
func TestOneUnacknowledgedMessageOfAKey(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	sub := g.reader("pay", "accounts")
	g.announce(g.topic("pay", sub))
	r := g.relay("r1")
	for i := range 4 {
		g.commit(g.message("pay", "k", fmt.Sprint("k", i)), g.message("pay", "l", fmt.Sprint("l", i)), g.message("pay", "", fmt.Sprint("m", i)))
	}
	for range 20 {
		_ = r.Ring(g.ctx, "")
		g.must(r.step())
		g.pass(10 * time.Millisecond)
		under := map[string]int{}
		for _, p := range g.server.Publishing() {
			under[p.Message.Key]++
		}
		if under["k"] > 1 || under["l"] > 1 {
			t.Fatalf("under way by key: %v", under)
		}
		if ps := g.server.Publishing(); len(ps) > 0 {
			p := ps[0]
			p.Store()
			p.Ack()
		}
	}
	r.run(time.Second, sub)
	g.demandWaiting()
}

// flaky fails beats while it is told to.
type flaky struct {
	outbox.RelayStore
	fail *bool
}

func (f flaky) Beat(ctx context.Context, l outbox.Lease, resign bool) (outbox.Lease, error) {
	if *f.fail {
		return outbox.Lease{}, errors.New("connection reset")
	}
	return f.RelayStore.Beat(ctx, l, resign)
}

// TestWhatArrivesDuringAFailedBeatIsNotLost: acknowledgements and a new registry arrive while the database does not answer.
func TestWhatArrivesDuringAFailedBeatIsNotLost(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	var fail bool
	g.dbOf = func(s outbox.RelayStore) outbox.RelayStore { return flaky{s, &fail} }
	first, second := g.reader("pay", "first"), g.reader("pay", "second")
	g.announce(g.topic("pay", first))
	r := g.relay("r1")
	g.commit(g.message("pay", "", "a"))
	g.must(r.step())
	fail = true
	g.pass(2 * time.Second)
	g.announce(g.topic("pay", first, second))
	g.server.PublishAll()
	if err := r.step(); err == nil {
		t.Fatal("no beat was due")
	}
	fail = false
	r.run(2*time.Second, first)
	if _, ok := g.store.Recorded()[second.uid]; !ok {
		t.Error("the new subscription was not recorded")
	}
	r.run(5*time.Second, first, second)
	g.demandWaiting()
	if first.duplicates+second.duplicates > 0 {
		t.Errorf("%d and %d duplicates: acknowledgements were lost", first.duplicates, second.duplicates)
	}
}

// TestOneKeyDoesNotHoldBackOthers: a failed send of a key's first message, and more rows of that key than there is room for.
func TestOneKeyDoesNotHoldBackOthers(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	sub := g.reader("pay", "accounts")
	g.announce(g.topic("pay", sub))
	r := g.relayWith(outbox.RelayConfig{Owner: "r1", Batch: 4})
	g.commit(g.message("pay", "hot", "hot0"))
	r.run(100 * time.Millisecond)
	if err := r.step(); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		g.commit(g.message("pay", "hot", fmt.Sprint("hot", i+1)))
	}
	g.commit(g.message("pay", "cold", "cold"))
	_ = r.Ring(g.ctx, "")
	g.pass(10 * time.Millisecond)
	g.must(r.step())
	for _, p := range g.server.Publishing() {
		p.Fail(broker.ErrFull)
	}
	r.run(10*time.Second, sub)
	g.demandWaiting()
	hot := slices.DeleteFunc(slices.Clone(sub.executed), func(n string) bool { return n == "cold" })
	if want := append([]string{"hot0"}, names(10, "hot%d")...); !slices.Equal(hot, want) {
		t.Errorf("executed %v, want %v", hot, want)
	}
}
