package nats_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
)

func benchBroker(b *testing.B, inProcess bool) *natsbroker.Broker {
	f := startServer(b)
	if !inProcess {
		return f.connect(b, f.config())
	}
	br, err := f.server().Connect(context.Background(), natsbroker.Config{TopicMaxBytes: 4 << 30})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := br.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	return br
}

func benchMessages(n int) []*broker.Message {
	ms := make([]*broker.Message, n)
	for i := range ms {
		id := fmt.Sprintf("0198cccc-0000-7000-8000-%012x", i)
		ms[i] = &broker.Message{
			ID: id, GID: id, Topic: "bench", Key: "account-17", ContentType: "application/json", Payload: make([]byte, 256),
			Time: time.Unix(1767323045, 0), Outbox: "0198aaaa-0000-7000-8000-00000000000a", Seq: int64(i + 1), Attempt: 1,
		}
	}
	return ms
}

func publishN(b *testing.B, br *natsbroker.Broker, n int) {
	ms := benchMessages(500)
	done := make(chan error, n)
	for left := n; left > 0; left -= len(ms) {
		br.Publish(context.Background(), ms[:min(left, len(ms))], func(_ int, _ broker.Position, err error) { done <- err })
	}
	for range n {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPublish is one message of 256 bytes, in calls of 500.
func BenchmarkPublish(b *testing.B) {
	for _, inProcess := range []bool{true, false} {
		b.Run(fmt.Sprintf("inProcess=%v", inProcess), func(b *testing.B) {
			br := benchBroker(b, inProcess)
			if err := br.EnsureTopic(context.Background(), broker.TopicSpec{Name: "bench"}); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			publishN(b, br, b.N)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}

// BenchmarkConsume is one message of 256 bytes, read and acknowledged by a handler that does nothing.
func BenchmarkConsume(b *testing.B) {
	for _, inProcess := range []bool{true, false} {
		for _, keyed := range []bool{false, true} {
			b.Run(fmt.Sprintf("inProcess=%v/keyed=%v", inProcess, keyed), func(b *testing.B) {
				br := benchBroker(b, inProcess)
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				if err := br.EnsureTopic(ctx, broker.TopicSpec{Name: "bench"}); err != nil {
					b.Fatal(err)
				}
				s := broker.SubscriptionSpec{UID: "u", Topic: "bench", Keyed: keyed}
				if err := br.EnsureSubscription(ctx, s); err != nil {
					b.Fatal(err)
				}
				publishN(b, br, b.N)
				n, calls := 0, 0
				b.ReportAllocs()
				b.ResetTimer()
				err := br.Consume(ctx, broker.Source{Subscription: s}, func(_ context.Context, ds []broker.Delivery) error {
					calls++
					if n += len(ds); n >= b.N {
						cancel()
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
				b.ReportMetric(float64(b.N)/float64(calls), "messages/batch")
			})
		}
	}
}
