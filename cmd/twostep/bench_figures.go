package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// Forms of sending, as JSON keys and --form name them.
const (
	formTransact = "transact"
	formOwn      = "own_transaction"
	formRelay    = "relay"
)

// benchRound is what one run of one side measured.
type benchRound struct {
	transfers int
	elapsed   time.Duration
	// waits is how long each caller waited, effects how long it took from the call until the credit had committed.
	waits, effects []time.Duration
	// commits of both databases by their own counters; batches the transfers were brought to their end in.
	commits, batches int64
	// cpu is what the whole process used, the broker in it included.
	cpu time.Duration
	// messages and receipts handed to the broker.
	messages, receipts int64
}

func (r benchRound) rate() float64 { return float64(r.transfers) / r.elapsed.Seconds() }

func (r benchRound) per(n int64) float64 { return float64(n) / float64(r.transfers) }

// benchFigures sums up the pairs of one form. Each figure is the median over the pairs.
type benchFigures struct {
	OursPerSecond  float64   `json:"ours_per_second"`
	NaivePerSecond float64   `json:"naive_per_second,omitempty"`
	Ratio          float64   `json:"ratio,omitempty"`
	Ratios         []float64 `json:"ratios,omitempty"`
	// CommitsPerTransfer counts commits of all databases of the suite until every row was released.
	CommitsPerTransfer      float64 `json:"commits_per_transfer"`
	NaiveCommitsPerTransfer float64 `json:"naive_commits_per_transfer,omitempty"`
	// MeanBatch is transfers to a commit of the receiver (publish: of the sender; relay: of the relay).
	MeanBatch float64 `json:"mean_batch"`
	// P50 and P99 are what the caller waits for; EffectP50 and EffectP99 last until the credit has committed.
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	NaiveP50  float64 `json:"naive_p50_ms,omitempty"`
	NaiveP99  float64 `json:"naive_p99_ms,omitempty"`
	EffectP50 float64 `json:"effect_p50_ms,omitempty"`
	EffectP99 float64 `json:"effect_p99_ms,omitempty"`
	// BrokerMessagesPerTransfer counts everything handed to the broker, ReceiptsPerTransfer the receipts in it.
	BrokerMessagesPerTransfer float64 `json:"broker_messages_per_transfer"`
	ReceiptsPerTransfer       float64 `json:"receipts_per_transfer"`
	// CPUPerTransfer is the time the whole process used, broker and receiver included, in microseconds of one CPU.
	CPUPerTransfer      float64 `json:"cpu_us_per_transfer,omitempty"`
	NaiveCPUPerTransfer float64 `json:"naive_cpu_us_per_transfer,omitempty"`
	// FsyncUS is the median time of an fsync of 4 KiB in the folder, measured before the runs.
	FsyncUS float64 `json:"fsync_us"`
}

// benchSide runs one side once.
type benchSide func(context.Context) (benchRound, error)

// runPairs warms both sides up, then runs them in turn.
func runPairs(ctx context.Context, o benchOptions, ours, naive benchSide) (benchFigures, error) {
	var mine, bare []benchRound
	for pair := 0; pair <= o.pairs; pair++ {
		m, err := ours(ctx)
		if err != nil {
			return benchFigures{}, err
		}
		var n benchRound
		if o.naive {
			if n, err = naive(ctx); err != nil {
				return benchFigures{}, err
			}
		}
		if pair == 0 {
			continue // caches, statements and files are warm now
		}
		mine = append(mine, m)
		if o.naive {
			bare = append(bare, n)
		}
	}
	return figuresOf(mine, bare), nil
}

func figuresOf(mine, bare []benchRound) benchFigures {
	over := func(rounds []benchRound, of func(benchRound) float64) float64 {
		var all []float64
		for _, r := range rounds {
			all = append(all, of(r))
		}
		return rounded(median(all))
	}
	commits := func(r benchRound) float64 { return r.per(r.commits) }
	cpu := func(r benchRound) float64 { return r.per(r.cpu.Microseconds()) }
	f := benchFigures{
		OursPerSecond:      over(mine, benchRound.rate),
		CommitsPerTransfer: over(mine, commits),
		MeanBatch:          over(mine, func(r benchRound) float64 { return float64(r.transfers) / float64(max(1, r.batches)) }),
		P50:                over(mine, func(r benchRound) float64 { return percentile(r.waits, 0.5) }),
		P99:                over(mine, func(r benchRound) float64 { return percentile(r.waits, 0.99) }),
		EffectP50:          over(mine, func(r benchRound) float64 { return percentile(r.effects, 0.5) }),
		EffectP99:          over(mine, func(r benchRound) float64 { return percentile(r.effects, 0.99) }),

		BrokerMessagesPerTransfer: over(mine, func(r benchRound) float64 { return r.per(r.messages + r.receipts) }),
		ReceiptsPerTransfer:       over(mine, func(r benchRound) float64 { return r.per(r.receipts) }),
		CPUPerTransfer:            over(mine, cpu),
	}
	if len(bare) == 0 {
		return f
	}
	for i := range bare {
		f.Ratios = append(f.Ratios, rounded(mine[i].rate()/bare[i].rate()))
	}
	f.Ratio = median(f.Ratios)
	f.NaivePerSecond = over(bare, benchRound.rate)
	f.NaiveCommitsPerTransfer = over(bare, commits)
	f.NaiveCPUPerTransfer = over(bare, cpu)
	f.NaiveP50 = over(bare, func(r benchRound) float64 { return percentile(r.waits, 0.5) })
	f.NaiveP99 = over(bare, func(r benchRound) float64 { return percentile(r.waits, 0.99) })
	return f
}

