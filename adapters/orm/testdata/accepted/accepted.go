// Package accepted gives Publish transactions. Every line of it compiles.
package accepted

import (
	"context"
	"database/sql"

	"github.com/jackc/pgx/v5"
	"github.com/jmoiron/sqlx"
	"github.com/uptrace/bun"
	"gorm.io/gorm"

	"github.com/twostep-mq/twostep/adapters/orm/gormtx"
	"github.com/twostep-mq/twostep/adapters/orm/internal/ent"
	"github.com/twostep-mq/twostep/adapters/postgres"
	"github.com/twostep-mq/twostep/outbox"
)

// Transactions of each kind.
var (
	sqlTx     *sql.Tx
	sqlxTx    *sqlx.Tx
	bunTx     bun.Tx
	gormTx    *gorm.DB
	entTx     *ent.Tx
	pgxTx     pgx.Tx
	handlerTx outbox.Tx
)

// Publish compiles.
func Publish(ctx context.Context, box *outbox.Outbox, m outbox.Message) {
	_, _ = box.Publish(ctx, sqlTx, m)
	_, _ = box.Publish(ctx, sqlxTx, m)
	_, _ = box.Publish(ctx, bunTx.Tx, m)
	_, _ = box.Publish(ctx, gormtx.Tx(gormTx), m)
	_, _ = box.Publish(ctx, entTx, m)
	_, _ = box.Publish(ctx, postgres.Tx(pgxTx), m)
	_, _ = box.Publish(ctx, handlerTx, m)
}
