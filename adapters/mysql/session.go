package mysql

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// session is one transaction that only this package commits, on a connection of its own.
//
// The connection runs with autocommit=0 meanwhile: after a deadlock the server has ended the transaction, and whoever swallowed that
// error would run its next statement in autocommit. The transaction is READ COMMITTED: each statement sees what is
// committed, and writers do not lock the gaps between rows. That it still is the same transaction when it is committed, a savepoint
// proves, which goes with it.
type session struct {
	srv    *server
	conn   *sql.Conn
	tx     *sql.Tx
	cancel context.CancelFunc
	// proof is the savepoint's name; empty: none is set yet.
	proof string
	over  bool
	// used: a statement has run. Before that a lost transaction can be begun again.
	used bool
	// deadlocked: the server has ended the transaction, and its error passed through our hands.
	deadlocked bool
}

// endPatience bounds what is sent after a transaction's end.
const endPatience = 10 * time.Second

// begin opens a session. ctx bounds the waiting alone; the transaction lasts until commit or rollback.
func (s *server) begin(ctx context.Context) (*session, error) {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	n := &session{srv: s, conn: conn}
	if err := n.start(ctx); err != nil {
		discard(conn)
		return nil, err
	}
	return n, nil
}

// start begins the transaction. The isolation level set with @@ holds for the next transaction only, so that nothing has to be restored.
func (n *session) start(ctx context.Context) error {
	if _, err := n.conn.ExecContext(ctx, "SET autocommit = 0, @@"+n.srv.isolation()+" = 'READ-COMMITTED'"); err != nil {
		return err
	}
	lifetime, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	tx, err := n.conn.BeginTx(lifetime, nil)
	if !stop() { // ctx has ended, and with it the transaction
		if err == nil {
			_ = tx.Rollback()
		}
		cancel()
		return ctx.Err()
	}
	if err != nil {
		cancel()
		return err
	}
	n.tx, n.cancel = tx, cancel
	n.proof, n.used, n.deadlocked = "", false, false
	return nil
}

// again begins the transaction anew where the server has ended it.
func (n *session) again(ctx context.Context) error {
	_ = n.tx.Rollback()
	n.cancel()
	return n.start(ctx)
}

// prove sets up the proof, if it is not there yet.
func (n *session) prove(ctx context.Context) error {
	n.used = true
	if n.proof != "" {
		return nil
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // it never fails
	name := "twostep_" + hex.EncodeToString(random[:])
	if _, err := n.tx.ExecContext(ctx, "SAVEPOINT "+name); err != nil {
		return err
	}
	n.proof = name
	return nil
}

// check is ErrEnded if the transaction is not the one of prove any more.
func (n *session) check(ctx context.Context) error {
	if n.proof == "" {
		return nil
	}
	_, err := n.tx.ExecContext(ctx, "RELEASE SAVEPOINT "+n.proof)
	n.proof = ""
	if is(err, codeNoSavepoint) {
		return fmt.Errorf("%w (%w)", ErrEnded, err)
	}
	if errors.Is(err, driver.ErrBadConn) {
		return fmt.Errorf("the connection is lost, or the result of a query (*sql.Row, or rows of a *sql.Stmt) was left open: scan it or close it (%w)", err)
	}
	return err
}

// commit checks the proof and commits. Whatever the answer, the session is over; on an error that came before the COMMIT it is rolled back.
func (n *session) commit(ctx context.Context) error {
	if err := n.check(ctx); err != nil {
		n.end(n.tx.Rollback())
		return err
	}
	// From here on ctx does not count: the driver would cut the connection, and nobody knew the answer.
	err := n.tx.Commit()
	n.end(err)
	return err
}

// rollback rolls back; ErrEnded tells that the transaction had ended before. Over already, it does nothing.
func (n *session) rollback() error {
	if n.over {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), endPatience)
	defer cancel()
	ended := n.check(ctx)
	err := n.tx.Rollback()
	n.end(err)
	if errors.Is(ended, ErrEnded) {
		return ended
	}
	return err
}

// end gives the connection back as it was; after an error it is not used again.
func (n *session) end(err error) {
	n.over = true
	n.cancel()
	if err != nil {
		discard(n.conn)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), endPatience)
	defer cancel()
	if _, err := n.conn.ExecContext(ctx, "SET autocommit = 1"); err != nil {
		discard(n.conn)
		return
	}
	_ = n.conn.Close()
}
