// Package db takes a pool, whose insert would commit by itself: it must not compile.
package db

import (
	"context"
	"database/sql"

	"github.com/twostep-mq/twostep/outbox"
)

// Publish is what a service might write.
func Publish(ctx context.Context, box *outbox.Outbox, db *sql.DB) error {
	_, err := box.Publish(ctx, db, outbox.Message{Topic: "bank.in", Payload: []byte("{}")})
	return err
}
