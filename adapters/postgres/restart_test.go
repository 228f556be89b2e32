package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/twostep-mq/twostep/adapters/postgres"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// server is a PostgreSQL of the test's own, to be killed.
type server struct {
	t         *testing.T
	bin, data string
	port      int
	as        *syscall.SysProcAttr
	postgres  *exec.Cmd
}

func newServer(t *testing.T) *server {
	t.Helper()
	config(t, "") // skips where tests have no PostgreSQL
	installed, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	noError(t, err)
	if path, err := exec.LookPath("initdb"); err == nil {
		installed = append(installed, path)
	}
	if len(installed) == 0 {
		t.Skip("initdb is not installed here: this test starts and kills a server of its own")
	}
	slices.Sort(installed)
	initdb, err := filepath.EvalSymlinks(installed[len(installed)-1]) // the other programs are beside the real one
	noError(t, err)
	// Not t.TempDir: its parent is not reachable by another user.
	folder, err := os.MkdirTemp("", "twostep-postgres-")
	noError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	s := &server{t: t, bin: filepath.Dir(initdb), data: filepath.Join(folder, "data")}
	s.as = serverUser(t, folder)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	noError(t, err)
	s.port = listener.Addr().(*net.TCPAddr).Port
	noError(t, listener.Close())
	if out, err := s.command("initdb", "-D", s.data, "-U", "twostep", "-E", "UTF8", "--locale=C.UTF-8", "--auth=trust", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	s.start()
	t.Cleanup(s.kill)
	return s
}

// serverUser is how a server is started: it goes with the test's process, and as another user where that is root, whom servers refuse.
// The files become that user's.
func serverUser(t *testing.T, files ...string) *syscall.SysProcAttr {
	t.Helper()
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		return attr
	}
	other, err := user.Lookup("postgres")
	if err != nil {
		t.Skipf("root cannot run a server, and there is no user postgres: %v", err)
	}
	uid, err := strconv.ParseUint(other.Uid, 10, 32)
	noError(t, err)
	gid, err := strconv.ParseUint(other.Gid, 10, 32)
	noError(t, err)
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	for _, file := range files {
		noError(t, os.Chown(file, int(uid), int(gid)))
	}
	return attr
}

func (s *server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = s.as
	return cmd
}

func (s *server) config() *pgx.ConnConfig {
	cfg, err := pgx.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%d user=twostep dbname=postgres sslmode=disable connect_timeout=5", s.port))
	noError(s.t, err)
	return cfg
}

// start starts the server and waits until it answers.
func (s *server) start() {
	s.t.Helper()
	s.postgres = s.command("postgres", "-D", s.data, "-p", strconv.Itoa(s.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
		"-c", "shared_buffers=16MB", "-c", "max_connections=50")
	noError(s.t, s.postgres.Start())
	waitFor(s.t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		conn, err := pgx.ConnectConfig(ctx, s.config())
		if err == nil {
			_ = conn.Close(ctx)
		}
		return err == nil
	})
}

// kill kills the postmaster at once, and waits until its children have noticed.
func (s *server) kill() {
	if s.postgres == nil {
		return
	}
	_ = s.postgres.Process.Kill()
	_ = s.postgres.Wait()
	s.postgres = nil
	// A new one refuses to start while a child of the old one still uses its shared memory.
	waitFor(s.t, func() bool { return !s.childrenLive() })
}

// childrenLive tells whether a process still runs in the data folder.
func (s *server) childrenLive() bool {
	processes, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, cwd := range processes {
		if target, err := os.Readlink(cwd); err == nil && strings.HasPrefix(target, s.data) {
			return true
		}
	}
	return false
}

