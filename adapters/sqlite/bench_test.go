package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
)

// Each benchmark has a bare counterpart: the same business change, committed without anything of twostep.

const (
	accounts = 100
	debit    = `UPDATE account SET balance = balance - 1 WHERE name = ?`
)

func bank(b *testing.B) *sql.DB {
	b.Helper()
	db, _ := open(b)
	tx, err := db.Begin()
	if err != nil {
		b.Fatal(err)
	}
	if _, err := tx.Exec(`CREATE TABLE account (name TEXT PRIMARY KEY, balance INTEGER NOT NULL) WITHOUT ROWID`); err != nil {
		b.Fatal(err)
	}
	for i := range accounts {
		if _, err := tx.Exec(`INSERT INTO account VALUES (?, 1000000)`, accountName(i)); err != nil {
			b.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
	return db
}

func accountName(i int) string { return fmt.Sprintf("account-%03d", i%accounts) }

var benchID atomic.Int64

func benchMessage() *broker.Message {
	return &broker.Message{
		ID: fmt.Sprintf("019e0000-0000-7000-8000-%012x", benchID.Add(1)), Topic: "bank.trans-in", Key: "account-001",
		ContentType: "application/json", Payload: []byte(`{"from":"account-001","to":"account-002","amount":1,"note":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}`),
		Time: time.Now(),
	}
}

// parallel runs work b.N times on the given number of goroutines.
func parallel(b *testing.B, goroutines int, work func(i int)) {
	b.Helper()
	var next atomic.Int64
	done := make(chan struct{})
	b.ResetTimer()
	for range goroutines {
		go func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				work(int(i))
			}
			done <- struct{}{}
		}()
	}
	for range goroutines {
		<-done
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tx/s")
}

func BenchmarkPublish(b *testing.B) {
	for _, clients := range []int{1, 16} {
		b.Run(fmt.Sprintf("bare/clients=%d", clients), func(b *testing.B) {
			db, ctx := bank(b), context.Background()
			parallel(b, clients, func(i int) {
				tx, err := db.BeginTx(ctx, nil)
				if err == nil {
					_, err = tx.ExecContext(ctx, debit, accountName(i))
				}
				if err == nil {
					err = tx.Commit()
				}
				if err != nil {
					b.Error(err)
				}
			})
		})
		b.Run(fmt.Sprintf("own/clients=%d", clients), func(b *testing.B) {
			db, ctx := bank(b), context.Background()
			box, err := sqlite.NewOutbox(ctx, db)
			if err != nil {
				b.Fatal(err)
			}
			parallel(b, clients, func(i int) {
				tx, err := db.BeginTx(ctx, nil)
				if err == nil {
					_, err = tx.ExecContext(ctx, debit, accountName(i))
				}
				if err == nil {
					err = box.Insert(ctx, tx, benchMessage(), false)
				}
				if err == nil {
					err = tx.Commit()
				}
				if err != nil {
					b.Error(err)
				}
			})
		})
		b.Run(fmt.Sprintf("transact/clients=%d", clients), func(b *testing.B) {
			db, ctx := bank(b), context.Background()
			box, err := sqlite.NewOutbox(ctx, db)
			if err != nil {
				b.Fatal(err)
			}
			parallel(b, clients, func(i int) {
				err := box.Transact(ctx, func(tx outbox.Tx) error {
					if _, err := tx.ExecContext(ctx, debit, accountName(i)); err != nil {
						return err
					}
					return box.Insert(ctx, tx, benchMessage(), false)
				})
				if err != nil {
					b.Error(err)
				}
			})
		})
	}
}

// BenchmarkConsume counts messages: a batch is 100.
func BenchmarkConsume(b *testing.B) {
	const batch = 100
	b.Run("bare", func(b *testing.B) {
		db, ctx := bank(b), context.Background()
		b.ResetTimer()
		for n := 0; n < b.N; n += batch {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				b.Fatal(err)
			}
			for i := range batch {
				if _, err := tx.ExecContext(ctx, debit, accountName(i)); err != nil {
					b.Fatal(err)
				}
			}
			if err := tx.Commit(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	})
	b.Run("claim", func(b *testing.B) {
		db, ctx := bank(b), context.Background()
		store, err := sqlite.NewConsumer(ctx, db)
		if err != nil {
			b.Fatal(err)
		}
		ids := make([]string, batch)
		b.ResetTimer()
		for n := 0; n < b.N; n += batch {
			for i := range ids {
				ids[i] = benchMessage().ID
			}
			tx, err := store.Begin(ctx)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := tx.Claim(ctx, "019e0000-0000-7000-9000-00000000000a", ids, txn.Success); err != nil {
				b.Fatal(err)
			}
			for i := range batch {
				if _, err := tx.Tx().ExecContext(ctx, debit, accountName(i)); err != nil {
					b.Fatal(err)
				}
			}
			if err := tx.Commit(ctx); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	})
}

// fill inserts n rows and returns them.
func fill(b *testing.B, db *sql.DB, box *sqlite.Outbox, n int) []outbox.Row {
	b.Helper()
	ctx := context.Background()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		b.Fatal(err)
	}
	for range n {
		if err := box.Insert(ctx, tx, benchMessage(), false); err != nil {
			b.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
	p, err := box.Scan(ctx, 0, 10*n, false)
	if err != nil {
		b.Fatal(err)
	}
	return p.Rows
}

func BenchmarkRelay(b *testing.B) {
	const batch = 500
	b.Run("commit500", func(b *testing.B) {
		db, ctx := bank(b), context.Background()
		box, err := sqlite.NewOutbox(ctx, db)
		if err != nil {
			b.Fatal(err)
		}
		seen, err := box.Lease(ctx)
		if err != nil {
			b.Fatal(err)
		}
		lease, err := box.Take(ctx, seen, "bench")
		if err != nil {
			b.Fatal(err)
		}
		loaded, err := box.Load(ctx)
		if err != nil {
			b.Fatal(err)
		}
		b.ResetTimer()
		for range b.N {
			b.StopTimer()
			c := outbox.Checkpoint{Server: loaded.Server, Bits: []outbox.Bits{{Confirmer: "broker", Bitmap: make([]byte, 200)}}}
			for _, row := range fill(b, db, box, batch) {
				c.Release = append(c.Release, outbox.RowID{Seq: row.Seq, ID: row.ID})
			}
			b.StartTimer()
			if lease, err = box.Commit(ctx, lease, c); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("scan500", func(b *testing.B) {
		db, ctx := bank(b), context.Background()
		box, err := sqlite.NewOutbox(ctx, db)
		if err != nil {
			b.Fatal(err)
		}
		fill(b, db, box, batch)
		b.ResetTimer()
		for range b.N {
			if p, err := box.Scan(ctx, 0, batch, true); err != nil || len(p.Rows) != batch {
				b.Fatal(err, len(p.Rows))
			}
		}
	})
	b.Run("scan0", func(b *testing.B) {
		db, ctx := bank(b), context.Background()
		box, err := sqlite.NewOutbox(ctx, db)
		if err != nil {
			b.Fatal(err)
		}
		b.ResetTimer()
		for range b.N {
			if _, err := box.Scan(ctx, 0, batch, true); err != nil {
				b.Fatal(err)
			}
		}
	})
}
