package kfaketest

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/broker"
	kafkabroker "github.com/twostep-mq/twostep/broker/kafka"
)

// acls writes a plan's rights as kfake's.
func acls(t *testing.T, rights []kafkabroker.Right) (out []kfake.ACL) {
	t.Helper()
	operations := map[string]kmsg.ACLOperation{
		"Read": kmsg.ACLOperationRead, "Write": kmsg.ACLOperationWrite, "Create": kmsg.ACLOperationCreate, "Delete": kmsg.ACLOperationDelete,
		"Describe": kmsg.ACLOperationDescribe, "DescribeConfigs": kmsg.ACLOperationDescribeConfigs, "AlterConfigs": kmsg.ACLOperationAlterConfigs,
	}
	kinds := map[string]kmsg.ACLResourceType{"topic": kmsg.ACLResourceTypeTopic, "group": kmsg.ACLResourceTypeGroup}
	for _, r := range rights {
		for _, op := range r.Operations {
			pattern := kmsg.ACLResourcePatternTypeLiteral
			if r.Prefixed {
				pattern = kmsg.ACLResourcePatternTypePrefixed
			}
			if operations[op] == 0 || kinds[r.Resource] == 0 {
				t.Fatalf("right %+v", r)
			}
			out = append(out, kfake.ACL{Resource: kinds[r.Resource], Name: r.Name, Pattern: pattern, Operation: operations[op], Allow: true})
		}
	}
	return out
}

// Everything works with the rights of the plan and no more; with declare off, when the plan's topics were made beforehand.
func TestPlanIsEnough(t *testing.T) {
	t.Parallel()
	for _, declareOff := range []bool{false, true} {
		t.Run(fmt.Sprintf("declare off=%v", declareOff), func(t *testing.T) {
			t.Parallel()
			tw := &town{t: t, sent: map[string]int{}}
			folder := t.TempDir()
			store, err := sqlite.NewOutbox(t.Context(), tw.open(filepath.Join(folder, "a.db"), sqlite.Service))
			tw.must(err)
			snap, err := store.Load(t.Context())
			tw.must(err)
			base := kafkabroker.Config{DeclareOff: declareOff, Replication: 1}
			plan := base.Plan("server", []broker.TopicSpec{{Name: "bank.steps"}}, []kafkabroker.PlanService{
				{Account: "a", Outbox: snap.UUID, Sends: []string{"bank.steps"}}, {Account: "b", Handles: []string{"bank.steps"}},
			})
			opts := []kfake.Opt{kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "admin")}
			for _, account := range plan.Accounts {
				opts = append(opts, kfake.User("PLAIN", account.Account, account.Account, acls(t, account.Rights)...))
			}
			tw.f = startCluster(t, 1, opts...)
			as := func(account string) kafkabroker.Config {
				cfg := tw.f.config()
				cfg.Mechanism, cfg.User, cfg.Password, cfg.DeclareOff = "PLAIN", account, account, declareOff
				return cfg
			}
			tw.server, tw.sender, tw.cfg = as("server"), as("a"), as("b")
			if declareOff {
				for _, topic := range plan.Topics {
					tw.must(tw.f.server().CreateTopic(topic.Name, int32(topic.Partitions), topic.Settings))
				}
			}
			tw.begin(folder)
			tw.receiver()
			tw.send(100, 5)
			tw.settled()
		})
	}
}
