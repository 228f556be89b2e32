package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/twostep-mq/twostep/adapters/api"
	"github.com/twostep-mq/twostep/cmd/bank/ledger"
	"github.com/twostep-mq/twostep/cmd/bank/link"
)

// TestBrokerFolderDeleted stops the server with many rows unconfirmed, deletes everything its broker had, and starts it again. Two
// subscriptions must execute everything once.
func TestBrokerFolderDeleted(t *testing.T) {
	t.Parallel()
	in := startInstallation(t)
	in.bank(t, "receiver", "b.db")
	audit := in.bank(t, "receiver", "audit.db", "--subscription", "audit")
	sender := in.bank(t, "sender", "a.db", "--transfers", "2000", "--rate", "1500")
	a, b, c := in.open(t, "a.db"), in.open(t, "b.db"), in.open(t, "audit.db")

	eventually(t, e2eLimit, func() (bool, string) {
		n := entries(t, c)
		return n >= 100, fmt.Sprintf("audit has executed %d", n)
	})
	audit.kill() // from now on rows wait for it
	eventually(t, e2eLimit, func() (bool, string) {
		n := unreleased(t, a)
		return n >= 800, fmt.Sprintf("%d rows are unconfirmed", n)
	})
	in.process.terminate(t)
	rows := unreleased(t, a)
	if rows < 500 {
		t.Fatalf("%d rows are unconfirmed, want 500 at least", rows)
	}
	t.Logf("%d rows unconfirmed, accounts has executed %d, audit %d", rows, entries(t, b), entries(t, c))
	if err := os.RemoveAll(filepath.Join(in.data, brokerFolder)); err != nil {
		t.Fatal(err)
	}
	in.serve(t)
	in.bank(t, "receiver", "audit.db", "--subscription", "audit")
	if code := sender.exit(t, e2eLimit); code != 0 { // it ends when everything is confirmed
		t.Fatalf("the sender ended with %d", code)
	}
	if n := unreleased(t, a); n != 0 {
		t.Errorf("%d rows are left", n)
	}
	sending := statement(t, a)
	creditedOnce(t, sending, statement(t, b))
	creditedOnce(t, sending, statement(t, c))
	if len(sending.Entries) < 1500 {
		t.Errorf("only %d transfers were committed", len(sending.Entries))
	}
}

