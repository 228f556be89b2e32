// Package sqlxtx lets a handler use sqlx on the transaction that it is given. A sender needs none of it: outbox.Publish takes
// *sqlx.Tx as it is.
package sqlxtx

import (
	"context"
	"database/sql"
	"fmt"
	"reflect"

	"github.com/jmoiron/sqlx"

	"github.com/twostep-mq/twostep/outbox"
)

// Tx has sqlx's calls on the transaction of a handler, or of the function given to Transact; those of outbox.Tx, too.
type Tx struct {
	outbox.Tx
	db *sqlx.DB
}

// Join makes sqlx's calls work within tx. db gives the kind of placeholders and the names of fields; nothing is sent through it.
func Join(db *sqlx.DB, tx outbox.Tx) *Tx { return &Tx{Tx: tx, db: db} }

// Rebind writes a query with ? in the placeholders of the database.
func (t *Tx) Rebind(query string) string { return t.db.Rebind(query) }

// NamedExecContext runs a statement whose :names are fields of arg, a struct or a map.
func (t *Tx) NamedExecContext(ctx context.Context, query string, arg any) (sql.Result, error) {
	bound, args, err := t.db.BindNamed(query, arg)
	if err != nil {
		return nil, fmt.Errorf("sqlxtx: bind names: %w", err)
	}
	return t.ExecContext(ctx, bound, args...)
}

// QueryxContext runs a query. The caller closes its rows.
func (t *Tx) QueryxContext(ctx context.Context, query string, args ...any) (*sqlx.Rows, error) {
	rows, err := t.QueryContext(ctx, query, args...) //nolint:rowserrcheck // who reads them asks
	if err != nil {
		return nil, err
	}
	return &sqlx.Rows{Rows: rows, Mapper: t.db.Mapper}, nil
}

// GetContext reads the first row into dest, a pointer to a struct or to what a single column holds; sql.ErrNoRows if there is none.
func (t *Tx) GetContext(ctx context.Context, dest any, query string, args ...any) error {
	rows, err := t.QueryxContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return err
		}
		return sql.ErrNoRows
	}
	if err := t.scan(rows, dest); err != nil {
		return err
	}
	return rows.Close()
}

// SelectContext appends all rows to dest, a pointer to a slice of what GetContext reads, or of pointers to that.
func (t *Tx) SelectContext(ctx context.Context, dest any, query string, args ...any) error {
	slice := reflect.Indirect(reflect.ValueOf(dest))
	if slice.Kind() != reflect.Slice || !slice.CanSet() {
		return fmt.Errorf("sqlxtx: select into %T: give a pointer to a slice", dest)
	}
	rows, err := t.QueryxContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		element := reflect.New(slice.Type().Elem()).Elem()
		into := element.Addr()
		if element.Kind() == reflect.Pointer {
			element.Set(reflect.New(element.Type().Elem()))
			into = element
		}
		if err := t.scan(rows, into.Interface()); err != nil {
			return err
		}
		slice.Set(reflect.Append(slice, element))
	}
	return rows.Err()
}

// scan reads a row: a struct by the names of its fields, anything else (time.Time and what scans itself among it) as one column.
func (t *Tx) scan(rows *sqlx.Rows, dest any) error {
	kind := reflect.TypeOf(dest)
	if kind == nil || kind.Kind() != reflect.Pointer {
		return fmt.Errorf("sqlxtx: scan into %T: give a pointer", dest)
	}
	_, scans := dest.(sql.Scanner)
	if scans || kind.Elem().Kind() != reflect.Struct || len(t.db.Mapper.TypeMap(kind.Elem()).Index) == 0 {
		return rows.Scan(dest)
	}
	return rows.StructScan(dest)
}
