package mysql_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"github.com/twostep-mq/twostep/adapters/mysql"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
)

// ownServer is a server that a test started itself, and may kill.
type ownServer struct {
	kind           testServer
	binary, folder string
	port           int
	as             *syscall.Credential // nil: this user
	process        *exec.Cmd
	dsn            *driver.Config
	answered       time.Time
}

// startOwn makes a data folder and starts a server on it. Without the server's programs on this machine the test is skipped.
func (on testServer) startOwn(t *testing.T) *ownServer {
	t.Helper()
	on.dsn(t) // tests with servers are wanted
	folder, err := os.MkdirTemp("", "twostep-mysql-")
	noError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	s := &ownServer{kind: on, folder: folder, port: freePort(t)}
	if os.Getuid() == 0 { // the server refuses to run as root
		s.as = credential(t, "mysql")
		noError(t, os.Chown(folder, int(s.as.Uid), int(s.as.Gid)))
	}
	var making *exec.Cmd
	if on == mariaDB {
		s.binary = program(t, "mariadbd")
		making = exec.CommandContext(t.Context(), program(t, "mariadb-install-db"), "--no-defaults", "--datadir="+s.data(), "--tmpdir="+s.folder,
			"--auth-root-authentication-method=normal", "--skip-test-db")
	} else {
		s.binary = os.Getenv("TWOSTEP_TEST_MYSQLD")
		if s.binary == "" {
			t.Skip("no MySQL to start and kill: set TWOSTEP_TEST_MYSQLD to its mysqld")
		}
		making = exec.CommandContext(t.Context(), s.binary, "--initialize-insecure", "--datadir="+s.data(), "--tmpdir="+folder)
	}
	s.sandbox(making)
	if out, err := making.CombinedOutput(); err != nil {
		t.Fatalf("make a data folder: %v\n%s", err, out)
	}
	s.dsn = driver.NewConfig()
	s.dsn.User, s.dsn.Passwd, s.dsn.Net, s.dsn.Addr, s.dsn.DBName = "twostep", "secret", "tcp", fmt.Sprint("127.0.0.1:", s.port), "twostep"
	s.start(t)
	t.Cleanup(s.kill)
	return s
}

// program finds a server's program, which is not always in a user's PATH.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	if err != nil {
		t.Skipf("no %s on this machine, to start and kill a server: %v", name, err)
	}
	return path
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	noError(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func credential(t *testing.T, name string) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Skip("the server refuses to run as root, and there is no user for it: ", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	noError(t, err)
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	noError(t, err)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func (s *ownServer) data() string { return filepath.Join(s.folder, "data") }

// sandbox makes a program run as the server's user, and end with this process.
func (s *ownServer) sandbox(cmd *exec.Cmd) {
	cmd.Dir = s.folder
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as, Pdeathsig: syscall.SIGKILL}
}

// start starts the server, as it is or after kill, and waits until it answers.
func (s *ownServer) start(t *testing.T, settings ...string) {
	t.Helper()
	// A server knows when it was started to the second. Lives within one second would look like one.
	pause(t.Context(), time.Until(s.answered.Truncate(time.Second).Add(time.Second)))
	init := filepath.Join(s.folder, "init.sql")
	noError(t, os.WriteFile(init, []byte("CREATE USER IF NOT EXISTS 'twostep'@'127.0.0.1' IDENTIFIED BY 'secret';\n"+
		"GRANT ALL PRIVILEGES ON *.* TO 'twostep'@'127.0.0.1' WITH GRANT OPTION;\nCREATE DATABASE IF NOT EXISTS twostep;\n"), 0o644))
	args := []string{
		// A MariaDB that starts removes what others have in a common folder for temporary tables.
		"--datadir=" + s.data(), "--tmpdir=" + s.folder, "--init-file=" + init, fmt.Sprint("--port=", s.port), "--bind-address=127.0.0.1", "--skip-name-resolve",
		"--socket=" + filepath.Join(s.folder, "socket"), "--pid-file=" + filepath.Join(s.folder, "pid"), "--log-error=" + filepath.Join(s.folder, "log.err"),
		"--innodb-buffer-pool-size=32M", "--performance-schema=OFF", "--innodb-flush-log-at-trx-commit=1", "--skip-log-bin",
	}
	if s.kind == mariaDB {
		args = append([]string{"--no-defaults", "--innodb-log-file-size=32M"}, args...)
	} else {
		args = append(args, "--mysqlx=OFF")
	}
	s.process = exec.Command(s.binary, append(args, settings...)...)
	s.sandbox(s.process)
	noError(t, s.process.Start())
	db := openDSN(t, s.dsn.FormatDSN())
	for until := time.Now().Add(time.Minute); ; {
		err := db.PingContext(t.Context())
		if err == nil {
			s.answered = time.Now()
			return
		}
		if time.Now().After(until) {
			log, _ := fs.ReadFile(os.DirFS(s.folder), "log.err")
			t.Fatalf("the server does not answer: %v\n%s", err, log)
		}
		pause(t.Context(), 20*time.Millisecond)
	}
}

// kill is kill -9.
func (s *ownServer) kill() {
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
}

// TestServerKilled kills the server (kill -9) while senders publish and a consumer claims, and starts it again. What was acknowledged
// stands, effect and message are one, nothing is claimed twice, and the relay notices that it is another life of the server.
func TestServerKilled(t *testing.T) { onEachServer(t, testServerKilled) }

func testServerKilled(t *testing.T, on testServer) {
	s := on.startOwn(t)
	db := openDSN(t, s.dsn.FormatDSN())
	migrate(t, db, mysql.Config{})
	execAll(t, db, "CREATE TABLE effect (name VARCHAR(64) PRIMARY KEY) ENGINE = InnoDB")
	o, c := newOutbox(t, db), newConsumer(t, db)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()

	seen, err := o.Lease(ctx)
	noError(t, err)
	lease, err := o.Take(ctx, seen, "relay")
	noError(t, err)
	before, err := o.Load(ctx)
	noError(t, err)
	open := insert(t, db, o, 1)

	k := &killed{db: db, o: o, c: c, sent: map[string]bool{}, won: map[string]int{}}
	working, stop := context.WithCancel(ctx)
	defer stop()
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() { k.send(working, i) })
		all.Go(func() { k.claim(working) })
	}
	for range 2 {
		k.waitForWork(ctx, t)
		s.kill()
		s.start(t)
	}
	k.waitForWork(ctx, t)
	stop()
	all.Wait()

	after, err := o.Load(ctx)
	noError(t, err)
	if after.Server == before.Server || after.UUID != before.UUID {
		t.Errorf("server %q, was %q: a restart must be noticed", after.Server, before.Server)
	}
	if _, err := o.Commit(ctx, lease, outbox.Checkpoint{Server: before.Server}); !errors.Is(err, outbox.ErrServerChanged) {
		t.Errorf("checkpoint of the server's former life: %v", err)
	}
	if err := open.Commit(); err == nil {
		t.Error("a transaction of the server's former life was committed")
	}
	k.check(ctx, t)
}

