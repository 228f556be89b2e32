// Package refused gives Publish what is no transaction: each insert would commit by itself. No line of it may compile.
package refused

import (
	"context"
	"database/sql"

	"github.com/jmoiron/sqlx"
	"github.com/uptrace/bun"
	"gorm.io/gorm"

	"github.com/twostep-mq/twostep/adapters/orm/internal/ent"
	"github.com/twostep-mq/twostep/outbox"
)

// Everything that a service may have at hand instead of a transaction.
var (
	sqlDB     *sql.DB
	sqlConn   *sql.Conn
	sqlxDB    *sqlx.DB
	sqlxConn  *sqlx.Conn
	bunDB     *bun.DB
	bunConn   bun.Conn
	gormDB    *gorm.DB // may be in a transaction: that is what gormtx.Tx is for
	entClient *ent.Client
)

// Publish does not compile.
func Publish(ctx context.Context, box *outbox.Outbox, m outbox.Message) {
	_, _ = box.Publish(ctx, sqlDB, m)
	_, _ = box.Publish(ctx, sqlConn, m)
	_, _ = box.Publish(ctx, sqlxDB, m)
	_, _ = box.Publish(ctx, sqlxConn, m)
	_, _ = box.Publish(ctx, bunDB, m)
	_, _ = box.Publish(ctx, bunConn, m)
	_, _ = box.Publish(ctx, gormDB, m)
	_, _ = box.Publish(ctx, entClient, m)
}
