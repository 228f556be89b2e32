package nats

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// apiWait bounds one call of the JetStream API with its repetitions.
const apiWait = 3 * time.Second

// link is the connection as a context: it ends when the connection is lost, and another begins with the next one. A request
// that was on its way then is never answered.
type link struct {
	mu   sync.Mutex
	ctx  context.Context
	lose context.CancelFunc
}

func newLink() *link {
	l := &link{}
	l.ctx, l.lose = context.WithCancel(context.Background())
	return l
}

func (l *link) current() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ctx
}

// lost ends what waits for the connection that was.
func (l *link) lost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lose()
	l.ctx, l.lose = context.WithCancel(context.Background())
}

// api calls the JetStream API: everything asked there may be asked twice. It waits for the connection, and asks again if that is
// lost or JetStream is not up yet.
func (b *Broker) api(ctx context.Context, call func(context.Context) error) error {
	deadline := time.Now().Add(apiWait)
	for wait := bindPause; ; wait = min(2*wait, bindPauseMax) {
		if err := b.waitConnected(ctx, b.cfg.AckTimeout); err != nil {
			return err
		}
		err := b.apiOnce(ctx, call)
		again := errors.Is(err, errConnectionLost) || errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, nats.ErrNoResponders) ||
			isCode(err, codeStreamStore)
		if !again || time.Now().After(deadline) || !pause(ctx, wait) {
			return err
		}
	}
}

func (b *Broker) apiOnce(ctx context.Context, call func(context.Context) error) error {
	actx, cancel := context.WithTimeout(ctx, apiWait)
	defer cancel()
	link, start := b.link.current(), time.Now()
	defer context.AfterFunc(link, cancel)()
	err := call(actx)
	if err != nil && ctx.Err() == nil && link.Err() != nil && errors.Is(err, context.Canceled) {
		return errConnectionLost
	}
	if err != nil && actx.Err() != nil && ctx.Err() == nil {
		if refused := b.rights.since(start); refused != nil {
			return refused
		}
	}
	return connError(err)
}
