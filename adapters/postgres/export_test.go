package postgres

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
