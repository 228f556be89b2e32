package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/twostep-mq/twostep/cmd/bank/link"
	"github.com/twostep-mq/twostep/cmd/internal/database"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// idleSettling is how long relay and server get to become idle, if it is measured as long.
const idleSettling = 5 * time.Second

// idleReport is the JSON of bench idle.
type idleReport struct {
	Suite   string  `json:"suite"`
	Seconds float64 `json:"seconds"`
	// RelayCPU is of the relay's process, ServerCPU of the one with registry, embedded broker and a receiver: percent of one CPU.
	RelayCPU  float64 `json:"relay_cpu_percent"`
	ServerCPU float64 `json:"server_cpu_percent"`
	// StatementsPerMinute and CommitsPerMinute are of relay and receiver together, as the databases count them; PostgreSQL counts
	// transactions, and SQLite no statements.
	StatementsPerMinute float64      `json:"statements_per_minute,omitempty"`
	CommitsPerMinute    float64      `json:"commits_per_minute"`
	Machine             benchMachine `json:"machine"`
}

func newBenchIdleCommand(shared *benchOptions) *cobra.Command {
	var length time.Duration
	cmd := &cobra.Command{
		Use:   "idle",
		Short: "Statements a minute and CPU while nothing happens",
		Long: `A relay with an empty outbox in a process of its own; the registry, the embedded broker and a receiver without
messages in another. MySQL and MariaDB count everybody's statements: measure on a server that nobody else uses.`,
		Example: "  twostep bench idle --length 1m\n  twostep bench idle --db mysql --json",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := *shared
			o.transfers = 1
			if length < time.Second {
				return usagef("--length %v: use 1s or more", length)
			}
			report, err := runIdle(cmd.Context(), o, length)
			if err != nil {
				return fmt.Errorf("bench idle: %w", err)
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), report)
			}
			return report.print(cmd.OutOrStdout())
		},
	}
	cmd.Flags().DurationVar(&length, "length", 30*time.Second, "how long to measure")
	return cmd
}

// idleCounters are read at the beginning and at the end.
type idleCounters struct {
	statements, commits int64
	relay, server       time.Duration
}

func runIdle(ctx context.Context, o benchOptions, length time.Duration) (report idleReport, err error) {
	rig, err := newBenchRig(ctx, o)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, rig.close()) }()
	report = idleReport{Suite: "idle", Seconds: length.Seconds()}
	if report.Machine, err = describeMachine(ctx, rig); err != nil {
		return report, err
	}
	consumer, err := rig.b.Consumer(ctx)
	if err != nil {
		return report, err
	}
	app := topics.NewApp(rig.broker, consumer, topics.AppConfig{Name: "bank-b"})
	benchTopic("bench.idle", false, outbox.DeliveryConfirmed).HandleShared(app, "accounts",
		func(context.Context, outbox.Tx, topics.Received[benchTransferred]) error { return nil })
	stop := rig.service(ctx, app.Run)
	defer func() { err = errors.Join(err, stop()) }()
	var told atomic.Int64 // commits, by a relay on SQLite
	relay, err := startRelayProcess(ctx, rig.banks[0], link.Address{URL: rig.server.ClientURL(), CredentialFile: rig.server.CredentialFile()}, 0,
		&bytes.Buffer{}, func(n int64) { told.Add(n) })
	if err != nil {
		return report, err
	}
	defer relay.stop()
	read := func() (c idleCounters, err error) {
		if c.statements, err = rig.statements(ctx); err != nil {
			return c, err
		}
		c.commits = rig.counters().commits + told.Load()
		c.relay, c.server = processCPU(relay.cmd.Process.Pid), cpuTime()
		return c, nil
	}
	if !rest(ctx, min(idleSettling, length)) {
		return report, ctx.Err()
	}
	before, err := read()
	if err != nil {
		return report, err
	}
	if !rest(ctx, length) {
		return report, ctx.Err()
	}
	after, err := read()
	if err != nil {
		return report, err
	}
	minutes := length.Minutes()
	report.StatementsPerMinute = rounded(float64(after.statements-before.statements) / minutes)
	report.CommitsPerMinute = rounded(float64(after.commits-before.commits) / minutes)
	report.RelayCPU = rounded(100 * (after.relay - before.relay).Seconds() / length.Seconds())
	report.ServerCPU = rounded(100 * (after.server - before.server).Seconds() / length.Seconds())
	return report, nil
}

// statements adds up what the banks' servers were asked; 0 where that is not counted.
func (r *benchRig) statements(ctx context.Context) (sum int64, err error) {
	for i, bank := range []*benchBank{r.a, r.b} {
		if i == 1 && bank.Kind == database.MySQL && bank.Where() == r.a.Where() {
			continue // its counter is the whole server's
		}
		n, err := bank.Statements(ctx)
		if err != nil && !errors.Is(err, database.ErrNotCounted) {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func (r idleReport) print(w io.Writer) error {
	statements := "not counted"
	if r.StatementsPerMinute > 0 {
		statements = fmt.Sprintf("%.0f", r.StatementsPerMinute)
	}
	rows := [][]string{
		{"statements a minute", statements}, {"commits a minute", fmt.Sprintf("%.0f", r.CommitsPerMinute)},
		{"CPU of the relay's process", fmt.Sprintf("%.2f%%", r.RelayCPU)}, {"CPU of registry, broker and receiver", fmt.Sprintf("%.2f%%", r.ServerCPU)},
	}
	if err := printTable(w, []string{"idle", ""}, rows); err != nil {
		return err
	}
	m := r.Machine
	_, err := fmt.Fprintf(w, "\n%.0f s; %s, %d CPUs, %s/%s, %s, NATS server %s, twostep %s\nbank A on %s, bank B on %s\n",
		r.Seconds, m.CPU, m.CPUs, m.OS, m.Arch, m.Go, m.NATSServer, m.Twostep, m.Databases[0], m.Databases[1])
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
