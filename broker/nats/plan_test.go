package nats_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/twostep-mq/twostep/broker"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
)

const planOutbox = "0197f000-0000-7000-8000-000000000001"

func testPlan(declareOff bool) natsbroker.Plan {
	return natsbroker.Config{DeclareOff: declareOff, TopicMaxBytes: 64 << 20, InboxMaxBytes: 64 << 20, StateMaxBytes: 16 << 20}.Plan("server",
		[]broker.TopicSpec{{Name: "bank.trans-in"}, {Name: "audit", Retained: true}}, []natsbroker.PlanService{
			{User: "sender", Outbox: planOutbox, Sends: []string{"bank.trans-in", "audit"}},
			{User: "handler", Handles: []string{"bank.trans-in"}},
		})
}

// The rights that a plan lists are enough for what each user does, and no more than that.
func TestPlanIsEnoughAndNotMore(t *testing.T) {
	t.Parallel()
	for _, declareOff := range []bool{false, true} {
		t.Run(map[bool]string{false: "twostep makes streams", true: "streams are made by others"}[declareOff], func(t *testing.T) {
			t.Parallel()
			plan := testPlan(declareOff)
			s := external(t, func(o *server.Options) {
				for _, u := range append(plan.Users, natsbroker.User{User: "admin", Permissions: natsbroker.Permissions{Publish: []string{">"}, Subscribe: []string{">"}}}) {
					perms := &server.Permissions{Publish: &server.SubjectPermission{Allow: u.Permissions.Publish}, Subscribe: &server.SubjectPermission{Allow: u.Permissions.Subscribe}}
					if u.Permissions.AllowResponses {
						perms.Response = &server.ResponsePermission{MaxMsgs: 1, Expires: time.Minute}
					}
					o.Users = append(o.Users, &server.User{Username: u.User, Password: "p", Permissions: perms})
				}
			})
			connect := func(user string) *natsbroker.Broker {
				b, err := natsbroker.Connect(t.Context(), natsbroker.Config{URL: s.ClientURL(), User: user, Password: "p", DeclareOff: declareOff && user != "admin",
					TopicMaxBytes: 64 << 20, InboxMaxBytes: 64 << 20, StateMaxBytes: 16 << 20})
				must(t, err)
				t.Cleanup(func() { _ = b.Close(context.Background()) })
				return b
			}
			srv, sender, handler := connect("server"), connect("sender"), connect("handler")
			if declareOff { // as the plan says
				admin := connect("admin")
				must(t, errors.Join(admin.EnsureTopic(t.Context(), broker.TopicSpec{Name: "bank.trans-in"}),
					admin.EnsureTopic(t.Context(), broker.TopicSpec{Name: "audit", Retained: true}), admin.PutState(t.Context(), "x", nil),
					admin.EnsureInbox(t.Context(), "sub.x"), admin.EnsureInbox(t.Context(), "outbox.x")))
			}
			planEnough(t, srv, sender, handler)
			planNotMore(t, sender, handler)
		})
	}
}

const planSub = "0197f000-0000-7000-8000-0000000000aa"

// planEnough does what a transfer does.
func planEnough(t *testing.T, srv, sender, handler *natsbroker.Broker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	sub := broker.SubscriptionSpec{UID: planSub, Topic: "bank.trans-in", Keyed: true}
	must(t, errors.Join(
		srv.EnsureTopic(ctx, broker.TopicSpec{Name: "bank.trans-in"}), srv.EnsureTopic(ctx, broker.TopicSpec{Name: "audit", Retained: true}),
		srv.EnsureInbox(ctx, "sub."+planSub), srv.EnsureSubscription(ctx, sub), srv.PutState(ctx, "registry.head", []byte("{}")),
		handler.PutState(ctx, "declare.bank.trans-in.accounts", []byte("{}")), sender.PutState(ctx, "declare.audit", []byte("{}")),
		sender.EnsureInbox(ctx, "outbox."+planOutbox), sender.PutState(ctx, "outbox."+planOutbox, []byte("{}")),
		handler.EnsureSubscription(ctx, sub), handler.EnsureInbox(ctx, "sub."+planSub), sender.Ring(ctx, "outbox."+planOutbox),
	))
	for who, b := range map[string]*natsbroker.Broker{"sender": sender, "handler": handler} {
		watched, stop := context.WithCancel(ctx)
		err := b.WatchState(watched, "registry.", func(ev broker.StateEvent) error {
			if ev.Current {
				stop()
			}
			return nil
		})
		if err != nil || ctx.Err() != nil {
			t.Fatalf("%s cannot read the registry: %v", who, err)
		}
	}
	published := make(chan error, 2)
	sender.Publish(ctx, []*broker.Message{{ID: "a", Topic: "bank.trans-in"}, {ID: "b", Topic: "audit"}}, func(_ int, _ broker.Position, err error) { published <- err })
	must(t, errors.Join(<-published, <-published))
	_, err := sender.Send(ctx, "sub."+planSub, []*broker.Message{{ID: "again", Topic: "bank.trans-in"}})
	must(t, err)
	if _, err := sender.Positions(ctx, "bank.trans-in", []string{planSub}); err != nil {
		t.Fatal(err)
	}
	stop, err := sender.Answer(ctx, "outbox."+planOutbox, func(context.Context, []byte) []byte { return []byte("yes") })
	must(t, err)
	defer stop()
	if got, err := srv.Request(ctx, "outbox."+planOutbox, nil); err != nil || string(got) != "yes" {
		t.Fatalf("the relay answers %q, %v", got, err)
	}
	one := func(b *natsbroker.Broker, src broker.Source) {
		t.Helper()
		reading, stop := context.WithCancel(ctx)
		defer stop()
		n := 0
		err := b.Consume(reading, src, func(_ context.Context, ds []broker.Delivery) error {
			n += len(ds)
			stop()
			return nil
		})
		if err != nil || n == 0 {
			t.Fatalf("%+v: %d messages, %v", src, n, err)
		}
	}
	one(handler, broker.Source{Subscription: sub})
	one(handler, broker.Source{Inbox: "sub." + planSub})
	_, err = handler.Send(ctx, "outbox."+planOutbox, []*broker.Message{{ID: "receipt", ContentType: "application/vnd.twostep.receipt"}})
	must(t, err)
	one(sender, broker.Source{Inbox: "outbox." + planOutbox})
}

// planNotMore tries what would forge another's word, or take what is another's.
func planNotMore(t *testing.T, sender, handler *natsbroker.Broker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	const other = "0197f000-0000-7000-8000-000000000002"
	published := make(chan error, 1)
	handler.Publish(ctx, []*broker.Message{{ID: "forged", Topic: "bank.trans-in"}}, func(_ int, _ broker.Position, err error) { published <- err })
	_, receipt := sender.Send(ctx, "outbox."+other, []*broker.Message{{ID: "forged"}})
	_, resend := handler.Send(ctx, "sub."+planSub, []*broker.Message{{ID: "forged"}})
	for what, err := range map[string]error{
		"a handler publishes to its topic":      <-published,
		"a sender confirms another's messages":  receipt,
		"a handler sends to a subscription":     resend,
		"a sender writes the registry":          sender.PutState(ctx, "registry.head", nil),
		"a handler reports for an outbox":       handler.PutState(ctx, "outbox."+planOutbox, nil),
		"a sender subscribes others to a topic": sender.EnsureSubscription(ctx, broker.SubscriptionSpec{UID: other, Topic: "audit"}),
		"a sender deletes a topic":              sender.DeleteTopic(ctx, "audit"),
	} {
		if !errors.Is(err, natsbroker.ErrDenied) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
