package postgres_test

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/twostep-mq/twostep/adapters/postgres"
	"github.com/twostep-mq/twostep/outbox"
)

var update = flag.Bool("update", false, "write the golden files of TestMessages anew")

// golden compares an error with a line kept in testdata/messages, in which what differs from run to run has a name.
func golden(t *testing.T, name string, err error, names *strings.Replacer) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", name)
		return
	}
	got := names.Replace(err.Error()) + "\n"
	if strings.Count(got, "\n") != 1 {
		t.Errorf("%s: not one line: %s", name, got)
	}
	file := filepath.Join("testdata", "messages", name+".golden")
	if *update {
		noError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		noError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	noError(t, err)
	if got != string(want) {
		t.Errorf("%s:\n%swant\n%s", name, got, want)
	}
}

// TestMessages: what goes wrong in an installation is told in one line, with what to do, word for word.
func TestMessages(t *testing.T) {
	ctx := t.Context()
	db, cfg := open(t, extended)
	schema := cfg.RuntimeParams["search_path"]
	role := newRole(t, db, schema)
	names := func(more ...string) *strings.Replacer {
		return strings.NewReplacer(append(more, role, "ROLE", schema, "SCHEMA", fmt.Sprintf("%s:%d (%s)", cfg.Host, cfg.Port, cfg.Host), "SERVER",
			"user="+cfg.User+" ", "user=USER ", fmt.Sprintf("user %q", cfg.User), `user "USER"`, "database="+cfg.Database+"`", "database=DATABASE`")...)
	}
	outboxOn := func(name string, spoil func(*pgx.ConnConfig), c postgres.Config) {
		t.Helper()
		spoiled := cfg.Copy()
		spoil(spoiled)
		other := pool(t, spoiled)
		golden(t, name, errOf(postgres.NewOutbox(ctx, other, c)), names())
	}
	nothing := func(*pgx.ConnConfig) {}
	outboxOn("wrong-password", func(c *pgx.ConnConfig) { c.Password = "wrong" }, postgres.Config{})
	outboxOn("unknown-database", func(c *pgx.ConnConfig) { c.Database = "nosuchdatabase" }, postgres.Config{})
	outboxOn("server-gone", func(c *pgx.ConnConfig) { c.Port = 1 }, postgres.Config{})
	outboxOn("unsafe-durability", func(c *pgx.ConnConfig) { c.RuntimeParams["synchronous_commit"] = "off" }, postgres.Config{})
	outboxOn("missing-right", func(c *pgx.ConnConfig) { c.User, c.Password = role, "x" }, postgres.Config{})
	outboxOn("not-migrated", nothing, postgres.Config{Prefix: "other_"})
	outboxOn("bad-schema", nothing, postgres.Config{Schema: "a b"})
	golden(t, "old-version", postgres.CheckSettings(120017, "12.17", "UTF8", "on"), names())
	golden(t, "wrong-encoding", postgres.CheckSettings(150000, "15", "LATIN1", "on"), names())
	golden(t, "no-fsync", postgres.CheckSettings(150000, "15", "UTF8", "off"), names())

	noError(t, errOf(db.ExecContext(ctx, `ALTER SEQUENCE twostep_outbox_seq CACHE 32`)))
	outboxOn("sequence-cache", nothing, postgres.Config{})
	noError(t, errOf(db.ExecContext(ctx, `ALTER SEQUENCE twostep_outbox_seq CACHE 1`)))

	box, err := postgres.NewOutbox(ctx, db, postgres.Config{})
	noError(t, err)
	as := cfg.Copy()
	as.User, as.Password = role, "x"
	noError(t, errOf(db.ExecContext(ctx, `GRANT SELECT ON ALL TABLES IN SCHEMA `+schema+` TO `+role+`; GRANT SELECT ON SEQUENCE twostep_outbox_seq TO `+role)))
	reader, err := postgres.NewOutbox(ctx, pool(t, as), postgres.Config{})
	noError(t, err)
	golden(t, "missing-right-to-publish", reader.Transact(ctx, func(tx outbox.Tx) error { return reader.Insert(ctx, tx, message("t"), false) }), names())
	golden(t, "read-only", inReadOnly(ctx, db, box), names())
	noError(t, errOf(db.ExecContext(ctx, `DROP TABLE twostep_outbox CASCADE`)))
	golden(t, "missing-table", errOf(box.Scan(ctx, 0, 1, true)), names())
}

// inReadOnly publishes in a transaction of the caller's that may not write, as on a standby.
func inReadOnly(ctx context.Context, db *sql.DB, box *postgres.Outbox) error {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	return box.Insert(ctx, tx, message("t"), false)
}
