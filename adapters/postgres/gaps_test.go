package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/postgres"
	"github.com/twostep-mq/twostep/outbox"
)

// outboxDB is a database with an outbox.
type outboxDB struct {
	*sql.DB
	box *postgres.Outbox
}

// TestNoRowIsSkipped: 32 writers with 1 to 20 messages a transaction, some of them late, some rolled back. Every committed message
// comes out once, and no other. A reader by "seq > last" would miss some: if it did not, this test would show nothing.
func TestNoRowIsSkipped(t *testing.T) {
	total := 10_000
	if os.Getenv("TWOSTEP_LONG") != "" {
		total = 100_000
	}
	box, db := newOutbox(t)
	db.SetMaxOpenConns(40)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var (
		mu        sync.Mutex
		committed = map[string]bool{}
		writing   sync.WaitGroup
	)
	no := errors.New("no")
	const writers = 32
	for w := range writers {
		random := rand.New(rand.NewPCG(seed, uint64(w)))
		writing.Go(func() {
			for written := 0; written < total/writers; {
				var ids []string
				rollback := random.IntN(20) == 0
				err := inTransaction(t.Context(), db, w%2 == 0, func(tx outbox.Transaction) error {
					for range 1 + random.IntN(20) {
						m := message("bank.t")
						if err := box.Insert(t.Context(), tx, m, false); err != nil {
							return err
						}
						ids = append(ids, m.ID)
					}
					if random.IntN(20) == 0 {
						<-time.After(time.Duration(random.IntN(50)) * time.Millisecond)
					}
					if rollback {
						return no
					}
					return nil
				})
				if rollback {
					if !errors.Is(err, no) {
						t.Error(err)
						return
					}
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				written += len(ids)
				mu.Lock()
				for _, id := range ids {
					committed[id] = true
				}
				mu.Unlock()
			}
		})
	}
	done := make(chan struct{})
	go func() { writing.Wait(); close(done) }()

	r := newReader(t, box)
	for over := false; ; {
		select {
		case <-done:
			over = true
		default:
		}
		n, err := r.round(t.Context())
		noError(t, err)
		if over && n == 0 {
			break
		}
	}
	r.until(func() bool { return len(r.gaps) == 0 }) // those of rolled-back transactions close
	for id, n := range r.seen {
		if !committed[id] || n != 1 {
			t.Errorf("message %s came %d times, committed: %v", id, n, committed[id])
		}
	}
	if len(r.seen) != len(committed) {
		t.Errorf("%d of %d messages came", len(r.seen), len(committed))
	}
	missed := len(committed) - len(r.naive)
	if missed == 0 {
		t.Error("a reader by seq > last would have missed nothing: the test is too tame")
	}
	t.Logf("%d messages, %d of which a reader by seq > last would have skipped", len(committed), missed)
}

// inTransaction runs fn in a transaction of Transact's, where messages wait for the COMMIT and so hardly ever come out of order, or in
// one of the caller's own.
func inTransaction(ctx context.Context, db *outboxDB, managed bool, fn func(outbox.Transaction) error) error {
	if managed {
		return db.box.Transact(ctx, func(tx outbox.Tx) error { return fn(tx) })
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// TestLongTransaction: one transaction stays open while many messages pass: none of them waits for it, and it is not skipped.
func TestLongTransaction(t *testing.T) {
	total := 5_000
	if os.Getenv("TWOSTEP_LONG") != "" {
		total = 100_000
	}
	box, db := newOutbox(t)
	ctx := t.Context()
	late, err := db.BeginTx(ctx, nil)
	noError(t, err)
	defer func() { _ = late.Rollback() }()
	m := message("bank.t")
	noError(t, box.Insert(ctx, late, m, false))
	r := newReader(t, box)
	for n := 0; n < total; n += 100 {
		_, err := db.insert(ctx, 100)
		noError(t, err)
		_, err = r.round(ctx)
		noError(t, err)
	}
	r.until(func() bool { return len(r.seen) == total })
	if len(r.gaps) != 1 || r.gaps[0].From != 1 || r.gaps[0].To != 1 {
		t.Errorf("open gaps %v, want the one of the open transaction", r.gaps)
	}
	noError(t, late.Commit())
	r.until(func() bool { return r.seen[m.ID] == 1 })
	if len(r.gaps) != 0 {
		t.Errorf("open gaps %v", r.gaps)
	}
}

// TestNumberTakenBeforeTheRow: a transaction takes its number, and long before its row is written (a trigger stands in between), a later
// number is committed. The gap must stay open. With PostgreSQL's own default for the column the transaction has no id at that
// moment, and the gap would be closed: shown, too.
func TestNumberTakenBeforeTheRow(t *testing.T) {
	for name, c := range map[string]struct {
		spoil string
		lost  bool
	}{
		"as migrated":           {},
		"planted: bare nextval": {spoil: `ALTER TABLE twostep_outbox ALTER seq SET DEFAULT nextval('twostep_outbox_seq')`, lost: true},
	} {
		t.Run(name, func(t *testing.T) {
			box, db := newOutbox(t)
			ctx := t.Context()
			_, err := db.ExecContext(ctx, c.spoil+`;
CREATE FUNCTION wait_there() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF NEW.topic = 'slow' THEN PERFORM pg_advisory_xact_lock_shared(hashtext(current_schema())); END IF; RETURN NEW; END $$;
CREATE TRIGGER wait_there BEFORE INSERT ON twostep_outbox FOR EACH ROW EXECUTE FUNCTION wait_there()`)
			noError(t, err)
			_, err = db.insert(ctx, 1) // the first number of a sequence is logged and takes an id, as one in 32 does
			noError(t, err)
			barrier, err := db.Conn(ctx)
			noError(t, err)
			defer func() { _ = barrier.Close() }()
			_, err = barrier.ExecContext(ctx, `SELECT pg_advisory_lock(hashtext(current_schema()))`)
			noError(t, err)
			slow := make(chan error, 1)
			go func() { // as a service in any language does: one statement, committed by itself
				_, err := db.ExecContext(ctx, `INSERT INTO twostep_outbox (topic, payload) VALUES ('slow', 'x')`)
				slow <- err
			}()
			waitFor(t, func() bool {
				var taken bool
				noError(t, db.QueryRowContext(ctx, `SELECT last_value = 2 FROM twostep_outbox_seq`).Scan(&taken))
				return taken
			})
			_, err = db.insert(ctx, 1)
			noError(t, err)
			r := newReader(t, box)
			r.until(func() bool { return len(r.seen) == 2 })
			// Other tests' transactions keep gaps open for a while; a gap that may close does so when they have ended.
			until := time.Now().Add(500 * time.Millisecond)
			if c.lost {
				until = time.Now().Add(patience)
			}
			for len(r.gaps) > 0 && time.Now().Before(until) {
				_, err := r.round(ctx)
				noError(t, err)
			}
			_, err = barrier.ExecContext(ctx, `SELECT pg_advisory_unlock(hashtext(current_schema()))`)
			noError(t, err)
			noError(t, <-slow)
			if c.lost {
				if len(r.gaps) != 0 {
					t.Error("the planted fault shows nothing")
				}
				return
			}
			r.until(func() bool { return len(r.seen) == 3 })
		})
	}
}

// TestYoungerTransactionWithTheLowerNumber: its id is higher than that of every transaction that has ended, so the snapshot's xmax is no
// bound for it. Many rounds, since other transactions on the server hide that.
func TestYoungerTransactionWithTheLowerNumber(t *testing.T) {
	box, db := newOutbox(t)
	ctx := t.Context()
	r := newReader(t, box)
	for n := range 20 {
		older, err := db.BeginTx(ctx, nil)
		noError(t, err)
		noError(t, errOf(older.ExecContext(ctx, `SELECT pg_current_xact_id()`)))
		younger, err := db.BeginTx(ctx, nil)
		noError(t, err)
		noError(t, box.Insert(ctx, younger, message("t"), false))
		noError(t, box.Insert(ctx, older, message("t"), false))
		noError(t, older.Commit())
		for range 5 {
			_, err = r.round(ctx)
			noError(t, err)
		}
		if len(r.gaps) != 1 {
			t.Fatalf("round %d: the gap of an open transaction is closed", n)
		}
		noError(t, younger.Commit())
		r.until(func() bool { return len(r.seen) == 2*(n+1) })
	}
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
		time.Sleep(time.Millisecond)
	}
}

// TestGapsStayOpenForAWhile: young gaps are not closed, whatever the transactions say; a mark of another store is an error.
func TestGapsStayOpenForAWhile(t *testing.T) {
	box, db := newOutbox(t)
	ctx := t.Context()
	_, err := db.insert(ctx, 2)
	noError(t, err)
	p, err := box.Scan(ctx, 0, 10, false)
	noError(t, err)
	young := outbox.Gap{From: 100, To: 200, Age: 9 * time.Second, Mark: p.Mark}
	for range 20 {
		_, closed, err := box.Probe(ctx, []outbox.Gap{young}, 10)
		noError(t, err)
		if len(closed) != 0 {
			t.Fatalf("closed %v", closed)
		}
	}
	if _, _, err := box.Probe(ctx, []outbox.Gap{{From: 1, To: 1, Mark: "m"}}, 10); err == nil {
		t.Error("a mark of another store was accepted")
	}
}
