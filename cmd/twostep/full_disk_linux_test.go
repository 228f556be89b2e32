package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/outbox"
)

// envSmallDisk tells the test that it runs in a mount namespace of its own.
const envSmallDisk = "TWOSTEP_TEST_SMALL_DISK"

// inOwnNamespace runs the test that calls it in a child process that may mount what nobody else sees; true in the child.
func inOwnNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(envSmallDisk) != "" {
		return true
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	child.Env = append(os.Environ(), envSmallDisk+"=1")
	child.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		child.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		child.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	}
	out, err := child.CombinedOutput()
	if len(out) == 0 && err != nil {
		t.Skipf("no mount namespace here, so no disk that can be filled: %v", err)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skip("the child skipped it: " + tail(string(out)))
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(string(out)))
	}
	return false
}

// The disk of the server's data folder fills up: messages wait in their outboxes, none is lost, and when there is room everything goes
// on without a restart. (The NATS server by itself takes nothing more after a failed write, room or not.)
func TestServerOutlivesAFullDisk(t *testing.T) {
	t.Parallel()
	if !inOwnNamespace(t) {
		return
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=32m"); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	cfg := testConfig(t)
	cfg.Data = filepath.Join(disk, "data")
	var logs logLines
	s, err := startServer(t.Context(), cfg, logs.logger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeServer(t, s) })
	mustRun(t, s, "topics", "create", "bank.in")
	bank := newSender(t, outbox.Config{})
	inBackground(t, outbox.NewRelay(bank.store, connect(t, s, natsbroker.Config{}), outbox.RelayConfig{Name: "bank"}).Run)
	executed := executeAll(t, s)
	published := 0
	publish := func(n int) {
		t.Helper()
		for range n {
			payload := fmt.Appendf(nil, `{"n":%d,"fill":%q}`, published, strings.Repeat("x", 100_000))
			if err := bank.publish(t.Context(), outbox.Message{Topic: "bank.in", Payload: payload}); err != nil {
				t.Fatal(err)
			}
			published++
		}
	}
	released := func(limit time.Duration) {
		t.Helper()
		eventually(t, limit, func() (bool, string) {
			n := bank.rows(t)
			return n == 0, fmt.Sprintf("%d rows are not released; the server says %s", n, tail(logs.String()))
		})
	}
	publish(10)
	released(20 * time.Second)

	ballast := filepath.Join(disk, "ballast")
	if err := fill(ballast); err != nil {
		t.Fatal(err)
	}
	publish(10)
	eventually(t, 20*time.Second, func() (bool, string) {
		return logs.with("make room on its disk") != "", tail(logs.String())
	})
	publish(10)
	if n := bank.rows(t); n < 10 {
		t.Errorf("%d rows wait, want 10 at least: the broker could not have them", n)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	released(60 * time.Second)
	if n := executed(); n != published {
		t.Errorf("%d executed of %d", n, published)
	}
	if text := logs.with("make room on its disk"); !strings.Contains(text, "folder="+filepath.Join(cfg.Data, brokerFolder)) {
		t.Errorf("the message does not name the folder: %s", text)
	}
	if logs.with("the broker writes again") == "" {
		t.Error("the log does not say that the broker writes again")
	}
}

// fill writes a file until its disk takes no more.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for chunk := make([]byte, 64<<10); err == nil; {
		_, err = f.Write(chunk)
	}
	if closeErr := f.Close(); closeErr != nil {
		return closeErr
	}
	if !strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
		return err
	}
	return nil
}
