package kfaketest

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/twostep-mq/twostep/broker"
)

// A Broker that was used for everything and closed leaves nothing running. Not parallel: it looks at the whole process.
func TestCloseLeavesNothing(t *testing.T) { //nolint:paralleltest // see above
	f := startCluster(t, 1)
	cfg := f.config()
	cfg.Partitions = 3
	b := f.connect(t, cfg)
	src := mustEnsure(t, b, "t")
	ctx := t.Context()
	r := read(t, b, src, nil)
	watching, end := context.WithCancel(ctx)
	watched := make(chan error, 1)
	go func() { watched <- b.WatchState(watching, "", func(broker.StateEvent) error { return nil }) }()
	stopListening, err := b.Listen(ctx, "bell", func() {})
	if err != nil {
		t.Fatal(err)
	}
	stopAnswering, err := b.Answer(ctx, "name", func(context.Context, []byte) []byte { return nil })
	if err != nil {
		t.Fatal(err)
	}
	mustPublish(t, b, messages("t", "k", 1, 100))
	r.until(100)
	if err := b.Ring(ctx, "bell"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Request(ctx, "name", nil); err != nil {
		t.Fatal(err)
	}
	stopListening()
	stopAnswering()
	r.stop()
	end()
	if err := <-watched; err != nil {
		t.Errorf("WatchState: %v", err)
	}
	if err := b.Close(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		buffer := make([]byte, 1<<20)
		for _, stack := range strings.Split(string(buffer[:runtime.Stack(buffer, true)]), "\n\n") {
			if strings.Contains(stack, "segmentio/kafka-go") || strings.Contains(stack, "twostep/broker/kafka.") {
				return fmt.Errorf("still runs:\n%s", stack)
			}
		}
		return nil
	})
}
