package sqlite_test

import (
	"strings"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/broker/brokertest/memory"
	"github.com/twostep-mq/twostep/outbox"
)

// TestIdleRelay counts what a relay that has nothing to do asks of the database in a minute of its clock.
func TestIdleRelay(t *testing.T) {
	t.Parallel()
	for name, rows := range map[string]int{"an empty outbox": 0, "rows that wait for a subscription": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			statements, control := 0, 0
			counting := false
			db, _ := open(t, sqlite.WithStatementHook(func(text string) {
				switch word, _, _ := strings.Cut(text, " "); {
				case !counting:
				case word == "BEGIN" || word == "COMMIT" || word == "ROLLBACK" || word == "PRAGMA":
					control++
				default:
					statements++
				}
			}))
			box, err := sqlite.NewOutbox(t.Context(), db)
			noError(t, err)
			server := memory.New(memory.Config{})
			conn := server.Connect("relay")
			noError(t, conn.EnsureTopic(t.Context(), broker.TopicSpec{Name: "bank.trans-in"}))
			for range rows {
				noError(t, box.Transact(t.Context(), func(tx outbox.Tx) error { return box.Insert(t.Context(), tx, testMessage(), false) }))
			}

			now := time.Now()
			relay := outbox.NewRelay(box, conn, outbox.RelayConfig{Owner: "r", Now: func() time.Time { return now }})
			run := func(d time.Duration) {
				for until := now.Add(d); now.Before(until); {
					next, err := relay.Step(t.Context())
					noError(t, err)
					server.PublishAll()
					if now = now.Add(time.Millisecond); next.After(now) {
						now = next
					}
				}
			}
			run(10 * time.Second) // takes the lease, publishes, writes a checkpoint
			counting = true
			run(time.Minute)
			t.Logf("%d statements, and %d that begin and end transactions", statements, control)
			if statements < 90 { // a scan a second, and a beat each 1.5 s
				t.Errorf("%d statements: the relay was not at work", statements)
			}
			if statements > 105 || control > 85 {
				t.Errorf("%d statements and %d of control in an idle minute", statements, control)
			}
		})
	}
}
