package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker/nats/embedded"
)

// envTestBroker makes the test binary a broker process of its own: its value is the folder for the streams. It prints its URL and serves
// until SIGTERM.
const envTestBroker = "TWOSTEP_TEST_BROKER"

func TestMain(m *testing.M) {
	if folder := os.Getenv(envTestBroker); folder != "" {
		os.Exit(serveTestBroker(folder))
	}
	code := m.Run()
	if dir := built.dir; dir != "" {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

func serveTestBroker(folder string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s, err := embedded.Start(ctx, embedded.Config{StoreDir: folder, Listen: "127.0.0.1:0", CredentialFile: filepath.Join(folder, "credential")})
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, _ = fmt.Println(s.ClientURL())
	<-ctx.Done()
	if err := s.Shutdown(context.Background()); err != nil {
		return 1
	}
	return 0
}

// long reports whether the long matrix is asked for.
func long() bool { return os.Getenv("TWOSTEP_LONG") == "1" }

// built are the binaries the tests run as processes, built once when the first test needs one.
var built struct {
	once sync.Once
	dir  string
	err  error
}

// executable is the path of a command of this module ("twostep", "bank").
func executable(t *testing.T, name string) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "twostep-test-"); built.err != nil {
			return
		}
		build := exec.Command("go", "build", "-o", built.dir+string(filepath.Separator), "github.com/twostep-mq/twostep/cmd/...")
		if out, err := build.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatalf("build the commands: %v", built.err)
	}
	return filepath.Join(built.dir, name)
}

// process is a command that runs beside the test; it is killed when the test ends.
type process struct {
	*exec.Cmd
	name   string
	stdout lockedBuffer
	stderr lockedBuffer
	done   chan struct{}
	err    error
}

// lockedBuffer may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// begin starts a process in a group of its own. env is added to the test's own environment.
func begin(t *testing.T, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(name, args...), name: filepath.Base(name), done: make(chan struct{})}
	p.Env = append(os.Environ(), env...)
	p.Stdout, p.Stderr = &p.stdout, &p.stderr
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.WaitDelay = 5 * time.Second
	if err := p.Start(); err != nil {
		t.Fatalf("start %s: %v", p.name, err)
	}
	go func() {
		p.err = p.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() || os.Getenv("TWOSTEP_TEST_LOGS") != "" {
			t.Logf("%s %v\nstdout: %s\nstderr: %s", p.name, args, tail(p.stdout.String()), tail(p.stderr.String()))
		}
	})
	return p
}

// tail keeps what is logged of a process short.
func tail(s string) string {
	const most = 4000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// kill sends SIGKILL to the whole group and waits.
func (p *process) kill() {
	_ = syscall.Kill(-p.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// ended reports whether the process has ended.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// exit waits until the process has ended and returns its exit code.
func (p *process) exit(t *testing.T, limit time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		t.Fatalf("%s did not end within %v", p.name, limit)
	}
	var failed *exec.ExitError
	if p.err != nil && !errors.As(p.err, &failed) {
		t.Fatalf("%s: %v", p.name, p.err)
	}
	return p.ProcessState.ExitCode()
}

// terminate asks the process to end and wants exit code 0.
func (p *process) terminate(t *testing.T) {
	t.Helper()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("SIGTERM to %s: %v", p.name, err)
	}
	if code := p.exit(t, 20*time.Second); code != 0 {
		t.Fatalf("%s ended with %d after SIGTERM", p.name, code)
	}
}

// eventually waits until ok is true, and fails the test with what it last said if that does not come.
func eventually(t *testing.T, limit time.Duration, ok func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		done, what := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		<-tick.C
	}
}

var _ io.Writer = (*lockedBuffer)(nil)
