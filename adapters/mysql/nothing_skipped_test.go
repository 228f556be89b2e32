package mysql_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/outbox"
)

// TestNothingSkipped: rows become visible in another order than their numbers. Each one that is committed has one effect, and no other has
// any. The same with a relay that pages by seq > last loses some.
func TestNothingSkipped(t *testing.T) { onEachServer(t, testNothingSkipped) }

func testNothingSkipped(t *testing.T, on testServer) {
	for name, wrap := range map[string]func(outbox.RelayStore) outbox.RelayStore{
		"as it is": nil,
		"planted":  func(s outbox.RelayStore) outbox.RelayStore { return onlyForward{s} },
	} {
		t.Run(name, func(t *testing.T) {
			rows := 10_000
			if os.Getenv("TWOSTEP_LONG") != "" {
				rows *= 10
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			if wrap != nil {
				rows /= 4
			}
			db, _ := on.open(t)
			p := newPipeline(t, db, wrap)
			p.handle(t, "effects", effect)
			w := &writers{db: p.db, store: p.store, committed: map[string]bool{}}
			noError(t, w.run(ctx, 32, rows))
			got := p.waitForEffects(ctx, t, len(w.committed))
			effects := p.effects(t)
			twice, foreign, skipped := 0, 0, 0
			for id, times := range effects {
				if times != 1 {
					twice++
				}
				if !w.committed[id] {
					foreign++
				}
			}
			for id := range w.committed {
				if effects[id] == 0 {
					skipped++
				}
			}
			t.Logf("%d rows committed, %d with an effect; %d twice, %d of rolled-back rows, %d skipped", len(w.committed), got, twice, foreign, skipped)
			if twice+foreign > 0 || wrap == nil && skipped > 0 {
				t.Error("each committed row must have one effect, and no other any")
			}
			if wrap != nil && (skipped == 0 || got < rows/2) {
				t.Error("paging by seq > last must skip some: else this test cannot fail")
			}
			if len(w.committed) < rows*9/10 {
				t.Error("this tried too little")
			}
		})
	}
}

// TestLongTransaction leaves a transaction open while others go on. Their messages do not wait for it, and its own comes when it commits.
func TestLongTransaction(t *testing.T) { onEachServer(t, testLongTransaction) }

func testLongTransaction(t *testing.T, on testServer) {
	rows, atLeast := 5_000, 15*time.Second // longer than a gap is young
	if os.Getenv("TWOSTEP_LONG") != "" {
		rows, atLeast = 100_000, time.Minute
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	db, _ := on.open(t)
	p := newPipeline(t, db, nil)
	p.handle(t, "effects", effect)
	begun := time.Now()
	tx, err := p.db.BeginTx(ctx, nil)
	noError(t, err)
	defer func() { _ = tx.Rollback() }()
	late := messageOf("t")
	noError(t, p.store.Insert(ctx, tx, late, false))

	// Half of them at once, the others spread over the time.
	sent := 0
	for sent < rows {
		some := 100
		noError(t, insert(t, p.db, p.store, some).Commit())
		if sent += some; sent > rows/2 {
			pause(ctx, time.Until(begun.Add(atLeast*time.Duration(sent-rows/2)/time.Duration(rows-rows/2))))
		}
	}
	if got := p.waitForEffects(ctx, t, sent); got != sent {
		t.Errorf("%d of %d messages have an effect while a transaction is open", got, sent)
	}
	if p.effects(t)[late.ID] != 0 {
		t.Error("the open transaction's message was executed")
	}
	open := time.Since(begun)
	noError(t, tx.Commit())
	p.waitForEffects(ctx, t, sent+1)
	if p.effects(t)[late.ID] != 1 {
		t.Error("the message of the long transaction was skipped")
	}
	t.Logf("%d messages while a transaction was open for %v", sent, open.Round(time.Millisecond))
}
