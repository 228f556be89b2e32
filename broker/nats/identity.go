package nats

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/twostep-mq/twostep/broker"
)

// identities remembers the incarnation of each topic's stream, for a publish's acknowledgement does not name it. What is
// remembered was read before the messages that use it were sent, so it may name an incarnation that has gone (the position
// then counts as passed, and a copy is sent), but never one that came after the message was stored.
type identities struct {
	mu    sync.Mutex
	known map[string]*identity
	// mute are topics whose streams did not answer, and until when not to ask again.
	mute map[string]time.Time
}

type identity struct {
	stream string
	// last is the highest offset acknowledged under it. One that is not higher tells of another incarnation.
	last uint64
}

func newIdentities() *identities {
	return &identities{known: map[string]*identity{}, mute: map[string]time.Time{}}
}

// unanswered notes that the topic's stream did not answer.
func (s *identities) unanswered(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute[topic] = time.Now().Add(silentPause)
}

// silent reports whether the topic's stream did not answer a moment ago.
func (s *identities) silent(topic string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.mute[topic])
}

func (s *identities) of(topic string) (stream string, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.known[topic]
	if id == nil {
		return "", false
	}
	return id.stream, true
}

// incarnation returns that of the topic's stream; broker.ErrNoTopic if there is none.
func (b *Broker) incarnation(ctx context.Context, topic string) (string, error) {
	if stream, known := b.ids.of(topic); known {
		return stream, nil
	}
	if err := checkName("topic", topic); err != nil {
		return "", err
	}
	var stream jetstream.Stream
	err := b.api(ctx, func(ctx context.Context) (err error) {
		stream, err = b.js.Stream(ctx, b.names.topicStream(topic))
		return err
	})
	if noStream(err) {
		return "", broker.ErrNoTopic
	}
	if err != nil {
		return "", err
	}
	id := streamID(stream.CachedInfo())
	b.ids.learn(topic, id)
	return id, nil
}

// learn notes what the broker has just said.
func (s *identities) learn(topic, stream string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.known[topic]; known == nil || known.stream != stream {
		s.known[topic] = &identity{stream: stream}
	}
	delete(s.mute, topic)
}

// acknowledged checks an offset against those before it: one that is not higher may belong to a stream made anew (or two
// acknowledgements came out of order, which does no harm). The next publish then reads the incarnation again.
func (s *identities) acknowledged(topic, stream string, offset uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.known[topic]
	if known == nil || known.stream != stream {
		return
	}
	if offset <= known.last {
		delete(s.known, topic)
		return
	}
	known.last = offset
}

func (s *identities) forget(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, topic)
}

func (s *identities) forgetAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.known)
	clear(s.mute)
}

// streamID names an incarnation: a stream that was made anew has another time of creation.
func streamID(info *jetstream.StreamInfo) string { return timeID(info.Created) }

func timeID(created time.Time) string { return strconv.FormatInt(created.UnixNano(), 36) }
