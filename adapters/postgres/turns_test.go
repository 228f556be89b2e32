package postgres_test

import (
	"errors"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/postgres"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/topics"
)

// TestTurns: who has lost to a deadlock has the next batch alone: it waits for those that run. A batch that does not end is waited for some
// seconds, and then no more.
func TestTurns(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db, _ := open(t, extended)
	notes(t, db)
	noError(t, errOf(db.ExecContext(ctx, `INSERT INTO note VALUES ('a'), ('b')`)))
	const lock = `SELECT text FROM note WHERE text = $1 FOR UPDATE`
	begin := func(c *postgres.Consumer, ids ...string) (topics.StoreTx, error) {
		tx, err := c.Begin(ctx)
		noError(t, err)
		_, err = tx.Claim(ctx, uid, ids, txn.Success)
		return tx, err
	}
	service := func() *postgres.Consumer {
		c, err := postgres.NewConsumer(ctx, db, postgres.Config{})
		noError(t, err)
		return c
	}
	one, two := service(), service()
	first, err := begin(one, "1", "2")
	noError(t, err)
	noError(t, errOf(first.Tx().ExecContext(ctx, lock, "a")))
	second, err := begin(two, "3", "4") // side by side
	noError(t, err)
	noError(t, errOf(second.Tx().ExecContext(ctx, lock, "b")))
	results := make(chan error, 1)
	go func() { results <- errOf(first.Tx().ExecContext(ctx, lock, "b")) }()
	err = errOf(second.Tx().ExecContext(ctx, lock, "a"))
	loser, winner := two, first
	if err == nil { // the server chooses
		loser, winner = one, second
		if other := <-results; !errors.Is(other, topics.ErrTryAgain) {
			t.Fatalf("no deadlock: %v", other)
		}
		noError(t, ignoreLost(first.Rollback()))
	} else {
		if !errors.Is(err, topics.ErrTryAgain) {
			t.Fatal(err)
		}
		noError(t, ignoreLost(second.Rollback()))
		noError(t, <-results)
	}

	began := time.Now()
	alone, err := begin(loser, "5", "6")
	if !errors.Is(err, topics.ErrTryAgain) || time.Since(began) < 4*time.Second {
		t.Errorf("after %v beside a batch that runs: %v", time.Since(began), err)
	}
	_ = alone.Rollback()
	began = time.Now()
	beside, err := begin(loser, "5", "6")
	noError(t, err)
	if time.Since(began) > 4*time.Second {
		t.Error("it waited a second time")
	}
	noError(t, beside.Commit(ctx))
	noError(t, winner.Commit(ctx))
}

func ignoreLost(err error) error {
	if errors.Is(err, topics.ErrTransactionLost) {
		return nil
	}
	return err
}
