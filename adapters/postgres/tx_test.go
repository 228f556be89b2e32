package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/twostep-mq/twostep/adapters/postgres"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

const (
	uid     = "019e0000-0000-7000-9000-00000000000a"
	addNote = `INSERT INTO note VALUES ($1)`
)

func notes(t *testing.T, db *sql.DB) {
	t.Helper()
	_, err := db.ExecContext(t.Context(), `CREATE TABLE note (text text PRIMARY KEY)`)
	noError(t, err)
}

func countNotes(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	noError(t, db.QueryRowContext(t.Context(), `SELECT count(*) FROM note`).Scan(&n))
	return n
}

func errOf[T any](_ T, err error) error { return err }

func newConsumer(t *testing.T) (*postgres.Consumer, *sql.DB) {
	t.Helper()
	db, _ := open(t, extended)
	c, err := postgres.NewConsumer(t.Context(), db, postgres.Config{})
	noError(t, err)
	return c, db
}

// TestSwallowedError: after a failed statement PostgreSQL answers COMMIT with ROLLBACK and no error. Nothing stands, and it is told.
func TestSwallowedError(t *testing.T) {
	box, db := newOutbox(t)
	notes(t, db.DB)
	ctx := t.Context()
	swallow := func(tx outbox.Tx) error {
		noError(t, errOf(tx.ExecContext(ctx, addNote, "before")))
		_, _ = tx.ExecContext(ctx, `SELECT no_such_column`)
		return nil
	}
	err := box.Transact(ctx, swallow)
	if !errors.Is(err, postgres.ErrEnded) || !strings.Contains(err.Error(), "no_such_column") {
		t.Errorf("transact: %v", err)
	}
	c, err := postgres.NewConsumer(ctx, db.DB, postgres.Config{})
	noError(t, err)
	tx, err := c.Begin(ctx)
	noError(t, err)
	noError(t, errOf(tx.Claim(ctx, uid, []string{"m"}, txn.Success)))
	noError(t, swallow(tx.Tx()))
	if err := tx.Commit(ctx); !errors.Is(err, topics.ErrTransactionLost) || errors.Is(err, topics.ErrTryAgain) {
		t.Errorf("commit: %v", err)
	}
	noError(t, tx.Rollback())
	if n := countNotes(t, db.DB); n != 0 {
		t.Errorf("%d notes", n)
	}
}

// TestDeadlock: who loses is told to try again, whether the handler returns the error or swallows it, or got it from a Scan.
func TestDeadlock(t *testing.T) {
	for _, swallow := range []bool{false, true} {
		c, db := newConsumer(t)
		notes(t, db)
		ctx := t.Context()
		noError(t, errOf(db.ExecContext(ctx, `INSERT INTO note VALUES ('a'), ('b')`)))
		const lock = `SELECT text FROM note WHERE text = $1 FOR UPDATE`
		both := make(chan struct{}, 2)
		results := make(chan error, 2)
		for i, order := range [][]string{{"a", "b"}, {"b", "a"}} {
			go func() {
				results <- func() error {
					tx, err := c.Begin(ctx)
					if err != nil {
						return err
					}
					defer func() { _ = tx.Rollback() }()
					if _, err := tx.Claim(ctx, uid, []string{string(rune('x' + i))}, txn.Success); err != nil {
						return err
					}
					if _, err := tx.Tx().ExecContext(ctx, lock, order[0]); err != nil {
						return err
					}
					both <- struct{}{}
					for len(both) < 2 {
						time.Sleep(time.Millisecond)
					}
					err = tx.Tx().QueryRowContext(ctx, lock, order[1]).Scan(new(string))
					if err != nil && !swallow {
						if !c.TryAgain(err) {
							return errors.New("the judge does not know: " + err.Error())
						}
						return errors.Join(topics.ErrTryAgain, err)
					}
					return tx.Commit(ctx)
				}()
			}()
		}
		lost := 0
		for range 2 {
			if err := <-results; err != nil {
				lost++
				if !errors.Is(err, topics.ErrTryAgain) || errors.Is(err, topics.ErrTransactionLost) {
					t.Errorf("swallow %v: %v", swallow, err)
				}
			}
		}
		if lost != 1 {
			t.Errorf("swallow %v: %d lost", swallow, lost)
		}
	}
}

