package mysql_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// TestWorkers: four workers whose transactions each change many of 1,000 accounts, in the order in which messages come, lock them in
// circles. What deadlocks cost them is little, and nothing is done twice or left out.
//
// That is counted in executions of the handler, those that were rolled back included: times depend on what else the machine does. The
// long run, which has it to itself, also compares times.
func TestWorkers(t *testing.T) { onEachServerAlone(t, testWorkers) }

func testWorkers(t *testing.T, on testServer) {
	const accounts, messages, mostExecutions, least = 1000, 3000, 1.4, 0.8
	tries := 1
	if os.Getenv("TWOSTEP_LONG") != "" {
		tries = 5
	}
	db, _ := on.open(t)
	p := newPipeline(t, db, nil)
	accountRows := "INSERT INTO account VALUES (0, 0)"
	for i := 1; i < accounts; i++ {
		accountRows += fmt.Sprintf(", (%d, 0)", i)
	}
	execAll(t, p.db, accountRows)
	var executions atomic.Int64
	add := func(ctx context.Context, tx outbox.Tx, m topics.Received[order]) error {
		executions.Add(1)
		_, err := tx.ExecContext(ctx, "UPDATE account SET n = n + 1 WHERE id = ?", m.Data.Account)
		return err
	}
	for _, subscription := range []string{"one", "four"} { // they must be there before the messages
		p.handle(t, subscription, add)()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	r := rand.New(rand.NewPCG(4, 4))
	done := 0
	// work lets so many workers of a subscription execute what waits for it, and tells how long all but the first tenth took.
	work := func(subscription string, workers int) time.Duration {
		var stops []func()
		for range workers {
			stops = append(stops, p.handle(t, subscription, add))
		}
		waitFor(ctx, t, p.db, fmt.Sprintf("SELECT SUM(n) >= %d FROM account", done+messages/10))
		begun := time.Now()
		done += messages
		waitFor(ctx, t, p.db, fmt.Sprintf("SELECT SUM(n) >= %d FROM account", done))
		took := time.Since(begun)
		each := float64(executions.Swap(0)) / messages
		t.Logf("%d workers: %d messages, all but a tenth in %v, %.2f executions a message", workers, messages, took.Round(time.Millisecond), each)
		if each > mostExecutions {
			t.Errorf("%d workers executed %.2f times a message, want at most %.2f", workers, each, mostExecutions)
		}
		for _, stop := range stops {
			stop()
		}
		return took
	}
	best := 0.0
	for try := range tries {
		tx, err := p.db.BeginTx(ctx, nil)
		noError(t, err)
		for range messages {
			_, err := p.box.Publish(ctx, tx, p.topic.Message(order{Account: r.IntN(accounts)}))
			noError(t, err)
		}
		noError(t, tx.Commit())
		waitFor(ctx, t, p.db, "SELECT `cursor` >= (SELECT MAX(seq) FROM twostep_outbox) FROM twostep_outbox_confirmer WHERE confirmer = 'broker'")
		var one, four time.Duration
		if try%2 == 0 {
			one, four = work("one", 1), work("four", 4)
		} else {
			four, one = work("four", 4), work("one", 1)
		}
		best = max(best, one.Seconds()/four.Seconds())
	}
	if tries > 1 && best < least {
		t.Errorf("four workers reach %.2f of one worker's rate, want %.2f", best, least)
	}
	if n := count(t, p.db, "SELECT SUM(n) FROM account"); n != done {
		t.Errorf("%d executions, want %d", n, done)
	}
}
