package nats_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/twostep-mq/twostep/broker"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
)

// examined are the findings about a server, by check.
func examined(t *testing.T, url string, prepare func(*natsbroker.Broker)) map[string]broker.Finding {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	b, err := natsbroker.Connect(ctx, natsbroker.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close(context.WithoutCancel(ctx)) }()
	if prepare != nil {
		prepare(b)
	}
	found := map[string]broker.Finding{}
	for _, f := range b.Examine(ctx) {
		found[f.Check] = f
	}
	return found
}

func wantLevel(t *testing.T, found map[string]broker.Finding, check string, level broker.Level, words string) {
	t.Helper()
	f, ok := found[check]
	if !ok || f.Level != level || !strings.Contains(f.Value+" "+f.Problem+" "+f.Fix, words) {
		t.Errorf("%s: %+v, want level %s and %q", check, f, level, words)
	}
}

func TestExamine(t *testing.T) {
	t.Parallel()
	s := external(t, nil)
	found := examined(t, s.ClientURL(), nil)
	wantLevel(t, found, "server", broker.LevelOK, server.VERSION)
	wantLevel(t, found, "message size", broker.LevelOK, "max_payload")
	wantLevel(t, found, "JetStream", broker.LevelOK, "0 streams")
	wantLevel(t, found, "streams", broker.LevelNote, "3 streams of twostep's own are not there yet")
	wantLevel(t, found, "rights", broker.LevelOK, "")

	found = examined(t, s.ClientURL(), func(b *natsbroker.Broker) {
		for _, err := range []error{
			b.EnsureTopic(t.Context(), broker.TopicSpec{Name: "pay"}), b.EnsureInbox(t.Context(), "sub.x"), b.EnsureInbox(t.Context(), "outbox.x"),
			b.PutState(t.Context(), "registry.head", []byte("{}")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	wantLevel(t, found, "streams", broker.LevelOK, "1 topics")
}

func TestExamineFindsWrongSettings(t *testing.T) {
	t.Parallel()
	s := external(t, func(o *server.Options) { o.MaxPayload = 1_000_000 })
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []jetstream.StreamConfig{
		{Name: "twostep-state", Subjects: []string{"twostep.s.>"}, Storage: jetstream.MemoryStorage, MaxMsgsPerSubject: 5},
		{Name: "twostep-t-pay", Subjects: []string{"twostep.t.pay.p0"}, Retention: jetstream.InterestPolicy},
		{Name: "others", Subjects: []string{"others.>"}, Storage: jetstream.MemoryStorage},
	} {
		if _, err := js.CreateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	found := examined(t, s.ClientURL(), nil)
	wantLevel(t, found, "message size", broker.LevelError, "max_payload: 1MB")
	wantLevel(t, found, "stream twostep-state", broker.LevelError, "5 messages a subject instead of 1")
	wantLevel(t, found, "stream twostep-state", broker.LevelError, "nats stream rm twostep-state")
	wantLevel(t, found, "stream twostep-t-pay", broker.LevelError, "retention")
	if f, ok := found["stream others"]; ok {
		t.Errorf("a stream of somebody else: %+v", f)
	}
}

func TestExamineWithoutJetStreamAndRights(t *testing.T) {
	t.Parallel()
	off := external(t, func(o *server.Options) { o.JetStream = false })
	wantLevel(t, examined(t, off.ClientURL(), nil), "JetStream", broker.LevelError, "jetstream: enabled")
	deaf := external(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Deny: []string{"twostep.q.>"}},
		}}}
	})
	url := strings.Replace(deaf.ClientURL(), "nats://", "nats://u:p@", 1)
	wantLevel(t, examined(t, url, nil), "rights", broker.LevelError, "allow this user to publish twostep.>")
}
