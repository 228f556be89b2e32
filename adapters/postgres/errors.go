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
	codeNoSuchDatabase   = "3D000"
	codeWrongPassword    = "28P01"
	codeNotAuthorized    = "28000"
	codeTooMany          = "53300"
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

// explain adds to an error what was done, and what to do about it, in one line.
func explain(op string, err error) error {
	if err == nil {
		return nil
	}
	err = asTryAgain(err)
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		err = &oneLineError{err}
	}
	switch code := codeOf(err); code {
	case codeNoSuchTable, codeNoSuchSchema:
		return fmt.Errorf("%w: %s: %s (%w)", ErrNoTables, op, remedy(err), err)
	default:
		if what := remedy(err); what != "" {
			return fmt.Errorf("postgres: %s: %s: %w", op, what, err)
		}
	}
	return fmt.Errorf("postgres: %s: %w", op, err)
}

// remedy says what is wrong and what to do about it; empty where nobody knows.
func remedy(err error) string {
	switch codeOf(err) {
	case codeNoSuchTable, codeNoSuchSchema:
		return "run postgres.Migrate or `twostep migrate`, or correct schema and prefix"
	case codeInsufficientRole:
		return "this role lacks a right: grant SELECT, INSERT, UPDATE, DELETE on twostep's tables and USAGE, SELECT on its sequences"
	case codeReadOnly:
		return "this server is a standby, or the transaction read-only: connect to the primary (target_session_attrs=read-write)"
	case codeNoSuchDatabase:
		return "the DSN names a database that is not there: correct it, or CREATE DATABASE"
	case codeWrongPassword, codeNotAuthorized:
		return "the server does not let this user in: correct user and password in the DSN, or the server's pg_hba.conf"
	case codeTooMany:
		return "the server has no connection left: let fewer be opened (SetMaxOpenConns), or raise max_connections"
	}
	if codeOf(err) == "" && isConnectionLost(err) || strings.HasPrefix(codeOf(err), "57P0") { // stopped, starting
		return "no connection to the server: see that it runs and that the DSN names it; it is safe to try again"
	}
	return ""
}

// oneLineError is an error that pgx writes in several lines, one for each address tried.
type oneLineError struct{ error }

func (e *oneLineError) Error() string { return strings.Join(strings.Fields(e.error.Error()), " ") }
func (e *oneLineError) Unwrap() error { return e.error }
