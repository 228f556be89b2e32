package brokertest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

func echo(prefix string) func(context.Context, []byte) []byte {
	return func(_ context.Context, body []byte) []byte { return []byte(prefix + string(body)) }
}

func testAnswer(t *testing.T, h Harness) {
	b, other, ctx := h.Connect(t), h.Connect(t), background(t)
	stop, err := other.Answer(ctx, "outbox."+outbox, echo("got "))
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []broker.Broker{b, other} {
		if answer, err := from.Request(ctx, "outbox."+outbox, []byte("it")); err != nil || string(answer) != "got it" {
			t.Fatalf("Request: %q, %v", answer, err)
		}
	}
	stop()
	stop()
	if _, err := b.Request(ctx, "outbox."+outbox, nil); !errors.Is(err, broker.ErrNoAnswer) {
		t.Errorf("Request after stop: %v, want ErrNoAnswer", err)
	}
}

func testNobodyAnswers(t *testing.T, h Harness) {
	b := h.Connect(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := b.Request(ctx, "sub."+uid(1), nil); !errors.Is(err, broker.ErrNoAnswer) {
		t.Errorf("Request to nobody: %v, want ErrNoAnswer", err)
	}
	release := make(chan struct{})
	stop, err := b.Answer(background(t), "slow", func(context.Context, []byte) []byte { <-release; return nil })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.Request(ctx, "slow", nil); !errors.Is(err, broker.ErrNoAnswer) {
		t.Errorf("Request to somebody too slow: %v, want ErrNoAnswer", err)
	}
	close(release)
	stop()
}

func testOneAnswers(t *testing.T, h Harness) {
	ctx := background(t)
	var calls atomic.Int64
	for range 3 {
		stop, err := h.Connect(t).Answer(ctx, "group", func(context.Context, []byte) []byte { calls.Add(1); return nil })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
	}
	b := h.Connect(t)
	for range 30 {
		if _, err := b.Request(ctx, "group", nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := calls.Load(); n != 30 {
		t.Errorf("30 requests were answered by %d calls", n)
	}
}

func testRing(t *testing.T, h Harness) {
	ctx, b := background(t), h.Connect(t)
	var heard [3]atomic.Int64
	var stops []func()
	for i := range heard {
		stop, err := h.Connect(t).Listen(ctx, "outbox."+outbox, func() { heard[i].Add(1) })
		if err != nil {
			t.Fatal(err)
		}
		stops = append(stops, stop)
	}
	if err := b.Ring(ctx, "outbox."+outbox); err != nil {
		t.Fatal(err)
	}
	if err := b.Ring(ctx, "somebody.else"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		for i := range heard {
			if n := heard[i].Load(); n != 1 {
				return fmt.Errorf("listener %d heard %d rings", i, n)
			}
		}
		return nil
	})
	stops[0]()
	if err := b.Ring(ctx, "outbox."+outbox); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if heard[1].Load() != 2 || heard[2].Load() != 2 {
			return errors.New("the others did not hear the second ring")
		}
		return nil
	})
	if heard[0].Load() != 1 {
		t.Error("a listener heard a ring after its stop")
	}
}
