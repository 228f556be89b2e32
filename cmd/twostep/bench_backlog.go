package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/cmd/bank/link"
	"github.com/twostep-mq/twostep/cmd/internal/database"
	"github.com/twostep-mq/twostep/outbox"
)

const (
	// backlogClaim is how many rows are put in and timed at once.
	backlogClaim = 500
	// backlogRounds is how often, at each size.
	backlogRounds = 21
	// backlogPage is how many rows a statement of the filling has.
	backlogPage = 1000
	// backlogPatience bounds the wait for rows to be published while none is.
	backlogPatience = time.Minute
)

// backlogSize is what was measured with so many rows waiting.
type backlogSize struct {
	Waiting int `json:"waiting"`
	// ClaimMS is the median time from the commit of 500 rows until the broker had the last of them.
	ClaimMS    float64 `json:"claim_ms"`
	ClaimMinMS float64 `json:"claim_min_ms"`
	ClaimMaxMS float64 `json:"claim_max_ms"`
	// MemoryMB is the relay process's resident memory above that of one without rows, in MiB.
	MemoryMB float64 `json:"memory_above_idle_mb"`
	// FillPerSecond is how fast rows were put in and published before.
	FillPerSecond float64 `json:"fill_per_second"`
	// StartMS is how long a new relay takes, with so many rows waiting, from its start until it has published 500 more.
	StartMS float64 `json:"relay_start_ms"`
}

// backlogReport is the JSON of bench backlog.
type backlogReport struct {
	Suite  string `json:"suite"`
	Rounds int    `json:"rounds"`
	// Few and Many are the two outboxes.
	Few  backlogSize `json:"few"`
	Many backlogSize `json:"many"`
	// Ratio is the median, over the rounds, of the time with many rows to the time with few right before it.
	Ratio   float64      `json:"ratio"`
	Machine benchMachine `json:"machine"`
}

func newBenchBacklogCommand(shared *benchOptions) *cobra.Command {
	var waiting string
	var rounds int
	cmd := &cobra.Command{
		Use:   "backlog",
		Short: "Time to publish 500 rows with few and with many rows waiting; memory of the relay",
		Long: `Two outboxes, in which different numbers of rows wait for a subscription that nobody runs: published, and not
confirmed. 500 more are put into one and the other in turn; the time counts from their commit until the broker has
the last. Each relay is a process of its own; its memory is told by the kernel (Linux alone).`,
		Example: "  twostep bench backlog --db postgres\n  twostep bench backlog --waiting 10000,10000000 --json",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := *shared
			var sizes []int
			for text := range strings.SplitSeq(waiting, ",") {
				n, err := strconv.Atoi(strings.TrimSpace(text))
				if err != nil || n < 1 {
					return usagef("--waiting %s: use two numbers of rows, as 10000,1000000", waiting)
				}
				sizes = append(sizes, n)
			}
			if len(sizes) != 2 {
				return usagef("--waiting %s: use two numbers of rows, as 10000,1000000", waiting)
			}
			if rounds < 1 {
				return usagef("--rounds %d: use 1 or more", rounds)
			}
			o.transfers = max(sizes[0], sizes[1]) + (rounds+10)*backlogClaim
			report, err := runBacklog(cmd.Context(), o, sizes, rounds)
			if err != nil {
				return fmt.Errorf("bench backlog: %w", err)
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), report)
			}
			return report.print(cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&waiting, "waiting", "10000,1000000", "numbers of waiting rows: few and many")
	cmd.Flags().IntVar(&rounds, "rounds", backlogRounds, "how often 500 rows are timed at each number")
	return cmd
}

// backlog is an outbox that fills.
type backlog struct {
	*benchRig
	bank          *benchBank
	config        database.Config
	topic, inbox  string
	insert, claim string // of backlogPage and of backlogClaim rows
	log           *bytes.Buffer
	relay         *relayProcess
	rows          int   // in the outbox
	idle          int64 // resident bytes of a relay without rows
	claims        []time.Duration
	size          backlogSize
}