// killed is the work that goes on while the server is killed, and what is known of it.
type killed struct {
	db *sql.DB
	o  *mysql.Outbox
	c  *mysql.Consumer

	mu   sync.Mutex
	done int
	sent map[string]bool // acknowledged
	won  map[string]int
}

func (k *killed) note(fn func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.done++
	fn()
}

func (k *killed) send(ctx context.Context, sender int) {
	for n := 0; ctx.Err() == nil; n++ {
		m := messageOf("t")
		name := fmt.Sprintf("%d-%d", sender, n)
		m.Key = name
		err := k.o.Transact(ctx, func(tx outbox.Tx) error {
			if _, err := tx.ExecContext(ctx, "INSERT INTO effect VALUES (?)", name); err != nil {
				return err
			}
			return k.o.Insert(ctx, tx, m, true)
		})
		if err != nil {
			pause(ctx, 10*time.Millisecond)
			continue
		}
		k.note(func() { k.sent[name] = true })
	}
}

func (k *killed) claim(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		ids := make([]string, 10)
		for i := range ids {
			ids[i] = fmt.Sprint("id-", n*5+i)
		}
		if err := k.claimOnce(ctx, ids); err != nil {
			n-- // again: the others claim the same
			pause(ctx, 10*time.Millisecond)
		}
	}
}

func (k *killed) claimOnce(ctx context.Context, ids []string) error {
	tx, err := k.c.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	before, err := tx.Claim(ctx, subscription, ids, txn.Success)
	if err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	k.note(func() {
		for i, o := range before {
			if o == "" {
				k.won[ids[i]]++
			}
		}
	})
	return nil
}

// waitForWork waits until more is done. That it comes back after a restart by itself is part of the test.
func (k *killed) waitForWork(ctx context.Context, t *testing.T) {
	t.Helper()
	k.mu.Lock()
	from := k.done
	k.mu.Unlock()
	for {
		k.mu.Lock()
		done := k.done
		k.mu.Unlock()
		if done >= from+200 {
			return
		}
		if ctx.Err() != nil {
			t.Fatal("the work does not go on")
		}
		pause(ctx, 5*time.Millisecond)
	}
}

func (k *killed) check(ctx context.Context, t *testing.T) {
	t.Helper()
	p, err := k.o.Scan(ctx, 0, 1_000_000, false)
	noError(t, err)
	messages := map[string]bool{}
	for _, row := range p.Rows {
		messages[row.Key] = true
	}
	rows, err := k.db.QueryContext(ctx, "SELECT name FROM effect")
	noError(t, err)
	defer func() { _ = rows.Close() }()
	effects := 0
	for rows.Next() {
		var name string
		noError(t, rows.Scan(&name))
		effects++
		if !messages[name] {
			t.Errorf("effect %s without its message", name)
		}
	}
	noError(t, rows.Err())
	if effects != len(messages) {
		t.Errorf("%d effects and %d messages", effects, len(messages))
	}
	for name := range k.sent {
		if !messages[name] {
			t.Errorf("%s was acknowledged and is gone", name)
		}
	}
	for id, n := range k.won {
		if n != 1 {
			t.Errorf("%s was claimed %d times", id, n)
		}
	}
	t.Logf("%d of %d messages acknowledged, %d claims acknowledged", len(k.sent), len(messages), len(k.won))
}
