package mysql_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	driver "github.com/go-sql-driver/mysql"

	"github.com/twostep-mq/twostep/adapters/mysql"
	"github.com/twostep-mq/twostep/outbox"
)

var rewrite = flag.Bool("update", false, "write the golden files anew")

// golden compares text with a file.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *rewrite {
		noError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		noError(t, os.WriteFile(path, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	noError(t, err)
	if got != string(want) {
		t.Errorf("%s says\n%s\nand it was\n%s", path, want, got)
	}
}

// TestServersThatAreRefused: each with one line that says what to do, word for word as in testdata/messages.
func TestServersThatAreRefused(t *testing.T) { onEachServer(t, testServersThatAreRefused) }

func testServersThatAreRefused(t *testing.T, on testServer) {
	s := on.startOwn(t)
	db := openDSN(t, s.dsn.FormatDSN())
	migrate(t, db, mysql.Config{})
	ctx := t.Context()
	newOutbox(t, db)

	lines := ""
	wantError := func(name string, err error, is error, words ...string) {
		t.Helper()
		if err == nil || is != nil && !errors.Is(err, is) {
			t.Errorf("%s: %v, want %v", name, err, is)
			return
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %q does not say %q", name, err, word)
			}
		}
		if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %q is not one line, or tells the password", name, err)
		}
		// The server's own words differ from version to version.
		own := regexp.MustCompile(`Error (\d+) \(\w+\): .*\)`)
		lines += name + ": " + own.ReplaceAllString(strings.ReplaceAll(err.Error(), fmt.Sprint(s.port), "PORT"), "Error $1)") + "\n"
	}
	defer func() { golden(t, filepath.Join("testdata", "messages", string(on)+".golden"), lines) }()
	wantError("old version", mysql.CheckServer(map[string]string{"version": "5.7.44", "version_comment": "MySQL Community Server"}, false), mysql.ErrUnsupported)
	opened := func(change func(*driver.Config)) error {
		dsn := s.dsn.Clone()
		change(dsn)
		_, err := mysql.NewOutbox(ctx, openDSN(t, dsn.FormatDSN()), mysql.Config{})
		return err
	}
	wantError("wrong password", opened(func(c *driver.Config) { c.Passwd = "wrong" }), nil, "password", "DSN")
	wantError("unknown database", opened(func(c *driver.Config) { c.DBName = "nowhere" }), nil, "CREATE DATABASE")
	execAll(t, db, "CREATE DATABASE bare")
	wantError("not migrated", opened(func(c *driver.Config) { c.DBName = "bare" }), mysql.ErrNoTables, "twostep migrate")
	execAll(t, db, "CREATE USER poor@'127.0.0.1' IDENTIFIED BY 'secret'", "GRANT SELECT ON twostep.* TO poor@'127.0.0.1'")
	poor := s.dsn.Clone()
	poor.User = "poor"
	poorOutbox := newOutbox(t, openDSN(t, poor.FormatDSN()))
	wantError("no right to write", poorOutbox.Transact(ctx, func(tx outbox.Tx) error {
		return poorOutbox.Insert(ctx, tx, messageOf("t"), false)
	}), nil, "GRANT")

	execAll(t, db, "CREATE DATABASE half")
	half := s.dsn.Clone()
	half.DBName = "half"
	migrate(t, openDSN(t, half.FormatDSN()), mysql.Config{})
	halfOutbox := newOutbox(t, openDSN(t, half.FormatDSN()))
	execAll(t, db, "DROP TABLE half.twostep_outbox")
	_, err := halfOutbox.Scan(ctx, 0, 10, true)
	wantError("missing table", err, mysql.ErrNoTables, "twostep migrate")

	execAll(t, db, "SET GLOBAL innodb_flush_log_at_trx_commit = 2")
	_, err = mysql.NewOutbox(ctx, db, mysql.Config{})
	wantError("unsafe log", err, mysql.ErrUnsafe, "SET GLOBAL innodb_flush_log_at_trx_commit = 1", "allow_unsafe_durability")
	_, err = mysql.NewConsumer(ctx, db, mysql.Config{})
	wantError("unsafe log, consumer", err, mysql.ErrUnsafe)
	_, err = mysql.NewOutbox(ctx, db, mysql.Config{AllowUnsafeDurability: true})
	noError(t, err)
	execAll(t, db, "SET GLOBAL innodb_flush_log_at_trx_commit = 1", "SET GLOBAL auto_increment_increment = 2")
	fresh := openDSN(t, s.dsn.FormatDSN())
	_, err = mysql.NewOutbox(ctx, fresh, mysql.Config{})
	wantError("increment", err, mysql.ErrUnsupported, "SET GLOBAL auto_increment_increment = 1")
	newConsumer(t, fresh) // a consumer does not mind
	execAll(t, db, "SET GLOBAL auto_increment_increment = 1", "SET GLOBAL read_only = 1",
		"CREATE USER writer@'127.0.0.1' IDENTIFIED BY 'secret'", "GRANT SELECT, INSERT, UPDATE, DELETE ON twostep.* TO writer@'127.0.0.1'")
	writer := s.dsn.Clone()
	writer.User = "writer"
	replica := newOutbox(t, openDSN(t, writer.FormatDSN()))
	_, err = replica.Take(ctx, outbox.Lease{}, "relay")
	wantError("read-only", err, nil, "primary")

	serving := newOutbox(t, openDSN(t, s.dsn.FormatDSN()))
	transact := func() error {
		return serving.Transact(ctx, func(tx outbox.Tx) error { return serving.Insert(ctx, tx, messageOf("t"), false) })
	}
	execAll(t, db, "SET GLOBAL read_only = 0")
	noError(t, transact())
	s.kill()
	_, err = mysql.NewOutbox(ctx, fresh, mysql.Config{})
	wantError("server gone at start", err, nil, fmt.Sprint(s.port))
	// The connection that was open says that it is lost, the next one why.
	if err := transact(); err == nil {
		t.Error("a transaction was committed on a server that is gone")
	}
	wantError("server gone in the middle", transact(), nil, fmt.Sprint(s.port))
	s.start(t, "--log-bin=binlog", "--sync-binlog=0")
	noError(t, transact()) // it goes on by itself
	_, err = mysql.NewOutbox(ctx, fresh, mysql.Config{})
	wantError("unsafe binary log", err, mysql.ErrUnsafe, "sync_binlog")
	execAll(t, fresh, "SET GLOBAL sync_binlog = 1")
	newOutbox(t, fresh)
}
