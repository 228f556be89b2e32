package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twostep-mq/twostep/broker"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/cmd/bank/link"
	"github.com/twostep-mq/twostep/cmd/internal/database"
	"github.com/twostep-mq/twostep/configs"
)

// doctorOptions are the flags of `twostep doctor`, besides those of the configuration.
type doctorOptions struct {
	db, dsn, set, schema, prefix string
	json                         bool
}

// doctorFinding is a finding and what it is about: configuration, data folder, database, broker.
type doctorFinding struct {
	About string `json:"about"`
	broker.Finding
}

// doctorReport is the JSON of doctor.
type doctorReport struct {
	// OK: nothing of level error was found.
	OK       bool            `json:"ok"`
	Findings []doctorFinding `json:"findings"`
}

// What findings are about.
const (
	aboutConfiguration = "configuration"
	aboutFolder        = "data folder"
	aboutDatabase      = "database"
	aboutBroker        = "broker"
)

// doctorPatience bounds the whole examination.
const doctorPatience = time.Minute

func newDoctorCommand() *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Examine database, broker and configuration, and say what to change",
		Long: `Examine what the server's configuration names: the configuration itself, the data folder, the store and the broker. With --db one
database is examined instead, a service's unless --for says otherwise, and the broker if --broker-url names one. It takes the flags of
twostep serve, and changes nothing.

Each finding has a level: ok, note, warning, or error where a promise does not hold or nothing works until it is changed. The
exit code is 0 if there is no error, else 1.

The DSN holds a password, and other users of the machine can read a command line: give it in TWOSTEP_DSN.`,
		Example: `  twostep doctor
  TWOSTEP_DSN=postgres://bank:secret@db.internal/bank twostep doctor --db postgres
  twostep doctor --db sqlite --dsn bank.db --json
  twostep doctor --broker-url nats://nats.internal:4222 --broker-user bank`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error { return runDoctor(cmd, o) },
	}
	configs.AddFlags(cmd.Flags())
	flags := cmd.Flags()
	flags.StringVar(&o.db, "db", "", "kind of the database to examine: sqlite, postgres or mysql (MariaDB, too); default: the configured store")
	flags.StringVar(&o.dsn, "dsn", "", "that database: for sqlite, its file; else better in TWOSTEP_DSN")
	flags.StringVar(&o.set, "for", "", "whose tables it has to have: service or orchestrator")
	flags.StringVar(&o.schema, "schema", "", "postgres: schema of the tables")
	flags.StringVar(&o.prefix, "table-prefix", "", "postgres, mysql: what the names of the tables begin with (default twostep_)")
	flags.BoolVar(&o.json, "json", false, "print JSON for programs")
	return cmd
}

func runDoctor(cmd *cobra.Command, o doctorOptions) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), doctorPatience)
	defer cancel()
	d := &doctor{report: doctorReport{OK: true, Findings: []doctorFinding{}}}
	set := database.Set(o.set)
	if o.set != "" && set != database.Service && set != database.Orchestrator {
		return usagef("--for is %q: use service or orchestrator", o.set)
	}
	loaded, err := configs.Load(cmd.Flags())
	switch {
	case o.db != "":
		c, err := o.database()
		if err != nil {
			return err
		}
		d.database(ctx, c, cmp.Or(set, database.Service))
		if loaded != nil && loaded.External() {
			d.broker(ctx, loaded.Config)
		}
	case err != nil:
		d.add(aboutConfiguration, broker.Finding{Check: "configuration", Level: broker.LevelError, Value: os.Getenv("TWOSTEP_CONFIG"),
			Problem: strings.ReplaceAll(err.Error(), "\n", "; "), Fix: "see twostep config show --help"})
	default:
		d.configuration(loaded)
		d.server(ctx, loaded.Config, cmp.Or(set, database.Orchestrator))
	}
	if o.json {
		err = printJSON(cmd.OutOrStdout(), d.report)
	} else {
		err = d.report.print(cmd.OutOrStdout())
	}
	if err != nil {
		return err
	}
	if n := d.report.count(broker.LevelError); n > 0 {
		return fmt.Errorf("doctor: %d of %d findings are errors: change what they say", n, len(d.report.Findings))
	}
	return nil
}

// database to examine, of --db.
func (o doctorOptions) database() (database.Config, error) {
	kind, err := database.ParseKind(o.db)
	if err != nil {
		return database.Config{}, usagef("--db: %v", err)
	}
	c := database.Config{Kind: kind, DSN: cmp.Or(o.dsn, os.Getenv(envDSN)), Schema: o.schema, Prefix: o.prefix, MustExist: true}
	if err := c.Validate(); err != nil {
		return c, usagef("--db %s: %v", kind, err)
	}
	if c.DSN == "" && kind == database.SQLite {
		return c, usagef("--dsn is missing: name the database's file, as --dsn bank.db")
	}
	if c.DSN == "" {
		if c.DSN, err = servicesDSN(kind); err != nil {
			return c, usagef("there is no DSN: set %s (or --dsn)", envDSN)
		}
	}
	return c, nil
}

// doctor collects findings.
type doctor struct{ report doctorReport }

func (d *doctor) add(about string, findings ...broker.Finding) {
	for _, f := range findings {
		d.report.Findings = append(d.report.Findings, doctorFinding{about, f})
		if f.Level == broker.LevelError {
			d.report.OK = false
		}
	}
}

