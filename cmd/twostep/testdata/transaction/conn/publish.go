// Package conn takes a connection, whose insert would commit by itself: it must not compile.
package conn

import (
	"context"
	"database/sql"

	"github.com/twostep-mq/twostep/outbox"
)

// Publish is what a service might write.
func Publish(ctx context.Context, box *outbox.Outbox, conn *sql.Conn) error {
	_, err := box.Publish(ctx, conn, outbox.Message{Topic: "bank.in", Payload: []byte("{}")})
	return err
}
