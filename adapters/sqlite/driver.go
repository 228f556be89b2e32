package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/mattn/go-sqlite3"
)

// fileDriver is the database/sql driver of one Open. Being a type of our own it lets the constructors recognise a
// database that Open opened.
type fileDriver struct {
	path          string // absolute, without symbolic links
	busyTimeout   time.Duration
	commitHook    func()       // may be nil
	statementHook func(string) // may be nil
	file          *dbFile
}

// Open is part of driver.Driver. database/sql calls the connector instead.
func (d *fileDriver) Open(string) (driver.Conn, error) {
	return nil, errors.New("sqlite: use sqlite.Open")
}

type connector struct{ drv *fileDriver }

func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	l, err := c.drv.dial(ctx, false, c.drv.busyTimeout)
	if err != nil {
		return nil, err
	}
	return &conn{link: l}, nil
}

func (c *connector) Driver() driver.Driver { return c.drv }

// Close is called once, by Close of the *sql.DB.
func (c *connector) Close() error { return c.drv.file.close() }

// dial opens a connection to the file and checks its settings. SQLite itself waits for locks for up to busyTimeout.
func (d *fileDriver) dial(ctx context.Context, create bool, busyTimeout time.Duration) (*link, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var raw driver.Conn
	// The change to WAL needs the file alone, and SQLite does not wait for it.
	err := d.retry(ctx, func() (err error) {
		raw, err = (&sqlite3.SQLiteDriver{}).Open(dsn(d.path, create, busyTimeout))
		return err
	})
	if err != nil {
		if !create && !fileExists(d.path) {
			return nil, fmt.Errorf("sqlite: open %s: there is no such file: %w", d.path, err)
		}
		return nil, explain("open", d.path, err)
	}
	inner, ok := raw.(*sqlite3.SQLiteConn)
	if !ok {
		return nil, fmt.Errorf("sqlite: open %s: unexpected connection %T", d.path, raw)
	}
	l := &link{inner: inner, drv: d}
	if err := l.setUp(d.path); err != nil {
		_ = inner.Close()
		return nil, explain("open", d.path, err)
	}
	if d.file != nil {
		l.life = d.file.lifeOf(l.file)
	}
	return l, nil
}

// Steps of the wait for a writer of another process. SQLite's own steps go up to 100 ms, and a process that polls so
// rarely may never meet the moment between two transactions of a busy one.
const (
	minBusyStep = 50 * time.Microsecond
	maxBusyStep = time.Millisecond
)

// retry runs fn until it does not fail with BUSY, until the busy timeout or the end of ctx.
func (d *fileDriver) retry(ctx context.Context, fn func() error) error {
	err := fn()
	if !isBusy(err) {
		return err
	}
	deadline := time.Now().Add(d.busyTimeout)
	step := minBusyStep
	timer := time.NewTimer(step)
	defer timer.Stop()
	for isBusy(err) {
		if time.Now().After(deadline) {
			return err
		}
		timer.Reset(step/2 + rand.N(step))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		step = min(step*5/4, maxBusyStep)
		err = fn()
	}
	return err
}
