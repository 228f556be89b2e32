package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/outbox"
)

// A service opens its database, brings the tables up to date, and has an outbox. The *sql.DB is the service's own to use.
func ExampleOpen() {
	ctx := context.Background()
	folder, err := os.MkdirTemp("", "bank-")
	must(err)
	defer func() { _ = os.RemoveAll(folder) }()

	db, err := sqlite.Open(filepath.Join(folder, "bank.db"))
	must(err)
	defer func() { _ = db.Close() }()
	must(sqlite.Migrate(ctx, db, sqlite.Service))
	store, err := sqlite.NewOutbox(ctx, db)
	must(err)
	box, err := outbox.New(ctx, store, outbox.Config{})
	must(err)

	var journal string
	var synchronous int
	must(db.QueryRowContext(ctx, `PRAGMA journal_mode`).Scan(&journal))
	must(db.QueryRowContext(ctx, `PRAGMA synchronous`).Scan(&synchronous))
	fmt.Println("an outbox with a UUID of", len(box.UUID()), "bytes; journal", journal+", synchronous", synchronous)
	// Output: an outbox with a UUID of 36 bytes; journal wal, synchronous 2
}

// A database that was opened another way is refused: nobody could vouch for its durability.
func ExampleNewOutbox_refused() {
	db, err := sql.Open("sqlite3", "bank.db?_synchronous=NORMAL")
	must(err)
	_, err = sqlite.NewOutbox(context.Background(), db)
	fmt.Println(strings.Contains(err.Error(), "open it with sqlite.Open"))
	// Output: true
}

// The migrations as SQL, for those who run them by hand. Each records itself.
func ExampleMigrationsSQL() {
	migrations, err := sqlite.MigrationsSQL(sqlite.Service)
	must(err)
	fmt.Println(migrations[0].Name)
	// Output: 00001_outbox_barrier_parked.sql
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