// TestServerForgetsEverything deletes the whole data folder, registry and broker, before any outbox has recorded a running service's
// subscription. The service has it declared again under its own uid, and gets what is sent later.
func TestServerForgetsEverything(t *testing.T) {
	t.Parallel()
	in := startInstallation(t)
	in.bank(t, "receiver", "b.db")
	uid := func() string {
		var topic api.Topic
		in.cli(t, &topic, "topics", "show", ledger.TransIn.Name())
		if len(topic.Subscriptions) != 1 {
			return ""
		}
		return topic.Subscriptions[0].UID
	}
	before := uid()
	in.process.terminate(t)
	credential, err := os.ReadFile(in.broker.CredentialFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(in.data); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(in.data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(in.broker.CredentialFile, credential, 0o600); err != nil {
		t.Fatal(err)
	}
	in.serve(t)
	sender := in.bank(t, "sender", "a.db", "--transfers", "50")
	if code := sender.exit(t, e2eLimit); code != 0 { // it ends when everything is confirmed
		t.Fatalf("the sender ended with %d", code)
	}
	if after := uid(); before == "" || after != before {
		t.Errorf("the subscription was %q and is %q", before, after)
	}
	creditedOnce(t, statement(t, in.open(t, "a.db")), statement(t, in.open(t, "b.db")))
}

// TestOrderOfKeys has two senders publish transfers to 50 accounts, handlers fail, the relay's process killed and the broker
// wiped. Each account must be credited in the order in which its transfers were committed.
func TestOrderOfKeys(t *testing.T) {
	t.Parallel()
	in := startInstallation(t)
	in.bank(t, "receiver", "b.db", "--accounts", "50", "--fail-per-mille", "20")
	one := []string{"--accounts", "50", "--transfers", "1200", "--rate", "300", "--lease", "2s", "--seed", "1", "--log", in.path("one.log")}
	two := []string{"--accounts", "50", "--transfers", "1200", "--rate", "300", "--lease", "2s", "--seed", "2", "--log", in.path("two.log")}
	senders := map[string]*process{"one": in.bank(t, "sender", "a.db", one...), "two": in.bank(t, "sender", "a.db", two...)}
	a, b := in.open(t, "a.db"), in.open(t, "b.db")

	eventually(t, e2eLimit, func() (bool, string) {
		n := entries(t, b)
		return n >= 400 && relayPID(t, a) != 0, fmt.Sprintf("%d credited", n)
	})
	// Both senders relay; one holds the lease. Its process is killed with all it was doing, and comes back as a standby.
	killed := false
	for name, p := range senders {
		if p.Process.Pid == relayPID(t, a) {
			p.kill()
			killed = true
			flags := map[string][]string{"one": one, "two": two}[name]
			senders[name] = in.bank(t, "sender", "a.db", flags...)
			break
		}
	}
	if !killed {
		t.Fatalf("lease owner %d is no sender", relayPID(t, a))
	}
	eventually(t, e2eLimit, func() (bool, string) {
		n := entries(t, a)
		return n >= 1300, fmt.Sprintf("%d debited", n)
	})
	in.process.terminate(t)
	if err := os.RemoveAll(filepath.Join(in.data, brokerFolder)); err != nil {
		t.Fatal(err)
	}
	in.serve(t)
	for name, p := range senders {
		if code := p.exit(t, e2eLimit); code != 0 {
			t.Fatalf("sender %s ended with %d", name, code)
		}
	}
	awaitNothingParked(t, b)
	sending, receiving := statement(t, a), statement(t, b)
	creditedOnce(t, sending, receiving)
	if n := inCommitOrder(t, sending, receiving); n != 50 {
		t.Errorf("%d accounts were credited, want 50", n)
	}
}

// TestServerStopped lets two services work on an external broker while the server that made the registry is stopped. Both are killed
// and started again in the middle: the registry is on the broker.
func TestServerStopped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	streams := filepath.Join(dir, "broker")
	broker := begin(t, []string{envTestBroker + "=" + streams}, os.Args[0])
	eventually(t, e2eLimit, func() (bool, string) {
		return strings.HasPrefix(broker.stdout.String(), "nats://"), "the broker is not ready"
	})
	credential := filepath.Join(streams, "credential")
	address := link.Address{URL: strings.TrimSpace(broker.stdout.String()), CredentialFile: credential}
	raw, err := os.ReadFile(credential)
	if err != nil {
		t.Fatal(err)
	}
	user, password, _ := strings.Cut(strings.TrimSpace(string(raw)), ":")
	in := &installation{
		dir: dir, data: filepath.Join(dir, "server"), env: []string{"TWOSTEP_BROKER_PASSWORD=" + password},
		flags: []string{"--http-listen", "127.0.0.1:0", "--broker-url", address.URL, "--broker-user", user},
	}
	in.serve(t)
	in.broker = address
	receiver := in.bank(t, "receiver", "b.db")
	receiver.terminate(t)
	in.process.terminate(t) // the registry is made; from here on there is no server

	receiver = in.bank(t, "receiver", "b.db")
	flags := []string{"--transfers", "1000", "--rate", "250", "--lease", "2s"}
	sender := in.bank(t, "sender", "a.db", flags...)
	a, b := in.open(t, "a.db"), in.open(t, "b.db")
	eventually(t, e2eLimit, func() (bool, string) {
		n := entries(t, b)
		return n >= 200, fmt.Sprintf("%d credited", n)
	})
	receiver.kill()
	in.bank(t, "receiver", "b.db")
	eventually(t, e2eLimit, func() (bool, string) {
		n := entries(t, a)
		return n >= 600, fmt.Sprintf("%d debited", n)
	})
	sender.kill()
	sender = in.bank(t, "sender", "a.db", flags...)
	if code := sender.exit(t, e2eLimit); code != 0 {
		t.Fatalf("the sender ended with %d", code)
	}
	if n := unreleased(t, a); n != 0 {
		t.Errorf("%d rows are left", n)
	}
	if n := entries(t, a); n < 900 {
		t.Errorf("%d debits of 1,000 transfers", n)
	}
	if !in.process.ended() {
		t.Error("the server runs")
	}
	creditedOnce(t, statement(t, a), statement(t, b))
	signalTo(t, broker.Process.Pid, syscall.SIGTERM)
}
