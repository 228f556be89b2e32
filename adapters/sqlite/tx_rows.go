package sqlite

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/mattn/go-sqlite3"
)

// txRows are rows of a transaction on the borrowed connection. database/sql closes those of a *sql.Tx before it ends, but not those that
// a *sql.Conn was asked for meanwhile; after the end the connection is another's.
type txRows struct {
	*sqlite3.SQLiteRows
	tx *tx // nil: closed, or cut
}

func (t *tx) watch(rows driver.Rows) (driver.Rows, error) {
	inner, ok := rows.(*sqlite3.SQLiteRows)
	if !ok {
		_ = rows.Close()
		return nil, fmt.Errorf("sqlite: unexpected rows %T", rows)
	}
	r := &txRows{SQLiteRows: inner, tx: t}
	t.rows = append(t.rows, r)
	return r, nil
}

var errRowsCut = errors.New("sqlite: the transaction of these rows has ended: read them to their end, or close them, before")

func (r *txRows) Next(values []driver.Value) error {
	if r.tx == nil {
		return errRowsCut
	}
	err := r.SQLiteRows.Next(values)
	if err != nil && !errors.Is(err, io.EOF) {
		err = explainStorage(r.tx.conn.drv.path, r.tx.conn.note(err))
	}
	return err
}

func (r *txRows) Close() error {
	t := r.tx
	if t == nil {
		return nil
	}
	r.tx = nil
	i := slices.Index(t.rows, r)
	t.rows = slices.Delete(t.rows, i, i+1)
	return r.SQLiteRows.Close()
}

// cut closes rows whose transaction has ended.
func (r *txRows) cut() {
	r.tx = nil
	_ = r.SQLiteRows.Close()
}
