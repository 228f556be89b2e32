// Package memory is a broker for simulations. It has no goroutine and no clock of its own: what is published waits until the
// test stores it, what is stored waits until the test hands it out, and every acknowledgement, receipt and change of the state
// arrives when the test says so. So one seed is one schedule.
//
// It keeps the promises of package broker and no others. In particular a test may lose acknowledgements, store a message
// whose publisher was told of an error, hand messages out again, drop the oldest ones, and wipe everything.
package memory

import (
	"fmt"
	"hash/fnv"
	"slices"
	"sort"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// Config of a Server. The zero value works.
type Config struct {
	// Partitions of each topic; 0: 1. Messages of one key share one.
	Partitions int
	// InboxMost bounds an inbox: a message beyond is refused with broker.ErrFull; 0: no bound.
	InboxMost int
	// LateAcks lets a batch that was handed out before a wipe settle the offsets of the same numbers in the stream made after
	// it, without an error, as JetStream does.
	LateAcks bool
	// Now is the broker's clock; nil: one that stands still.
	Now func() time.Time
}

// Server is the broker itself. Processes reach it through the Conns that Connect makes. It is not safe for concurrent use: a
// simulation does one thing at a time.
type Server struct {
	cfg     Config
	topics  map[string]*topic
	inboxes map[string]*inbox
	state   state
	// publishing are messages on their way in or acknowledgements on their way back, in the order they were handed over.
	publishing []*Publishing
	answers    map[string][]*answerer
	listeners  map[string][]*listener
	// streams counts incarnations, so that no two have one name.
	streams int
	// OnSend, if set, decides about each call of Send.
	OnSend func(inbox string, ms []*broker.Message) SendFault
}

// New makes an empty server.
func New(cfg Config) *Server {
	if cfg.Partitions == 0 {
		cfg.Partitions = 1
	}
	if cfg.Now == nil {
		epoch := time.Unix(1_700_000_000, 0)
		cfg.Now = func() time.Time { return epoch }
	}
	s := &Server{cfg: cfg, answers: map[string][]*answerer{}, listeners: map[string][]*listener{}}
	s.reset()
	return s
}

func (s *Server) reset() {
	s.topics, s.inboxes = map[string]*topic{}, map[string]*inbox{}
	s.state.wipe()
}

// Wipe loses everything the broker holds, its state included. Messages that are still on their way in arrive at what is made
// after it.
func (s *Server) Wipe() { s.reset() }

// topic is a stream, in one incarnation.
type topic struct {
	spec       broker.TopicSpec
	stream     string
	partitions []partition
	readers    map[string]*reader
}

type partition struct {
	// first is the lowest offset held; stored[0] lies there.
	first  uint64
	stored []record
}

type record struct {
	msg *broker.Message
	at  time.Time
}

func (p *partition) last() uint64 { return p.first + uint64(len(p.stored)) - 1 }

func (p *partition) at(offset uint64) *record {
	if offset < p.first || offset > p.last() {
		return nil
	}
	return &p.stored[offset-p.first]
}

func (s *Server) ensureTopic(spec broker.TopicSpec) {
	if s.topics[spec.Name] != nil {
		return
	}
	s.streams++
	t := &topic{
		spec: spec, stream: fmt.Sprintf("%s#%d", spec.Name, s.streams),
		partitions: make([]partition, s.cfg.Partitions), readers: map[string]*reader{},
	}
	for i := range t.partitions {
		t.partitions[i].first = 1
	}
	s.topics[spec.Name] = t
}

// store appends a message to its topic.
func (s *Server) store(m *broker.Message) (broker.Position, error) {
	t := s.topics[m.Topic]
	if t == nil {
		return broker.Position{}, broker.ErrNoTopic
	}
	n := t.partitionOf(m)
	p := &t.partitions[n]
	p.stored = append(p.stored, record{msg: m, at: s.cfg.Now()})
	return broker.Position{Stream: t.stream, Partition: n, Offset: p.last()}, nil
}

func (t *topic) partitionOf(m *broker.Message) int {
	by := m.Key
	if by == "" {
		by = m.ID
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(by))
	return int(h.Sum32() % uint32(len(t.partitions)))
}

// Trim drops the oldest n messages of every partition of the topic, as a full stream does.
func (s *Server) Trim(topic string, n int) {
	t := s.topics[topic]
	if t == nil {
		return
	}
	for i := range t.partitions {
		p := &t.partitions[i]
		k := min(n, len(p.stored))
		p.stored = slices.Clone(p.stored[k:])
		p.first += uint64(k)
	}
}

// Topics lists the topics there are, sorted.
func (s *Server) Topics() []string { return sortedKeys(s.topics) }

// HasInbox reports whether the inbox exists.
func (s *Server) HasInbox(name string) bool { return s.inboxes[name] != nil }

// HasReader reports whether the subscription's reader exists.
func (s *Server) HasReader(topic, uid string) bool {
	t := s.topics[topic]
	return t != nil && t.readers[uid] != nil
}

// Idle reports whether nothing is on its way in or back.
func (s *Server) Idle() bool { return len(s.publishing) == 0 }

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
