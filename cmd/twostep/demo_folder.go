package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/cmd/bank/ledger"
	"github.com/twostep-mq/twostep/cmd/internal/database"
)

// Files of the demo's folder.
const (
	demoPlanFile   = "demo.json"
	demoLogFile    = "transfers.log"
	demoProcessLog = "processes.log"
	demoBankA      = "bank-a.db"
	demoBankB      = "bank-b.db"
	demoServer     = "server"
)

// demoPlan is what the folder remembers of a run: enough to continue it.
type demoPlan struct {
	ledger.Plan
	// Tap is the uid of the extra reader that has messages delivered again.
	Tap string `json:"tap"`
	// Databases are bank A's and bank B's; none: SQLite files. No DSN is kept.
	Databases []demoDatabase `json:"databases,omitempty"`
}

// demoDatabase is where a bank is: Name on a server, empty for SQLite.
type demoDatabase struct {
	Kind database.Kind `json:"kind"`
	Name string        `json:"name,omitempty"`
}

// demoFolder is where a run lives.
type demoFolder struct {
	dir       string
	temporary bool
	plan      demoPlan
	// bankA and bankB are their databases.
	bankA, bankB database.Config
}

func (f *demoFolder) path(name string) string { return filepath.Join(f.dir, name) }

// openDemoFolder finds the run in the folder, or plans one, and makes its databases.
func openDemoFolder(ctx context.Context, o demoOptions) (f *demoFolder, err error) {
	f = &demoFolder{dir: o.data}
	if f.dir == "" {
		f.temporary = true
		if f.dir, err = os.MkdirTemp("", "twostep-demo-"); err != nil {
			return nil, fmt.Errorf("demo: make a temporary folder: %w", err)
		}
	} else if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return nil, fmt.Errorf("demo: --data: %w", err)
	}
	raw, err := os.ReadFile(f.path(demoPlanFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = f.newPlan(o)
	case err == nil:
		err = f.oldPlan(raw, o)
	}
	if err == nil {
		err = f.makeDatabases(ctx, o)
	}
	if err != nil {
		if f.temporary {
			_ = os.RemoveAll(f.dir)
		}
		return nil, fmt.Errorf("demo: %w", err)
	}
	return f, nil
}

func (f *demoFolder) newPlan(o demoOptions) error {
	f.plan = demoPlan{Tap: uuid.NewString(), Plan: ledger.Plan{Seed: o.seed, Transfers: o.transfers, Accounts: o.accounts}}
	p := &f.plan.Plan
	if p.Transfers == 0 {
		p.Transfers = demoTransfers
	}
	if p.Accounts == 0 {
		p.Accounts = demoAccounts
	}
	if p.Seed == 0 {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		p.Seed = uint64(binary.LittleEndian.Uint32(b[:])) + 1
	}
	if err := p.Validate(); err != nil {
		return usagef("demo: %v", err)
	}
	kinds, err := o.banks.parse([2]database.Kind{database.SQLite, database.SQLite})
	if err != nil {
		return err
	}
	if _, err := o.banks.servers(kinds); err != nil { // before anything is written
		return err
	}
	f.planDatabases(kinds)
	if err := f.refuseOthersFolder(); err != nil {
		return err
	}
	raw, err := json.Marshal(f.plan)
	if err != nil {
		return fmt.Errorf("encode the plan: %w", err)
	}
	// Written beside and renamed: a crash leaves a whole plan or none.
	beside := f.path(demoPlanFile + ".new")
	if err := os.WriteFile(beside, append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the plan: %w", err)
	}
	if err := os.Rename(beside, f.path(demoPlanFile)); err != nil {
		return fmt.Errorf("write the plan: %w", err)
	}
	return nil
}

// refuseOthersFolder keeps the demo out of a folder with other things in it.
func (f *demoFolder) refuseOthersFolder() error {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	for _, e := range entries {
		if e.Name() != demoPlanFile+".new" {
			return usagef("demo: the folder %s is not empty and holds no demo: choose another --data", f.dir)
		}
	}
	return nil
}

func (f *demoFolder) oldPlan(raw []byte, o demoOptions) error {
	if err := json.Unmarshal(raw, &f.plan); err != nil {
		return fmt.Errorf("%s does not decode (%w): choose another --data", f.path(demoPlanFile), err)
	}
	if err := f.plan.Validate(); err != nil {
		return fmt.Errorf("%s: %w: choose another --data", f.path(demoPlanFile), err)
	}
	p := f.plan
	if o.transfers != 0 && o.transfers != p.Transfers || o.accounts != 0 && o.accounts != p.Accounts || o.seed != 0 && o.seed != p.Seed {
		return usagef("demo: %s holds a run of %d transfers, %d accounts, seed %d, which would be continued: leave those flags out, or choose another --data",
			f.dir, p.Transfers, p.Accounts, p.Seed)
	}
	kinds, err := o.banks.parse(f.kinds())
	if err != nil {
		return err
	}
	if kinds != f.kinds() {
		return usagef("demo: %s holds a run on %s,%s, which would be continued: leave --db out, or choose another --data", f.dir, f.kinds()[0], f.kinds()[1])
	}
	return nil
}

// records reads the log as it is, without opening it for writing: another process may be at work.
func (f *demoFolder) records() ([]ledger.Record, error) {
	records, err := ledger.ReadLog(f.path(demoLogFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	return records, nil
}

// evidence reads both banks through new connections, after everything else has been closed.
func (f *demoFolder) evidence(ctx context.Context, h ledger.History) (e ledger.Evidence, err error) {
	e = ledger.Evidence{SendingOpening: f.plan.Sending(), ReceivingOpening: f.plan.Receiving(), Asked: h.Asked}
	a, err := openAgain(ctx, f.bankA)
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	b, err := openAgain(ctx, f.bankB)
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if e.Sending, err = a.Read(ctx); err != nil {
		return e, err
	}
	if e.Receiving, err = b.Read(ctx); err != nil {
		return e, err
	}
	if e.Unreleased, err = a.Unreleased(ctx); err != nil {
		return e, err
	}
	e.Dead, e.Waiting, err = b.Parked(ctx)
	return e, err
}
