package mysql_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
)

const benchUpdate = "UPDATE account SET n = n + 1 WHERE id = 1"

// BenchmarkTransaction: what a message costs the caller: a bare business transaction, the same with a message in the caller's own
// transaction, and in Transact.
func BenchmarkTransaction(b *testing.B) {
	db, _ := mariaDB.open(b)
	o := newOutbox(b, db)
	ctx := b.Context()
	execAll(b, db, "CREATE TABLE account (id INT PRIMARY KEY, n INT NOT NULL) ENGINE = InnoDB", "INSERT INTO account VALUES (1, 0)")
	own := func(ctx context.Context, publish bool) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		if _, err := tx.ExecContext(ctx, benchUpdate); err != nil {
			return err
		}
		if publish {
			if err := o.Insert(ctx, tx, messageOf("t"), false); err != nil {
				return err
			}
		}
		return tx.Commit()
	}
	for name, once := range map[string]func() error{
		"bare": func() error { return own(ctx, false) },
		"own":  func() error { return own(ctx, true) },
		"transact": func() error {
			return o.Transact(ctx, func(tx outbox.Tx) error {
				if _, err := tx.ExecContext(ctx, benchUpdate); err != nil {
					return err
				}
				return o.Insert(ctx, tx, messageOf("t"), false)
			})
		},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				noError(b, once())
			}
		})
	}
}

// BenchmarkClaim claims batches and commits them.
func BenchmarkClaim(b *testing.B) {
	db, _ := mariaDB.open(b)
	c := newConsumer(b, db)
	ctx := b.Context()
	for _, size := range []int{1, 100} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			for b.Loop() {
				ids := make([]string, size)
				for i := range ids {
					ids[i] = messageOf("t").ID
				}
				tx, err := c.Begin(ctx)
				noError(b, err)
				_, err = tx.Claim(ctx, subscription, ids, txn.Success)
				noError(b, err)
				noError(b, tx.Commit(ctx))
			}
		})
	}
}

// BenchmarkRelay scans, probes and releases, with rows waiting.
func BenchmarkRelay(b *testing.B) {
	db, _ := mariaDB.open(b)
	o := newOutbox(b, db)
	ctx := b.Context()
	noError(b, insert(b, db, o, 20_000).Commit())
	seen, err := o.Lease(ctx)
	noError(b, err)
	l, err := o.Take(ctx, seen, "relay")
	noError(b, err)
	b.Run("scan nothing", func(b *testing.B) {
		for b.Loop() {
			_, err := o.Scan(ctx, 1_000_000, 500, true)
			noError(b, err)
		}
	})
	b.Run("scan 500", func(b *testing.B) {
		for b.Loop() {
			_, err := o.Scan(ctx, 100, 500, true)
			noError(b, err)
		}
	})
	b.Run("release 100", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			noError(b, insert(b, db, o, 100).Commit())
			p, err := o.Scan(ctx, 0, 100, false)
			noError(b, err)
			c := outbox.Checkpoint{Server: p.Server, Bits: []outbox.Bits{{Confirmer: outbox.BrokerConfirmer, Bitmap: make([]byte, 1000)}}}
			for _, row := range p.Rows {
				c.Release = append(c.Release, outbox.RowID{Seq: row.Seq, ID: row.ID})
			}
			b.StartTimer()
			l, err = o.Commit(ctx, l, c)
			noError(b, err)
		}
	})
}
