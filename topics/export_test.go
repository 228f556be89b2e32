package topics

import (
	"context"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// What the tests in package topics_test, which run on a real database, need of the inside.

type (
	DispatcherConfig = dispatcherConfig
	Dispatcher       = dispatcher
)

func NewDispatcher(cfg DispatcherConfig) *Dispatcher { return newDispatcher(cfg) }

func (d *dispatcher) Process(ctx context.Context, batch []broker.Delivery) error {
	return d.process(ctx, batch)
}

func (d *dispatcher) RunParked(ctx context.Context) (time.Time, error) { return d.runParked(ctx) }

func (d *dispatcher) Answer(ctx context.Context, body []byte) []byte { return d.answer(ctx, body) }

func (o *Owner) OnState(ctx context.Context, ev broker.StateEvent) error { return o.onState(ctx, ev) }
