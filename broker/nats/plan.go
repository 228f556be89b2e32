package nats

import (
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/twostep-mq/twostep/broker"
)

// Plan says what an installation needs on a NATS server, for places where streams are made and rights are given by others.
type Plan struct {
	// Streams in the form of the server's API, which `nats stream add --config` takes, too.
	Streams []jetstream.StreamConfig `json:"streams"`
	// Users with the least rights that do. All are of one account, which should be the installation's own: the server's user may use
	// JetStream as a whole.
	Users []User `json:"users"`
}

// User is one who connects, and what he may do, in the form of nats-server's configuration.
type User struct {
	User        string      `json:"user"`
	Permissions Permissions `json:"permissions"`
}

// Permissions list subjects. Answering requests is allowed, too.
type Permissions struct {
	Publish        []string `json:"publish"`
	Subscribe      []string `json:"subscribe"`
	AllowResponses bool     `json:"allow_responses"`
}

// PlanService is a service: what it sends and handles.
type PlanService struct {
	// User it connects as.
	User string
	// Outbox is the UUID of its outbox, if it sends; Sends are the topics.
	Outbox string
	Sends  []string
	// Handles are the topics it subscribes to.
	Handles []string
}

// Plan makes the plan for topics and services. server is the user of `twostep serve`.
func (c Config) Plan(server string, topics []broker.TopicSpec, services []PlanService) Plan {
	c = c.WithDefaults()
	p := Plan{Streams: []jetstream.StreamConfig{c.stateStream(), c.inboxStream(""), c.inboxStream(outboxInbox)}}
	for _, t := range topics {
		p.Streams = append(p.Streams, c.topicStream(t))
	}
	p.Users = append(p.Users, User{User: server, Permissions: Permissions{
		Publish: []string{c.Prefix + ".>", "$JS.API.>", "$JS.ACK.>"}, Subscribe: []string{c.Prefix + ".>", "_INBOX.>"}, AllowResponses: true,
	}})
	for _, s := range services {
		p.Users = append(p.Users, User{User: s.User, Permissions: c.service(s)})
	}
	return p
}

// service lists the rights of a service. Another's receipts, reports, topics and inboxes are out of its reach; what it may
// do to the inboxes of subscriptions it sends to is put messages in.
func (c Config) service(s PlanService) Permissions {
	n := names{c.Prefix}
	p := Permissions{Subscribe: []string{"_INBOX.>"}, AllowResponses: true}
	// The registry: everybody reads it.
	p.mayUse(c, n.stateStream())
	p.mayRead(n.stateStream(), "*")
	if s.Outbox != "" {
		inbox := n.inbox(outboxInbox + s.Outbox)
		p.mayUse(c, inbox.stream)
		p.mayRead(inbox.stream, inbox.durable)
		p.mayUse(c, n.inboxStream())
		p.Publish = append(p.Publish, "$JS.API.CONSUMER.CREATE."+n.inboxStream()+".*."+c.Prefix+".i.sub.>",
			"$JS.API.CONSUMER.INFO."+n.inboxStream()+".*", inbox.subject, c.Prefix+".i.sub.>",
			n.stateSubject("outbox."+s.Outbox), n.bellSubject("outbox."+s.Outbox))
		p.Subscribe = append(p.Subscribe, n.requestSubject("outbox."+s.Outbox), n.bellSubject("outbox."+s.Outbox))
		for _, topic := range s.Sends {
			p.mayUse(c, n.topicStream(topic))
			p.Publish = append(p.Publish, n.topicSubject(topic), "$JS.API.CONSUMER.INFO."+n.topicStream(topic)+".*", n.stateSubject("declare."+topic))
		}
	}
	if len(s.Handles) > 0 {
		p.mayUse(c, n.inboxStream())
		p.mayUse(c, n.receiptStream())
		p.mayRead(n.inboxStream(), "*")
		p.Publish = append(p.Publish, c.Prefix+".r.>")
		p.Subscribe = append(p.Subscribe, n.requestSubject("sub.*"))
		for _, topic := range s.Handles {
			p.mayUse(c, n.topicStream(topic))
			p.mayRead(n.topicStream(topic), "*")
			p.Publish = append(p.Publish, n.stateSubject("declare."+topic), n.stateSubject("declare."+topic+".*"))
		}
	}
	slices.Sort(p.Publish)
	p.Publish = slices.Compact(p.Publish)
	return p
}

// mayUse lets the user see a stream, and make it unless that is left to others.
func (p *Permissions) mayUse(c Config, stream string) {
	p.Publish = append(p.Publish, "$JS.API.STREAM.INFO."+stream)
	if !c.DeclareOff {
		p.Publish = append(p.Publish, "$JS.API.STREAM.CREATE."+stream)
	}
}

// mayRead lets the user make and read a consumer.
func (p *Permissions) mayRead(stream, consumer string) {
	p.Publish = append(p.Publish, "$JS.API.CONSUMER.CREATE."+stream+"."+consumer, "$JS.API.CONSUMER.CREATE."+stream+"."+consumer+".>",
		"$JS.API.CONSUMER.INFO."+stream+"."+consumer, "$JS.API.CONSUMER.MSG.NEXT."+stream+"."+consumer,
		"$JS.API.CONSUMER.RESET."+stream+"."+consumer, "$JS.ACK."+stream+"."+consumer+".>")
}
