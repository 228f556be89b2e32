// Command bank is two services of two banks, and the longest example of how twostep is used: bank A sends transfers, bank B receives
// them. Each is a process with a database of its own: an SQLite file, or one on a PostgreSQL, MySQL or MariaDB server. All they know
// of each other is the broker's address and credential, which `twostep serve` prints.
//
//	twostep serve                                   # prints two lines to export
//	bank receiver --db b.db                         # bank B, in another terminal
//	bank sender --db a.db --transfers 1000          # bank A, in a third
//
// Stop any of them at any moment, kill -9 included, and start it again: nothing is lost and nothing happens twice.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/twostep-mq/twostep/cmd/internal/database"
)

const usage = `usage: bank sender|receiver|relay --db FILE [flags]
       TWOSTEP_DSN=… bank sender|receiver|relay --driver postgres|mysql [flags]

  sender    bank A: debits accounts, publishes the transfers, relays its outbox
  receiver  bank B: credits accounts, each transfer once
  relay     relays bank A's outbox without sending anything: a standby

The broker is found by TWOSTEP_BROKER_URL and TWOSTEP_BROKER_CREDENTIAL_FILE, which twostep serve prints.
bank COMMAND --help lists the flags.
`

func main() {
	os.Exit(run(os.Args[1:]))
}

// run executes one command line: 0 ok, 1 failure, 2 usage.
func run(args []string) int {
	// SIGTERM and SIGINT end the context, and everything below drains.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	commands := map[string]func(context.Context, []string, *slog.Logger) error{
		"sender": runSender, "receiver": runReceiver, "relay": runRelay,
	}
	if len(args) == 0 || commands[args[0]] == nil {
		_, _ = fmt.Fprint(os.Stderr, usage)
		return 2
	}
	err := commands[args[0]](ctx, args[1:], log)
	var wrong usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &wrong):
		_, _ = fmt.Fprintln(os.Stderr, "bank: "+err.Error())
		return 2
	}
	_, _ = fmt.Fprintln(os.Stderr, "bank "+args[0]+": "+err.Error())
	return 1
}

// usageError is a command line that means nothing.
type usageError string

func (e usageError) Error() string { return string(e) }

// place is where a bank's database is.
type place struct{ driver, db string }

func (p *place) addFlags(flags *flag.FlagSet) {
	flags.StringVar(&p.driver, "driver", string(database.SQLite), "kind of database: sqlite, postgres or mysql (MariaDB, too)")
	flags.StringVar(&p.db, "db", "", "database file; of the other kinds the DSN, better given in TWOSTEP_DSN: others can see the command line")
}

// config of the database to open.
func (p *place) config(flags *flag.FlagSet) (database.Config, error) {
	kind, err := database.ParseKind(p.driver)
	if err != nil {
		return database.Config{}, usageError(flags.Name() + ": --driver: " + err.Error())
	}
	c := database.Config{Kind: kind, DSN: p.db}
	if c.DSN == "" && kind != database.SQLite {
		c.DSN = os.Getenv("TWOSTEP_DSN")
	}
	if c.DSN == "" && kind == database.SQLite {
		return c, usageError(flags.Name() + ": --db is missing: name the bank's database file")
	}
	if c.DSN == "" {
		return c, usageError(flags.Name() + ": there is no DSN: set TWOSTEP_DSN")
	}
	return c, nil
}

// parse reads flags; there are no other arguments.
func parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return usageError(err.Error())
	}
	if flags.NArg() > 0 {
		return usageError(fmt.Sprintf("%s: unexpected argument %q", flags.Name(), flags.Arg(0)))
	}
	return nil
}
