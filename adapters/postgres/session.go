package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
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
// BEGIN, COMMIT and our own statements go to pgx directly. BEGIN goes to the server with the first statement, which saves a round trip.
type session struct {
	conn   *sql.Conn
	pg     *pgx.Conn
	handed *managedTx
	// simple: statements travel as text with their arguments in it, and one may hold several.
	simple bool
	// begun: BEGIN was sent. ended: the connection was given back.
	begun atomic.Bool
	ended bool
	// xid is the transaction's own id, given to no other one: at the end it proves that this still is the same one. 0: it was not asked
	// for, since no statement has run that could have ended the transaction.
	xid atomic.Int64
}

// begin takes a connection for a transaction; ctx bounds that alone.
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
		s.simple = s.pg.Config().DefaultQueryExecMode == pgx.QueryExecModeSimpleProtocol
		return nil
	})
	if err != nil {
		_ = conn.Close()
		return nil, explain("begin", err)
	}
	s.handed = &managedTx{session: s}
	return s, nil
}

// mayEnd tells whether a statement of somebody else's may end the transaction: COMMIT and its like take no arguments.
func (s *session) mayEnd(args []any) bool { return s.simple || !oneStatement(args) }

// ready: BEGIN was sent and, where proof is wanted, the transaction's id is known.
func (s *session) ready(proof bool) bool {
	return s.begun.Load() && (!proof || s.xid.Load() != 0)
}

// run sends statements in one round trip, behind BEGIN if they are the first. Nobody else uses the connection meanwhile. With proof, the
// transaction's id is asked for if it is not known.
func (s *session) run(ctx context.Context, proof bool, statements ...*pgx.QueuedQuery) error {
	return s.conn.Raw(func(any) error {
		begun := s.begun.Load()
		err := s.send(ctx, proof, statements)
		if codeOf(err) != "" && !begun && !s.begun.Load() {
			// The server refused to prepare a statement, before BEGIN was sent. Whoever swallows that error must find the transaction lost.
			_ = s.send(ctx, false, []*pgx.QueuedQuery{{SQL: `SELECT 1 / 0`}})
		}
		return err
	})
}

func (s *session) send(ctx context.Context, proof bool, statements []*pgx.QueuedQuery) error {
	b := &pgx.Batch{}
	if !s.begun.Load() {
		b.Queue(`BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE`).Exec(func(pgconn.CommandTag) error {
			s.begun.Store(true)
			return nil
		})
	}
	if proof && s.xid.Load() == 0 {
		b.Queue(`SELECT pg_current_xact_id()::text::bigint`).QueryRow(func(row pgx.Row) error {
			var xid int64
			err := row.Scan(&xid)
			s.xid.Store(xid)
			return err
		})
	}
	b.QueuedQueries = append(b.QueuedQueries, statements...)
	return sendBatch(ctx, s.pg, b)
}

// query runs one statement of ours and reads its rows.
func (s *session) query(ctx context.Context, read func(pgx.Rows) error, sql string, args ...any) error {
	b := &pgx.Batch{}
	b.Queue(sql, args...).Query(read)
	return s.run(ctx, false, b.QueuedQueries...)
}

// exec runs one statement of ours.
func (s *session) exec(ctx context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	b := &pgx.Batch{}
	b.Queue(sql, args...).Exec(func(t pgconn.CommandTag) error { tag = t; return nil })
	return tag, s.run(ctx, false, b.QueuedQueries...)
}

// lost says why the transaction cannot be committed, without asking the server; nil: as far as this side knows, it can.
func (s *session) lost() error {
	switch {
	case s.pg.IsClosed():
		return asTryAgain(fmt.Errorf("%w: the connection was lost: %w", ErrEnded, sql.ErrConnDone))
	case !s.begun.Load():
		if cause := s.handed.failed(); codeOf(cause) != "" {
			return fmt.Errorf("%w (a statement had failed: %w)", ErrEnded, cause)
		}
		return nil
	case s.pg.PgConn().TxStatus() == stateIdle:
		return ErrEnded
	case s.pg.PgConn().TxStatus() == stateFailed:
		// A swallowed deadlock: nothing stands, and the next try may do better.
		if cause := s.handed.failed(); tryAgain(cause) {
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
	b := &pgx.Batch{QueuedQueries: s.handed.takePending()}
	if !s.begun.Load() && b.Len() == 0 {
		s.close()
		return nil
	}
	if xid := s.xid.Load(); xid != 0 {
		b.Queue(sameTransaction, xid)
	}
	var tag pgconn.CommandTag
	b.Queue(`COMMIT`).Exec(func(t pgconn.CommandTag) error { tag = t; return nil })
	if err := s.run(ctx, false, b.QueuedQueries...); err != nil {
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
const sameTransaction = `SELECT 1 / (CASE WHEN pg_current_xact_id_if_assigned()::text = $1::bigint::text THEN 1 ELSE 0 END)`

// rollback gives up; after the end it does nothing. ErrEnded: the transaction had ended before.
func (s *session) rollback() error {
	if s.ended {
		return nil
	}
	s.handed.finish()
	defer s.close()
	if !s.begun.Load() {
		return nil
	}
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
	query, xid := `ROLLBACK`, s.xid.Load()
	prove := !ended && xid != 0
	if prove { // the answer to the first says whether it still is the same
		query = `SELECT pg_current_xact_id_if_assigned()::text; ROLLBACK`
	}
	results, err := s.pg.PgConn().Exec(ctx, query).ReadAll()
	if err != nil {
		return ErrEnded
	}
	if prove {
		ended = len(results) != 2 || len(results[0].Rows) != 1 || string(results[0].Rows[0][0]) != strconv.FormatInt(xid, 10)
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

// sendBatch runs statements in one round trip.
func sendBatch(ctx context.Context, pg *pgx.Conn, b *pgx.Batch) error {
	return pg.SendBatch(ctx, b).Close()
}

// rowsAffected is a database/sql result.
type rowsAffected struct{ tag pgconn.CommandTag }

func (r rowsAffected) LastInsertId() (int64, error) {
	return 0, errors.New("postgres: there is no last insert id: use RETURNING")
}
func (r rowsAffected) RowsAffected() (int64, error) { return r.tag.RowsAffected(), nil }
