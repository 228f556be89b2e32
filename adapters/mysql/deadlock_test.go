package mysql_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"github.com/twostep-mq/twostep/adapters/mysql"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

const subscription = "019e0000-0000-7000-9000-00000000000a"

func newConsumer(t testing.TB, db *sql.DB) *mysql.Consumer {
	t.Helper()
	c, err := mysql.NewConsumer(t.Context(), db, mysql.Config{})
	noError(t, err)
	return c
}

func count(t testing.TB, db *sql.DB, query string) (n int) {
	t.Helper()
	noError(t, db.QueryRowContext(t.Context(), query).Scan(&n))
	return n
}

func execAll(t testing.TB, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		_, err := db.ExecContext(t.Context(), s)
		noError(t, err)
	}
}

// TestClaimRacers: eight consumers claim overlapping batches of 3,000 keys, each in an order of its own, while some roll back. No key
// is claimed twice, and a deadlock is no error.
func TestClaimRacers(t *testing.T) { onEachServer(t, testClaimRacers) }

func testClaimRacers(t *testing.T, on testServer) {
	db, _ := on.open(t)
	c := newConsumer(t, db)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	const keys, racers, batch = 3000, 8, 100
	var mu sync.Mutex
	won := map[string]int{}
	var all sync.WaitGroup
	for i := range racers {
		all.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for round := range 2 * keys / batch {
				ids := make([]string, 0, batch)
				from := (round * batch / 2) % keys
				for _, k := range r.Perm(batch) {
					ids = append(ids, fmt.Sprintf("key-%d", (from+k)%keys))
				}
				tx, err := c.Begin(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				before, err := tx.Claim(ctx, subscription, ids, txn.Success)
				if err != nil {
					t.Errorf("claim: %v", err)
				}
				if err != nil || r.IntN(10) == 0 {
					_ = tx.Rollback()
					continue
				}
				if err := tx.Commit(ctx); err != nil {
					t.Errorf("commit: %v", err)
					continue
				}
				mu.Lock()
				for k, o := range before {
					if o == "" {
						won[ids[k]]++
					}
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	for id, n := range won {
		if n != 1 {
			t.Errorf("%s was claimed %d times", id, n)
		}
	}
	if n := count(t, db, "SELECT COUNT(*) FROM twostep_barrier"); n != len(won) || n < keys*9/10 {
		t.Errorf("%d barrier rows, %d won", n, len(won))
	}
}

// deadlock makes the transaction that victim works in the one a deadlock ends: it has locked row 1 and asks for row 2, which another
// one has that waits for row 1 and has written more.
func deadlock(t *testing.T, db *sql.DB, lock func(row int) error) error {
	t.Helper()
	ctx := t.Context()
	noError(t, lock(1))
	other, err := db.BeginTx(ctx, nil)
	noError(t, err)
	defer func() { _ = other.Rollback() }()
	_, err = other.ExecContext(ctx, "UPDATE account SET n = n + 1 WHERE id BETWEEN 2 AND 200")
	noError(t, err)
	waits := make(chan error, 1)
	go func() {
		_, err := other.ExecContext(ctx, "UPDATE account SET n = n + 1 WHERE id = 1")
		waits <- err
	}()
	result := lock(2)
	noError(t, <-waits)
	return result
}

func accounts(t *testing.T, db *sql.DB) {
	t.Helper()
	execAll(t, db, "CREATE TABLE account (id INT PRIMARY KEY, n INT NOT NULL) ENGINE = InnoDB",
		"CREATE TABLE effect (name VARCHAR(64) PRIMARY KEY) ENGINE = InnoDB")
	for i := range 200 {
		execAll(t, db, fmt.Sprintf("INSERT INTO account VALUES (%d, 0)", i+1))
	}
}

func update(ctx context.Context, tx outbox.Execer) func(int) error {
	return func(row int) error {
		_, err := tx.ExecContext(ctx, "UPDATE account SET n = n + 100 WHERE id = ?", row)
		return err
	}
}

// scanned gets the same error where no adapter sees it pass.
func scanned(ctx context.Context, tx outbox.Tx) func(int) error {
	return func(row int) error {
		stmt, err := tx.PrepareContext(ctx, "SELECT n FROM account WHERE id = ? FOR UPDATE")
		if err != nil {
			return err
		}
		defer func() { _ = stmt.Close() }()
		return stmt.QueryRowContext(ctx, row).Scan(new(int))
	}
}

// TestDeadlockMeansTryAgain, whichever way the handler comes by the error.
func TestDeadlockMeansTryAgain(t *testing.T) { onEachServer(t, testDeadlockMeansTryAgain) }

func testDeadlockMeansTryAgain(t *testing.T, on testServer) {
	db, _ := on.open(t)
	accounts(t, db)
	c := newConsumer(t, db)
	ctx := t.Context()
	tx, err := c.Begin(ctx)
	noError(t, err)
	_, err = tx.Claim(ctx, subscription, []string{"a"}, txn.Success)
	noError(t, err)
	err = deadlock(t, db, update(ctx, tx.Tx()))
	var cause *driver.MySQLError
	if !errors.Is(err, topics.ErrTryAgain) || !errors.As(err, &cause) || cause.Number != 1213 {
		t.Errorf("%v, want ErrTryAgain and the server's error", err)
	}
	if err := tx.Rollback(); !errors.Is(err, topics.ErrTransactionLost) {
		t.Errorf("rollback: %v: the deadlock had ended it", err)
	}

	tx, err = c.Begin(ctx)
	noError(t, err)
	_, err = tx.Claim(ctx, subscription, []string{"a"}, txn.Success)
	noError(t, err)
	if err := deadlock(t, db, scanned(ctx, tx.Tx())); err == nil || !c.TryAgain(err) {
		t.Errorf("%v is not known to mean try again", err)
	}
	_ = tx.Rollback()
	if c.TryAgain(errors.New("no money")) || c.TryAgain(nil) {
		t.Error("anything means try again")
	}
}

// TestSwallowedDeadlock: schedule 7. The handler goes on after the server has ended its transaction. Nothing of it may stand.
func TestSwallowedDeadlock(t *testing.T) { onEachServer(t, testSwallowedDeadlock) }

func testSwallowedDeadlock(t *testing.T, on testServer) {
	for name, way := range map[string]func(context.Context, outbox.Tx) func(int) error{
		"seen":   func(ctx context.Context, tx outbox.Tx) func(int) error { return update(ctx, tx) },
		"unseen": scanned,
	} {
		t.Run(name+" in a handler", func(t *testing.T) {
			t.Parallel()
			db, _ := on.open(t)
			accounts(t, db)
			ctx := t.Context()
			tx, err := newConsumer(t, db).Begin(ctx)
			noError(t, err)
			_, err = tx.Claim(ctx, subscription, []string{"a", "b"}, txn.Success)
			noError(t, err)
			if err := deadlock(t, db, way(ctx, tx.Tx())); err == nil {
				t.Fatal("no deadlock")
			}
			_, err = tx.Tx().ExecContext(ctx, "INSERT INTO effect VALUES ('after')")
			if name == "seen" && !errors.Is(err, mysql.ErrEnded) {
				t.Errorf("a statement after the deadlock: %v, want ErrEnded", err)
			}
			if err := tx.Commit(ctx); !errors.Is(err, topics.ErrTransactionLost) {
				t.Errorf("commit: %v, want ErrTransactionLost", err)
			}
			if n := count(t, db, "SELECT (SELECT COUNT(*) FROM effect) + (SELECT COUNT(*) FROM twostep_barrier)"); n != 0 {
				t.Errorf("%d rows stand", n)
			}
		})
		t.Run(name+" in Transact", func(t *testing.T) {
			t.Parallel()
			db, _ := on.open(t)
			accounts(t, db)
			ctx := t.Context()
			err := newOutbox(t, db).Transact(ctx, func(tx outbox.Tx) error {
				if err := deadlock(t, db, way(ctx, tx)); err == nil {
					t.Error("no deadlock")
				}
				_, _ = tx.ExecContext(ctx, "INSERT INTO effect VALUES ('after')")
				return nil
			})
			if !errors.Is(err, mysql.ErrEnded) {
				t.Errorf("%v, want ErrEnded", err)
			}
			if n := count(t, db, "SELECT COUNT(*) FROM effect"); n != 0 {
				t.Errorf("%d effects stand", n)
			}
		})
	}
}

// TestPublishAfterSwallowedDeadlock: in the caller's own transaction MariaDB tells that it is gone, and the message is refused. MySQL does not
// tell.
func TestPublishAfterSwallowedDeadlock(t *testing.T) {
	onEachServer(t, testPublishAfterSwallowedDeadlock)
}

func testPublishAfterSwallowedDeadlock(t *testing.T, on testServer) {
	db, _ := on.open(t)
	if count(t, db, "SELECT VERSION() LIKE '%MariaDB%'") == 0 {
		t.Skip("MySQL has no @@in_transaction")
	}
	accounts(t, db)
	o := newOutbox(t, db)
	tx, err := db.BeginTx(t.Context(), nil)
	noError(t, err)
	defer func() { _ = tx.Rollback() }()
	if err := deadlock(t, db, update(t.Context(), tx)); err == nil {
		t.Fatal("no deadlock")
	}
	if err := o.Insert(t.Context(), tx, messageOf("t"), false); !errors.Is(err, mysql.ErrEnded) {
		t.Errorf("%v, want ErrEnded", err)
	}
	noError(t, tx.Commit())
	if n := count(t, db, "SELECT COUNT(*) FROM twostep_outbox"); n != 0 {
		t.Errorf("%d messages stand", n)
	}
}

// TestTransactRunsAgain after a deadlock, and its callers notice nothing.
func TestTransactRunsAgain(t *testing.T) { onEachServer(t, testTransactRunsAgain) }

func testTransactRunsAgain(t *testing.T, on testServer) {
	db, _ := on.open(t)
	accounts(t, db)
	o := newOutbox(t, db)
	ctx := t.Context()
	const workers, rounds = 4, 40
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() {
			r := rand.New(rand.NewPCG(3, uint64(i)))
			for range rounds {
				rows := r.Perm(6)
				err := o.Transact(ctx, func(tx outbox.Tx) error {
					for _, row := range rows {
						if err := update(ctx, tx)(row + 1); err != nil {
							return err
						}
					}
					return o.Insert(ctx, tx, messageOf("t"), false)
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if n := count(t, db, "SELECT SUM(n) FROM account"); n != workers*rounds*6*100 {
		t.Errorf("sum %d, want %d", n, workers*rounds*6*100)
	}
	if n := count(t, db, "SELECT COUNT(*) FROM twostep_outbox"); n != workers*rounds {
		t.Errorf("%d messages, want %d", n, workers*rounds)
	}
}

// TestConnectionsComeBackAsTheyWere: whoever uses the pool next must not find autocommit off, or another isolation level.
func TestConnectionsComeBackAsTheyWere(t *testing.T) {
	onEachServer(t, testConnectionsComeBackAsTheyWere)
}

func testConnectionsComeBackAsTheyWere(t *testing.T, on testServer) {
	db, _ := on.open(t)
	db.SetMaxOpenConns(1)
	o := newOutbox(t, db)
	c := newConsumer(t, db)
	ctx := t.Context()
	before := count(t, db, "SELECT CONNECTION_ID()")
	no := errors.New("no")
	for range 2 {
		noError(t, o.Transact(ctx, func(tx outbox.Tx) error { return o.Insert(ctx, tx, messageOf("t"), true) }))
		if err := o.Transact(ctx, func(outbox.Tx) error { return no }); !errors.Is(err, no) {
			t.Error(err)
		}
		tx, err := c.Begin(ctx)
		noError(t, err)
		_, err = tx.Claim(ctx, subscription, []string{"a"}, txn.Success)
		noError(t, err)
		noError(t, tx.Rollback())
	}
	if n := count(t, db, "SELECT CONNECTION_ID()"); n != before {
		t.Errorf("connection %d, was %d: it was thrown away", n, before)
	}
	if n := count(t, db, "SELECT @@autocommit"); n != 1 {
		t.Error("autocommit is off")
	}
	if n := count(t, db, "SELECT COUNT(*) FROM twostep_outbox"); n != 2 {
		t.Errorf("%d messages", n)
	}
}

// TestRowsLeftOpen do not keep a transaction from its end.
func TestRowsLeftOpen(t *testing.T) { onEachServer(t, testRowsLeftOpen) }

func testRowsLeftOpen(t *testing.T, on testServer) {
	db, _ := on.open(t)
	accounts(t, db)
	ctx := t.Context()
	leave := func(tx outbox.Tx) error {
		//nolint:sqlclosecheck // that is what is tried
		rows, err := tx.QueryContext(ctx, "SELECT id FROM account")
		if err != nil {
			return err
		}
		if !rows.Next() {
			t.Error("no rows")
		}
		return rows.Err()
	}
	o := newOutbox(t, db)
	noError(t, o.Transact(ctx, func(tx outbox.Tx) error {
		if err := o.Insert(ctx, tx, messageOf("t"), false); err != nil {
			return err
		}
		return leave(tx)
	}))
	tx, err := newConsumer(t, db).Begin(ctx)
	noError(t, err)
	_, err = tx.Claim(ctx, subscription, []string{"a"}, txn.Success)
	noError(t, err)
	noError(t, leave(tx.Tx()))
	noError(t, tx.Commit(ctx))
	if n := count(t, db, "SELECT (SELECT COUNT(*) FROM twostep_outbox) + (SELECT COUNT(*) FROM twostep_barrier)"); n != 2 {
		t.Errorf("%d rows, want 2", n)
	}
}