func (d *doctor) configuration(loaded *configs.Loaded) {
	d.add(aboutConfiguration, broker.Finding{Check: "configuration", Level: broker.LevelOK, Value: cmp.Or(loaded.File, "no file") + fmt.Sprintf(", %d keys set", len(loaded.Sources))})
	if loaded.Store.AllowUnsafeDurability {
		d.add(aboutConfiguration, broker.Finding{
			Check: "store.allow_unsafe_durability", Level: broker.LevelWarning, Value: "true",
			Problem: "the store may lose what it has acknowledged, and nobody refuses it", Fix: "leave the key out once the database server is safe",
		})
	}
}

// server examines what `twostep serve` would use.
func (d *doctor) server(ctx context.Context, cfg configs.Config, set database.Set) {
	folder := examineFolder(cfg.Data)
	d.add(aboutFolder, folder)
	c := storeConfig(cfg, serverFile(cfg, serverDatabase))
	c.MustExist = true
	if _, err := os.Stat(c.DSN); c.Kind == database.SQLite && errors.Is(err, os.ErrNotExist) {
		d.add(aboutDatabase, broker.Finding{Check: "file", Level: broker.LevelNote, Value: c.DSN, Problem: "it is not there yet; twostep serve makes it"})
	} else {
		d.database(ctx, c, set)
	}
	d.broker(ctx, cfg)
}

// database examines one. Where it cannot be reached, that is the finding.
func (d *doctor) database(ctx context.Context, c database.Config, set database.Set) {
	db, err := database.Open(ctx, c)
	if err != nil {
		problem, fix := cutAdvice(err)
		d.add(aboutDatabase, broker.Finding{Check: "connection", Level: broker.LevelError, Value: string(c.Kind), Problem: problem, Fix: fix})
		return
	}
	defer func() { _ = db.Close() }()
	d.add(aboutDatabase, db.Examine(ctx, set)...)
}

// brokerPatience bounds connecting to the broker.
const brokerPatience = 3 * time.Second

// broker examines the external broker, or the embedded one of a server that runs.
func (d *doctor) broker(ctx context.Context, cfg configs.Config) {
	c := natsConfig(cfg, "twostep-doctor", slog.New(slog.DiscardHandler))
	file := os.Getenv(link.EnvCredentialFile) // as services have it
	if !cfg.External() {
		c.URL, file = "nats://"+cfg.Broker.Listen, serverFile(cfg, credentialFile)
		if _, err := os.Stat(file); err != nil {
			d.add(aboutBroker, broker.Finding{Check: "connection", Level: broker.LevelNote, Value: "embedded", Problem: "it is not there yet; twostep serve starts it"})
			return
		}
	}
	if c.User == "" && c.CredsFile == "" && c.NKeyFile == "" && file != "" {
		raw, err := os.ReadFile(file) //nolint:gosec // G703: the file is the user's own to name
		if err != nil {
			d.add(aboutBroker, broker.Finding{Check: "credential", Level: broker.LevelError, Value: file, Problem: err.Error(), Fix: "name the file that twostep serve prints in " + link.EnvCredentialFile})
			return
		}
		c.User, c.Password, _ = strings.Cut(strings.TrimSpace(string(raw)), ":")
	}
	connecting, cancel := context.WithTimeout(ctx, brokerPatience)
	defer cancel()
	b, err := natsbroker.Connect(connecting, c)
	switch {
	case err != nil && !cfg.External():
		d.add(aboutBroker, broker.Finding{Check: "connection", Level: broker.LevelNote, Value: "embedded at " + cfg.Broker.Listen, Problem: "no server runs there now", Fix: "twostep serve"})
		return
	case err != nil:
		d.add(aboutBroker, broker.Finding{Check: "connection", Level: broker.LevelError, Value: cfg.Broker.URL, Problem: strings.ReplaceAll(err.Error(), "\n", "; "), Fix: "start it, or correct broker.url, broker.user and the password"})
		return
	}
	defer func() { _ = b.Close(context.WithoutCancel(ctx)) }()
	d.add(aboutBroker, b.Examine(ctx)...)
}

// cutAdvice splits an error of this project, "what: why: what to do", before its last part.
func cutAdvice(err error) (problem, fix string) {
	text := err.Error()
	if i := strings.LastIndex(text, ": "); i > 0 {
		return text[:i], text[i+2:]
	}
	return text, ""
}

func (r doctorReport) count(level broker.Level) (n int) {
	for _, f := range r.Findings {
		if f.Level == level {
			n++
		}
	}
	return n
}

// print writes a table of all findings, and below it what is wrong and how to change it, the worst first.
func (r doctorReport) print(w io.Writer) error {
	rows := [][]string{}
	for _, f := range r.Findings {
		rows = append(rows, []string{strings.ToUpper(string(f.Level)), f.About, f.Check, f.Value})
	}
	if err := printTable(w, []string{"LEVEL", "ABOUT", "CHECK", "VALUE"}, rows); err != nil {
		return err
	}
	var b strings.Builder
	for _, level := range []broker.Level{broker.LevelError, broker.LevelWarning, broker.LevelNote} {
		for _, f := range r.Findings {
			if f.Level != level {
				continue
			}
			fmt.Fprintf(&b, "\n%s: %s, %s: %s\n", level, f.About, printable(f.Check), printable(f.Problem))
			if f.Fix != "" {
				fmt.Fprintf(&b, "    %s\n", printable(f.Fix))
			}
		}
	}
	fmt.Fprintf(&b, "\n%d errors, %d warnings, %d notes\n", r.count(broker.LevelError), r.count(broker.LevelWarning), r.count(broker.LevelNote))
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("print the findings: %w", err)
	}
	return nil
}
