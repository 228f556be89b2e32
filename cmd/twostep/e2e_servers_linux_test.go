package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twostep-mq/twostep/cmd/bank/ledger"
	"github.com/twostep-mq/twostep/cmd/internal/database"
)

// TestInstallationOnServers: everything on database servers, in processes of their own: bank A on PostgreSQL, bank B and the server's store on
// MariaDB. Both database servers are killed and started again while transfers are under way; nobody but the sender, who lost the
// answer to a COMMIT and must not guess, has to be started again, and each debit is credited once.
func TestInstallationOnServers(t *testing.T) {
	t.Parallel()
	const transfers = 1200
	a, b := startOwnServer(t, database.Postgres), startOwnServer(t, database.MySQL)
	dir := t.TempDir()
	in := &installation{
		dir: dir, data: filepath.Join(dir, "server"), env: []string{"TWOSTEP_STORE_DSN=" + b.dsn},
		flags: []string{"--http-listen", "127.0.0.1:0", "--broker-listen", "127.0.0.1:0", "--store-driver", "mysql"},
	}
	in.serve(t)
	if out := in.process.stdout.String(); !strings.Contains(out, "store         mysql 127.0.0.1:") || strings.Contains(out, "secret") {
		t.Errorf("the server prints: %s", out)
	}
	in.onServer(t, "receiver", b)
	sender := in.onServer(t, "sender", a, "--transfers", fmt.Sprint(transfers), "--log", in.path("a.log"), "--rate", "600", "--stay")
	relay := in.onServer(t, "relay", a)
	bankA, bankB := openServerBank(t, a), openServerBank(t, b)
	count := func(bank *ledger.Bank) (n int) { // 0 while its server is away
		_ = bank.QueryRowContext(t.Context(), "SELECT count(*) FROM entry").Scan(&n)
		return n
	}
	for i, s := range []*ownServer{b, a} {
		wanted := (i + 1) * transfers / 5
		eventually(t, e2eLimit, func() (bool, string) {
			n := count(bankB)
			return n >= wanted, fmt.Sprintf("%d credited, %d wanted", n, wanted)
		})
		s.kill()
		s.start(t)
	}
	if sender.ended() || !sender.sent() {
		eventually(t, e2eLimit, func() (bool, string) { return sender.ended() || sender.sent(), "the sender goes on" })
	}
	if sender.ended() { // the error of its database ended it: its log and the database know where it was
		sender = in.onServer(t, "sender", a, "--transfers", fmt.Sprint(transfers), "--log", in.path("a.log"), "--stay")
	}
	eventually(t, e2eLimit, func() (bool, string) {
		n, err := bankA.Unreleased(t.Context())
		return err == nil && n == 0 && (sender.sent() || sender.ended()), fmt.Sprintf("%d rows are not released: %v", n, err)
	})
	if sender.ended() || relay.ended() {
		t.Fatalf("sender ended: %v, relay ended: %v", sender.ended(), relay.ended())
	}
	sending, receiving := statement(t, bankA), statement(t, bankB)
	if len(sending.Entries) < transfers*8/10 {
		t.Errorf("%d of %d transfers were made", len(sending.Entries), transfers)
	}
	creditedOnce(t, sending, receiving)
}

// sent reports whether a sender has made all its transfers.
func (p *process) sent() bool { return strings.Contains(p.stdout.String(), "sent\n") }

// onServer starts a service on a database server.
func (in *installation) onServer(t *testing.T, command string, s *ownServer, flags ...string) *process {
	t.Helper()
	p := begin(t, append(in.broker.Env(), envDSN+"="+s.dsn), executable(t, "bank"), append([]string{command, "--driver", string(s.kind)}, flags...)...)
	eventually(t, e2eLimit, func() (bool, string) {
		return strings.Contains(p.stdout.String(), "ready") || p.ended(), "bank " + command + " is not ready"
	})
	if p.ended() {
		t.Fatalf("bank %s ended: %v: %s", command, p.err, p.stderr.String())
	}
	return p
}

// openServerBank opens the database of a bank beside it.
func openServerBank(t *testing.T, s *ownServer) *ledger.Bank {
	t.Helper()
	db, err := database.Open(t.Context(), database.Config{Kind: s.kind, DSN: s.dsn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return ledger.New(db)
}
