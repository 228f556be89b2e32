package postgres_test

import (
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/adapters/postgres"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
)

// benchDB has 1,000 accounts and room for 16 clients.
func benchDB(b *testing.B) *sql.DB {
	b.Helper()
	db, _ := open(b, extended)
	db.SetMaxIdleConns(16)
	_, err := db.ExecContext(b.Context(), `CREATE TABLE account (n int PRIMARY KEY, balance bigint NOT NULL); INSERT INTO account SELECT n, 0 FROM generate_series(0, 999) n`)
	noError(b, err)
	return db
}

const debit = `UPDATE account SET balance = balance - 1 WHERE n = $1`

// BenchmarkPublish compares a business commit with an outbox row to the bare one: 16 clients, a thousand commits of each kind in turn. ratio-… is the
// median of bare's time over theirs: 1 is as fast, client-µs/op this process's CPU time.
func BenchmarkPublish(b *testing.B) {
	db := benchDB(b)
	box, err := postgres.NewOutbox(b.Context(), db, postgres.Config{})
	noError(b, err)
	own := func(publish bool) func(int) error {
		return func(i int) error {
			tx, err := db.BeginTx(b.Context(), nil)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback() }()
			if _, err := tx.ExecContext(b.Context(), debit, i); err != nil {
				return err
			}
			if publish {
				if err := box.Insert(b.Context(), tx, message("bank.t"), false); err != nil {
					return err
				}
			}
			return tx.Commit()
		}
	}
	kinds := []struct {
		name string
		one  func(i int) error
	}{
		{"bare", own(false)},
		{"own", own(true)},
		{"Transact", func(i int) error {
			return box.Transact(b.Context(), func(tx outbox.Tx) error {
				if _, err := tx.ExecContext(b.Context(), debit, i); err != nil {
					return err
				}
				return box.Insert(b.Context(), tx, message("bank.t"), false)
			})
		}},
	}
	const each = 1000
	took, cpu := make([][]float64, len(kinds)), make([]time.Duration, len(kinds))
	for b.Loop() {
		for k, kind := range kinds {
			before, began := cpuTime(b), time.Now()
			inParallel(b, each, kind.one)
			took[k] = append(took[k], float64(time.Since(began)))
			cpu[k] += cpuTime(b) - before
		}
	}
	for k, kind := range kinds {
		n := len(took[k])
		ratios := make([]float64, n)
		for i := range ratios {
			ratios[i] = took[0][i] / took[k][i]
		}
		slices.Sort(ratios)
		slices.Sort(took[k])
		b.ReportMetric(each*1e9/took[k][n/2], kind.name+"/s")
		b.ReportMetric(float64(cpu[k].Microseconds())/float64(n*each), kind.name+"-client-µs/op")
		if k > 0 {
			b.ReportMetric(ratios[n/2], "ratio-"+kind.name)
		}
	}
}

// inParallel runs one n times, by 16 clients.
func inParallel(b *testing.B, n int, one func(i int) error) {
	var next atomic.Int64
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				if err := one(i % 1000); err != nil {
					b.Error(err)
				}
			}
		})
	}
	clients.Wait()
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	noError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkClaim is a consumer's transaction: claim a batch, change an account for each message, commit. Time is per message.
func BenchmarkClaim(b *testing.B) {
	for _, batch := range []int{1, 100} {
		b.Run(fmt.Sprint("batch ", batch), func(b *testing.B) {
			db := benchDB(b)
			c, err := postgres.NewConsumer(b.Context(), db, postgres.Config{})
			noError(b, err)
			b.ResetTimer()
			for n := 0; n < b.N; n += batch {
				tx, err := c.Begin(b.Context())
				noError(b, err)
				ids := make([]string, batch)
				for i := range ids {
					ids[i] = uuid.Must(uuid.NewV7()).String()
				}
				_, err = tx.Claim(b.Context(), uid, ids, txn.Success)
				noError(b, err)
				for i := range ids {
					_, err = tx.Tx().ExecContext(b.Context(), debit, (n+i)%1000)
					noError(b, err)
				}
				noError(b, tx.Commit(b.Context()))
			}
		})
	}
}

// BenchmarkRelay reads and releases rows, 500 at a time. Time is per row.
func BenchmarkRelay(b *testing.B) {
	db := benchDB(b)
	box, err := postgres.NewOutbox(b.Context(), db, postgres.Config{})
	noError(b, err)
	_, err = db.ExecContext(b.Context(), `INSERT INTO twostep_outbox (topic, payload) SELECT 'bank.t', convert_to(repeat('x', 256), 'UTF8') FROM generate_series(1, $1)`, b.N)
	noError(b, err)
	free, err := box.Lease(b.Context())
	noError(b, err)
	l, err := box.Take(b.Context(), free, "bench")
	noError(b, err)
	b.ResetTimer()
	for after := int64(0); ; {
		p, err := box.Scan(b.Context(), after, 500, true)
		noError(b, err)
		if len(p.Rows) == 0 {
			break
		}
		c := outbox.Checkpoint{Server: p.Server, Bits: []outbox.Bits{{Confirmer: outbox.BrokerConfirmer, Bitmap: make([]byte, 100)}}}
		for _, row := range p.Rows {
			c.Release = append(c.Release, outbox.RowID{Seq: row.Seq, ID: row.ID})
			after = row.Seq
		}
		l, err = box.Commit(b.Context(), l, c)
		noError(b, err)
	}
}
