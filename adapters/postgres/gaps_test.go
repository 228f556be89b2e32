package postgres_test

import (
	"database/sql"
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
