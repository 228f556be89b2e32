package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/twostep-mq/twostep/adapters/sqlite"
)

// runFailingDisk writes with the shared connection, then against a limit of the file size, then without it.
func runFailingDisk(ctx context.Context, path string) error {
	signal.Ignore(syscall.SIGXFSZ)
	db, err := sqlite.Open(path)
	if err != nil {
		return err
	}
	if err := write(ctx, db, addNote, "before"); err != nil {
		return err
	}
	writer := sqlite.Writer(db)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	low := limit
	low.Cur = 64 << 10
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &low); err != nil {
		return err
	}
	err = write(ctx, db, addNote, strings.Repeat("x", 1<<20))
	if err == nil || !strings.Contains(err.Error(), path) {
		return fmt.Errorf("written against the limit: %w", err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	if sqlite.Writer(db) != nil {
		return errors.New("a connection that failed to write is kept")
	}
	if err := write(ctx, db, addNote, "after"); err != nil {
		return err
	}
	if w := sqlite.Writer(db); w == nil || w == writer {
		return errors.New("there is no new connection")
	}
	return db.Close()
}

// TestFailingDisk: a connection that could not write is thrown away, and writing goes on when the disk does.
func TestFailingDisk(t *testing.T) {
	t.Parallel()
	db, path := open(t)
	notes(t, db)
	if out, err := child(t, "failing disk", path, "").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if n := countNotes(t, db); n != 2 {
		t.Errorf("%d notes", n)
	}
}
