package outbox_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/outbox"
	outboxmem "github.com/twostep-mq/twostep/outbox/outboxtest/memory"
)

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
