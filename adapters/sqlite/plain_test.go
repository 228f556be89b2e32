package sqlite_test

import (
	"context"
	"database/sql/driver"

	"github.com/mattn/go-sqlite3"
)

// plainConnector opens a database with the bare driver, as a service does that does not know better.
type plainConnector struct{ path string }

func (c plainConnector) Connect(context.Context) (driver.Conn, error) {
	return c.Driver().Open(c.path)
}

func (c plainConnector) Driver() driver.Driver { return &sqlite3.SQLiteDriver{} }
