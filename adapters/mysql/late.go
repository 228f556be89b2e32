package mysql

import (
	"context"
	"database/sql/driver"
	"strings"
)

// lateRows are messages published in a managed transaction whose rows are not sent yet. They go before the transaction's next statement, or
// together with its commit, which saves a round trip: nothing in the transaction can tell. Savepoints, too, are statements.
type lateRows struct {
	insert string // without rows
	row    string // a row's placeholders
	args   []any
	rows   int
	bytes  int
}

const (
	// lateMost rows and lateBytes of payload wait; then they are sent.
	lateMost  = 200
	lateBytes = 256 << 10
)

func (l *lateRows) full() bool { return l.rows >= lateMost || l.bytes >= lateBytes }

// add takes one row. All have the same insert and row.
func (l *lateRows) add(insert, row string, payload int, args []any) {
	l.insert, l.row = insert, row
	l.args = append(l.args, args...)
	l.rows++
	l.bytes += payload
}

// take returns the statement that inserts the rows, and forgets them; without rows it is empty.
func (l *lateRows) take() (query string, args []any) {
	if l.rows == 0 {
		return "", nil
	}
	query, args = l.insert+strings.Repeat(l.row+", ", l.rows-1)+l.row, l.args
	*l = lateRows{}
	return query, args
}

// lateKey is under which a session hands its rows to the connection that commits them.
type lateKey struct{}

// exec runs a statement with values; driver.ErrSkip where the driver does not put values into text.
func (c *lent) exec(ctx context.Context, query string, args []any) error {
	_, err := c.ExecContext(ctx, query, named(args))
	return err
}

// execPrepared does so by a prepared statement where it has to.
func (c *lent) execPrepared(ctx context.Context, query string, args []any) error {
	err := c.exec(ctx, query, args)
	if err != driver.ErrSkip { //nolint:errorlint // a sentinel, never wrapped
		return err
	}
	stmt, err := c.PrepareContext(ctx, query)
	if err != nil {
		return err
	}
	defer func() { _ = stmt.Close() }()
	s, ok := stmt.(driver.StmtExecContext)
	if !ok {
		return driver.ErrSkip
	}
	_, err = s.ExecContext(ctx, named(args))
	return err
}

func named(args []any) []driver.NamedValue {
	values := make([]driver.NamedValue, len(args))
	for i, arg := range args {
		values[i] = driver.NamedValue{Ordinal: i + 1, Value: arg}
	}
	return values
}
