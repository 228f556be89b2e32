package sqlite

import "database/sql"

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
	drv.gate.mu.Lock()
	defer drv.gate.mu.Unlock()
	return len(drv.gate.waiting)
}

// Queries whose plans a test looks at.
var Queries = map[string]string{
	"scan": scanRows, "scan without payload": scanRowsNoPayload, "read": readRows, "probe": probeRows, "delete": deleteMatching,
	"counter": counterQuery, "barrier rows": barrierRows, "due": dueQuery, "next": nextQuery, "parked of id": parkedOfID, "parked of state": parkedOfState,
}
