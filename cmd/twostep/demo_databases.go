package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twostep-mq/twostep/cmd/bank/ledger"
	"github.com/twostep-mq/twostep/cmd/internal/database"
)

// kinds of the plan's databases.
func (f *demoFolder) kinds() [2]database.Kind {
	if len(f.plan.Databases) != 2 {
		return [2]database.Kind{database.SQLite, database.SQLite}
	}
	return [2]database.Kind{f.plan.Databases[0].Kind, f.plan.Databases[1].Kind}
}

// planDatabases names the databases of this run; its tap has made a name that no other run has.
func (f *demoFolder) planDatabases(kinds [2]database.Kind) {
	for i, kind := range kinds {
		d := demoDatabase{Kind: kind}
		if kind != database.SQLite {
			d.Name = "twostep_demo_" + f.plan.Tap[:8] + "_" + string("ab"[i])
		}
		f.plan.Databases = append(f.plan.Databases, d)
	}
}

// makeDatabases finds the servers, and makes the databases on them unless a former process of this run did.
func (f *demoFolder) makeDatabases(ctx context.Context, o demoOptions) error {
	servers, err := o.banks.servers(f.kinds())
	if err != nil {
		return err
	}
	f.bankA, f.bankB = servers[0], servers[1]
	for i, bank := range []*database.Config{&f.bankA, &f.bankB} {
		if bank.Kind == database.SQLite {
			bank.DSN = f.path([]string{demoBankA, demoBankB}[i])
			continue
		}
		bank.Name = f.plan.Databases[i].Name
		if err := database.Create(ctx, *bank); err != nil {
			return err
		}
	}
	return nil
}

// dropDatabases drops what makeDatabases has made.
func (f *demoFolder) dropDatabases(ctx context.Context) error {
	var errs []error
	for _, bank := range []database.Config{f.bankA, f.bankB} {
		if bank.Kind != database.SQLite {
			errs = append(errs, database.Drop(ctx, bank))
		}
	}
	return errors.Join(errs...)
}

// keptDatabases says which databases are not in the folder.
func (f *demoFolder) keptDatabases() string {
	names := ""
	for _, bank := range []database.Config{f.bankA, f.bankB} {
		if bank.Name != "" {
			names += fmt.Sprintf(", %s database %s", bank.Kind, bank.Name)
		}
	}
	return names
}

// sameServers says what else a continued run needs.
func (f *demoFolder) sameServers() string {
	if f.bankA.Kind == database.SQLite && f.bankB.Kind == database.SQLite {
		return ""
	}
	return " (and the same " + envDSN + " or --dsn, if you gave any)"
}

// outage is how long a database may be away without the demo giving up.
const outage = time.Minute

// openAgain opens a bank that must be there. Its server may be starting again.
func openAgain(ctx context.Context, c database.Config) (*ledger.Bank, error) {
	c.MustExist = true
	for deadline := time.Now().Add(outage); ; {
		db, err := database.Open(ctx, c)
		if err == nil {
			return ledger.New(db), nil
		}
		if !errors.Is(err, database.ErrUnreachable) || time.Now().After(deadline) || !rest(ctx, outagePoll) {
			return nil, err
		}
	}
}

const outagePoll = 50 * time.Millisecond

// rest waits; it reports false when ctx has ended.
func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// throughOutage repeats what databases on servers refuse until they answer again. An SQLite file will not come back by itself.
func throughOutage(ctx context.Context, do func() error, kinds ...database.Kind) error {
	files := !slices.ContainsFunc(kinds, func(k database.Kind) bool { return k != database.SQLite })
	for deadline := time.Now().Add(outage); ; {
		err := do()
		if err == nil || files || time.Now().After(deadline) || !rest(ctx, outagePoll) {
			return err
		}
	}
}
