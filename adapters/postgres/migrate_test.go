package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/postgres"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

func sets() []postgres.Set { return []postgres.Set{postgres.Service, postgres.Orchestrator} }

// schemaOf lists columns, constraints and indexes of a schema, as text.
func schemaOf(t *testing.T, db *sql.DB, schema string) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `
SELECT 'column ' || table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || coalesce(column_default, '') || ' ' || coalesce(collation_name, '')
FROM information_schema.columns WHERE table_schema = $1::text
UNION ALL SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1::text)
UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = $1::text
UNION ALL SELECT 'sequence ' || sequencename || ' ' || cache_size FROM pg_sequences WHERE schemaname = $1::text
ORDER BY 1`, schema)
	noError(t, err)
	defer func() { _ = rows.Close() }()
	var all []string
	for rows.Next() {
		var s string
		noError(t, rows.Scan(&s))
		all = append(all, strings.ReplaceAll(strings.ReplaceAll(s, `"`, ""), schema+".", ""))
	}
	noError(t, rows.Err())
	return all
}

func TestMigrateByHandIsTheSame(t *testing.T) {
	ctx := t.Context()
	for name, c := range map[string]postgres.Config{"default": {}, "prefixed": {Prefix: "Bank_"}} {
		t.Run(name, func(t *testing.T) {
			var found [2][]string
			for i, byHand := range []bool{false, true} {
				schema := newSchema(t)
				db := pool(t, config(t, schema))
				for _, set := range sets() {
					list, err := postgres.MigrationsSQL(set, c)
					noError(t, err)
					for _, m := range list {
						if byHand {
							noError(t, errOf(db.ExecContext(ctx, m.SQL)))
						}
					}
					noError(t, postgres.Migrate(ctx, db, set, c)) // by hand: nothing is left to do
				}
				found[i] = schemaOf(t, db, schema)
			}
			if !reflect.DeepEqual(found[0], found[1]) || len(found[0]) < 50 {
				t.Errorf("by Migrate:\n%s\n\nby hand:\n%s", strings.Join(found[0], "\n"), strings.Join(found[1], "\n"))
			}
		})
	}
}

// TestSchemaAndPrefix: the tables are where the configuration says, made by Migrate, and everything works there.
func TestSchemaAndPrefix(t *testing.T) {
	ctx := t.Context()
	schema := newSchema(t) + "_Own"
	db := pool(t, config(t, ""))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		noError(t, errOf(db.ExecContext(ctx, `SET client_min_messages = warning; DROP SCHEMA "`+schema+`" CASCADE`)))
	})
	cfg := postgres.Config{Schema: schema, Prefix: "P_" + strings.Repeat("x", 35)} // the longest
	for _, set := range sets() {
		noError(t, postgres.Migrate(ctx, db, set, cfg))
	}
	box, err := postgres.NewOutbox(ctx, db, cfg)
	noError(t, err)
	noError(t, box.Transact(ctx, func(tx outbox.Tx) error { return box.Insert(ctx, tx, message("t"), true) }))
	r := newReader(t, box)
	r.until(func() bool { return len(r.seen) == 1 })
	c, err := postgres.NewConsumer(ctx, db, cfg)
	noError(t, err)
	noError(t, errOf(c.Parked(ctx, topics.ParkedQuery{})))
	_, _, err = c.Due(ctx, uid, time.Now(), true, 1)
	noError(t, err)
	reg, err := postgres.NewRegistry(ctx, db, cfg)
	noError(t, err)
	noError(t, reg.ApplyRegistry(ctx, 0, topics.RegistryChange{Version: 1}))
	names := schemaOf(t, db, schema)
	for _, line := range names {
		if strings.Contains(line, "twostep") {
			t.Errorf("%s", line)
		}
	}

	for _, bad := range []postgres.Config{
		{Schema: `a"b`}, {Schema: "a.b"}, {Schema: "1a"}, {Schema: strings.Repeat("a", 64)}, {Schema: "a b"}, {Schema: "ä"},
		{Prefix: "x;"}, {Prefix: strings.Repeat("p", 38)}, {Prefix: "-"},
	} {
		if err := postgres.Migrate(ctx, db, postgres.Service, bad); err == nil || !strings.Contains(err.Error(), "letters, digits") {
			t.Errorf("%+v: %v", bad, err)
		}
		if _, err := postgres.NewOutbox(ctx, db, bad); err == nil {
			t.Errorf("%+v: accepted", bad)
		}
	}
}

func TestStatus(t *testing.T) {
	ctx := t.Context()
	db := pool(t, config(t, newSchema(t)))
	for _, applied := range []bool{false, true} {
		list, err := postgres.Status(ctx, db, postgres.Service, postgres.Config{})
		noError(t, err)
		for _, m := range list {
			if m.AppliedAt.IsZero() == applied || applied && time.Since(m.AppliedAt).Abs() > time.Minute {
				t.Errorf("%s applied at %v, want applied: %v", m.Name, m.AppliedAt, applied)
			}
		}
		if !applied {
			if _, err := postgres.NewOutbox(ctx, db, postgres.Config{}); !errors.Is(err, postgres.ErrNoTables) || !strings.Contains(err.Error(), "twostep migrate") {
				t.Errorf("an outbox without tables: %v", err)
			}
		}
		noError(t, postgres.Migrate(ctx, db, postgres.Service, postgres.Config{}))
	}
	if _, err := postgres.Status(ctx, db, "other", postgres.Config{}); err == nil || !strings.Contains(err.Error(), `"service"`) {
		t.Errorf("an unknown set: %v", err)
	}
}

