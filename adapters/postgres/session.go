package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// endPatience is how long a COMMIT or ROLLBACK waits for its answer. It does not end with the caller's context: cancelled half-way
// nobody would know what has become of it.
const endPatience = 30 * time.Second

// States of a connection, as the server tells with each answer.
const (
	stateIdle   = 'I'
	stateFailed = 'E'
)

// session is one transaction of ours on one connection. database/sql holds the connection, so that handlers may use its calls;
// BEGIN, COMMIT and our own statements go to pgx directly.
type session struct {
	conn *sql.Conn
	pg   *pgx.Conn
	// xid is the transaction's own id, given to no other one: at the end it proves that this still is the same one.
	xid    string
	handed *managedTx
	ended  bool
}

// begin begins a transaction; ctx bounds the beginning alone. Its id is asked for in the same round trip.
func begin(ctx context.Context, db *sql.DB) (*session, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, explain("begin", err)
	}
	s := &session{conn: conn}
	err = conn.Raw(func(driverConn any) error {
		inner, ok := driverConn.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("unexpected connection %T", driverConn)
		}
		s.pg = inner.Conn()
		return nil
	})
	if err == nil {
		s.xid, err = s.beginNow(ctx)
	}
	if err != nil {
		_ = conn.Close() // one that is left in a transaction is not used again
		return nil, explain("begin", err)
	}
	s.handed = &managedTx{session: s}
	return s, nil
}

func (s *session) beginNow(ctx context.Context) (xid string, err error) {
	b := &pgx.Batch{} // both are prepared where the mode allows it: parsing and planning cost more than they do
	b.Queue(`BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE`)
	b.Queue(`SELECT pg_current_xact_id()::text`).QueryRow(func(row pgx.Row) error { return row.Scan(&xid) })
	return xid, s.batch(ctx, b)
}

// lost says why the transaction cannot be committed, without asking the server; nil: as far as this side knows, it can.
func (s *session) lost() error {
	switch {
	case s.pg.IsClosed():
		return asTryAgain(fmt.Errorf("%w: the connection was lost: %w", ErrEnded, sql.ErrConnDone))
	case s.pg.PgConn().TxStatus() == stateIdle:
		return ErrEnded
	case s.pg.PgConn().TxStatus() == stateFailed:
		// A swallowed deadlock: nothing stands, and the next try may do better.
		if cause := s.handed.failure; tryAgain(cause) {
			return asTryAgain(fmt.Errorf("postgres: a statement failed and its error was not returned: %w", cause))
		} else if cause != nil {
			return fmt.Errorf("%w (a statement had failed: %w)", ErrEnded, cause)
		}
		return ErrEnded
	}
	return nil
}

// commit writes what is pending, proves that this is the transaction that begin began, and commits, in one round trip; ErrEnded if it is not, and then what it did
// may stand.
func (s *session) commit(ctx context.Context) error {
	if s.ended {
		return sql.ErrTxDone
	}
	s.handed.finish()
	if err := s.lost(); err != nil {
		_ = s.rollback() // it would only say the same
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer cancel()
	b := s.handed.takePending()
	var tag pgconn.CommandTag
	b.Queue(sameTransaction, s.xid)
	b.Queue(`COMMIT`).Exec(func(t pgconn.CommandTag) error { tag = t; return nil })
	if err := s.batch(ctx, b); err != nil {
		switch {
		case codeOf(err) == codeDivisionByZero:
			err = ErrEnded
		case codeOf(err) == "" && s.pg.IsClosed():
			err = fmt.Errorf("%w (%w)", ErrCommitUnknown, err)
		default: // a deferred constraint, a serialization failure: the server has undone everything
			err = explain("commit", err)
		}
		_ = s.rollback()
		return err
	}
	defer s.close()
	if tag.String() != "COMMIT" {
		return fmt.Errorf("%w (COMMIT was answered with %s)", ErrEnded, tag)
	}
	return nil
}

// sameTransaction fails in another transaction, or none, and the server then skips the COMMIT that was sent with it.
const sameTransaction = `SELECT 1 / (CASE WHEN pg_current_xact_id_if_assigned()::text = $1::text THEN 1 ELSE 0 END)`

// rollback gives up; after the end it does nothing. ErrEnded: the transaction had ended before.
func (s *session) rollback() error {
	if s.ended {
		return nil
	}
	s.handed.finish()
	defer s.close()
	if s.pg.IsClosed() {
		return ErrEnded // its server rolls back when it notices; whether a COMMIT of somebody's came before is not known here
	}
	state := s.pg.PgConn().TxStatus()
	if state == stateIdle {
		return ErrEnded
	}
	ended := state == stateFailed
	ctx, cancel := context.WithTimeout(context.Background(), endPatience)
	defer cancel()
	query := `ROLLBACK`
	if !ended { // the answer to the first says whether it still is the same
		query = `SELECT pg_current_xact_id_if_assigned()::text; ROLLBACK`
	}
	results, err := s.pg.PgConn().Exec(ctx, query).ReadAll()
	if err != nil {
		return ErrEnded
	}
	if !ended {
		ended = len(results) != 2 || len(results[0].Rows) != 1 || string(results[0].Rows[0][0]) != s.xid
	}
	if ended {
		return ErrEnded
	}
	return nil
}

// close gives the connection back; the pool throws it away if it is broken or still in a transaction.
func (s *session) close() {
	s.ended = true
	_ = s.conn.Close()
}

// batch runs statements in one round trip.
func (s *session) batch(ctx context.Context, b *pgx.Batch) error {
	return sendBatch(ctx, s.pg, b)
}

func sendBatch(ctx context.Context, pg *pgx.Conn, b *pgx.Batch) error {
	return pg.SendBatch(ctx, b).Close()
}

// rowsAffected is a database/sql result.
type rowsAffected struct{ tag pgconn.CommandTag }

func (r rowsAffected) LastInsertId() (int64, error) {
	return 0, errors.New("postgres: there is no last insert id: use RETURNING")
}
func (r rowsAffected) RowsAffected() (int64, error) { return r.tag.RowsAffected(), nil }
