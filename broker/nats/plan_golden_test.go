package nats

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twostep-mq/twostep/broker"
)

// The plan as it is printed is part of what operators build on.
func TestPlanGolden(t *testing.T) {
	t.Parallel()
	plan := Config{DeclareOff: true}.Plan("server", []broker.TopicSpec{{Name: "bank.trans-in"}, {Name: "audit", Retained: true}}, []PlanService{
		{User: "sender", Outbox: "0197f000-0000-7000-8000-000000000001", Sends: []string{"bank.trans-in", "audit"}},
		{User: "handler", Handles: []string{"bank.trans-in"}},
	})
	got, err := json.MarshalIndent(plan, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "plan.json")
	if *update {
		if err := os.WriteFile(file, append(got, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(want)) != string(got) {
		t.Errorf("the plan differs from %s (-update writes it anew):\n%s", file, got)
	}
}
