package mysql

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

// Managed transactions (session) run on connections that the service's pool lends to a pool of ours. A lent connection has autocommit off,
// is READ COMMITTED and has a savepoint, so that a transaction costs one statement besides its own: the end of one is the beginning
// of the next. It goes back as it came when nobody has needed it for a second, at the latest after a minute, or at once where
// the service's pool is bounded and more than half in use.
//
// autocommit is off because after a deadlock the server has ended the transaction, and whoever swallowed that error would run its next
// statement in autocommit. READ COMMITTED: each statement sees what is committed, and writers do not lock the gaps between
// rows. That it still is the same transaction when it is committed, the savepoint proves, which goes with it.

const (
	// lentIdle is how long a lent connection waits for the next transaction.
	lentIdle = time.Second
	// lentLife is how long it is lent at most: limits that the service set for its connections are looked at when they are back.
	lentLife = time.Minute
	// endPatience bounds what is sent after a transaction's end.
	endPatience = 10 * time.Second
)

// newSessions makes the pool of lent connections. It has no end of its own: empty, it is a goroutine that waits.
func newSessions(db *sql.DB, mariadb bool) *sql.DB {
	sessions := sql.OpenDB(lender{db: db, mariadb: mariadb})
	sessions.SetMaxIdleConns(idleConns)
	sessions.SetConnMaxIdleTime(lentIdle)
	sessions.SetConnMaxLifetime(lentLife)
	return sessions
}

// lender is the driver.Connector of sessions.
type lender struct {
	db      *sql.DB
	mariadb bool
}

func (l lender) Driver() driver.Driver { return l.db.Driver() }

// Connect borrows a connection, and sets it up.
func (l lender) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := l.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	c := &lent{lender: l, conn: conn}
	// The connection is used outside of Raw, too. Nobody else uses it until conn is closed.
	err = conn.Raw(func(inner any) (err error) {
		c.Conn = inner.(driver.Conn) //nolint:forcetypeassert // it is what the driver made
		return c.setUp(ctx)
	})
	if err != nil {
		discard(conn)
		return nil, err
	}
	return c, nil
}

// lent is a connection of the service's pool, in our hands.
type lent struct {
	driver.Conn
	lender

	conn *sql.Conn
	// proof is the savepoint of the transaction that is open, or comes next.
	proof string
	// clean: no transaction is open, and the next may begin.
	clean bool
	// late are rows of the open transaction that its commit inserts.
	late *lateRows
}

var (
	_ driver.ConnBeginTx        = (*lent)(nil)
	_ driver.ConnPrepareContext = (*lent)(nil)
	_ driver.ExecerContext      = (*lent)(nil)
	_ driver.QueryerContext     = (*lent)(nil)
	_ driver.NamedValueChecker  = (*lent)(nil)
	_ driver.SessionResetter    = (*lent)(nil)
	_ driver.Validator          = (*lent)(nil)
)

// isolation is the variable that holds the isolation level.
func (l lender) isolation() string {
	if l.mariadb {
		return "tx_isolation" // transaction_isolation came with 11.1
	}
	return "transaction_isolation"
}

// setUp begins. The isolation level of before is kept in a variable of the session.
func (c *lent) setUp(ctx context.Context) error {
	proof := newProof()
	err := c.run(ctx,
		"SET @twostep_isolation = COALESCE(@twostep_isolation, @@"+c.isolation()+"), @@SESSION."+c.isolation()+" = 'READ-COMMITTED', autocommit = 0",
		"SAVEPOINT "+proof)
	c.proof, c.clean = proof, err == nil
	return err
}

func newProof() string {
	var random [8]byte
	_, _ = rand.Read(random[:]) // it never fails
	return "twostep_" + hex.EncodeToString(random[:])
}

