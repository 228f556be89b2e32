package mysql

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/go-sql-driver/mysql"

	"github.com/twostep-mq/twostep/topics"
)

var (
	// ErrEnded: the transaction ended before its Commit: a deadlock ended it and the error was swallowed, or somebody ran COMMIT,
	// ROLLBACK or DDL in it. What was written before a COMMIT stands; the rest does not.
	ErrEnded = errors.New("mysql: the transaction has ended before its Commit: return the database's errors, and do not run COMMIT, ROLLBACK or DDL in it")
	// ErrNoTables: the database has not been migrated, or by an older version.
	ErrNoTables = errors.New("mysql: the tables of twostep are missing")
	// ErrUnsafe: the server may lose what it has acknowledged.
	ErrUnsafe = errors.New("mysql: the server may lose what it has acknowledged")
	// ErrUnsupported: the server is too old, or is set up in a way in which the promises do not hold.
	ErrUnsupported = errors.New("mysql: this server cannot keep an outbox")
)

// Numbers of the servers' errors. MariaDB and MySQL share them where they are below 1900.
const (
	codeRecordChanged   = 1020 // MariaDB, innodb_snapshot_isolation: changed since the snapshot
	codeTooMany         = 1040
	codeCannotBeNull    = 1048
	codeUnknownDatabase = 1049
	codeDuplicate       = 1062
	codeAccessDenied    = 1045
	codeDatabaseDenied  = 1044
	codeTableDenied     = 1142
	codeColumnDenied    = 1143
	codeNoSuchTable     = 1146
	codeLockTimeout     = 1205
	codeMissingRight    = 1227
	codeDeadlock        = 1213
	codeReadOnly        = 1290
	codeNoSavepoint     = 1305
	codeNoXARight       = 1401
	codeLockNowait      = 3572 // MySQL; MariaDB says codeLockTimeout
)

// is reports whether the server answered with one of the codes.
func is(err error, codes ...uint16) bool {
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		return false
	}
	for _, code := range codes {
		if e.Number == code {
			return true
		}
	}
	return false
}

// tryAgain reports whether the server refused for now.
func tryAgain(err error) bool {
	return is(err, codeLockTimeout, codeDeadlock, codeRecordChanged, codeLockNowait)
}

// explain adds to an error what was done and, where it helps, what to do about it.
func explain(op string, err error) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, topics.ErrTryAgain), errors.Is(err, ErrEnded):
		return fmt.Errorf("mysql: %s: %w", op, err)
	case tryAgain(err):
		return fmt.Errorf("mysql: %s: %w (%w)", op, topics.ErrTryAgain, err)
	case is(err, codeNoSuchTable):
		return fmt.Errorf("%w: %s: run mysql.Migrate or `twostep migrate` (%w)", ErrNoTables, op, err)
	case is(err, codeUnknownDatabase):
		return fmt.Errorf("mysql: %s: there is no such database: CREATE DATABASE it, or correct the DSN (%w)", op, err)
	case is(err, codeAccessDenied):
		return fmt.Errorf("mysql: %s: the server refuses this user or password: correct the DSN (%w)", op, err)
	case is(err, codeDatabaseDenied, codeTableDenied):
		return fmt.Errorf("mysql: %s: this user lacks a right: GRANT it SELECT, INSERT, UPDATE, DELETE on the tables of twostep "+
			"(to migrate: CREATE, ALTER, INDEX, REFERENCES, too) (%w)", op, err)
	case is(err, codeReadOnly):
		return fmt.Errorf("mysql: %s: the server is read-only: connect to the primary (%w)", op, err)
	case is(err, codeTooMany):
		return fmt.Errorf("mysql: %s: the server has no connection left: raise max_connections, or bound the pools (SetMaxOpenConns) (%w)", op, err)
	case isUnreachable(err):
		return fmt.Errorf("mysql: %s: the server cannot be reached: start it, or correct the address in the DSN (%w)", op, err)
	default:
		return fmt.Errorf("mysql: %s: %w", op, err)
	}
}

func isUnreachable(err error) bool {
	var failed *net.OpError
	return errors.As(err, &failed) && failed.Op == "dial"
}
