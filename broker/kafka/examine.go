package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/twostep-mq/twostep/broker"
)

const (
	// leastBatch is a message of the largest size with its headers, twostep's own among them.
	leastBatch = 1_000_000 + 16<<10
	// leastRetention is how long offsets of a group that nobody reads with should be kept, in minutes.
	leastRetention = 7 * 24 * 60
	// examineWait bounds waiting for one answer.
	examineWait = 5 * time.Second
)

// Examine looks at everything that twostep rests on at the cluster, for `twostep doctor`: its nodes and settings, the topics that are
// there, and rights as far as they can be seen without making anything. Besides the record of one request it writes nothing.
func (b *Broker) Examine(ctx context.Context) []broker.Finding {
	e := &examination{b: b}
	if e.cluster(ctx) {
		e.node(ctx)
		e.topics(ctx)
		e.rights(ctx)
	}
	return e.findings
}

// examination collects findings.
type examination struct {
	b        *Broker
	findings []broker.Finding
	answer   *metadataAnswer
}

func (e *examination) add(check string, level broker.Level, value, problem, fix string) {
	e.findings = append(e.findings, broker.Finding{Check: check, Level: level, Value: value, Problem: problem, Fix: fix})
}

// cluster reports whether it answers.
func (e *examination) cluster(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, examineWait)
	defer cancel()
	m, err := e.b.roundTrip(ctx, &metadataRequest{clientID: e.b.cfg.Name, all: true})
	answer, ok := m.(*metadataAnswer)
	if err != nil || !ok {
		e.add("cluster", broker.LevelError, e.b.cfg.Brokers, fmt.Sprintf("it does not answer: %s", oneLine(err)), "see that it runs and that broker.url is right")
		return false
	}
	e.answer = answer
	e.add("cluster", broker.LevelOK, fmt.Sprintf("%d nodes", len(answer.nodes)), "", "")
	return true
}

// node looks at settings that hold for the cluster, at one of its nodes.
func (e *examination) node(ctx context.Context) {
	if len(e.answer.nodes) == 0 {
		return
	}
	name := strconv.Itoa(int(e.answer.nodes[0]))
	settings, err := e.settings(ctx, kafka.ResourceTypeBroker, []string{name}, "offsets.retention.minutes", "group.min.session.timeout.ms", "group.max.session.timeout.ms")
	if err != nil {
		e.add("cluster settings", broker.LevelNote, "", "not to be seen: "+oneLine(err), "allow this account DescribeConfigs on the cluster")
		return
	}
	have := settings[name]
	if minutes, err := strconv.Atoi(have["offsets.retention.minutes"]); err == nil && minutes < leastRetention {
		e.add("offsets", broker.LevelWarning, fmt.Sprintf("offsets.retention.minutes = %d", minutes),
			"a subscription that is away for longer is given again everything since it was made; it is recognised, and costs time", "offsets.retention.minutes=10080 (or more) in the brokers' configuration")
	} else if err == nil {
		e.add("offsets", broker.LevelOK, fmt.Sprintf("offsets.retention.minutes = %d", minutes), "", "")
	}
	session := int(e.b.cfg.SessionTimeout.Milliseconds())
	least, errLeast := strconv.Atoi(have["group.min.session.timeout.ms"])
	most, errMost := strconv.Atoi(have["group.max.session.timeout.ms"])
	if errLeast == nil && errMost == nil && (session < least || session > most) {
		e.add("session timeout", broker.LevelError, fmt.Sprintf("%d ms", session), fmt.Sprintf("the cluster allows %d to %d ms: nobody can read", least, most),
			"set the session timeout within them, or group.min.session.timeout.ms in the brokers' configuration")
	}
}

// topics compares those that are there with what twostep would make.
func (e *examination) topics(ctx context.Context) {
	n := e.b.names
	missing := map[string]bool{n.state(): true, n.calls(): true}
	var own []describedTopic
	var all []string
	topics := 0
	for _, t := range e.answer.topics {
		if t.code != 0 || !strings.HasPrefix(t.name, n.prefix+".") {
			continue
		}
		delete(missing, t.name)
		own, all = append(own, t), append(all, t.name)
		if strings.HasPrefix(t.name, n.topic("")) {
			topics++
		}
	}
	value := fmt.Sprintf("%d topics", topics)
	if len(missing) > 0 {
		e.add("topics", broker.LevelNote, value, fmt.Sprintf("%d topics of twostep's own are not there yet; the server and the services make them", len(missing)), "")
	} else {
		e.add("topics", broker.LevelOK, value, "", "")
	}
	if len(all) == 0 {
		return
	}
	settings, err := e.settings(ctx, kafka.ResourceTypeTopic, all, "cleanup.policy", "max.message.bytes", "min.insync.replicas")
	if err != nil {
		e.add("topic settings", broker.LevelNote, "", "not to be seen: "+oneLine(err), "allow this account DescribeConfigs on the topics with the prefix "+n.prefix+".")
		return
	}
	for _, t := range own {
		e.topic(t, settings[t.name])
	}
}

