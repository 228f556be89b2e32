package postgres_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/twostep-mq/twostep/adapters/postgres"
)

// TestUnsafeServer: what may lose an acknowledged commit is refused, with the statement that mends it.
func TestUnsafeServer(t *testing.T) {
	ctx := t.Context()
	_, cfg := open(t, extended)
	weak := cfg.Copy()
	weak.RuntimeParams["synchronous_commit"] = "off"
	db := pool(t, weak)
	for name, err := range map[string]error{
		"outbox":   errOf(postgres.NewOutbox(ctx, db, postgres.Config{})),
		"consumer": errOf(postgres.NewConsumer(ctx, db, postgres.Config{})),
		"registry": errOf(postgres.NewRegistry(ctx, db, postgres.Config{})),
	} {
		if !errors.Is(err, postgres.ErrUnsafe) || !strings.Contains(err.Error(), "SET synchronous_commit = on") {
			t.Errorf("%s: %v", name, err)
		}
	}
	noError(t, errOf(postgres.NewOutbox(ctx, db, postgres.Config{AllowUnsafeDurability: true})))

	// Cached numbers come out in another order than they are asked for: that cannot be allowed by configuration.
	noError(t, errOf(db.ExecContext(ctx, `ALTER SEQUENCE twostep_outbox_seq CACHE 32`)))
	_, err := postgres.NewOutbox(ctx, db, postgres.Config{AllowUnsafeDurability: true})
	if !errors.Is(err, postgres.ErrUnsafe) || !strings.Contains(err.Error(), "CACHE 1") {
		t.Errorf("sequence cache 32: %v", err)
	}
}

type otherConnector struct{}

func (otherConnector) Connect(context.Context) (driver.Conn, error) { return nil, errors.New("no") }
func (otherConnector) Driver() driver.Driver                        { return otherDriver{} }

type otherDriver struct{}

func (otherDriver) Open(string) (driver.Conn, error) { return nil, errors.New("no") }

// TestBadInput: one line each, which says what to do.
func TestBadInput(t *testing.T) {
	ctx := t.Context()
	db, cfg := open(t, extended)

	other := sql.OpenDB(otherConnector{})
	defer func() { _ = other.Close() }()
	role := fmt.Sprintf("test_role_%08x", rand.Uint32())
	noError(t, errOf(db.ExecContext(ctx, `CREATE ROLE `+role+` LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA `+cfg.RuntimeParams["search_path"]+` TO `+role)))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		noError(t, errOf(db.ExecContext(ctx, `DROP OWNED BY `+role+`; DROP ROLE `+role)))
	})
	wrongPassword, wrongDatabase, nobody, noRights := cfg.Copy(), cfg.Copy(), cfg.Copy(), cfg.Copy()
	wrongPassword.Password = "wrong"
	wrongDatabase.Database = "nosuchdatabase"
	nobody.Port = 1
	noRights.User, noRights.Password = role, "x"
	for name, c := range map[string]struct {
		db   *sql.DB
		want []string
	}{
		"nil":            {nil, []string{"no database given"}},
		"another driver": {other, []string{"opened with the driver", "sql.Open(\"pgx\""}},
		"wrong password": {stdlib.OpenDB(*wrongPassword), []string{"password authentication failed"}},
		"wrong database": {stdlib.OpenDB(*wrongDatabase), []string{`"nosuchdatabase" does not exist`}},
		"nobody there":   {stdlib.OpenDB(*nobody), []string{"no connection to the server", "see that it runs"}},
		"no rights":      {stdlib.OpenDB(*noRights), []string{"lacks a right", "GRANT"}},
	} {
		_, err := postgres.NewOutbox(ctx, c.db, postgres.Config{})
		for _, want := range c.want {
			if err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(want)) || strings.Contains(err.Error(), cfg.Password) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
		if c.db != nil && c.db != other {
			noError(t, c.db.Close())
		}
	}
}
