package postgres_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/twostep-mq/twostep/adapters/postgres"
	"github.com/twostep-mq/twostep/outbox/outboxtest"
	"github.com/twostep-mq/twostep/topics"
	"github.com/twostep-mq/twostep/topics/topicstest"
)

// startBouncer starts PgBouncer in transaction mode in front of the test server: few connections, so that transactions of
// many clients share them.
func startBouncer(t *testing.T) (port uint16) {
	t.Helper()
	cfg := config(t, "")
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		if path = "/usr/sbin/pgbouncer"; !exists(path) {
			t.Skip("pgbouncer is not installed here: apt-get install pgbouncer")
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	noError(t, err)
	free := listener.Addr().(*net.TCPAddr).Port
	noError(t, listener.Close())
	folder, err := os.MkdirTemp("", "twostep-pgbouncer-")
	noError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	ini := filepath.Join(folder, "pgbouncer.ini")
	noError(t, os.WriteFile(ini, fmt.Appendf(nil, `[databases]
* = host=%s port=%d user=%s password=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 6
server_idle_timeout = 1
max_client_conn = 500
`, cfg.Host, cfg.Port, cfg.User, cfg.Password, free), 0o600))
	cmd := exec.Command(path, "-q", ini)
	cmd.SysProcAttr = serverUser(t, folder, ini)
	noError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	waitFor(t, func() bool {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", free), time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return uint16(free)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// databases are used by one test after the other: making and dropping one takes the server a checkpoint. PgBouncer refuses search_path
// among a connection's parameters, so schemas would not do.
type databases struct {
	port uint16
	mu   sync.Mutex
	all  []string
	free []string
}

func (d *databases) take(t *testing.T) string {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.free); n > 0 {
		name := d.free[n-1]
		d.free = d.free[:n-1]
		return name
	}
	name := fmt.Sprintf("test_%d_%08x", os.Getpid(), rand.Uint32())
	noError(t, errOf(pool(t, config(t, "")).ExecContext(t.Context(), `CREATE DATABASE `+name)))
	d.all = append(d.all, name)
	return name
}

func (d *databases) drop(t *testing.T) {
	t.Helper()
	db := pool(t, config(t, ""))
	for _, name := range d.all {
		noError(t, errOf(db.ExecContext(t.Context(), `DROP DATABASE `+name+` WITH (FORCE)`)))
	}
}

// open makes a migrated database, reached through PgBouncer.
func (d *databases) open(t *testing.T) (*sql.DB, *pgx.ConnConfig) {
	t.Helper()
	direct := config(t, "")
	direct.Database = d.take(t)
	db := pool(t, direct)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if _, err := db.ExecContext(ctx, `SET client_min_messages = warning; DROP SCHEMA public CASCADE; CREATE SCHEMA public`); err != nil {
			t.Error(err)
			return
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.free = append(d.free, direct.Database)
	})
	for _, set := range sets() {
		noError(t, postgres.Migrate(t.Context(), db, set, postgres.Config{}))
	}
	cfg := direct.Copy()
	cfg.Host, cfg.Port, cfg.Password = "127.0.0.1", d.port, ""
	cfg.DefaultQueryExecMode = simple
	return pool(t, cfg), cfg
}

// TestBehindPgBouncer runs the suites in transaction mode: nothing may depend on a session.
func TestBehindPgBouncer(t *testing.T) {
	d := &databases{port: startBouncer(t)}
	defer d.drop(t)
	t.Run("suites", func(t *testing.T) { // ends when its parallel parts have
		t.Run("outbox", func(t *testing.T) {
			h := outboxHarness(simple)
			h.Open = func(t *testing.T) outboxtest.Database {
				db, cfg := d.open(t)
				return outboxOf(t, db, cfg)
			}
			outboxtest.Run(t, h)
		})
		t.Run("consumer", func(t *testing.T) {
			h := consumerHarness(simple)
			h.Open = func(t *testing.T) topicstest.Database {
				db, cfg := d.open(t)
				return consumerOf(t, db, cfg)
			}
			topicstest.Run(t, h)
		})
		t.Run("sender, relay and service", func(t *testing.T) {
			db, cfg := d.open(t)
			w := newTownIn(t, db, cfg, nil, nil)
			topic := topics.New(topics.Config[change]{Name: "bank.t"})
			w.serve(topic, noteEffect)
			committed := w.writeMany(topic, 1_000)
			waitUntil(t, "all messages have an effect and are released", func() bool {
				return w.count(countEffects) >= committed && w.count(`SELECT count(*) FROM twostep_outbox`) == 0
			})
			if n := w.count(countEffects); n != committed {
				t.Errorf("%d effects of %d messages", n, committed)
			}
		})
	})
}
