package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	natsbroker "github.com/twostep-mq/twostep/broker/nats"
)

func TestBrokerPlan(t *testing.T) {
	t.Parallel()
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "plan.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	good := write(`
topics: [{name: bank.trans-in}, {name: audit, delivery: broker}]
services:
  - {user: bank-a, outbox: 0197f000-0000-7000-8000-000000000001, sends: [bank.trans-in]}
  - {user: bank-b, handles: [bank.trans-in]}
`)
	out, errs, code := command(t, nil, "broker", "plan", good, "--print", "--broker-topic-max-bytes", "8MiB")
	var plan natsbroker.Plan
	if err := json.Unmarshal([]byte(out), &plan); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v: %s%s", code, err, out, errs)
	}
	if len(plan.Streams) != 5 || plan.Streams[4].MaxBytes != 8<<20 || len(plan.Users) != 3 || plan.Users[0].User != "twostep" {
		t.Errorf("plan: %s", out)
	}
	if out, _, code := command(t, nil, "broker", "plan", good); code != 0 || !strings.Contains(out, "twostep-t-bank_-trans-in") || !strings.Contains(out, "bank-b") {
		t.Errorf("exit code %d: %s", code, out)
	}
	for text, want := range map[string]string{
		"topic: []": "topic", "topics: [{name: 'a b'}]": "a b", "topics: [{name: a, delivery: never}]": "never",
		"services: [{handles: [x]}]": "no user", "services: [{user: u, handles: [x]}]": `"x"`,
		"topics: [{name: a}]\nservices: [{user: u, sends: [a]}]": "twostep outbox list",
	} {
		if _, errs, code := command(t, nil, "broker", "plan", write(text)); code != exitUsage || !strings.Contains(errs, want) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%s: exit code %d, %q: want one line with %q", text, code, errs, want)
		}
	}
}
