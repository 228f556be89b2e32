package postgres_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/twostep-mq/twostep/adapters/postgres"
	"github.com/twostep-mq/twostep/outbox"
)

// A service opens its database with pgx's driver, brings the tables up to date, and has an outbox. The *sql.DB is the service's own
// to use.
func ExampleNewOutbox() {
	ctx := context.Background()
	db, err := sql.Open("pgx", "postgres://bank@localhost/bank")
	if err != nil {
		return
	}
	defer func() { _ = db.Close() }()
	cfg := postgres.Config{Schema: "messages"}
	if err := postgres.Migrate(ctx, db, postgres.Service, cfg); err != nil {
		return
	}
	store, err := postgres.NewOutbox(ctx, db, cfg)
	if err != nil {
		return
	}
	box, err := outbox.New(ctx, store, outbox.Config{})
	if err != nil {
		return
	}
	_ = box.Transact(ctx, func(tx outbox.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE account SET balance = balance - $1 WHERE name = $2`, 10, "a"); err != nil {
			return err
		}
		_, err := box.Publish(ctx, tx, outbox.Message{Topic: "bank.trans-in", Key: "b", Payload: []byte(`{"to":"b","amount":10}`)})
		return err
	})
}

// A service that uses pgx's own pool shares it, and publishes in pgx's own transactions.
func ExampleTx() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://bank@localhost/bank")
	if err != nil {
		return
	}
	defer pool.Close()
	store, err := postgres.NewOutbox(ctx, stdlib.OpenDBFromPool(pool), postgres.Config{})
	if err != nil {
		return
	}
	box, err := outbox.New(ctx, store, outbox.Config{})
	if err != nil {
		return
	}
	_ = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE account SET balance = balance - $1 WHERE name = $2`, 10, "a"); err != nil {
			return err
		}
		_, err := box.Publish(ctx, postgres.Tx(tx), outbox.Message{Topic: "bank.trans-in", Key: "b", Payload: []byte(`{"to":"b","amount":10}`)})
		return err
	})
}

// A handler reaches pgx's own calls, and with them code that sqlc has generated for pgx, within its transaction.
func ExampleNative() {
	handler := func(ctx context.Context, tx outbox.Tx, payload []byte) error {
		return postgres.Native(tx, func(q postgres.Querier) error {
			_, err := q.Exec(ctx, `UPDATE account SET balance = balance + 10 WHERE name = $1`, string(payload))
			return err
		})
	}
	_ = handler
}

// The migrations as SQL, for those who run them by hand. Each records itself.
func ExampleMigrationsSQL() {
	migrations, err := postgres.MigrationsSQL(postgres.Orchestrator, postgres.Config{Schema: "messages", Prefix: "bank_"})
	if err != nil {
		return
	}
	fmt.Println(migrations[0].Name, strings.Contains(migrations[0].SQL, `CREATE TABLE "messages"."bank_registry" (`))
	// Output: 00001_registry.sql true
}
