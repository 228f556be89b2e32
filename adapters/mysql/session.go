package mysql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/go-sql-driver/mysql"
)

// session is one transaction that only this package commits, on a lent connection.
type session struct {
	srv    *server
	tx     *sql.Tx
	cancel context.CancelFunc
	over   bool
	// used: a statement has run. Before that a lost transaction can be begun again.
	used bool
	// late are rows not sent yet. What made them fail, once they were sent, also fails the commit.
	late   lateRows
	failed error
	// deadlocked: the server has ended the transaction, and its error passed through our hands.
	deadlocked bool
}

// begin opens a session. ctx bounds the waiting alone; the transaction lasts until commit or rollback.
func (s *server) begin(ctx context.Context) (*session, error) {
	n := &session{srv: s}
	return n, n.start(ctx)
}

func (n *session) start(ctx context.Context) error {
	lifetime, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	tx, err := n.srv.sessions.BeginTx(context.WithValue(lifetime, lateKey{}, &n.late), nil)
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
	n.used, n.deadlocked, n.failed, n.late = false, false, nil, lateRows{}
	return nil
}

// again begins the transaction anew where the server has ended it.
func (n *session) again(ctx context.Context) error {
	_ = n.tx.Rollback()
	n.cancel()
	return n.start(ctx)
}

// commit commits, if it still is the transaction that was begun (ErrEnded). Whatever the answer, the session is over.
func (n *session) commit() error {
	if n.failed != nil {
		return errors.Join(n.failed, n.rollback())
	}
	n.over = true
	defer n.cancel()
	err := n.tx.Commit()
	if errors.Is(err, driver.ErrBadConn) || errors.Is(err, mysql.ErrInvalidConn) {
		return fmt.Errorf("the connection is lost, and nobody knows whether it was committed (%w)", err)
	}
	return err
}

// rollback rolls back; ErrEnded tells that the transaction had ended before. Over already, it does nothing.
func (n *session) rollback() error {
	if n.over {
		return nil
	}
	n.over = true
	defer n.cancel()
	return n.tx.Rollback()
}