// TestLostConnection: a handler whose connection goes is told to try again; nothing of it stands.
func TestLostConnection(t *testing.T) {
	c, db := newConsumer(t)
	notes(t, db)
	ctx := t.Context()
	for _, swallow := range []bool{false, true} {
		tx, err := c.Begin(ctx)
		noError(t, err)
		noError(t, errOf(tx.Claim(ctx, uid, []string{"m"}, txn.Success)))
		noError(t, errOf(tx.Tx().ExecContext(ctx, addNote, "lost")))
		var pid int
		noError(t, tx.Tx().QueryRowContext(ctx, `SELECT pg_backend_pid()`).Scan(&pid))
		noError(t, errOf(db.ExecContext(ctx, `SELECT pg_terminate_backend($1, 5000)`, pid)))
		_, err = tx.Tx().ExecContext(ctx, addNote, "more")
		if swallow {
			err = tx.Commit(ctx)
		}
		if !errors.Is(err, topics.ErrTryAgain) {
			t.Errorf("swallow %v: %v", swallow, err)
		}
		_ = tx.Rollback()
	}
	if n := countNotes(t, db); n != 0 {
		t.Errorf("%d notes", n)
	}
}

// TestDeferredConstraint fails at COMMIT alone.
func TestDeferredConstraint(t *testing.T) {
	box, db := newOutbox(t)
	ctx := t.Context()
	noError(t, errOf(db.ExecContext(ctx, `CREATE TABLE late (n int, UNIQUE (n) DEFERRABLE INITIALLY DEFERRED)`)))
	err := box.Transact(ctx, func(tx outbox.Tx) error { return errOf(tx.ExecContext(ctx, `INSERT INTO late VALUES (1), (1)`)) })
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != "23505" {
		t.Fatal(err)
	}
	noError(t, box.Transact(ctx, func(tx outbox.Tx) error { return errOf(tx.ExecContext(ctx, `INSERT INTO late VALUES (1)`)) }))
}

// TestOpenResults: a handler that forgets to close its results can be committed.
func TestOpenResults(t *testing.T) {
	box, db := newOutbox(t)
	notes(t, db.DB)
	ctx := t.Context()
	noError(t, box.Transact(ctx, func(tx outbox.Tx) error {
		noError(t, errOf(tx.ExecContext(ctx, addNote, "a")))
		rows, err := tx.QueryContext(ctx, `SELECT generate_series(1, 100000)`) //nolint:rowserrcheck,sqlclosecheck // that is the point
		noError(t, err)
		rows.Next()
		return nil
	}))
	noError(t, box.Transact(ctx, func(tx outbox.Tx) error {
		noError(t, errOf(tx.ExecContext(ctx, addNote, "b")))
		_ = tx.QueryRowContext(ctx, `SELECT generate_series(1, 100000)`)
		return nil
	}))
	if n := countNotes(t, db.DB); n != 2 {
		t.Errorf("%d notes", n)
	}
}

