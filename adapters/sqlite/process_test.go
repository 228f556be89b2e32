package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/outbox/outboxtest"
)

// The tests here need other processes: this binary again, with a role.
const (
	roleVariable  = "TWOSTEP_SQLITE_TEST_ROLE"
	pathVariable  = "TWOSTEP_SQLITE_TEST_PATH"
	pointVariable = "TWOSTEP_SQLITE_TEST_POINT"
)

func TestMain(m *testing.M) {
	roles := map[string]func(context.Context, string) error{"failing disk": runFailingDisk, "migrate": runMigrate, "hammer": runHammer, "sender": runSender, "relay": runRelay}
	role := os.Getenv(roleVariable)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := roles[role](context.Background(), os.Getenv(pathVariable)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child prepares this binary to run in a role.
func child(t *testing.T, role, path, point string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	noError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), roleVariable+"="+role, pathVariable+"="+path, pointVariable+"="+point)
	return cmd
}

func runMigrate(ctx context.Context, path string) error {
	db, err := sqlite.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(migrateBoth(ctx, db), db.Close())
}

func TestProcessesMigrateAtOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	var all sync.WaitGroup
	for range 4 {
		cmd := child(t, "migrate", path, "")
		all.Go(func() {
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	all.Wait()
	db := openAt(t, path)
	if _, err := sqlite.NewOutbox(t.Context(), db); err != nil {
		t.Error(err)
	}
	if _, err := sqlite.NewRegistry(t.Context(), db); err != nil {
		t.Error(err)
	}
}

// runHammer writes from 16 goroutines, each in transactions of its own, until its input ends.
func runHammer(ctx context.Context, path string) error {
	db, err := sqlite.Open(path)
	if err != nil {
		return err
	}
	box, err := sqlite.NewOutbox(ctx, db)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	var all sync.WaitGroup
	failed := make(chan error, 16)
	for range 16 {
		all.Go(func() {
			for ctx.Err() == nil {
				tx, err := db.BeginTx(ctx, nil)
				if err == nil {
					err = box.Insert(ctx, tx, testMessage(), false)
				}
				if err == nil {
					err = tx.Commit()
				}
				if err != nil && ctx.Err() == nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return db.Close()
	}
}

func testMessage() *broker.Message {
	m := benchMessage()
	m.ID = fmt.Sprintf("019e0000-0000-7000-%04x-%s", 0x8000|os.Getpid()&0xfff, m.ID[24:])
	return m
}

// TestRelayUnderHammer: a relay gets its turn while another process writes without a pause.
func TestRelayUnderHammer(t *testing.T) {
	t.Parallel()
	db, path := open(t)
	box, err := sqlite.NewOutbox(t.Context(), db)
	noError(t, err)
	ctx := t.Context()
	cmd := child(t, "hammer", path, "")
	input, err := cmd.StdinPipe()
	noError(t, err)
	var out strings.Builder
	cmd.Stderr = &out
	noError(t, cmd.Start())

	l, err := box.Lease(ctx)
	noError(t, err)
	l, err = box.Take(ctx, l, "r")
	noError(t, err)
	loaded, err := box.Load(ctx)
	noError(t, err)
	released, slowest := 0, time.Duration(0)
	deadline := time.Now().Add(20 * time.Second)
	for rounds := 0; rounds < 40; {
		if time.Now().After(deadline) {
			t.Fatalf("only %d rounds", rounds)
		}
		p, err := box.Scan(ctx, 0, 500, true)
		noError(t, err)
		if len(p.Rows) == 0 {
			continue
		}
		c := outbox.Checkpoint{Server: loaded.Server}
		for _, row := range p.Rows {
			c.Release = append(c.Release, outbox.RowID{Seq: row.Seq, ID: row.ID})
		}
		start := time.Now()
		l, err = box.Commit(ctx, l, c)
		noError(t, err)
		slowest = max(slowest, time.Since(start))
		released += len(p.Rows)
		rounds++
	}
	noError(t, input.Close())
	if err := cmd.Wait(); err != nil {
		t.Errorf("hammer: %v: %s", err, out.String())
	}
	t.Logf("released %d rows in 40 checkpoints, the slowest took %v", released, slowest)
	// A lease lasts 5 s; whoever waits that long loses it.
	if slowest > 4*time.Second {
		t.Errorf("a checkpoint took %v", slowest)
	}
}

// runSender transfers until it is killed at its third crash point.
func runSender(ctx context.Context, path string) error {
	db, err := sqlite.Open(path)
	if err != nil {
		return err
	}
	box, err := sqlite.NewOutbox(ctx, db)
	if err != nil {
		return err
	}
	store := outboxtest.CrashAt(box, outboxtest.Point(os.Getenv(pointVariable)), outboxtest.Nth(3, outboxtest.Kill))
	for {
		m := testMessage()
		m.GID = "transfer." + m.ID
		err := store.Transact(ctx, func(tx outbox.Tx) error {
			if _, err := tx.ExecContext(ctx, addNote, m.ID); err != nil {
				return err
			}
			return store.Insert(ctx, tx, m, true)
		})
		if err != nil {
			return err
		}
	}
}

// killed runs a child that has to end by SIGKILL.
func killed(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended with %v: %s", err, out)
	}
}

// TestSenderCrashPoints: killed anywhere, business change, message and barrier are all there or none.
func TestSenderCrashPoints(t *testing.T) {
	t.Parallel()
	for _, point := range outboxtest.SenderPoints() {
		t.Run(string(point), func(t *testing.T) {
			t.Parallel()
			db, path := open(t)
			notes(t, db)
			killed(t, child(t, "sender", path, string(point)))
			want := 2
			if point == outboxtest.AfterCommit {
				want = 3
			}
			var whole, messages, barriers int
			noError(t, db.QueryRowContext(t.Context(), `SELECT count(*) FROM note JOIN twostep_outbox o ON o.id = note.text
JOIN twostep_barrier b ON b.gid = o.gid AND b.branch_id = '00' AND b.op = 'msg'`).Scan(&whole))
			noError(t, db.QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM twostep_outbox), (SELECT count(*) FROM twostep_barrier)`).Scan(&messages, &barriers))
			if n := countNotes(t, db); n != want || whole != want || messages != want || barriers != want {
				t.Errorf("%d changes, %d messages, %d barriers, %d whole; want %d", n, messages, barriers, whole, want)
			}
		})
	}
}

// runRelay publishes rows, five at a time, by writing their ids into a file, until it is killed at its second crash point.
func runRelay(ctx context.Context, path string) error {
	db, err := sqlite.Open(path)
	if err != nil {
		return err
	}
	box, err := sqlite.NewOutbox(ctx, db)
	if err != nil {
		return err
	}
	published, err := os.OpenFile(path+".published", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	store := outboxtest.CrashRelayAt(box, outboxtest.Point(os.Getenv(pointVariable)), outboxtest.Nth(2, outboxtest.Kill))
	for {
		if err := relayOnce(ctx, store, published); err != nil {
			return err
		}
	}
}

// relayOnce is the whole life of a small relay.
func relayOnce(ctx context.Context, store outbox.RelayStore, published io.Writer) error {
	l, err := store.Lease(ctx)
	if err != nil {
		return err
	}
	if l, err = store.Take(ctx, l, fmt.Sprint("relay ", os.Getpid())); err != nil {
		return err
	}
	loaded, err := store.Load(ctx)
	if err != nil {
		return err
	}
	p, err := store.Scan(ctx, 0, 5, true)
	if err != nil {
		return err
	}
	if _, _, err := store.Probe(ctx, []outbox.Gap{{From: 1, To: 1}}, 1); err != nil {
		return err
	}
	c := outbox.Checkpoint{Server: loaded.Server}
	for _, row := range p.Rows {
		if _, err := fmt.Fprintln(published, row.ID); err != nil {
			return err
		}
		c.Release = append(c.Release, outbox.RowID{Seq: row.Seq, ID: row.ID})
	}
	if l, err = store.Commit(ctx, l, c); err != nil {
		return err
	}
	_, err = store.Beat(ctx, l, true)
	return err
}

// TestRelayCrashPoints: killed anywhere, a row is released only if it was published, and the next relay takes over.
func TestRelayCrashPoints(t *testing.T) {
	t.Parallel()
	for _, point := range outboxtest.RelayPoints() {
		t.Run(string(point), func(t *testing.T) {
			t.Parallel()
			db, path := open(t)
			box, err := sqlite.NewOutbox(t.Context(), db)
			noError(t, err)
			const rows = 20
			var all []string
			for range rows {
				m := testMessage()
				all = append(all, m.ID)
				noError(t, box.Transact(t.Context(), func(tx outbox.Tx) error { return box.Insert(t.Context(), tx, m, false) }))
			}
			killed(t, child(t, "relay", path, string(point)))
			text, err := os.ReadFile(path + ".published")
			noError(t, err)
			left := map[string]bool{}
			p, err := box.Scan(t.Context(), 0, 2*rows, true)
			noError(t, err)
			for _, row := range p.Rows {
				left[row.ID] = true
			}
			for _, id := range all {
				if !left[id] && !strings.Contains(string(text), id) {
					t.Errorf("%s was released and never published", id)
				}
			}
			var log strings.Builder
			for range rows {
				noError(t, relayOnce(t.Context(), box, &log))
			}
			for id := range left {
				if !strings.Contains(log.String(), id) {
					t.Errorf("%s was not published by the next relay", id)
				}
			}
		})
	}
}
