package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/cmd/bank/ledger"
	"github.com/twostep-mq/twostep/cmd/bank/link"
	"github.com/twostep-mq/twostep/cmd/internal/database"
)

// e2eLimit is how long anything may take before a test gives up.
const e2eLimit = 60 * time.Second

// installation is a `twostep serve` in its own process, with a folder for it and for the banks.
type installation struct {
	dir, data string
	process   *process
	// api and broker are what the server printed.
	api    string
	broker link.Address
	env    []string // for the server
	flags  []string
}

// startInstallation starts a server on free ports.
func startInstallation(t *testing.T) *installation {
	t.Helper()
	dir := t.TempDir()
	in := &installation{dir: dir, data: filepath.Join(dir, "server"), flags: []string{"--http-listen", "127.0.0.1:0", "--broker-listen", "127.0.0.1:0"}}
	in.serve(t)
	return in
}

var printed = map[string]*regexp.Regexp{
	"api":        regexp.MustCompile(`API and CLI +(http://\S+)`),
	"broker":     regexp.MustCompile(`export TWOSTEP_BROKER_URL=(\S+)`),
	"credential": regexp.MustCompile(`export TWOSTEP_BROKER_CREDENTIAL_FILE=(\S+)`),
}

// serve starts the server and reads what it prints. Started again it takes the same addresses: services know them.
func (in *installation) serve(t *testing.T) {
	t.Helper()
	in.process = begin(t, in.env, executable(t, "twostep"), append([]string{"serve", "--data", in.data}, in.flags...)...)
	find := func(what string) string {
		if m := printed[what].FindStringSubmatch(in.process.stdout.String()); m != nil {
			return m[1]
		}
		return ""
	}
	eventually(t, e2eLimit, func() (bool, string) {
		return find("api") != "" && strings.Contains(in.process.stdout.String(), "topics list") || in.process.ended(), "the server is not ready"
	})
	if in.process.ended() {
		t.Fatalf("the server ended: %s", in.process.stderr.String())
	}
	in.api = find("api")
	in.broker = link.Address{URL: find("broker"), CredentialFile: find("credential")}
	if in.broker.URL == "" {
		t.Fatalf("the server prints no broker address: %s", in.process.stdout.String())
	}
	if in.broker.CredentialFile != "" {
		in.flags = []string{"--http-listen", strings.TrimPrefix(in.api, "http://"), "--broker-listen", strings.TrimPrefix(in.broker.URL, "nats://")}
	}
}

// bank starts a service in its own process. It is given the broker's address and credential, and its database.
func (in *installation) bank(t *testing.T, command, db string, flags ...string) *process {
	t.Helper()
	p := begin(t, in.broker.Env(), executable(t, "bank"), append([]string{command, "--db", in.path(db)}, flags...)...)
	eventually(t, e2eLimit, func() (bool, string) {
		return strings.Contains(p.stdout.String(), "ready") || p.ended(), "bank " + command + " is not ready"
	})
	if p.ended() && p.err != nil {
		t.Fatalf("bank %s ended: %v: %s", command, p.err, p.stderr.String())
	}
	return p
}

func (in *installation) path(file string) string { return filepath.Join(in.dir, file) }

// open opens a bank's database beside the bank.
func (in *installation) open(t *testing.T, file string) *ledger.Bank {
	t.Helper()
	return openBank(t, in.path(file))
}

// openBank opens the database of a bank, which must be there.
func openBank(t *testing.T, path string) *ledger.Bank {
	t.Helper()
	db, err := database.Open(t.Context(), database.Config{Kind: database.SQLite, DSN: path, MustExist: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return ledger.New(db)
}

// cli runs the command line against the server and decodes its JSON.
func (in *installation) cli(t *testing.T, into any, args ...string) {
	t.Helper()
	p := begin(t, []string{"TWOSTEP_SERVER=" + in.api}, executable(t, "twostep"), append(args, "--json")...)
	if code := p.exit(t, e2eLimit); code != 0 {
		t.Fatalf("twostep %v: exit code %d: %s", args, code, p.stderr.String())
	}
	if err := json.Unmarshal([]byte(p.stdout.String()), into); err != nil {
		t.Fatalf("twostep %v: %v: %s", args, err, p.stdout.String())
	}
}

func statement(t *testing.T, db *ledger.Bank) ledger.Statement {
	t.Helper()
	s, err := db.Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func unreleased(t *testing.T, db *ledger.Bank) int {
	t.Helper()
	n, err := db.Unreleased(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func entries(t *testing.T, db *ledger.Bank) (n int) {
	t.Helper()
	if err := db.QueryRow("SELECT count(*) FROM entry").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// relayPID is the process that holds the outbox's lease; 0: none.
func relayPID(t *testing.T, db *ledger.Bank) int {
	t.Helper()
	var owner string
	if err := db.QueryRow("SELECT lease_owner FROM twostep_outbox_meta").Scan(&owner); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(owner, "/")
	if len(parts) != 3 {
		return 0
	}
	pid, err := strconv.Atoi(parts[1])
	if err != nil {
		t.Fatalf("lease owner %q", owner)
	}
	return pid
}

// awaitEmptyOutbox waits until everything is released.
func awaitEmptyOutbox(t *testing.T, db *ledger.Bank) {
	t.Helper()
	eventually(t, e2eLimit, func() (bool, string) {
		n := unreleased(t, db)
		return n == 0, fmt.Sprintf("%d rows are not released", n)
	})
}

// awaitNothingParked waits until a receiver has tried again what failed, and what is held behind it.
func awaitNothingParked(t *testing.T, db *ledger.Bank) {
	t.Helper()
	eventually(t, e2eLimit, func() (bool, string) {
		dead, waiting, err := db.Parked(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return len(dead)+waiting == 0, fmt.Sprintf("%d messages are parked and %d dead", waiting, len(dead))
	})
}

// creditedOnce wants a credit for every debit, and nothing else.
func creditedOnce(t *testing.T, sending, receiving ledger.Statement) {
	t.Helper()
	debits, credits := map[string]int64{}, map[string]int{}
	for _, e := range sending.Entries {
		debits[e.Transfer] = -e.Amount
	}
	for _, e := range receiving.Entries {
		credits[e.Transfer]++
		if debits[e.Transfer] != e.Amount {
			t.Errorf("transfer %s was credited with %d, debited with %d", e.Transfer, e.Amount, debits[e.Transfer])
		}
	}
	for id := range debits {
		if credits[id] != 1 {
			t.Errorf("transfer %s was credited %d times", id, credits[id])
		}
	}
}

// inCommitOrder wants the credits of each account in the order in which the debits were committed.
func inCommitOrder(t *testing.T, sending, receiving ledger.Statement) (accounts int) {
	t.Helper()
	committed := map[string]int64{}
	for _, e := range sending.Entries {
		committed[e.Transfer] = e.Seq
	}
	orders := map[string][]int64{}
	for _, e := range receiving.Entries {
		orders[e.Account] = append(orders[e.Account], committed[e.Transfer])
	}
	for account, order := range orders {
		if !slices.IsSorted(order) {
			t.Errorf("account %s was credited in the order %v", account, order)
		}
	}
	return len(orders)
}

// signalTo sends a signal to one process alone.
func signalTo(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatalf("%v to %d: %v", s, pid, err)
	}
}
