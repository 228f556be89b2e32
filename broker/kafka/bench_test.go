package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/twostep-mq/twostep/broker"
)

// BenchmarkPublish against kafka-go's Writer with the same records, both with acknowledgement by all replicas.
func BenchmarkPublish(b *testing.B) {
	cfg := config(b, 1)
	b.Cleanup(func() { removeTopics(b, cfg.Prefix) })
	bk := connect(b, cfg)
	if err := bk.EnsureTopic(b.Context(), broker.TopicSpec{Name: "t"}); err != nil {
		b.Fatal(err)
	}
	ms := messages("t", 1, 500)
	for _, m := range ms {
		m.Payload = make([]byte, 256)
	}
	b.Run("broker", func(b *testing.B) {
		b.ReportAllocs()
		var all sync.WaitGroup
		for range (b.N + 499) / 500 {
			all.Add(len(ms))
			bk.Publish(b.Context(), ms, func(_ int, _ broker.Position, err error) {
				if err != nil {
					b.Error(err)
				}
				all.Done()
			})
		}
		all.Wait()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	})
	b.Run("writer", func(b *testing.B) {
		b.ReportAllocs()
		w := &kafka.Writer{
			Addr: kafka.TCP(cfg.Brokers), Topic: cfg.Prefix + ".t.t", RequiredAcks: kafka.RequireAll, BatchTimeout: time.Millisecond, BatchSize: 1000,
			Transport: &kafka.Transport{},
		}
		var batch []kafka.Message
		for _, m := range ms {
			batch = append(batch, kafka.Message{Key: []byte(m.Key), Value: m.Payload, Headers: []kafka.Header{{Key: "ce_id", Value: []byte(m.ID)}}})
		}
		b.ResetTimer()
		for range (b.N + 499) / 500 {
			if err := w.WriteMessages(b.Context(), batch...); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		if err := w.Close(); err != nil {
			b.Error(fmt.Errorf("close: %w", err))
		}
	})
}

// BenchmarkConsume reads what lies in a topic, a commit for each batch of up to 500.
func BenchmarkConsume(b *testing.B) {
	cfg := config(b, 1)
	b.Cleanup(func() { removeTopics(b, cfg.Prefix) })
	bk := connect(b, cfg)
	sub := broker.SubscriptionSpec{UID: "u", Topic: "t"}
	if err := errors.Join(bk.EnsureTopic(b.Context(), broker.TopicSpec{Name: "t"}), bk.EnsureSubscription(b.Context(), sub)); err != nil {
		b.Fatal(err)
	}
	ms := messages("t", 1, 500)
	var all sync.WaitGroup
	for n := 0; n < b.N; n += len(ms) {
		all.Add(len(ms))
		bk.Publish(b.Context(), ms, func(int, broker.Position, error) { all.Done() })
	}
	all.Wait()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	got, batches := 0, 0
	b.ReportAllocs()
	b.ResetTimer()
	err := bk.Consume(ctx, broker.Source{Subscription: sub}, func(_ context.Context, ds []broker.Delivery) error {
		batches++
		if got += len(ds); got >= b.N {
			cancel()
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(got)/b.Elapsed().Seconds(), "messages/s")
	b.ReportMetric(float64(got)/float64(batches), "messages/batch")
}