func runBacklog(ctx context.Context, o benchOptions, sizes []int, rounds int) (report backlogReport, err error) {
	rig, err := newBenchRig(ctx, o)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, rig.close()) }()
	report = backlogReport{Suite: "backlog", Rounds: rounds}
	if report.Machine, err = describeMachine(ctx, rig); err != nil {
		return report, err
	}
	few, many := newBacklog(rig, 0), newBacklog(rig, 1)
	for i, b := range []*backlog{few, many} {
		defer func() { err = b.end(err) }()
		if err := b.begin(ctx); err != nil {
			return report, err
		}
		if err := b.fill(ctx, sizes[i]); err != nil {
			return report, fmt.Errorf("with %d rows waiting: %w", b.rows, err)
		}
	}
	var ratios []float64
	for range rounds {
		for _, b := range []*backlog{few, many} {
			took, err := b.timed(ctx)
			if err != nil {
				return report, fmt.Errorf("with %d rows waiting: %w", b.rows, err)
			}
			b.claims = append(b.claims, took)
		}
		ratios = append(ratios, float64(many.claims[len(many.claims)-1])/float64(few.claims[len(few.claims)-1]))
	}
	report.Ratio = rounded(median(ratios))
	for _, b := range []*backlog{few, many} {
		if err := b.finish(ctx); err != nil {
			return report, fmt.Errorf("with %d rows waiting: %w", b.rows, err)
		}
	}
	report.Few, report.Many = few.size, many.size
	return report, nil
}

func newBacklog(rig *benchRig, bank int) *backlog {
	b := &backlog{
		benchRig: rig, bank: []*benchBank{rig.a, rig.b}[bank], config: rig.banks[bank],
		topic: "bench.backlog-" + []string{"few", "many"}[bank], log: &bytes.Buffer{},
	}
	statement := func(rows int) string {
		return b.bank.SQL("INSERT INTO twostep_outbox (topic, payload) VALUES (?, ?)" + strings.Repeat(", (?, ?)", rows-1))
	}
	b.insert, b.claim = statement(backlogPage), statement(backlogClaim)
	return b
}

// begin makes the topic and the subscription that stays away, starts a relay, and notes what it needs without rows.
func (b *backlog) begin(ctx context.Context) error {
	for deadline := time.Now().Add(30 * time.Second); !b.owner.Running(); {
		if time.Now().After(deadline) || !rest(ctx, 5*time.Millisecond) {
			return errors.New("the registry does not start")
		}
	}
	if _, err := b.owner.CreateTopic(ctx, b.topic, outbox.TopicSettings{}); err != nil {
		return err
	}
	if _, err := b.owner.Subscribe(ctx, b.topic, "absent"); err != nil {
		return err
	}
	store, err := b.bank.Outbox(ctx)
	if err != nil {
		return err
	}
	uuid, err := store.UUID(ctx)
	if err != nil {
		return err
	}
	b.inbox = outbox.Inbox(uuid)
	if err := b.startRelay(ctx); err != nil {
		return err
	}
	// Some rows first: connections, statements and buffers are no matter of the backlog.
	for range 4 {
		if _, err := b.timed(ctx); err != nil {
			return err
		}
	}
	b.idle = residentBytes(b.relay.cmd.Process.Pid)
	return nil
}

func (b *backlog) startRelay(ctx context.Context) (err error) {
	b.relay, err = startRelayProcess(ctx, b.config, link.Address{URL: b.server.ClientURL(), CredentialFile: b.server.CredentialFile()}, 0, b.log, func(int64) {})
	return err
}

// end ends the relay, whatever became of the run.
func (b *backlog) end(err error) error {
	if b.relay != nil {
		b.relay.kill()
	}
	if err != nil && b.log.Len() > 0 {
		lines := strings.Split(strings.TrimSpace(b.log.String()), "\n")
		return fmt.Errorf("%w; the relay's log ends with: %s", err, lines[len(lines)-1])
	}
	return err
}

