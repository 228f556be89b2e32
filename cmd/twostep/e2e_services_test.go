package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/adapters/api"
	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/cmd/bank/ledger"
)

// TestServicesInOtherProcesses connects services by what `twostep serve` prints alone, and makes a subscription with the command line:
// within a second it holds for the service that publishes. It measures time, so nothing runs beside it.
func TestServicesInOtherProcesses(t *testing.T) {
	in := startInstallation(t)
	in.bank(t, "receiver", "b.db")
	in.bank(t, "sender", "a.db", "--transfers", "200", "--stay")
	a, b := in.open(t, "a.db"), in.open(t, "b.db")
	eventually(t, e2eLimit, func() (bool, string) {
		n := entries(t, b)
		return n > 0 && n == entries(t, a) && unreleased(t, a) == 0, fmt.Sprintf("%d of %d credited", n, entries(t, a))
	})
	before := entries(t, a)

	client, err := api.NewClient(in.api)
	if err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	var made api.Subscription
	in.cli(t, &made, "topics", "subscribe", ledger.TransIn.Name(), "audit")
	eventually(t, time.Second, func() (bool, string) {
		topic, err := client.Topic(t.Context(), ledger.TransIn.Name())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(topic.Subscriptions, func(s api.Subscription) bool { return s.UID == made.UID })
		return i >= 0 && topic.Subscriptions[i].State == "active", fmt.Sprintf("subscriptions %+v", topic.Subscriptions)
	})
	took := time.Since(since)
	t.Logf("active %v after the command was started", took.Round(time.Millisecond))
	if took >= time.Second {
		t.Errorf("active after %v, want less than a second", took)
	}
	var shown api.Topic
	in.cli(t, &shown, "topics", "show", ledger.TransIn.Name())
	if len(shown.Subscriptions) != 2 {
		t.Errorf("the command line shows %+v", shown.Subscriptions)
	}

	// Nobody runs it yet. What is committed from now on waits for it, though the accounts have it.
	second := in.bank(t, "sender", "a.db", "--transfers", "100", "--seed", "2", "--log", in.path("two.log"), "--relay=false")
	eventually(t, e2eLimit, func() (bool, string) {
		n := entries(t, b)
		return strings.Contains(second.stdout.String(), "sent") && n == entries(t, a), fmt.Sprintf("%d of %d credited", n, entries(t, a))
	})
	later := entries(t, a) - before
	if n := unreleased(t, a); n != later {
		t.Errorf("%d rows wait for the new subscription, want %d", n, later)
	}
	in.bank(t, "receiver", "audit.db", "--subscription", "audit", "--declare", "off")
	if code := second.exit(t, e2eLimit); code != 0 {
		t.Fatalf("the second sender ended with %d", code)
	}
	audit := statement(t, in.open(t, "audit.db"))
	sending := statement(t, a)
	creditedOnce(t, ledger.Statement{Entries: sending.Entries[before:]}, audit)
	creditedOnce(t, sending, statement(t, b))
}

// TestRelayHandsOver stops the working relay with SIGTERM under load. The standby must go on within a second. It measures
// time, so nothing runs beside it.
func TestRelayHandsOver(t *testing.T) {
	in := startInstallation(t)
	in.bank(t, "receiver", "b.db")
	sender := in.bank(t, "sender", "a.db", "--transfers", "1500", "--rate", "300", "--relay=false")
	relays := []*process{in.bank(t, "relay", "a.db"), in.bank(t, "relay", "a.db")}
	arrivals := watchTopic(t, in)
	eventually(t, e2eLimit, func() (bool, string) {
		n := arrivals.count()
		return n >= 300, fmt.Sprintf("%d messages arrived", n)
	})
	a := in.open(t, "a.db")
	working := relayPID(t, a)
	i := slices.IndexFunc(relays, func(p *process) bool { return p.Process.Pid == working })
	if i < 0 {
		t.Fatalf("lease owner %d is no relay", working)
	}
	stopped := time.Now()
	signalTo(t, working, syscall.SIGTERM)
	if code := sender.exit(t, e2eLimit); code != 0 {
		t.Fatalf("the sender ended with %d", code)
	}
	if code := relays[i].exit(t, e2eLimit); code != 0 {
		t.Errorf("the stopped relay ended with %d", code)
	}
	if now := relayPID(t, a); now != relays[1-i].Process.Pid {
		t.Errorf("lease owner %d, want the standby", now)
	}
	gap, after := arrivals.longestPause(stopped)
	t.Logf("%d messages after the SIGTERM, the longest pause between two was %v", after, gap.Round(time.Millisecond))
	if after < 100 {
		t.Errorf("only %d messages arrived after the SIGTERM: no progress to measure", after)
	}
	if gap >= time.Second {
		t.Errorf("nothing was relayed for %v", gap)
	}
	creditedOnce(t, statement(t, a), statement(t, in.open(t, "b.db")))
}

// arrivals notes when messages arrived on a topic.
type arrivals struct {
	mu sync.Mutex
	at []time.Time
}

// watchTopic reads the topic beside its subscriptions until the test ends.
func watchTopic(t *testing.T, in *installation) *arrivals {
	t.Helper()
	b, err := in.broker.Connect(t.Context(), "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var seen arrivals
	spec := broker.SubscriptionSpec{UID: uuid.NewString(), Topic: ledger.TransIn.Name()}
	if err := b.EnsureSubscription(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var reading sync.WaitGroup
	reading.Go(func() {
		err := b.Consume(ctx, broker.Source{Subscription: spec}, func(_ context.Context, ds []broker.Delivery) error {
			seen.mu.Lock()
			defer seen.mu.Unlock()
			for range ds {
				seen.at = append(seen.at, time.Now())
			}
			return nil
		})
		if err != nil {
			t.Errorf("read the topic: %v", err)
		}
	})
	t.Cleanup(func() {
		stop()
		reading.Wait()
		_ = b.Close(context.Background())
	})
	return &seen
}

func (a *arrivals) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.at)
}

// longestPause is the longest time without an arrival, beginning at since, and how many there were.
func (a *arrivals) longestPause(since time.Time) (longest time.Duration, after int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	last := since
	for _, at := range a.at {
		if at.Before(since) {
			continue
		}
		longest = max(longest, at.Sub(last))
		last = at
		after++
	}
	return longest, after
}