// TestMigrateAtOnce has many pools migrate one new schema, which does not exist yet.
func TestMigrateAtOnce(t *testing.T) {
	cfg := postgres.Config{Schema: newSchema(t)}
	db := pool(t, config(t, ""))
	noError(t, errOf(db.ExecContext(t.Context(), `DROP SCHEMA `+cfg.Schema)))
	const racers = 8
	results := make(chan error, racers)
	for range racers {
		one := pool(t, config(t, ""))
		one.SetMaxOpenConns(1)
		go func() {
			results <- errors.Join(postgres.Migrate(t.Context(), one, postgres.Service, cfg), postgres.Migrate(t.Context(), one, postgres.Orchestrator, cfg))
		}()
	}
	for range racers {
		noError(t, <-results)
	}
	var uuids int
	noError(t, db.QueryRowContext(t.Context(), `SELECT count(*) FROM `+cfg.Schema+`.twostep_outbox_meta`).Scan(&uuids))
	if uuids != 1 {
		t.Errorf("%d UUIDs", uuids)
	}
}

// TestImpossibleRows: what no code of ours writes, the database refuses whoever writes it.
func TestImpossibleRows(t *testing.T) {
	db, _ := open(t, extended)
	const id = `'019e0000-0000-7000-8000-000000000001'`
	for _, bad := range []string{
		`INSERT INTO twostep_outbox (topic, payload) VALUES ('t', NULL)`,
		`INSERT INTO twostep_outbox (topic, payload) VALUES ('t', convert_to(repeat('x', 1000001), 'UTF8'))`,
		`INSERT INTO twostep_outbox (topic, payload) VALUES ('ä', 'x')`,
		`INSERT INTO twostep_outbox (topic, payload) VALUES (E't\n', 'x')`,
		`INSERT INTO twostep_outbox (topic, payload, headers) VALUES ('t', 'x', 'no json')`,
		`INSERT INTO twostep_outbox (topic, payload, headers) VALUES ('t', 'x', '[1]')`,
		`INSERT INTO twostep_outbox (topic, payload, gid) VALUES ('t', 'x', 'a b')`,
		`INSERT INTO twostep_outbox (topic, payload, id) VALUES ('t', 'x', 'x')`,
		`INSERT INTO twostep_outbox (seq, topic, payload) VALUES (0, 't', 'x')`,
		`INSERT INTO twostep_outbox (seq, topic, payload) VALUES (NULL, 't', 'x')`,
		`INSERT INTO twostep_outbox_meta (one) VALUES (2)`,
		`INSERT INTO twostep_outbox_meta DEFAULT VALUES`,
		`UPDATE twostep_outbox_meta SET epoch = -1`,
		`INSERT INTO twostep_outbox_confirmer (confirmer, bitmap) VALUES ('somebody', '')`,
		`INSERT INTO twostep_outbox_confirmer (confirmer, bitmap) VALUES (` + id + `, '')`,
		`INSERT INTO twostep_outbox_topic (name, delivery, no_subscribers, keyed, version) VALUES ('t', 'maybe', 'hold', false, 1)`,
		`INSERT INTO twostep_barrier (gid, branch_id, op, barrier_id, outcome) VALUES ('g', '01', 'action', '01', 'perhaps')`,
		`INSERT INTO twostep_barrier (gid, branch_id, op, barrier_id, outcome) VALUES ('', '01', 'action', '01', 'success')`,
		`INSERT INTO twostep_barrier (gid, branch_id, op, barrier_id, outcome) VALUES ('g', NULL, 'action', '01', 'success')`,
		`INSERT INTO twostep_parked (subscription, id, topic, state, payload) VALUES ('s', 'i', 't', 'lost', 'x')`,
		`INSERT INTO twostep_parked (subscription, id, topic, state, payload, attempts) VALUES ('s', 'i', 't', 'dead', 'x', -1)`,
		`INSERT INTO twostep_registry DEFAULT VALUES`,
		`INSERT INTO twostep_registry_topic (name, delivery, no_subscribers, keyed, version) VALUES ('a b', 'confirmed', 'hold', false, 1)`,
		`INSERT INTO twostep_registry_subscription (uid, topic, name, created_at) VALUES (` + id + `, 'no-such-topic', 'n', 1)`,
	} {
		if _, err := db.ExecContext(t.Context(), bad); err == nil {
			t.Errorf("accepted: %s", bad)
		}
	}
}

// TestMigrationFilesAreNumbered from 1, without a hole.
func TestMigrationFilesAreNumbered(t *testing.T) {
	for _, set := range sets() {
		list, err := postgres.MigrationsSQL(set, postgres.Config{})
		noError(t, err)
		files, err := os.ReadDir(filepath.Join("migrations", string(set)))
		noError(t, err)
		if len(files) != len(list) {
			t.Errorf("%s: %d files, %d migrations", set, len(files), len(list))
		}
		for i, m := range list {
			if m.Version != int64(i+1) {
				t.Errorf("%s: migration %d has version %d", set, i+1, m.Version)
			}
		}
	}
}