// TestNativeTransactions: pgx's own transactions publish, and handlers use pgx's own calls.
func TestNativeTransactions(t *testing.T) {
	db, cfg := open(t, extended)
	notes(t, db)
	ctx := t.Context()
	store, err := postgres.NewOutbox(ctx, db, postgres.Config{})
	noError(t, err)
	box, err := outbox.New(ctx, store, outbox.Config{})
	noError(t, err)
	conn, err := pgx.ConnectConfig(ctx, cfg)
	noError(t, err)
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for _, commit := range []bool{false, true} {
		tx, err := conn.Begin(ctx)
		noError(t, err)
		noError(t, errOf(tx.Exec(ctx, addNote, "mine")))
		wrapped := postgres.Tx(tx)
		noError(t, errOf(box.Publish(ctx, wrapped, outbox.Message{Topic: "t", GID: "g", Payload: []byte("x")})))
		if _, err := box.Publish(ctx, wrapped, outbox.Message{Topic: "t", GID: "g", Payload: []byte("x")}); !errors.Is(err, outbox.ErrDuplicate) {
			t.Errorf("published twice: %v", err)
		}
		if wrapped.Commit() == nil || wrapped.Rollback() == nil {
			t.Error("the wrapped transaction was ended")
		}
		if commit {
			noError(t, tx.Commit(ctx))
		} else {
			noError(t, tx.Rollback(ctx))
		}
	}
	noError(t, store.Transact(ctx, func(tx outbox.Tx) error {
		return postgres.Native(tx, func(q postgres.Querier) error {
			n, err := q.CopyFrom(ctx, pgx.Identifier{"note"}, []string{"text"}, pgx.CopyFromRows([][]any{{"x"}, {"y"}}))
			if n != 2 {
				t.Errorf("%d copied", n)
			}
			return err
		})
	}))
	err = store.Transact(ctx, func(tx outbox.Tx) error {
		_ = postgres.Native(tx, func(q postgres.Querier) error { return errOf(q.Exec(ctx, addNote, "x")) }) // swallowed
		return nil
	})
	if !errors.Is(err, postgres.ErrEnded) {
		t.Errorf("a native error was swallowed: %v", err)
	}
	p, err := store.Scan(ctx, 0, 10, true)
	noError(t, err)
	if n := countNotes(t, db); n != 3 || len(p.Rows) != 1 {
		t.Errorf("%d notes, %d messages", n, len(p.Rows))
	}
	var kept outbox.Tx
	noError(t, store.Transact(ctx, func(tx outbox.Tx) error { kept = tx; return nil }))
	if err := postgres.Native(kept, func(postgres.Querier) error { return nil }); !errors.Is(err, sql.ErrTxDone) {
		t.Errorf("native after the end: %v", err)
	}
}

// TestForeignKeys: messages of foreign producers may have keys longer than an index takes.
func TestForeignKeys(t *testing.T) {
	c, _ := newConsumer(t)
	ctx := t.Context()
	random := make([]byte, 0, 20_000)
	for i := range cap(random) {
		random = append(random, "abcdefghijklmnopqrstuvwxyz"[(i*i*7+i/3)%26])
	}
	key := string(random)
	tx, err := c.Begin(ctx)
	noError(t, err)
	defer func() { _ = tx.Rollback() }()
	p := topics.Parked{Subscription: uid, State: topics.ParkedHeld, ParkedAt: time.Now(), Message: *message("t")}
	p.Message.Key = key
	noError(t, errOf(tx.Claim(ctx, uid, []string{p.Message.ID}, txn.Parked)))
	noError(t, tx.Park(ctx, []topics.Parked{p}))
	if err := tx.Park(ctx, []topics.Parked{p}); !errors.Is(err, topics.ErrConflict) {
		t.Errorf("parked twice: %v", err)
	}
	got, err := tx.ParkedKeys(ctx, uid, []string{key, key[1:]}, true)
	noError(t, err)
	if !got[key] || got[key[1:]] {
		t.Error("the key is not found, or another one is")
	}
	noError(t, tx.Commit(ctx))
	due, _, err := c.Due(ctx, uid, time.Now(), true, 10)
	noError(t, err)
	if len(due) != 1 || due[0].Message.Key != key {
		t.Errorf("%d due", len(due))
	}
}

