package postgres

import (
	"context"
	"database/sql"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// ExamineOld is Examine to which a transaction is old sooner.
func ExamineOld(ctx context.Context, db *sql.DB, set Set, cfg Config, old time.Duration) []broker.Finding {
	return (&examination{ctx: ctx, db: db, set: set, cfg: cfg, old: old}).run()
}

// CheckSettings is what is said to a server that runs version, with such settings.
func CheckSettings(version int, shown, encoding, fsync string) error {
	s := serverSettings{version: version, shown: shown, encoding: encoding, fsync: fsync, fullPages: "on", synchronous: "on"}
	return s.check(Config{})
}

// Queries whose plans a test looks at, with the values of their parameters.
func Queries() map[string]string {
	o := newOutboxQueries(names{prefix: DefaultPrefix}, serverColumns)
	c := newConsumerQueries(names{prefix: DefaultPrefix})
	return map[string]string{
		"scan": o.scan, "scan without payload": o.scanNoPayload, "read": o.read, "probe": o.probe, "release": o.release,
		"barrier rows": c.outcomes, "unclaim": c.unclaim, "keys": c.keys, "keys alive": c.keysAlive, "lock": c.lock,
		"due": c.dueHold, "due, continue": c.dueContinue, "next": c.nextHold, "next, continue": c.nextContinue,
		"parked of id": c.parkedOfID, "parked of state": c.parkedOfState, "settle": c.delete,
	}
}
