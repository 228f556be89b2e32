package kfaketest

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/twostep-mq/twostep/broker"
)

func findings(all []broker.Finding, check string) (levels []broker.Level) {
	for _, f := range all {
		if f.Check == check {
			levels = append(levels, f.Level)
		}
		if (f.Level == broker.LevelError || f.Level == broker.LevelWarning) && (f.Problem == "" || f.Fix == "") || strings.Contains(f.Problem, "\n") {
			levels = append(levels, "says too little: "+broker.Level(f.Check))
		}
	}
	return levels
}

func TestExamine(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 3)
	b := f.connect(t, f.config())
	mustEnsure(t, b, "t")
	if err := b.PutState(t.Context(), "k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	b.Examine(t.Context()) // makes the topic of requests
	well := b.Examine(t.Context())
	for _, check := range []string{"cluster", "offsets", "topics", "rights"} {
		if got := findings(well, check); len(got) != 1 || got[0] != broker.LevelOK {
			t.Errorf("%s: %v in %+v", check, got, well)
		}
	}
	if got := findings(well, "topic twostep.t.t"); len(got) != 1 || got[0] != broker.LevelWarning {
		t.Errorf("a topic with one replica on three nodes: %v", got)
	}
	for topic, settings := range map[string]map[string]string{
		"twostep.t.compacted": {"cleanup.policy": "compact"}, "twostep.t.small": {"max.message.bytes": "100000"},
		"twostep.i.wide": {},
	} {
		if err := f.server().CreateTopic(topic, 2, settings); err != nil {
			t.Fatal(err)
		}
	}
	ill := b.Examine(t.Context())
	for _, topic := range []string{"twostep.t.compacted", "twostep.t.small", "twostep.i.wide"} {
		if got := findings(ill, "topic "+topic); len(got) == 0 || got[0] != broker.LevelError {
			t.Errorf("%s: %v", topic, got)
		}
	}
	f.stop()
	if got := findings(b.Examine(t.Context()), "cluster"); len(got) != 1 || got[0] != broker.LevelError {
		t.Errorf("a cluster that is away: %v", got)
	}
}

// An account without rights gets findings, not errors.
func TestExamineWithoutRights(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1, kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "admin"), kfake.User("PLAIN", "user", "user"))
	cfg := f.config()
	cfg.Mechanism, cfg.User, cfg.Password = "PLAIN", "user", "user"
	all := f.connect(t, cfg).Examine(t.Context())
	if got := findings(all, "rights"); len(got) != 1 || got[0] != broker.LevelError {
		t.Errorf("rights: %v in %+v", got, all)
	}
}