// fill fills the outbox up to so many rows.
func (b *backlog) fill(ctx context.Context, waiting int) error {
	before, start := b.rows, time.Now()
	for b.rows < waiting {
		if err := b.put(ctx, b.insert, backlogPage); err != nil {
			return err
		}
	}
	if err := b.published(ctx); err != nil {
		return err
	}
	b.size.Waiting = b.rows
	b.size.FillPerSecond = rounded(float64(b.rows-before) / time.Since(start).Seconds())
	// The relay writes down what was acknowledged; that is not to be measured.
	if !rest(ctx, time.Second) {
		return ctx.Err()
	}
	return nil
}

// finish sums up, reads the relay's memory, and times the start of another relay.
func (b *backlog) finish(ctx context.Context) error {
	s := &b.size
	s.ClaimMS, s.ClaimMinMS, s.ClaimMaxMS = rounded(percentile(b.claims, 0.5)), rounded(percentile(b.claims, 0)), rounded(percentile(b.claims, 1))
	if b.idle > 0 {
		s.MemoryMB = rounded(float64(residentBytes(b.relay.cmd.Process.Pid)-b.idle) / (1 << 20))
	}
	b.relay.stop()
	start := time.Now()
	if err := b.startRelay(ctx); err != nil {
		return err
	}
	_, err := b.timed(ctx)
	s.StartMS = rounded(float64(time.Since(start)) / float64(time.Millisecond))
	return err
}

// put inserts rows with one statement.
func (b *backlog) put(ctx context.Context, statement string, rows int) error {
	values := make([]any, 0, 2*rows)
	for range rows {
		values = append(values, b.topic, []byte(`{}`))
	}
	if _, err := b.bank.ExecContext(ctx, statement, values...); err != nil {
		return fmt.Errorf("fill the outbox: %w", err)
	}
	b.rows += rows
	return nil
}

// timed puts rows in and returns how long it took from their commit until the broker had all of them.
func (b *backlog) timed(ctx context.Context) (time.Duration, error) {
	if !rest(ctx, 50*time.Millisecond) { // the relay rests, too
		return 0, ctx.Err()
	}
	if err := b.put(ctx, b.claim, backlogClaim); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := b.broker.Ring(ctx, b.inbox); err != nil {
		return 0, err
	}
	err := b.published(ctx)
	return time.Since(start), err
}

// published waits until the broker has all rows.
func (b *backlog) published(ctx context.Context) error {
	var had uint64
	for moved := time.Now(); ; {
		p, err := b.broker.Positions(ctx, b.topic, nil)
		if err != nil && !errors.Is(err, broker.ErrNoTopic) {
			return err
		}
		var has uint64
		for _, last := range p.Last {
			has += last
		}
		if has >= uint64(b.rows) {
			return nil
		}
		if has != had {
			had, moved = has, time.Now()
		}
		if time.Since(moved) > backlogPatience {
			return fmt.Errorf("%d of %d rows are published, and none more within %v", has, b.rows, backlogPatience)
		}
		if !rest(ctx, 500*time.Microsecond) {
			return ctx.Err()
		}
	}
}

func (r backlogReport) print(w io.Writer) error {
	rows := [][]string{}
	for _, s := range []backlogSize{r.Few, r.Many} {
		rows = append(rows, []string{
			strconv.Itoa(s.Waiting), fmt.Sprintf("%.1fms (%.1f to %.1f)", s.ClaimMS, s.ClaimMinMS, s.ClaimMaxMS),
			fmt.Sprintf("%.1f MiB", s.MemoryMB), fmt.Sprintf("%.0fms", s.StartMS), fmt.Sprintf("%.0f", s.FillPerSecond),
		})
	}
	head := []string{"ROWS WAITING", "500 MORE PUBLISHED", "RELAY'S MEMORY ABOVE IDLE", "NEW RELAY STARTS", "FILLED PER SECOND"}
	if err := printTable(w, head, rows); err != nil {
		return err
	}
	m := r.Machine
	_, err := fmt.Fprintf(w, "\nratio %.2f, median of %d rounds\n%s, %d CPUs, fsync %.0fus, %s/%s, %s, NATS server %s, twostep %s\non %s\n",
		r.Ratio, r.Rounds, m.CPU, m.CPUs, m.FsyncUS, m.OS, m.Arch, m.Go, m.NATSServer, m.Twostep, m.Databases[0])
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
