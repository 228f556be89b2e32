package kafka_test

import (
	"context"
	"log/slog"
	"time"

	kafkabroker "github.com/twostep-mq/twostep/broker/kafka"
)

// A cluster with TLS and a SCRAM login. Topics get six partitions with three replicas each.
func ExampleConnect() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	b, err := kafkabroker.Connect(ctx, kafkabroker.Config{
		Brokers: "kafka-1.example:9093,kafka-2.example:9093", CAFile: "/etc/kafka/ca.pem",
		Mechanism: "SCRAM-SHA-512", User: "payments", Password: "from the environment",
		Partitions: 6, Replication: 3, Logger: slog.Default(),
	})
	if err != nil {
		slog.Error("no broker", "error", err)
		return
	}
	defer func() { _ = b.Close(context.Background()) }()
}