// TestServerKilled: the server is killed and started again while eight senders, a relay and two consumers work. What was
// acknowledged comes out, every message has one effect, and everybody goes on by himself.
func TestServerKilled(t *testing.T) {
	s := newServer(t)
	db := pool(t, s.config())
	ctx := t.Context()
	noError(t, postgres.Migrate(ctx, db, postgres.Service, postgres.Config{}))
	notes(t, db)
	box, err := postgres.NewOutbox(ctx, db, postgres.Config{})
	noError(t, err)
	consumer, err := postgres.NewConsumer(ctx, db, postgres.Config{})
	noError(t, err)
	var (
		mu                    sync.Mutex
		acknowledged, unknown = map[string]bool{}, map[string]bool{}
		failures, commits     int
		working               sync.WaitGroup
		stop                  = make(chan struct{})
	)
	count := func() int { mu.Lock(); defer mu.Unlock(); return commits }
	for range 8 {
		working.Go(func() {
			for !closed(stop) {
				m := message("t")
				err := box.Transact(ctx, func(tx outbox.Tx) error { return box.Insert(ctx, tx, m, false) })
				mu.Lock()
				switch {
				case err == nil:
					acknowledged[m.ID] = true
					commits++
				case errors.Is(err, postgres.ErrCommitUnknown):
					unknown[m.ID] = true
					fallthrough
				default:
					failures++
				}
				mu.Unlock()
				if err != nil {
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	for range 2 { // consumers of the same 40 messages, over and over
		working.Go(func() {
			for n := 0; !closed(stop); n++ {
				if execute(ctx, consumer, fmt.Sprint("m", n%40)) != nil {
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	r := newReader(t, box)
	r.keep = true // so that what comes twice, after the relay began anew, is known
	servers := map[string]bool{r.server: true}
	relayUntil := func(done func() bool) {
		deadline := time.Now().Add(patience)
		for !done() {
			if time.Now().After(deadline) {
				t.Fatalf("not done after %v: %d commits, %d came", patience, count(), len(r.seen))
			}
			if _, err := r.round(ctx); err != nil {
				_ = r.begin(ctx) // as the relay does, until the server is back
				servers[r.server] = true
				time.Sleep(time.Millisecond)
			}
		}
	}
	const kills = 2
	for range kills {
		goal := count() + 200
		relayUntil(func() bool { return count() >= goal })
		s.kill()
		restarted := make(chan struct{})
		go func() { s.start(); close(restarted) }()
		relayUntil(func() bool { return closed(restarted) })
	}
	goal := count() + 200
	relayUntil(func() bool { return count() >= goal })
	close(stop)
	working.Wait()
	relayUntil(func() bool {
		for id := range acknowledged {
			if r.seen[id] == 0 {
				return false
			}
		}
		return len(r.gaps) == 0
	})
	for id := range r.seen {
		if !acknowledged[id] && !unknown[id] {
			t.Errorf("%s came and was never committed", id)
		}
	}
	if failures == 0 || len(servers) != kills+1 {
		t.Errorf("%d failures, %d servers: the test has not met its faults", failures, len(servers))
	}
	for n := range 40 { // what was interrupted is done now
		noError(t, execute(ctx, consumer, fmt.Sprint("m", n)))
	}
	if n := countNotes(t, db); n != 40 {
		t.Errorf("%d effects of 40 messages", n)
	}
	t.Logf("%d acknowledged, %d unknown, %d failures", len(acknowledged), len(unknown), failures)
}

// logged keeps what is logged.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSpace(l.text.String()), "\n")
}

// TestServiceResumes: the database goes while senders, relay and a service are at work, and comes back after some seconds. Whoever asks
// meanwhile is told in one line, the log holds a few, and everybody goes on by himself. What could not be told is looked up.
func TestServiceResumes(t *testing.T) {
	s := newServer(t)
	ctx := t.Context()
	db := pool(t, s.config())
	for _, set := range sets() {
		noError(t, postgres.Migrate(ctx, db, set, postgres.Config{}))
	}
	log := &logged{}
	w := newTownIn(t, db, s.config(), nil, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn})))
	topic := topics.New(topics.Config[change]{Name: "bank.t"})
	w.serve(topic, noteEffect)
	publish := func(id int) error {
		return w.box.Transact(ctx, func(tx outbox.Tx) error { return errOf(w.box.Publish(ctx, tx, topic.Message(change{ID: id}))) })
	}
	for id := range 50 {
		noError(t, publish(id))
	}
	s.kill()
	const away = 3 * time.Second
	for until, failed := time.Now().Add(away), 0; time.Now().Before(until); failed++ {
		err := publish(1000 + failed)
		if err == nil || errors.Is(err, postgres.ErrCommitUnknown) || strings.Contains(err.Error(), "\n") || failed > 50 && !strings.Contains(err.Error(), "see that it runs") {
			t.Fatalf("published without a database, or told badly: %v", err)
		}
		<-time.After(10 * time.Millisecond)
	}
	s.start()
	waitFor(t, func() bool { return publish(50) == nil })
	for id := 51; id < 100; id++ {
		noError(t, publish(id))
	}
	waitUntil(t, "all have their effect and are released", func() bool {
		var effects, rows int
		err := db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM effect), (SELECT count(*) FROM twostep_outbox)`).Scan(&effects, &rows)
		return err == nil && effects >= 100 && rows == 0
	})
	if n, distinct := w.count(countEffects), w.count(`SELECT count(DISTINCT id) FROM effect WHERE id < 100`); n != 100 || distinct != 100 {
		t.Errorf("%d effects of %d messages, want 100", n, distinct)
	}
	lines := log.lines()
	if n := len(lines); n < 1 || n > 3*int(away/time.Second) {
		t.Errorf("the relay logged %d lines", n)
	}
	t.Logf("the relay's log:\n%s", strings.Join(lines, "\n"))
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// execute runs one message's effect as a dispatcher does; a second effect would break the table's key.
func execute(ctx context.Context, c *postgres.Consumer, id string) error {
	tx, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	before, err := tx.Claim(ctx, uid, []string{id}, txn.Success)
	if err != nil || before[0] != "" {
		return err
	}
	if _, err := tx.Tx().ExecContext(ctx, addNote, id); err != nil {
		return err
	}
	return tx.Commit(ctx)
}
