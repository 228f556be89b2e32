package topics

import (
	"database/sql"
	"fmt"

	"github.com/twostep-mq/twostep/outbox/storage"
)

// ReadParked reads a row of the table parked, for those who write a database adapter: seq, subscription, id, topic, key, state, attempts,
// next_at, reason, parked_at, gid, branch_id, op, content_type, headers, outbox, outbox_seq, prev, time, payload.
func ReadParked(from storage.Scanner) (Parked, error) {
	var (
		p                  Parked
		headers            sql.NullString
		next, parked, made int64
	)
	m := &p.Message
	err := from.Scan(&p.Seq, &p.Subscription, &m.ID, &m.Topic, &m.Key, &p.State, &p.Attempts, &next, &p.Reason, &parked,
		&m.GID, &m.BranchID, &m.Op, &m.ContentType, &headers, &m.Outbox, &m.Seq, &m.Prev, &made, &m.Payload)
	if err != nil {
		return Parked{}, err
	}
	if m.Headers, err = storage.DecodeHeaders(headers); err != nil {
		return Parked{}, fmt.Errorf("parked message %s: %w", m.ID, err)
	}
	p.NextAt, p.ParkedAt, m.Time = storage.Time(next), storage.Time(parked), storage.Time(made)
	return p, nil
}