// run runs statements without values until one fails: on MariaDB all of them as one.
func (c *lent) run(ctx context.Context, statements ...string) error {
	if c.mariadb {
		return c.runOne(ctx, block(statements...))
	}
	for _, s := range statements {
		if err := c.runOne(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// block makes one statement of several (MariaDB alone has that). It ends with the first that fails.
func block(statements ...string) string {
	return "BEGIN NOT ATOMIC " + strings.Join(statements, "; ") + "; END"
}

func (c *lent) runOne(ctx context.Context, statement string) error {
	execer, ok := c.Conn.(driver.ExecerContext)
	if !ok {
		return errors.New("mysql: the driver of this pool cannot run statements as text: open the database with mysql.Open")
	}
	_, err := execer.ExecContext(ctx, statement, nil)
	return err
}

// BeginTx sends nothing: the transaction has begun.
func (c *lent) BeginTx(ctx context.Context, _ driver.TxOptions) (driver.Tx, error) {
	if !c.clean {
		return nil, driver.ErrBadConn
	}
	c.clean = false
	c.late, _ = ctx.Value(lateKey{}).(*lateRows)
	return lentTx{c}, nil
}

// lentTx ends a transaction.
type lentTx struct{ c *lent }

// Commit is ErrEnded if the transaction is not the one that was begun. It inserts what is late.
//
// No context bounds it: the driver would cut the connection, and nobody knew whether it was committed.
func (t lentTx) Commit() error {
	var insert string
	var args []any
	if t.c.late != nil {
		insert, args = t.c.late.take()
	}
	return t.c.finish(context.Background(), "COMMIT", insert, args)
}

// Rollback tells so, too.
func (t lentTx) Rollback() error {
	ctx, cancel := context.WithTimeout(context.Background(), endPatience)
	defer cancel()
	return t.c.finish(ctx, "ROLLBACK", "", nil)
}

// finish proves that the transaction is the one that was begun, ends it, and begins the next.
func (c *lent) finish(ctx context.Context, how, insert string, args []any) error {
	release, next := "RELEASE SAVEPOINT "+c.proof, newProof()
	err := driver.ErrSkip
	if c.mariadb && insert != "" {
		err = c.exec(ctx, block(release, insert, how, "SAVEPOINT "+next), args)
		c.clean = err == nil
	}
	if err == driver.ErrSkip { //nolint:errorlint // a sentinel, never wrapped
		err = c.finishSingly(ctx, insert, args, release, how, "SAVEPOINT "+next)
	}
	c.proof = next
	var answer *mysql.MySQLError
	if errors.As(err, &answer) && c.runOne(ctx, "ROLLBACK") == nil {
		_ = c.setUp(ctx)
	}
	if is(err, codeNoSavepoint) {
		return fmt.Errorf("%w (%w)", ErrEnded, err)
	}
	return err
}

// finishSingly does so where the insert cannot be a part of a statement. The proof comes first there, too: without the transaction the
// insert might commit by itself.
func (c *lent) finishSingly(ctx context.Context, insert string, args []any, release, how, next string) error {
	if c.mariadb && insert == "" {
		err := c.run(ctx, release, how, next)
		c.clean = err == nil
		return err
	}
	if err := c.runOne(ctx, release); err != nil {
		return err
	}
	if insert != "" {
		if err := c.execPrepared(ctx, insert, args); err != nil {
			return err
		}
	}
	if err := c.runOne(ctx, how); err != nil {
		return err
	}
	// It has ended, whatever becomes of the next.
	c.clean = c.runOne(ctx, next) == nil
	return nil
}

// Close gives the connection back as it came; in doubt it is not used again.
func (c *lent) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), endPatience)
	defer cancel()
	if !c.clean || c.runOne(ctx, "SET autocommit = 1, @@SESSION."+c.isolation()+" = @twostep_isolation, @twostep_isolation = NULL") != nil {
		discard(c.conn)
		return nil
	}
	return c.conn.Close()
}

// IsValid tells whether the connection is kept for the next transaction.
func (c *lent) IsValid() bool {
	if !c.clean {
		return false
	}
	if v, ok := c.Conn.(driver.Validator); ok && !v.IsValid() {
		c.clean = false
		return false
	}
	pool := c.db.Stats()
	return pool.MaxOpenConnections == 0 || 2*pool.InUse <= pool.MaxOpenConnections
}

// ResetSession looks whether the connection still stands.
func (c *lent) ResetSession(ctx context.Context) error {
	if r, ok := c.Conn.(driver.SessionResetter); ok {
		if err := r.ResetSession(ctx); err != nil {
			c.clean = false
			return err
		}
	}
	return nil
}

func (c *lent) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if e, ok := c.Conn.(driver.ExecerContext); ok {
		return e.ExecContext(ctx, query, args)
	}
	return nil, driver.ErrSkip
}

func (c *lent) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if q, ok := c.Conn.(driver.QueryerContext); ok {
		return q.QueryContext(ctx, query, args)
	}
	return nil, driver.ErrSkip
}

func (c *lent) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if p, ok := c.Conn.(driver.ConnPrepareContext); ok {
		return p.PrepareContext(ctx, query)
	}
	return c.Prepare(query)
}

func (c *lent) CheckNamedValue(v *driver.NamedValue) error {
	if n, ok := c.Conn.(driver.NamedValueChecker); ok {
		return n.CheckNamedValue(v)
	}
	return driver.ErrSkip
}
