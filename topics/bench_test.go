package topics_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// BenchmarkProcess measures a message's share of a batch of 100 on SQLite; bare is the same inserts in one transaction a
// batch, with no safety at all.
func BenchmarkProcess(b *testing.B) {
	const batch = 100
	for _, shared := range []bool{true, false} {
		b.Run(fmt.Sprintf("shared=%t", shared), func(b *testing.B) {
			db, store := openConsumer(b)
			insert := `INSERT INTO effect (subscription, id, "key", attempt) VALUES ('s', ?, ?, 1)`
			d := topics.NewDispatcher(topics.DispatcherConfig{
				Subscription: outbox.RegistrySubscription{UID: uuid.NewString(), Topic: "t", Name: "s"}, Store: store, Shared: shared, HoldOnDead: true,
				Send: func(_ context.Context, _ string, ms []*broker.Message) (int, error) { return len(ms), nil },
				Handler: func(ctx context.Context, tx outbox.Tx, d broker.Delivery) error {
					_, err := tx.ExecContext(ctx, insert, d.ID, d.Key)
					return err
				},
			})
			seq := int64(0)
			for b.Loop() {
				ds := make([]broker.Delivery, batch)
				for i := range ds {
					seq++
					ds[i] = broker.Delivery{Message: &broker.Message{ID: newID(b), Topic: "t", Key: fmt.Sprint(i % 50), Outbox: outboxA, Seq: seq, Attempt: 1, Payload: []byte(`{}`)}}
				}
				if err := d.Process(b.Context(), ds); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*batch), "µs/message")
			if n := count(b, db, `SELECT count(*) FROM effect`); int64(n) != seq {
				b.Fatalf("%d effects of %d messages", n, seq)
			}
		})
	}
	b.Run("bare", func(b *testing.B) {
		db, _ := openConsumer(b)
		for b.Loop() {
			tx, err := db.BeginTx(b.Context(), nil)
			if err != nil {
				b.Fatal(err)
			}
			for i := range batch {
				if _, err := tx.ExecContext(b.Context(), `INSERT INTO effect (subscription, id, "key", attempt) VALUES ('s', ?, ?, 1)`, newID(b), fmt.Sprint(i%50)); err != nil {
					b.Fatal(err)
				}
			}
			if err := tx.Commit(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*batch), "µs/message")
	})
}

// newID makes ids as Publish does: in the order of time.
func newID(b *testing.B) string {
	b.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		b.Fatal(err)
	}
	return id.String()
}
