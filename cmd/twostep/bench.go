package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	"strconv"

	"github.com/spf13/cobra"
)

// benchOptions are the flags of `twostep bench`.
type benchOptions struct {
	clients, transfers, pairs int
	naive, keyed, json        bool
	form, dir, cpuProfile     string
	banks                     bankFlags
}

// benchSuite is one of the suites of docs/benchmarks.md.
type benchSuite struct {
	name, short, long string
	transfers         int // a run, by default
	run               func(context.Context, *benchRig, benchOptions) (forms map[string]benchFigures, err error)
}

func benchSuites() []benchSuite {
	return []benchSuite{
		{
			name: "transfer", transfers: 10_000, short: "Debit in one database, credit in another, through the broker",
			long: `Debit in database A, credit in database B, through outbox, relay, broker and batch handler.
The rate counts until the last credit has committed. The bare side makes the same two changes as two
local commits, with nothing that connects them.`,
			run: benchTransfer,
		},
		{
			name: "publish", transfers: 10_000, short: "A business commit with an outbox row against one without",
			long: `The debit of a transfer with its message in the outbox, against the debit alone. No relay runs.`,
			run:  benchPublish,
		},
		{
			name: "relay", transfers: 300_000, short: "A filled outbox emptied into the broker against publishing the same rows",
			long: `The relay publishes a filled outbox, notes the acknowledgements and deletes the rows (a topic with
delivery: broker). The bare side reads the same rows from the same table and publishes them, with the
same number in flight and no bookkeeping.`,
			run: benchRelay,
		},
	}
}

func newBenchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure twostep on this machine against bare local commits",
		Long: `Measures twostep on the embedded broker and on SQLite in a temporary folder or --dir, or with --db on one
database server or two, in new databases that are dropped at the end.
Each pair is our way and the bare way, one after the other; the figure is the median of the ratios.
At the end the money is counted: a run that lost any fails.`,
	}
	var o benchOptions
	flags := cmd.PersistentFlags()
	o.banks.add(flags)
	flags.IntVar(&o.clients, "clients", 16, "senders at the same time")
	flags.IntVar(&o.pairs, "pairs", 5, "pairs of runs, ours and bare in turn")
	flags.BoolVar(&o.naive, "naive", true, "run the bare side too")
	flags.BoolVar(&o.keyed, "keyed", false, "order the transfers by receiving account")
	flags.StringVar(&o.form, "form", "", "only one form of sending: transact or own_transaction (default: both)")
	flags.StringVar(&o.dir, "dir", "", "folder to measure in; it decides the disk (default: a temporary folder)")
	flags.BoolVar(&o.json, "json", false, "print JSON for programs")
	flags.StringVar(&o.cpuProfile, "cpuprofile", "", "write a CPU profile to this file, for go tool pprof")
	var subs []*cobra.Command
	for _, s := range benchSuites() {
		var transfers int
		sub := &cobra.Command{
			Use: s.name, Short: s.short, Long: s.long, Args: args(),
			Example: "  twostep bench " + s.name + " --json",
			RunE: func(cmd *cobra.Command, _ []string) error {
				o := o
				o.transfers = transfers
				if err := o.validate(); err != nil {
					return err
				}
				report, err := runBench(cmd.Context(), s, o)
				if err != nil {
					return fmt.Errorf("bench %s: %w", s.name, err)
				}
				if o.json {
					return printJSON(cmd.OutOrStdout(), report)
				}
				return report.print(cmd.OutOrStdout())
			},
		}
		sub.Flags().IntVar(&transfers, "transfers", s.transfers, "transfers (messages) in each run")
		subs = append(subs, sub)
	}
	return group(cmd, append(subs, newBenchBacklogCommand(&o), newBenchLatencyCommand(&o), newBenchIdleCommand(&o))...)
}

func (o benchOptions) validate() error {
	for _, f := range []struct {
		name  string
		value int
	}{{"--clients", o.clients}, {"--transfers", o.transfers}, {"--pairs", o.pairs}} {
		if f.value < 1 {
			return usagef("%s %s: use 1 or more", f.name, strconv.Itoa(f.value))
		}
	}
	if o.form != "" && o.form != formTransact && o.form != formOwn {
		return usagef("--form %q: use %s or %s", o.form, formTransact, formOwn)
	}
	return nil
}

// runBench runs one suite in a rig of its own and counts the money at the end.
func runBench(ctx context.Context, s benchSuite, o benchOptions) (report benchReport, err error) {
	if o.cpuProfile != "" {
		f, err := os.Create(o.cpuProfile)
		if err != nil {
			return report, fmt.Errorf("--cpuprofile: %w", err)
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if err := pprof.StartCPUProfile(f); err != nil {
			return report, fmt.Errorf("--cpuprofile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	rig, err := newBenchRig(ctx, o)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, rig.close()) }()
	machine, err := describeMachine(ctx, rig)
	if err != nil {
		return report, err
	}
	forms, err := s.run(ctx, rig, o)
	if err != nil {
		return report, err
	}
	money, err := rig.countMoney(ctx)
	if err != nil {
		return report, err
	}
	report = newBenchReport(s.name, o, machine, money, forms)
	return report, money.verdict()
}
