package topicstest

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/topics"
)

func testRace(t *testing.T, h Harness) {
	t.Run("of concurrent claimers exactly one wins", func(t *testing.T) { claimRace(t, h.Open(t)) })
	t.Run("of concurrent settlers exactly one finds it", func(t *testing.T) { settleRace(t, h.Open(t)) })
}

// claimRace has eight consumers on two handles get overlapping batches, again and again, some of which they roll back.
func claimRace(t *testing.T, d Database) {
	effects(t, d)
	ctx := testContext(t)
	ids := newIDs(120)
	handles := []Database{d, d.Another(t)}
	var (
		mu  sync.Mutex
		won = map[string]int{}
	)
	atOnce(8, func(i int) {
		for round := range 24 {
			from := (i*7 + round*5) % len(ids)
			batch := make([]string, 0, 10)
			for k := range 10 {
				batch = append(batch, ids[(from+k)%len(ids)])
			}
			if round%2 == 1 { // in another order than the others
				for a, b := 0, len(batch)-1; a < b; a, b = a+1, b-1 {
					batch[a], batch[b] = batch[b], batch[a]
				}
			}
			tx, err := handles[i%2].Store.Begin(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			before, err := tx.Claim(ctx, uidA, batch, txn.Success)
			if err != nil {
				t.Error(err)
			}
			var mine []string
			for k := range before {
				if before[k] == "" {
					mine = append(mine, batch[k])
					if err := addEffect(ctx, tx, batch[k]); err != nil {
						t.Error(err)
					}
				}
			}
			if round%5 == 0 {
				_ = tx.Rollback()
				continue
			}
			if err := tx.Commit(ctx); err != nil {
				t.Error(err)
			}
			mu.Lock()
			for _, id := range mine {
				won[id]++
			}
			mu.Unlock()
		}
	})
	for id, n := range won {
		if n != 1 {
			t.Errorf("%s was won %d times", id, n)
		}
	}
	if n := countEffects(t, d); n != len(won) || n != len(ids) {
		t.Errorf("%d effects, %d won, %d ids", n, len(won), len(ids))
	}
}

func settleRace(t *testing.T, d Database) {
	effects(t, d)
	ctx := testContext(t)
	p := parked(uidA, "k", topics.ParkedWaiting, 0)
	park(t, d, p)
	handles := []Database{d, d.Another(t)}
	results := make(chan error, 6)
	atOnce(6, func(i int) {
		results <- func() error {
			tx, err := handles[i%2].Store.Begin(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback() }()
			if _, err := tx.Lock(ctx, uidA, p.Message.ID); err != nil {
				return err
			}
			if err := addEffect(ctx, tx, fmt.Sprint(i)); err != nil {
				return err
			}
			if err := tx.Settle(ctx, uidA, p.Message.ID, txn.Success); err != nil {
				return err
			}
			return tx.Commit(ctx)
		}()
	})
	won := 0
	for range 6 {
		switch err := <-results; {
		case err == nil:
			won++
		case !errors.Is(err, topics.ErrNotParked):
			t.Errorf("%v, want ErrNotParked", err)
		}
	}
	if n := countEffects(t, d); won != 1 || n != 1 {
		t.Errorf("%d won, %d effects", won, n)
	}
}
