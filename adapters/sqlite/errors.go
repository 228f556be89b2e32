package sqlite

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/mattn/go-sqlite3"
)

var (
	// ErrBusy: other writers held the database for longer than the busy timeout. Nothing was written; try again.
	ErrBusy = errors.New("sqlite: database is busy")
	// ErrFull: the disk (or the database's page limit) is full. Nothing was written.
	ErrFull = errors.New("sqlite: disk full")
	// ErrEnded: the transaction ended before its Commit: SQLite rolled it back by itself (a full disk, an I/O error, OR
	// ROLLBACK), or somebody ran COMMIT or ROLLBACK as SQL. No statement runs in it any more, and its Commit fails.
	ErrEnded = errors.New("sqlite: the transaction has ended before its Commit: return the database's errors, and do not run COMMIT or ROLLBACK as SQL")
	// ErrNoTables: the database has not been migrated, or by an older version.
	ErrNoTables = errors.New("sqlite: the tables of twostep are missing")
)

// isBusy reports whether err means "try again". BUSY_SNAPSHOT does not: a read transaction that wants to write has to
// begin anew.
func isBusy(err error) bool {
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return false
	}
	return (e.Code == sqlite3.ErrBusy || e.Code == sqlite3.ErrLocked) && e.ExtendedCode != sqlite3.ErrBusySnapshot
}

// explain adds to an error what was done, to which file, and what to do about it.
func explain(op, path string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("sqlite: %s %s: %w", op, path, err)
	}
	switch {
	case isBusy(err) && !errors.Is(err, ErrBusy):
		return fmt.Errorf("%w: %s %s: another process writes for longer than the busy timeout; try again (%w)", ErrBusy, op, path, err)
	case e.Code == sqlite3.ErrError && strings.Contains(e.Error(), "no such table: twostep_"):
		return fmt.Errorf("%w: %s %s: run sqlite.Migrate or `twostep migrate` (%w)", ErrNoTables, op, path, err)
	default:
		return fmt.Errorf("sqlite: %s: %w", op, explainStorage(path, err))
	}
}

// storageError says what to do when the disk or the file is the cause.
type storageError struct {
	advice string
	is     error // ErrFull, or nil
	cause  error
}

func (e *storageError) Error() string { return e.advice + " (" + e.cause.Error() + ")" }

func (e *storageError) Unwrap() []error {
	if e.is == nil {
		return []error{e.cause}
	}
	return []error{e.is, e.cause}
}

// explainStorage adds advice where the disk or the file is the cause. Other errors stay as SQLite gave them: callers look
// into theirs.
func explainStorage(path string, err error) error {
	var e sqlite3.Error
	var known *storageError
	if errors.As(err, &known) || !errors.As(err, &e) {
		return err
	}
	switch e.Code {
	case sqlite3.ErrFull:
		return &storageError{"no space left for " + path + ": free space on its disk, then try again; nothing was written", ErrFull, err}
	case sqlite3.ErrIoErr:
		return &storageError{path + ": reading or writing failed: look at the system's log and at the disk, then restart", nil, err}
	case sqlite3.ErrReadonly:
		return &storageError{path + ": not writable here: a read-only transaction, missing permissions, or a file that was moved while open", nil, err}
	case sqlite3.ErrCorrupt, sqlite3.ErrNotADB:
		return &storageError{path + ": damaged, or no SQLite database: restore it from a backup", nil, err}
	}
	return err
}
