package topics

import (
	"context"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

const (
	// paceWindow is how long the rate of messages is measured.
	paceWindow = 20 * time.Millisecond
	// paceShare: where messages come at least this often within the time of one batch, batches are spaced out.
	paceShare = 0.5
	// paceStretch times its own length lies between the beginning of a batch and of the next then, but no more than paceGap.
	paceStretch = 8
	paceGap     = 20 * time.Millisecond
	// paceEnough messages are enough for one commit: the next batch begins at once.
	paceEnough = 64
)

// pace makes the batches of a busy subscription larger. A batch is what has come while the one before ran; where messages come
// steadily and commits are quick that is a handful, and nearly all work is commits, of a disk that others need, too. So a busy
// subscription waits some milliseconds for more: longer where commits are slow, not at all where a batch is large, or
// where a single message finds the handler idle.
type pace struct {
	enough int       // messages
	since  time.Time // begin of the measurement
	seen   int       // messages since
	rate   float64   // messages a second, as last measured
}

// rest is how long to wait after a batch of so many messages that ran from begun to ended.
func (p *pace) rest(messages int, begun, ended time.Time) time.Duration {
	p.seen += messages
	if took := ended.Sub(p.since); took >= paceWindow {
		p.rate = float64(p.seen) / took.Seconds()
		p.since, p.seen = ended, 0
	}
	took := ended.Sub(begun)
	if messages >= p.enough || p.rate*took.Seconds() < paceShare {
		return 0
	}
	return max(0, min(paceGap, paceStretch*took)-took)
}

// paced spaces the batches of one reader out. It waits after a batch, when that is committed and its receipts are sent, so that
// only the messages that come meanwhile wait. The end of ctx, the reader's, ends the wait.
func paced(ctx context.Context, maxBatch int, handle func(context.Context, []broker.Delivery) error) func(context.Context, []broker.Delivery) error {
	p := &pace{enough: paceEnough}
	if maxBatch > 0 {
		p.enough = min(p.enough, maxBatch)
	}
	return func(reader context.Context, batch []broker.Delivery) error {
		begun := time.Now()
		if err := handle(reader, batch); err != nil {
			return err
		}
		rest := p.rest(len(batch), begun, time.Now())
		if rest == 0 {
			return nil
		}
		t := time.NewTimer(rest)
		defer t.Stop()
		select {
		case <-ctx.Done():
		case <-reader.Done():
		case <-t.C:
		}
		return nil
	}
}
