package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/twostep-mq/twostep/broker"
)

const (
	// duplicateWindow of streams: nothing is published with a Msg-Id, barriers absorb duplicates.
	duplicateWindow = 100 * time.Millisecond
	// inboxMaxAge frees the room of inboxes that nobody reads any more. What it takes is sent again if it is still wanted.
	inboxMaxAge = 7 * 24 * time.Hour
	// retainedMaxAge makes room on a topic that refuses new messages rather than dropping old ones: nothing else ever leaves it.
	retainedMaxAge = 7 * 24 * time.Hour
)

// ErrNotDeclared: a stream is missing, and Config.DeclareOff leaves making it to others.
var ErrNotDeclared = errors.New("broker/nats: a stream is missing")

// topicStream: Limits retention, the oldest dropped when it is full; or refusing new messages, and dropping those of a week, if the topic
// is Retained.
func (c Config) topicStream(t broker.TopicSpec) jetstream.StreamConfig {
	n := names{c.Prefix}
	cfg := c.stream(jetstream.StreamConfig{
		Name: n.topicStream(t.Name), Description: "twostep topic " + t.Name, Subjects: []string{n.topicSubject(t.Name)},
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, MaxBytes: c.TopicMaxBytes,
	})
	if t.Retained {
		cfg.Discard, cfg.MaxAge = jetstream.DiscardNew, retainedMaxAge
	}
	return cfg
}

// inboxStream is the work queue that an inbox shares with others of its kind. A full inbox refuses new messages and leaves the others
// alone.
func (c Config) inboxStream(inbox string) jetstream.StreamConfig {
	n := names{c.Prefix}
	cfg := c.stream(jetstream.StreamConfig{
		Name: n.inbox(inbox).stream, Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true,
		MaxBytes: c.InboxMaxBytes, MaxAge: inboxMaxAge,
	})
	if cfg.Name == n.receiptStream() {
		cfg.Description, cfg.Subjects, cfg.MaxMsgsPerSubject = "twostep receipts, by outbox", []string{c.Prefix + ".r.>"}, c.ReceiptMessages
	} else {
		cfg.Description, cfg.Subjects, cfg.MaxMsgsPerSubject = "twostep inboxes", []string{c.Prefix + ".i.>"}, c.InboxMessages
	}
	return cfg
}

// stateStream keeps the last message of each subject.
func (c Config) stateStream() jetstream.StreamConfig {
	n := names{c.Prefix}
	return c.stream(jetstream.StreamConfig{
		Name: n.stateStream(), Description: "twostep state, the last value by key", Subjects: []string{n.stateSubject(">")},
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, MaxMsgsPerSubject: 1, MaxBytes: c.StateMaxBytes, AllowMsgTTL: true,
	})
}

// stream is what all streams have in common.
func (c Config) stream(cfg jetstream.StreamConfig) jetstream.StreamConfig {
	cfg.Storage, cfg.Replicas, cfg.Duplicates = jetstream.FileStorage, c.Replicas, duplicateWindow
	return cfg
}

// ensureStream returns the stream's info, making the stream if it is not there.
func (b *Broker) ensureStream(ctx context.Context, cfg jetstream.StreamConfig) (*jetstream.StreamInfo, error) {
	var stream jetstream.Stream
	err := b.api(ctx, func(ctx context.Context) (err error) {
		stream, err = b.js.Stream(ctx, cfg.Name)
		if !noStream(err) {
			return err
		}
		if b.cfg.DeclareOff {
			return fmt.Errorf("%w: %s: make it as `twostep broker plan --print` says, or let twostep make it (broker.declare: on)", ErrNotDeclared, cfg.Name)
		}
		stream, err = b.js.CreateStream(ctx, cfg)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // somebody else was first, with other limits
			stream, err = b.js.Stream(ctx, cfg.Name)
		}
		if err == nil {
			b.log.Info("stream made", "stream", cfg.Name)
		}
		return err
	})
	switch {
	case isCode(err, codeStorageExceeded) || isCode(err, codeInsufficientResources):
		return nil, fmt.Errorf("%w: the server has no %d bytes of storage left to reserve: raise its max_file_store or lower broker.topic_max_bytes", err, cfg.MaxBytes)
	case isCode(err, codeNoSuitablePeers) || isCode(err, codeReplicasNotSupported):
		return nil, fmt.Errorf("%w: stream %s is to have %d replicas: start as many servers of the cluster, or lower broker.replicas", err, cfg.Name, cfg.Replicas)
	case err != nil:
		return nil, err
	}
	info := stream.CachedInfo()
	if !slices.Equal(info.Config.Subjects, cfg.Subjects) {
		return nil, fmt.Errorf("%w: stream %q is there with subjects %q, not %q: another topic's name is written alike; choose another name", errNameTaken, cfg.Name, info.Config.Subjects, cfg.Subjects)
	}
	return info, nil
}