func (e *examination) topic(t describedTopic, have map[string]string) {
	check, value := "topic "+t.name, fmt.Sprintf("%d partitions, %d replicas", len(t.leaders), t.replicas)
	alter := func(setting string) string {
		return "kafka-configs.sh --alter --entity-type topics --entity-name " + t.name + " --add-config " + setting
	}
	compacted := strings.Contains(have["cleanup.policy"], "compact")
	switch {
	case t.name == e.b.names.state() && (!compacted || strings.Contains(have["cleanup.policy"], "delete")):
		e.add(check, broker.LevelError, value, "cleanup.policy = "+have["cleanup.policy"]+": the registry and the reports are forgotten after a while", alter("cleanup.policy=compact"))
	case t.name != e.b.names.state() && compacted:
		e.add(check, broker.LevelError, value, "cleanup.policy = "+have["cleanup.policy"]+": messages vanish that a later one of their key follows", alter("cleanup.policy=delete"))
	}
	if single := t.name == e.b.names.state() || t.name == e.b.names.calls() || strings.HasPrefix(t.name, e.b.names.inbox("")); single && len(t.leaders) != 1 {
		e.add(check, broker.LevelError, value, "it has to have one partition: what lies in others is never read", "delete it while no service runs; it is made anew")
	}
	if size, err := strconv.Atoi(have["max.message.bytes"]); err == nil && size < leastBatch && t.name != e.b.names.calls() {
		e.add(check, broker.LevelError, fmt.Sprintf("max.message.bytes = %d", size), "messages of up to 1,000,000 bytes with their headers do not fit: larger ones stay in the outbox for ever", alter("max.message.bytes=1048588"))
	}
	insync, err := strconv.Atoi(have["min.insync.replicas"])
	switch {
	case err == nil && insync > t.replicas:
		e.add(check, broker.LevelError, value, fmt.Sprintf("min.insync.replicas = %d: nothing can be written", insync), alter("min.insync.replicas="+strconv.Itoa(t.replicas)))
	case t.replicas < 2 && len(e.answer.nodes) > 1:
		e.add(check, broker.LevelWarning, value, "it stands still while its node is away, and is lost with its disk; outboxes send again, but for topics with delivery: broker", "broker.replicas: 3, and kafka-reassign-partitions.sh for what is there")
	}
}

// settings asks for some of each resource, by its name.
func (e *examination) settings(ctx context.Context, kind kafka.ResourceType, names []string, keys ...string) (map[string]map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, examineWait)
	defer cancel()
	req := &kafka.DescribeConfigsRequest{}
	for _, name := range names {
		req.Resources = append(req.Resources, kafka.DescribeConfigRequestResource{ResourceType: kind, ResourceName: name, ConfigNames: keys})
	}
	answer, err := e.b.client.DescribeConfigs(ctx, req)
	if err != nil {
		return nil, err
	}
	out := map[string]map[string]string{}
	for _, r := range answer.Resources {
		if r.Error != nil {
			return nil, r.Error
		}
		out[r.ResourceName] = map[string]string{}
		for _, c := range r.ConfigEntries {
			out[r.ResourceName][c.ConfigName] = c.ConfigValue
		}
	}
	return out, nil
}

// rights: a request that nobody answers shows that this account may write and read.
func (e *examination) rights(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, examineWait)
	defer cancel()
	_, err := e.b.Request(ctx, "doctor", nil)
	if err == nil || errors.Is(err, broker.ErrNoAnswer) && ctx.Err() == nil {
		e.add("rights", broker.LevelOK, "may ask on "+e.b.names.calls(), "", "")
		return
	}
	e.add("rights", broker.LevelError, "", "no request can be made on "+e.b.names.calls()+": "+oneLine(err),
		"allow this account Read, Write, Describe and Create on the topics, and Read, Describe and Delete on the groups, with the prefix "+e.b.names.prefix+".")
}

func oneLine(err error) string {
	if err == nil {
		return "no answer"
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}
