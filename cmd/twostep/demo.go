package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/twostep-mq/twostep/cmd/bank/ledger"
)

// demoOptions are the flags of `twostep demo`. Zero means: not given.
type demoOptions struct {
	data      string
	banks     bankFlags
	transfers int
	accounts  int
	seed      uint64
	json      bool
}

// What a demo is without flags.
const (
	demoTransfers = 2000
	demoAccounts  = 150
)

func newDemoCommand() *cobra.Command {
	var o demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Transfer money between two banks while things go wrong, and count it",
		Long: `Two banks with a database each, this server between them. Transfers are debited at bank A and
credited at bank B: some are refused for lack of money, some rolled back after publishing; the credit
handler fails now and then, and for one account always (those become dead letters); messages are
delivered again on purpose; the relay is a process of its own, killed half-way and replaced.

Each transfer is noted in a log on disk before it is tried. At the end new connections to the databases
are compared with that log, transfer by transfer. The exit code is 0 only if it all adds up.

The databases are SQLite files, or with --db two new databases on a server, or on two, which are dropped
at the end of a run without --data. A server may be killed and started again meanwhile.

Kill it at any moment (kill -9 too) and start it again with the same --data: it continues the same run.
The relay's lease is 2 s instead of 5 s here, so that nobody waits long for its successor.`,
		Example: `  twostep demo
  twostep demo --transfers 10000 --json
  twostep demo --data ./demo      # kill -9 it, then run it again
  make services && twostep demo --db postgres
  TWOSTEP_DSN=postgres://… TWOSTEP_DSN_B=… twostep demo --db postgres,mysql`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, f := range []struct {
				name  string
				value int
			}{{"transfers", o.transfers}, {"accounts", o.accounts}} {
				if cmd.Flags().Changed(f.name) && f.value < 1 {
					return usagef("--%s %d: use 1 or more", f.name, f.value)
				}
			}
			return runDemo(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	o.banks.add(flags)
	flags.StringVar(&o.data, "data", "", "folder to work in and to continue in; default: a temporary one, removed when all adds up")
	flags.IntVar(&o.transfers, "transfers", 0, fmt.Sprintf("transfers to ask for (default %d)", demoTransfers))
	flags.IntVar(&o.accounts, "accounts", 0, fmt.Sprintf("accounts of each bank (default %d)", demoAccounts))
	flags.Uint64Var(&o.seed, "seed", 0, "seed of the plan (default: a random one)")
	flags.BoolVar(&o.json, "json", false, "print one JSON object for programs")
	cmd.AddCommand(newDemoRelayCommand())
	return cmd
}

// runDemo makes or continues a run, compares, and reports. Its error makes the exit code.
func runDemo(ctx context.Context, o demoOptions, stdout, stderr io.Writer) error {
	folder, err := openDemoFolder(ctx, o)
	if err != nil {
		return err
	}
	report, err := folder.run(ctx, newDemoProgress(stderr, folder.plan.Transfers))
	if err == nil {
		if o.json {
			err = printJSON(stdout, report)
		} else {
			err = report.print(stdout)
		}
		err = errors.Join(err, report.failure())
	}
	switch {
	case err == nil && folder.temporary:
		return errors.Join(folder.dropDatabases(ctx), os.RemoveAll(folder.dir))
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("demo stopped before its end; it goes on with: twostep demo --data %s%s", folder.dir, folder.sameServers())
	}
	return fmt.Errorf("%w\nthe databases, the log of transfers and the log of the processes are kept in %s%s", err, folder.dir, folder.keptDatabases())
}

// run runs what is left of the plan, unless nothing is, and compares.
func (f *demoFolder) run(ctx context.Context, progress *demoProgress) (report demoReport, err error) {
	defer progress.close()
	records, err := f.records()
	if err != nil {
		return report, err
	}
	if !ledger.HistoryOf(records).Finished {
		if err := f.work(ctx, progress); err != nil {
			return report, fmt.Errorf("demo: %w", err)
		}
		if records, err = f.records(); err != nil {
			return report, err
		}
	}
	evidence, err := f.evidence(ctx, ledger.HistoryOf(records))
	if err != nil {
		return report, fmt.Errorf("demo: read the banks: %w", err)
	}
	return newDemoReport(f, ledger.HistoryOf(records), ledger.Compare(evidence)), nil
}

// work runs the banks with the log of the processes open.
func (f *demoFolder) work(ctx context.Context, progress *demoProgress) error {
	file, err := os.OpenFile(filepath.Join(f.dir, demoProcessLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("log of the processes: %w", err)
	}
	defer func() { _ = file.Close() }()
	return runDemoBanks(ctx, f, progress, slog.New(slog.NewTextHandler(file, nil)), file)
}
