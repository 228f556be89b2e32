package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/twostep-mq/twostep/adapters/postgres"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
)

// trips counts round trips: a read that follows a write waits for an answer.
type trips struct{ n atomic.Int64 }

type countedConn struct {
	net.Conn
	wrote atomic.Bool
	trips *trips
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.wrote.Store(true)
	return c.Conn.Write(p)
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && c.wrote.CompareAndSwap(true, false) {
		c.trips.n.Add(1)
	}
	return n, err
}

// countTrips makes connections count.
func countTrips(cfg *pgx.ConnConfig) *trips {
	counted := &trips{}
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &countedConn{Conn: conn, trips: counted}, nil
	}
	return counted
}

// TestRoundTrips: what each path costs once its statements are prepared. The business's own statements are in it.
func TestRoundTrips(t *testing.T) {
	ctx := t.Context()
	cfg := config(t, newSchema(t))
	counted := countTrips(cfg)
	db := pool(t, cfg)
	db.SetMaxOpenConns(1)
	noError(t, postgres.Migrate(ctx, db, postgres.Service, postgres.Config{}))
	noError(t, errOf(db.ExecContext(ctx, `CREATE TABLE account (n int PRIMARY KEY, balance bigint NOT NULL); INSERT INTO account SELECT n, 0 FROM generate_series(0, 99) n`)))
	store, err := postgres.NewOutbox(ctx, db, postgres.Config{})
	noError(t, err)
	consumer, err := postgres.NewConsumer(ctx, db, postgres.Config{})
	noError(t, err)
	box, err := outbox.New(ctx, store, outbox.Config{})
	noError(t, err)
	r := newReader(t, store)
	m := outbox.Message{Topic: "bank.t", Payload: []byte(`{}`)}
	change := func(tx outbox.Execer, n int) { noError(t, errOf(tx.ExecContext(ctx, debit, n))) }
	batch := 0
	for name, c := range map[string]struct {
		want int64
		do   func()
	}{
		"own transaction: BEGIN, change, publish, COMMIT": {4, func() {
			tx, err := db.BeginTx(ctx, nil)
			noError(t, err)
			change(tx, 1)
			noError(t, errOf(box.Publish(ctx, tx, m)))
			noError(t, tx.Commit())
		}},
		"Transact: BEGIN with the change, publish with COMMIT": {2, func() {
			noError(t, box.Transact(ctx, func(tx outbox.Tx) error {
				change(tx, 1)
				return errOf(box.Publish(ctx, tx, m))
			}))
		}},
		"Transact: publish with a change": {2, func() {
			noError(t, box.Transact(ctx, func(tx outbox.Tx) error {
				noError(t, errOf(box.Publish(ctx, tx, m)))
				change(tx, 1)
				return nil
			}))
		}},
		"Transact: publish alone": {1, func() { noError(t, errOf(publish(ctx, box, m))) }},
		"Transact: nothing":       {0, func() { noError(t, box.Transact(ctx, func(outbox.Tx) error { return nil })) }},
		"Transact: BEGIN for a query": {3, func() {
			noError(t, box.Transact(ctx, func(tx outbox.Tx) error {
				var n int
				noError(t, tx.QueryRowContext(ctx, `SELECT 1 WHERE $1 = 1`, 1).Scan(&n))
				return nil
			}))
		}},
		"a batch of 50: BEGIN with the claim, a change each, COMMIT": {52, func() {
			batch++
			ids := make([]string, 50)
			for i := range ids {
				ids[i] = fmt.Sprint(batch, "-", i)
			}
			tx, err := consumer.Begin(ctx)
			noError(t, err)
			noError(t, errOf(tx.Claim(ctx, uid, ids, txn.Success)))
			for i := range ids {
				change(tx.Tx(), i)
			}
			noError(t, tx.Commit(ctx))
		}},
		"relay: scan":                    {1, func() { noError(t, errOf(store.Scan(ctx, 0, 100, true))) }},
		"relay: scan, probe, checkpoint": {4, func() { noError(t, errOf(publish(ctx, box, m))); counted.n.Add(-1); noError(t, errOf(r.round(ctx))) }},
		"relay: idle beat":               {1, func() { l, err := store.Beat(ctx, r.lease, false); noError(t, err); r.lease = l }},
	} {
		for range 3 { // the first prepares
			counted.n.Store(0)
			c.do()
		}
		if n := counted.n.Load(); n != c.want {
			t.Errorf("%s: %d round trips, want %d", name, n, c.want)
		}
	}
}

func publish(ctx context.Context, box *outbox.Outbox, m outbox.Message) (id string, err error) {
	err = box.Transact(ctx, func(tx outbox.Tx) error {
		id, err = box.Publish(ctx, tx, m)
		return err
	})
	return id, err
}

// TestFirstStatementRefused: BEGIN travels with the first statement, which the server may refuse before it sees BEGIN. Whoever swallows
// that error loses the transaction all the same, and no statement runs outside of it.
func TestFirstStatementRefused(t *testing.T) {
	for name, m := range map[string]mode{"extended": extended, "simple": simple} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			db, _ := open(t, m)
			notes(t, db)
			store, err := postgres.NewOutbox(ctx, db, postgres.Config{})
			noError(t, err)
			err = store.Transact(ctx, func(tx outbox.Tx) error {
				if _, err := tx.ExecContext(ctx, `SELECT no_such_column WHERE $1 = 1`, 1); err == nil {
					t.Error("accepted")
				}
				if _, err := tx.ExecContext(ctx, addNote, "after"); err == nil {
					t.Error("a statement ran in a failed transaction")
				}
				if err := tx.QueryRowContext(ctx, `INSERT INTO note VALUES ($1) RETURNING text`, "after").Scan(new(string)); err == nil {
					t.Error("a query ran in a failed transaction")
				}
				return nil
			})
			if !errors.Is(err, postgres.ErrEnded) || !strings.Contains(err.Error(), "no_such_column") {
				t.Errorf("transact: %v", err)
			}
			if n := countNotes(t, db); n != 0 {
				t.Errorf("%d notes", n)
			}
		})
	}
}

// TestFirstStatementArguments reach the server as they do through database/sql.
func TestFirstStatementArguments(t *testing.T) {
	ctx := t.Context()
	box, db := newOutbox(t)
	notes(t, db.DB)
	for _, arg := range []any{"plain", sql.Named("x", "named"), sql.NullString{String: "valuer", Valid: true}, []byte("bytes")} {
		noError(t, box.Transact(ctx, func(tx outbox.Tx) error {
			res, err := tx.ExecContext(ctx, addNote, arg)
			noError(t, err)
			if n, err := res.RowsAffected(); n != 1 || err != nil {
				t.Errorf("%v: %d rows, %v", arg, n, err)
			}
			return nil
		}))
	}
	noError(t, box.Transact(ctx, func(tx outbox.Tx) error { // pgx's own arguments
		return errOf(tx.ExecContext(ctx, `INSERT INTO note VALUES (@text)`, pgx.NamedArgs{"text": "rewritten"}))
	}))
	if n := countNotes(t, db.DB); n != 5 {
		t.Errorf("%d notes", n)
	}
}