// median of an even number is the mean of the middle two.
func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	all = slices.Sorted(slices.Values(all))
	mid := len(all) / 2
	if len(all)%2 == 0 {
		return (all[mid-1] + all[mid]) / 2
	}
	return all[mid]
}

// percentile of durations in milliseconds; 0 of none.
func percentile(all []time.Duration, p float64) float64 {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	at := int(math.Ceil(p*float64(len(sorted)))) - 1
	return float64(sorted[max(0, at)]) / float64(time.Millisecond)
}

// rounded keeps four significant digits: more are noise.
func rounded(v float64) float64 {
	if v == 0 {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

// benchReport is the JSON of a suite. Its top level repeats the figures of the first form.
type benchReport struct {
	Suite     string `json:"suite"`
	Clients   int    `json:"clients"`
	Transfers int    `json:"transfers"`
	Pairs     int    `json:"pairs"`
	Keyed     bool   `json:"keyed"`
	benchFigures
	Transact *benchFigures `json:"transact,omitempty"`
	Own      *benchFigures `json:"own_transaction,omitempty"`
	Relay    *benchFigures `json:"relay,omitempty"`
	Money    benchMoney    `json:"money"`
	Machine  benchMachine  `json:"machine"`
	OK       bool          `json:"ok"`
}

func newBenchReport(suite string, o benchOptions, machine benchMachine, money benchMoney, forms map[string]benchFigures) benchReport {
	r := benchReport{
		Suite: suite, Clients: o.clients, Transfers: o.transfers, Pairs: o.pairs, Keyed: o.keyed,
		Money: money, Machine: machine, OK: money.verdict() == nil,
	}
	for _, form := range []struct {
		name string
		into **benchFigures
	}{{formRelay, &r.Relay}, {formOwn, &r.Own}, {formTransact, &r.Transact}} {
		if f, ok := forms[form.name]; ok {
			f.FsyncUS = machine.FsyncUS
			*form.into = &f
			r.benchFigures = f
		}
	}
	return r
}

func (r benchReport) print(w io.Writer) error {
	head := []string{r.Suite}
	var columns []*benchFigures
	for _, c := range []struct {
		name    string
		figures *benchFigures
	}{{"Transact", r.Transact}, {"own transaction", r.Own}, {"relay", r.Relay}} {
		if c.figures != nil {
			head = append(head, c.name)
			columns = append(columns, c.figures)
		}
	}
	line := func(name, format string, of func(*benchFigures) float64) []string {
		row := []string{name}
		for _, c := range columns {
			cell := ""
			if v := of(c); v != 0 {
				cell = fmt.Sprintf(format, v)
			}
			row = append(row, cell)
		}
		return row
	}
	rows := [][]string{
		line("ours, per second", "%.0f", func(f *benchFigures) float64 { return f.OursPerSecond }),
		line("bare, per second", "%.0f", func(f *benchFigures) float64 { return f.NaivePerSecond }),
		line("ratio (median of pairs)", "%.2f", func(f *benchFigures) float64 { return f.Ratio }),
		line("commits a transfer", "%.3f", func(f *benchFigures) float64 { return f.CommitsPerTransfer }),
		line("bare commits a transfer", "%.3f", func(f *benchFigures) float64 { return f.NaiveCommitsPerTransfer }),
		line("mean batch", "%.1f", func(f *benchFigures) float64 { return f.MeanBatch }),
		line("CPU a transfer", "%.0fus", func(f *benchFigures) float64 { return f.CPUPerTransfer }),
		line("bare CPU a transfer", "%.0fus", func(f *benchFigures) float64 { return f.NaiveCPUPerTransfer }),
		line("caller waits, p50", "%.2fms", func(f *benchFigures) float64 { return f.P50 }),
		line("caller waits, p99", "%.2fms", func(f *benchFigures) float64 { return f.P99 }),
		line("bare caller waits, p50", "%.2fms", func(f *benchFigures) float64 { return f.NaiveP50 }),
		line("bare caller waits, p99", "%.2fms", func(f *benchFigures) float64 { return f.NaiveP99 }),
		line("effect after, p50", "%.2fms", func(f *benchFigures) float64 { return f.EffectP50 }),
		line("effect after, p99", "%.2fms", func(f *benchFigures) float64 { return f.EffectP99 }),
		line("broker messages a transfer", "%.3f", func(f *benchFigures) float64 { return f.BrokerMessagesPerTransfer }),
		line("receipts a transfer", "%.3f", func(f *benchFigures) float64 { return f.ReceiptsPerTransfer }),
	}
	if err := printTable(w, head, rows); err != nil {
		return err
	}
	m := r.Machine
	_, err := fmt.Fprintf(w, "\n%d clients, %d transfers a run, %d pairs; money %d before, %d after\n%s, %d CPUs, fsync %.0fus, %s/%s, %s, NATS server %s, twostep %s\nbank A on %s, bank B on %s\n",
		r.Clients, r.Transfers, r.Pairs, r.Money.Before, r.Money.After,
		m.CPU, m.CPUs, m.FsyncUS, m.OS, m.Arch, m.Go, m.NATSServer, m.Twostep, m.Databases[0], m.Databases[1])
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