// TestPendingMessages: a message that waits for the next statement is where it would be had it been inserted at once.
func TestPendingMessages(t *testing.T) {
	box, db := newOutbox(t)
	ctx := t.Context()
	in := func(tx outbox.Tx, topic string) { noError(t, box.Insert(ctx, tx, message(topic), false)) }
	noError(t, box.Transact(ctx, func(tx outbox.Tx) error {
		in(tx, "a")
		noError(t, errOf(tx.ExecContext(ctx, `SAVEPOINT s`)))
		in(tx, "undone")
		noError(t, errOf(tx.ExecContext(ctx, `ROLLBACK TO s`)))
		in(tx, "b")
		var n int
		noError(t, tx.QueryRowContext(ctx, `SELECT count(*) FROM twostep_outbox`).Scan(&n))
		if n != 2 {
			t.Errorf("it sees %d of its messages", n)
		}
		in(tx, "c")
		noError(t, postgres.Native(tx, func(q postgres.Querier) error {
			return q.QueryRow(ctx, `SELECT count(*) FROM twostep_outbox`).Scan(&n)
		}))
		if n != 3 {
			t.Errorf("it sees %d of its messages", n)
		}
		savepoint, err := tx.PrepareContext(ctx, `SAVEPOINT p`)
		noError(t, err)
		defer func() { _ = savepoint.Close() }()
		back, err := tx.PrepareContext(ctx, `ROLLBACK TO p`)
		noError(t, err)
		defer func() { _ = back.Close() }()
		noError(t, errOf(savepoint.ExecContext(ctx)))
		in(tx, "undone-too")
		noError(t, errOf(back.ExecContext(ctx)))
		for range 120 {
			in(tx, "d")
		}
		return nil
	}))
	p, err := box.Scan(ctx, 0, 1000, true)
	noError(t, err)
	var topics []string
	for _, row := range p.Rows {
		topics = append(topics, row.Topic)
	}
	if got := strings.Join(topics, ""); got != "abc"+strings.Repeat("d", 120) {
		t.Errorf("messages %s", got)
	}
	// An impossible row is refused at the latest by Transact, and nothing stands.
	notes(t, db.DB)
	err = box.Transact(ctx, func(tx outbox.Tx) error {
		noError(t, errOf(tx.ExecContext(ctx, addNote, "x")))
		return box.Insert(ctx, tx, message("no such form"), false)
	})
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != "23514" || countNotes(t, db.DB) != 0 {
		t.Errorf("an impossible row: %v, %d notes", err, countNotes(t, db.DB))
	}
}

// TestAnotherTransaction: a function that commits and begins again leaves a connection that looks as it should. The transaction's id tells,
// which is asked for before the first statement that could have done it.
func TestAnotherTransaction(t *testing.T) {
	for name, m := range map[string]mode{"extended": extended, "simple": simple} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			db, _ := open(t, m)
			notes(t, db)
			store, err := postgres.NewOutbox(ctx, db, postgres.Config{})
			noError(t, err)
			for i, way := range []func(tx outbox.Tx) error{
				func(tx outbox.Tx) error { return errOf(tx.ExecContext(ctx, `COMMIT; BEGIN`)) },
				func(tx outbox.Tx) error {
					if _, err := tx.ExecContext(ctx, `COMMIT`); err != nil {
						return err
					}
					return errOf(tx.ExecContext(ctx, `BEGIN`))
				},
				func(tx outbox.Tx) error {
					return errOf(tx.ExecContext(ctx, `COMMIT; BEGIN`, pgx.QueryExecModeSimpleProtocol))
				},
				func(tx outbox.Tx) error {
					return errOf(tx.ExecContext(ctx, `COMMIT; BEGIN`, sql.Named("mode", pgx.QueryExecModeSimpleProtocol)))
				},
				func(tx outbox.Tx) error { return errOf(tx.ExecContext(ctx, `COMMIT; BEGIN`, pgx.NamedArgs{})) },
				func(tx outbox.Tx) error {
					return postgres.Native(tx, func(q postgres.Querier) error {
						return errors.Join(errOf(q.Exec(ctx, `COMMIT`)), errOf(q.Exec(ctx, `BEGIN`)))
					})
				},
				func(tx outbox.Tx) error {
					for _, query := range []string{`COMMIT`, `BEGIN`} {
						stmt, err := tx.PrepareContext(ctx, query)
						if err != nil {
							return err
						}
						if _, err := stmt.ExecContext(ctx); err != nil {
							return err
						}
						if err := stmt.Close(); err != nil { //nolint:sqlclosecheck // before the next one
							return err
						}
					}
					return nil
				},
			} {
				err := store.Transact(ctx, func(tx outbox.Tx) error {
					noError(t, errOf(tx.ExecContext(ctx, addNote, strconv.Itoa(i)))) // its arguments show that it is a single statement
					if err := way(tx); err != nil {
						t.Errorf("way %d: %v", i, err)
					}
					return errOf(tx.ExecContext(ctx, addNote, strconv.Itoa(10+i)))
				})
				if !errors.Is(err, postgres.ErrEnded) {
					t.Errorf("way %d: %v", i, err)
				}
			}
			if n := countNotes(t, db); n != 7 {
				t.Errorf("%d notes, want those that were committed", n)
			}
		})
	}
}
