package memory

import (
	"slices"

	"github.com/twostep-mq/twostep/broker"
)

// Publishing is one message that was handed to Publish: first on its way in, then (Stored) its acknowledgement is on its way
// back. Each of its methods but the getters ends one of the two ways.
type Publishing struct {
	Message *broker.Message
	server  *Server
	conn    *Conn
	answer  func(broker.Position, error)
	stored  bool
	at      broker.Position
}

// Stored reports whether the message is in its topic and only the acknowledgement is missing.
func (p *Publishing) Stored() bool { return p.stored }

// Publishing lists what is under way and may move next, in the order it was handed over: every acknowledgement, and of the
// messages on their way in the first of each connection and topic, since those keep their order.
func (s *Server) Publishing() []*Publishing {
	type lane struct {
		conn  *Conn
		topic string
	}
	var out []*Publishing
	busy := map[lane]bool{}
	for _, p := range s.publishing {
		l := lane{p.conn, p.Message.Topic}
		if !p.stored && busy[l] {
			continue
		}
		busy[l] = busy[l] || !p.stored
		out = append(out, p)
	}
	return out
}

// UnderWay lists every message that is on its way in, or whose acknowledgement is on its way back.
func (s *Server) UnderWay() []*broker.Message {
	out := make([]*broker.Message, len(s.publishing))
	for i, p := range s.publishing {
		out[i] = p.Message
	}
	return out
}

// PublishAll stores and acknowledges everything that is under way, in order.
func (s *Server) PublishAll() {
	for len(s.publishing) > 0 {
		ps := s.publishing
		s.publishing = nil
		for _, p := range ps {
			var err error
			if !p.stored {
				p.at, err = s.store(p.Message)
			}
			p.tell(err)
		}
	}
}

// Store puts the message into its topic; its acknowledgement is then under way. Without the topic the publisher is told so.
func (p *Publishing) Store() {
	at, err := p.server.store(p.Message)
	if err != nil {
		p.Fail(err)
		return
	}
	p.stored, p.at = true, at
}

// Double stores the message twice: a broker's client that repeated it.
func (p *Publishing) Double() {
	p.Store()
	if p.stored {
		_, _ = p.server.store(p.Message)
	}
}

// Ack tells the publisher that the message is stored.
func (p *Publishing) Ack() { p.end(); p.tell(nil) }

// Fail tells the publisher of an error, whether or not the message is stored.
func (p *Publishing) Fail(err error) { p.end(); p.tell(err) }

// Lose ends it without a word: the publisher never hears of it again.
func (p *Publishing) Lose() { p.end() }

func (p *Publishing) end() {
	if i := slices.Index(p.server.publishing, p); i >= 0 {
		p.server.publishing = slices.Delete(p.server.publishing, i, i+1)
	}
}

func (p *Publishing) tell(err error) {
	if p.conn.gone {
		return
	}
	if err != nil {
		p.answer(broker.Position{}, err)
		return
	}
	p.answer(p.at, nil)
}
