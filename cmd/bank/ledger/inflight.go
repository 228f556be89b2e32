package ledger

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/twostep-mq/twostep/topics"
)

// Unreleased counts the rows in a bank's outbox.
func (b *Bank) Unreleased(ctx context.Context) (n int, err error) {
	if err := b.QueryRowContext(ctx, "SELECT count(*) FROM twostep_outbox").Scan(&n); err != nil {
		return 0, fmt.Errorf("ledger: count the outbox's rows: %w", err)
	}
	return n, nil
}

// Parked reads a bank's dead letters, and counts the parked messages that will be tried again.
func (b *Bank) Parked(ctx context.Context) (dead []Transfer, waiting int, err error) {
	rows, err := b.QueryContext(ctx, "SELECT state, id, payload FROM twostep_parked ORDER BY seq")
	if err != nil {
		return nil, 0, fmt.Errorf("ledger: read parked messages: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var state, id string
		var payload []byte
		if err := rows.Scan(&state, &id, &payload); err != nil {
			return nil, 0, fmt.Errorf("ledger: read parked messages: %w", err)
		}
		if topics.ParkedState(state) != topics.ParkedDead {
			waiting++
			continue
		}
		var t Transfer
		if err := json.Unmarshal(payload, &t); err != nil {
			return nil, 0, fmt.Errorf("ledger: dead letter %s holds no transfer: %w", id, err)
		}
		dead = append(dead, t)
	}
	if err := rows.Err(); err != nil {
		return nil, 0, fmt.Errorf("ledger: read parked messages: %w", err)
	}
	return dead, waiting, nil
}
