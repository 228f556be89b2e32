// Package tx takes an open transaction: it compiles.
package tx

import (
	"context"
	"database/sql"

	"github.com/twostep-mq/twostep/outbox"
)

// Publish is what a service might write.
func Publish(ctx context.Context, box *outbox.Outbox, tx *sql.Tx) error {
	_, err := box.Publish(ctx, tx, outbox.Message{Topic: "bank.in", Payload: []byte("{}")})
	return err
}
