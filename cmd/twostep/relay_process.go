package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"github.com/twostep-mq/twostep/cmd/bank/link"
	"github.com/twostep-mq/twostep/cmd/internal/database"
)

// relayGrace is how long the relay may take to end when it is asked to.
const relayGrace = 10 * time.Second

// relayProcess is a running relay.
type relayProcess struct {
	cmd   *exec.Cmd
	stdin io.Closer
	done  chan struct{} // closed when it has ended
	err   error
}

// startRelayProcess starts a process that relays the outbox in a database, and ends with this one; lease 0 is the relay's default.
// committed gets the commits that it tells of.
func startRelayProcess(ctx context.Context, db database.Config, address link.Address, lease time.Duration, stderr io.Writer, committed func(int64)) (*relayProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self, "demo", "relay", "--driver", string(db.Kind), "--name", db.Name, "--lease", lease.String())
	cmd.Env = append(append(os.Environ(), address.Env()...), envDSN+"="+db.DSN)
	cmd.Stderr = stderr
	dieWithParent(cmd)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p := &relayProcess{cmd: cmd, stdin: stdin, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// Linux kills the child when the thread that started it ends, so the thread stays for as long as the child does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		defer close(p.done)
		var counted int64
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if n, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
				committed(n - counted)
				counted = n
			}
		}
		p.err = cmd.Wait()
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start a process: %w", err)
	}
	return p, nil
}

// kill ends the process as a power failure would: it gets no chance to say or write anything.
func (p *relayProcess) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// stop asks the process to end, by the end of its input.
func (p *relayProcess) stop() {
	_ = p.stdin.Close()
	select {
	case <-p.done:
	case <-time.After(relayGrace):
		p.kill()
	}
}
