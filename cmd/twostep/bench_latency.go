package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/twostep-mq/twostep/outbox"
)

// latencyWarmUp is sent before what counts.
const latencyWarmUp = time.Second

// latencyReport is the JSON of bench latency.
type latencyReport struct {
	Suite     string  `json:"suite"`
	Form      string  `json:"form"`
	Rate      float64 `json:"rate"`
	Transfers int     `json:"transfers"`
	Keyed     bool    `json:"keyed"`
	// P50 to Max are milliseconds from the commit of the debit until that of the credit.
	P50  float64 `json:"p50_ms"`
	P99  float64 `json:"p99_ms"`
	P999 float64 `json:"p999_ms"`
	Max  float64 `json:"max_ms"`
	// CommitsPerTransfer counts commits of both databases until every row was released.
	CommitsPerTransfer float64      `json:"commits_per_transfer"`
	Money              benchMoney   `json:"money"`
	Machine            benchMachine `json:"machine"`
	OK                 bool         `json:"ok"`
}

func newBenchLatencyCommand(shared *benchOptions) *cobra.Command {
	var rate float64
	var length time.Duration
	cmd := &cobra.Command{
		Use:   "latency",
		Short: "Time from the commit of a debit until that of its credit, at a steady rate",
		Long: `Transfers are sent at a steady rate, however long each takes (an open loop); the time counts from the commit of
the debit until the credit has committed. There is no bare side: it has no such time.`,
		Example: "  twostep bench latency --rate 200\n  twostep bench latency --db postgres --rate 500 --length 30s --json",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := *shared
			if rate <= 0 || rate > 100_000 {
				return usagef("--rate %v: use a number of transfers a second", rate)
			}
			if length < time.Second {
				return usagef("--length %v: use 1s or more", length)
			}
			if o.form == "" {
				o.form = formOwn
			}
			o.transfers = int(rate * (length + latencyWarmUp).Seconds())
			if err := o.validate(); err != nil {
				return err
			}
			report, err := runLatency(cmd.Context(), o, rate)
			if err != nil {
				return fmt.Errorf("bench latency: %w", err)
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), report)
			}
			return report.print(cmd.OutOrStdout())
		},
	}
	cmd.Flags().Float64Var(&rate, "rate", 200, "transfers a second")
	cmd.Flags().DurationVar(&length, "length", 10*time.Second, "how long, after a second to warm up")
	return cmd
}

func runLatency(ctx context.Context, o benchOptions, rate float64) (report latencyReport, err error) {
	rig, err := newBenchRig(ctx, o)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, rig.close()) }()
	report = latencyReport{Suite: "latency", Form: o.form, Rate: rate, Keyed: o.keyed}
	if report.Machine, err = describeMachine(ctx, rig); err != nil {
		return report, err
	}
	topic := benchTopic("bench.latency", o.keyed, outbox.DeliveryConfirmed)
	credits := &benchCredits{}
	stop, box, err := rig.startTransfer(ctx, topic, credits)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	send := benchSenders(rig, box, topic)[o.form]
	// When each debit had committed. The credit may be noticed first: then no time has passed between them.
	committed := make([]time.Time, o.transfers)
	round, err := rig.steadily(ctx, o, rate, credits, func(ctx context.Context, n int) error {
		err := send(ctx, n)
		committed[n] = time.Now()
		return err
	})
	if err != nil {
		return report, err
	}
	var waits []time.Duration
	for n := int(rate * latencyWarmUp.Seconds()); n < o.transfers; n++ {
		waits = append(waits, max(0, credits.begun[n].Add(round.effects[n]).Sub(committed[n])))
	}
	report.Transfers, report.CommitsPerTransfer = len(waits), rounded(round.per(round.commits))
	report.P50, report.P99 = rounded(percentile(waits, 0.5)), rounded(percentile(waits, 0.99))
	report.P999, report.Max = rounded(percentile(waits, 0.999)), rounded(percentile(waits, 1))
	if report.Money, err = rig.countMoney(ctx); err != nil {
		return report, err
	}
	report.OK = report.Money.verdict() == nil
	return report, report.Money.verdict()
}

// steadily sends all transfers at a rate, each on a goroutine of its own, and waits for the last credit and until every row is released.
func (r *benchRig) steadily(ctx context.Context, o benchOptions, rate float64, credits *benchCredits, send func(context.Context, int) error) (benchRound, error) {
	done := credits.expect(o.transfers)
	before, start := r.counters(), time.Now()
	var sending sync.WaitGroup
	failures := make(chan error, o.transfers)
	for n := range o.transfers {
		if due := time.Until(start.Add(time.Duration(float64(n) / rate * float64(time.Second)))); due > 0 && !rest(ctx, due) {
			break
		}
		sending.Go(func() {
			credits.begin(n)
			if err := send(ctx, n); err != nil {
				failures <- fmt.Errorf("transfer %d: %w", n, err)
			}
		})
	}
	sending.Wait()
	select {
	case err := <-failures:
		return benchRound{}, err
	case <-ctx.Done():
		return benchRound{}, ctx.Err()
	case <-done:
	case <-time.After(benchPatience):
		return benchRound{}, fmt.Errorf("not all of %d credits came within %v of the last debit: %d are missing", o.transfers, benchPatience, credits.missing())
	}
	round := credits.round()
	round.transfers = o.transfers
	if err := r.released(ctx); err != nil {
		return benchRound{}, err
	}
	r.since(before, &round)
	r.books.debited(o.transfers)
	r.books.credited(o.transfers)
	return round, nil
}

func (r latencyReport) print(w io.Writer) error {
	ms := func(v float64) string { return fmt.Sprintf("%.2fms", v) }
	rows := [][]string{{"p50", ms(r.P50)}, {"p99", ms(r.P99)}, {"p99.9", ms(r.P999)}, {"most", ms(r.Max)}, {"commits a transfer", fmt.Sprintf("%.3f", r.CommitsPerTransfer)}}
	if err := printTable(w, []string{"commit of the debit to that of the credit", r.Form}, rows); err != nil {
		return err
	}
	m := r.Machine
	_, err := fmt.Fprintf(w, "\n%.0f transfers a second, %d of them; money %d before, %d after\n%s, %d CPUs, fsync %.0fus, %s/%s, %s, NATS server %s, twostep %s\nbank A on %s, bank B on %s\n",
		r.Rate, r.Transfers, r.Money.Before, r.Money.After, m.CPU, m.CPUs, m.FsyncUS, m.OS, m.Arch, m.Go, m.NATSServer, m.Twostep, m.Databases[0], m.Databases[1])
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
