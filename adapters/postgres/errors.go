package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/twostep-mq/twostep/topics"
)

var (
	// ErrEnded: the transaction ended before its Commit: a statement in it failed (then PostgreSQL undoes all of it), its connection
	// was lost, or somebody ran COMMIT or ROLLBACK as SQL.
	ErrEnded = errors.New("postgres: the transaction has ended before its Commit: return the database's errors, and do not run COMMIT or ROLLBACK as SQL")
	// ErrCommitUnknown: the connection was lost while the server committed. It may have, or not.
	ErrCommitUnknown = errors.New("postgres: the connection was lost during COMMIT: whether it was committed is unknown; look for what the transaction wrote before repeating it")
	// ErrNoTables: the database has not been migrated, or by an older version.
	ErrNoTables = errors.New("postgres: the tables of twostep are missing")
	// ErrUnsafe: the server's settings may lose what it has acknowledged, or break the order of row numbers.
	ErrUnsafe = errors.New("postgres: unsafe server settings")
)

// SQLSTATE codes of the server that are looked at.
const (
	codeSerialization    = "40001"
	codeDeadlock         = "40P01"
	codeLockNotAvailable = "55P03"
	codeInsufficientRole = "42501"
	codeNoSuchTable      = "42P01"
	codeNoSuchSchema     = "3F000"
	codeReadOnly         = "25006"
	codeDivisionByZero   = "22012"
)

// codeOf is the server's code of an error; empty: it did not come from the server.
func codeOf(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// tryAgain reports whether an error means "try again": the server's state, not the statement, is the cause. A cancelled
// context is the caller's wish, not the server's.
func tryAgain(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	if errors.Is(err, topics.ErrTryAgain) {
		return true
	}
	switch code := codeOf(err); code {
	case "":
		return isConnectionLost(err)
	case codeSerialization, codeDeadlock, codeLockNotAvailable, codeReadOnly:
		return true
	default:
		// 08 connection, 53 out of connections, memory or disk, 57P0x shut down or starting, 40 rolled back.
		return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "53") || strings.HasPrefix(code, "57P0") || strings.HasPrefix(code, "40")
	}
}

// isConnectionLost knows the errors that only a database connection makes; an io.EOF may be anybody's.
func isConnectionLost(err error) bool {
	var connect *pgconn.ConnectError
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.As(err, &connect) || pgconn.SafeToRetry(err)
}

// asTryAgain adds the port's word to an error that means it.
func asTryAgain(err error) error {
	if !tryAgain(err) || errors.Is(err, topics.ErrTryAgain) {
		return err
	}
	return fmt.Errorf("%w: %w", topics.ErrTryAgain, err)
}

// explain adds to an error what was done, and what to do about it.
func explain(op string, err error) error {
	if err == nil {
		return nil
	}
	err = asTryAgain(err)
	switch code := codeOf(err); code {
	case codeNoSuchTable, codeNoSuchSchema:
		return fmt.Errorf("%w: %s: run postgres.Migrate or `twostep migrate`, or correct schema and prefix (%w)", ErrNoTables, op, err)
	case codeInsufficientRole:
		return fmt.Errorf("postgres: %s: this role lacks a right: grant SELECT, INSERT, UPDATE, DELETE on twostep's tables and USAGE, SELECT on its sequences: %w", op, err)
	case codeReadOnly:
		return fmt.Errorf("postgres: %s: this server is a standby or read-only: connect to the primary (target_session_attrs=read-write): %w", op, err)
	}
	if codeOf(err) == "" && isConnectionLost(err) {
		return fmt.Errorf("postgres: %s: no connection to the server: see that it runs and that the DSN names it; it is safe to try again: %w", op, err)
	}
	return fmt.Errorf("postgres: %s: %w", op, err)
}
