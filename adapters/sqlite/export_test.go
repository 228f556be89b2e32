package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
)

// Waiting counts the callers of Transact that wait for their turn.
func Waiting(o *Outbox) int {
	o.group.mu.Lock()
	defer o.group.mu.Unlock()
	return len(o.group.waiting)
}

// Queued counts the writers that wait at the gate of db's file.
func Queued(db *sql.DB) int {
	drv, err := opened(db)
	if err != nil {
		return -1
	}
	drv.file.gate.mu.Lock()
	defer drv.file.gate.mu.Unlock()
	return len(drv.file.gate.waiting)
}

// Queries whose plans a test looks at.
var Queries = map[string]string{
	"scan": scanRows, "scan without payload": scanRowsNoPayload, "read": readRows, "probe": probeRows, "delete": deleteMatching,
	"identity": identityQuery, "barrier rows": barrierRows, "due": dueQuery, "next": nextQuery, "parked of id": parkedOfID, "parked of state": parkedOfState,
}

// Writer is the connection that the writers of db's file share; nil while it is in use, and before its first use.
func Writer(db *sql.DB) any {
	drv, err := opened(db)
	if err != nil {
		return err
	}
	drv.file.mu.Lock()
	defer drv.file.mu.Unlock()
	if drv.file.writer == nil {
		return nil
	}
	return drv.file.writer
}

// Session is a connection of db outside of its pool.
func Session(ctx context.Context, db *sql.DB) (driver.Conn, error) {
	drv, err := opened(db)
	if err != nil {
		return nil, err
	}
	return (&connector{drv}).Connect(ctx)
}
