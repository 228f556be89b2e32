package kafka

import (
	"cmp"
	"slices"
	"strings"

	"github.com/twostep-mq/twostep/broker"
)

// Plan says what an installation needs on a Kafka cluster, for places where topics are made and rights are given by others. Inboxes
// come with subscriptions and outboxes; twostep makes them in any case.
//
// Kafka's rights end at topics. Whoever may report its outbox may write the whole state, the registry among it.
type Plan struct {
	Topics   []PlanTopic `json:"topics"`
	Accounts []Account   `json:"accounts"`
}

// PlanTopic is a topic to be made.
type PlanTopic struct {
	Name       string            `json:"name"`
	Partitions int               `json:"partitions"`
	Replicas   int               `json:"replicas,omitempty"` // 0: the cluster's default
	Settings   map[string]string `json:"settings,omitempty"`
}

// Account is one who connects, and what it may do.
type Account struct {
	Account string  `json:"account"`
	Rights  []Right `json:"rights"`
}

// Right is what kafka-acls.sh --add takes.
type Right struct {
	// Resource is topic or group.
	Resource string `json:"resource"`
	Name     string `json:"name"`
	// Prefixed: everything whose name begins so.
	Prefixed   bool     `json:"prefixed,omitempty"`
	Operations []string `json:"operations"`
}

// PlanService is a service: what it sends and handles.
type PlanService struct {
	// Account it connects as.
	Account string
	// Outbox is the UUID of its outbox, if it sends; Sends are the topics.
	Outbox string
	Sends  []string
	// Handles are the topics it subscribes to.
	Handles []string
}

// Operations of Kafka's rights.
const (
	opRead            = "Read"
	opWrite           = "Write"
	opCreate          = "Create"
	opDelete          = "Delete"
	opDescribe        = "Describe"
	opDescribeConfigs = "DescribeConfigs"
	opAlterConfigs    = "AlterConfigs"

	resourceTopic = "topic"
	resourceGroup = "group"
)

// Plan makes the plan for topics and services. server is the account of `twostep serve`.
func (c Config) Plan(server string, topics []broker.TopicSpec, services []PlanService) Plan {
	c = c.WithDefaults()
	n := names{c.Prefix}
	p := Plan{Topics: []PlanTopic{c.planTopic(n.state(), 1, stateSettings()), c.planTopic(n.calls(), 1, callsSettings())}}
	for _, t := range topics {
		p.Topics = append(p.Topics, c.planTopic(n.topic(t.Name), c.Partitions, c.topicSettings(t)))
	}
	all := Account{Account: server}
	all.add(Right{resourceTopic, c.Prefix + ".", true, []string{opRead, opWrite, opDescribe, opDescribeConfigs}})
	manage := []string{opCreate, opDelete, opAlterConfigs}
	if c.DeclareOff {
		all.add(Right{resourceTopic, n.inbox(""), true, manage})
	} else {
		all.add(Right{resourceTopic, c.Prefix + ".", true, manage})
	}
	all.add(Right{resourceGroup, c.Prefix + ".", true, []string{opRead, opDescribe, opDelete}})
	p.Accounts = append(p.Accounts, all)
	for _, s := range services {
		p.Accounts = append(p.Accounts, c.account(s))
	}
	return p
}

func (c Config) planTopic(name string, partitions int, settings []setting) PlanTopic {
	t := PlanTopic{Name: name, Partitions: partitions, Replicas: max(c.Replication, 0), Settings: map[string]string{}}
	for _, s := range settings {
		t.Settings[s.name] = s.value
	}
	return t
}

// account lists the rights of a service. Another's receipts and inboxes are out of its reach but for putting messages in.
func (c Config) account(s PlanService) Account {
	n := names{c.Prefix}
	a := Account{Account: s.Account}
	a.topic(c, n.state(), false, opRead, opWrite)
	a.topic(c, n.calls(), false, opRead, opWrite)
	subscriptions := n.inbox("sub.")
	if s.Outbox != "" {
		inbox := n.inbox(outboxInbox + s.Outbox)
		a.topic(c, inbox, false, opRead, opWrite)
		a.group(inbox, false, opRead)
		a.topic(c, subscriptions, true, opWrite)
		a.group(subscriptions, true)
		a.group(n.group(""), true)
		for _, topic := range s.Sends {
			a.topic(c, n.topic(topic), false, opWrite, opDescribeConfigs)
		}
	}
	if len(s.Handles) > 0 {
		a.topic(c, subscriptions, true, opRead)
		a.group(subscriptions, true, opRead)
		a.group(n.group(""), true, opRead)
		a.topic(c, n.inbox(outboxInbox), true, opWrite)
		a.group(n.inbox(outboxInbox), true)
		for _, topic := range s.Handles {
			a.topic(c, n.topic(topic), false, opRead, opDescribeConfigs)
		}
	}
	slices.SortFunc(a.Rights, func(x, y Right) int { return cmp.Or(-cmp.Compare(x.Resource, y.Resource), cmp.Compare(x.Name, y.Name)) })
	return a
}

// topic adds rights to topics, that of seeing them among it, and of making them unless that is left to others.
func (a *Account) topic(c Config, name string, prefixed bool, operations ...string) {
	operations = append(operations, opDescribe)
	if !c.DeclareOff || strings.HasPrefix(name, names{c.Prefix}.inbox("")) {
		operations = append(operations, opCreate)
	}
	a.add(Right{resourceTopic, name, prefixed, operations})
}

// group adds rights to groups, that of seeing how far they are among it.
func (a *Account) group(name string, prefixed bool, operations ...string) {
	a.add(Right{resourceGroup, name, prefixed, append(operations, opDescribe)})
}

func (a *Account) add(r Right) {
	for i, have := range a.Rights {
		if have.Resource == r.Resource && have.Name == r.Name && have.Prefixed == r.Prefixed {
			all := append(slices.Clone(have.Operations), r.Operations...)
			slices.Sort(all)
			a.Rights[i].Operations = slices.Compact(all)
			return
		}
	}
	slices.Sort(r.Operations)
	a.Rights = append(a.Rights, r)
}
