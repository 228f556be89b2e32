package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/cmd/bank/link"
	"github.com/twostep-mq/twostep/outbox"
)

const (
	// demoLease is shorter than the relay's default, so that the demo is not mostly a wait for a killed relay's lease.
	demoLease = 2 * time.Second
	// relayGrace is how long the relay may take to end when it is asked to.
	relayGrace = 10 * time.Second
	// relaySettling is how long a relay that ended is not yet an error: a signal of the terminal reaches both processes.
	relaySettling = time.Second
)

// keepRelay keeps bank A's relay running in a process of its own, and kills one half-way.
func (r *demoRun) keepRelay(ctx context.Context) error {
	p, err := r.startRelay()
	if err != nil {
		return err
	}
	halfway := r.halfway
	if r.history.Counts[countRelayKills] > 0 {
		halfway = nil // a former process did it
	}
	for {
		select {
		case <-halfway:
			halfway = nil
			p.kill()
			r.counts.relayKills.Add(1)
			if err := r.log.Write(r.counts.record()); err != nil {
				return err
			}
			if p, err = r.startRelay(); err != nil {
				return err
			}
		case <-p.done:
			select {
			case <-ctx.Done():
				return nil
			case <-r.ctx.Done():
				return nil
			case <-time.After(relaySettling):
				return fmt.Errorf("the process ended by itself: %w", errors.Join(p.err, errors.New("see the log of the processes")))
			}
		case <-ctx.Done():
			p.stop()
			return nil
		}
	}
}

// relayProcess is a running relay.
type relayProcess struct {
	cmd   *exec.Cmd
	stdin io.Closer
	done  chan struct{} // closed when it has ended
	err   error
}

func (r *demoRun) startRelay() (*relayProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(context.WithoutCancel(r.ctx), self, "demo", "relay", "--db", r.path(demoBankA))
	cmd.Env = append(os.Environ(), r.address.Env()...)
	cmd.Stderr = r.relayLog
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
				r.counts.relayCommits.Add(n - counted)
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

// newDemoRelayCommand is the other process: a relay that knows bank A's database and the broker's address, and nothing else.
func newDemoRelayCommand() *cobra.Command {
	var db string
	cmd := &cobra.Command{
		Use: "relay", Hidden: true, Short: "Relay of bank A (started by demo)", Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			// The parent holds the other end of the input for as long as it lives.
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			go func() {
				_, _ = io.Copy(io.Discard, cmd.InOrStdin())
				cancel()
			}()
			logger := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)).With("pid", os.Getpid())
			return runDemoRelay(ctx, db, link.FromEnv(), logger, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&db, "db", "", "database file")
	return cmd
}

// runDemoRelay relays until ctx ends and tells on out how often it has committed.
func runDemoRelay(ctx context.Context, file string, address link.Address, logger *slog.Logger, out io.Writer) (err error) {
	var commits atomic.Int64
	db, err := sqlite.Open(file, sqlite.MustExist(), sqlite.WithCommitHook(func() { commits.Add(1) }))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	store, err := sqlite.NewOutbox(ctx, db)
	if err != nil {
		return err
	}
	b, err := address.Connect(ctx, "demo-relay", logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close(context.WithoutCancel(ctx))) }()
	relay := outbox.NewRelay(store, b, outbox.RelayConfig{Name: "bank-a", Lease: demoLease, Logger: logger})
	var both errgroup.Group
	ended := make(chan struct{})
	both.Go(func() error {
		defer close(ended)
		return relay.Run(ctx)
	})
	both.Go(func() error {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for told := int64(-1); ; {
			stop := false
			select {
			case <-ended:
				stop = true
			case <-tick.C:
			}
			if n := commits.Load(); n != told {
				told = n
				// Nobody reads any more when the parent is gone; the end of the input says so, too.
				_, _ = fmt.Fprintln(out, n)
			}
			if stop {
				return nil
			}
		}
	})
	return both.Wait()
}
