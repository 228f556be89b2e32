package mysql

import (
	"context"
	"database/sql"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// CheckServer judges what a server says of itself, as NewOutbox does.
func CheckServer(vars map[string]string, allowUnsafe bool) error {
	v := settings(vars)
	if err := v.checkVersion(); err != nil {
		return err
	}
	if err := v.checkDurability(allowUnsafe); err != nil {
		return err
	}
	return v.checkNumbers()
}

// Statement is a statement with values for its parameters.
type Statement struct {
	Query string
	Args  []any
}

// Plans are statements whose plans a test looks at.
func Plans(mariadb bool) map[string]Statement {
	cfg := Config{}.withDefaults()
	srv := &server{cfg: cfg, mariadb: mariadb}
	c, r := newConsumerStatements(srv), newRelayStatements(srv)
	sub, keys := []byte("s"), hexList([]string{"k1", "k2"})
	statement := func(query string, args ...any) Statement { return Statement{query, args} }
	return map[string]Statement{
		"scan":                       statement(r.scan, 10, 10),
		"read":                       statement(r.read, numberList([]int64{1, 2})),
		"probe":                      statement(r.probe+probeGap+" OR "+probeGap+" ORDER BY o.seq LIMIT ?", 1, 3, 7, 7, 10),
		"close":                      statement(r.closing, numberList([]int64{1, 2})),
		"delete":                     statement(cfg.sql(deleteMatching), `[[1,"a"],[2,"b"]]`),
		"claims":                     statement(c.readClaims, keys, sub),
		"claimed":                    statement(c.claimed, keys, sub),
		"due":                        statement(c.dueHold, "s", 5, "s", 5, "s", 10),
		"due, passing dead letters":  statement(c.duePass, "s", 5, "s", 5, "s", 10),
		"next":                       statement(c.nextHold, "s", 5, "s", 5),
		"next, passing dead letters": statement(c.nextPass, "s", 5, "s", 5),
		"keys":                       statement(c.keys, keys, sub),
		"live keys":                  statement(c.keysLive, keys, sub),
		"lock":                       statement(c.lock, sub, []byte("5")),
		"parked of id":               statement(c.parkedOfID, sub, []byte("5")),
		"parked of state":            statement(c.parkedOfState, "held", 5, sub, sub, []byte(""), []byte(""), 10),
		"update":                     statement(c.update, "held", "held", 1, 0, []byte(""), sub, []byte("5")),
		"settle":                     statement(c.settle, sub, []byte("5")),
	}
}

// ExamineOld is Examine that takes transactions for old sooner.
func ExamineOld(ctx context.Context, db *sql.DB, set Set, cfg Config, old time.Duration) []broker.Finding {
	e := &examination{ctx: ctx, db: db, set: set, cfg: cfg.withDefaults(), old: old}
	e.run()
	return e.found
}
