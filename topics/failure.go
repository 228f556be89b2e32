package topics

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

// maxReason bounds the reason kept with a parked message, in bytes.
const maxReason = 1024

// deadError marks an error that no repetition mends.
type deadError struct{ err error }

func (e *deadError) Error() string { return e.err.Error() }
func (e *deadError) Unwrap() error { return e.err }

// Dead marks a handler's error as final: the message becomes a dead letter at once instead of being tried again. Dead(nil) is nil.
func Dead(err error) error {
	if err == nil {
		return nil
	}
	return &deadError{err: err}
}

func isDead(err error) bool {
	var d *deadError
	return errors.As(err, &d)
}

// handlerError is a handler's error, apart from the database's and the dispatcher's own.
type handlerError struct {
	it  *item
	err error
	// ended: when the dispatcher rolled back, the transaction had ended already.
	ended bool
}

func (f *handlerError) Error() string { return f.err.Error() }
func (f *handlerError) Unwrap() error { return f.err }

// call runs the handler. A panic is that message's failure.
func (d *dispatcher) call(ctx context.Context, tx outbox.Tx, dl broker.Delivery) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
			d.log.Error("handler panicked", "id", dl.ID, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
		}
	}()
	return d.cfg.Handler(ctx, tx, dl)
}

// tryAgain reports whether an error is the database's wish to try again, which is no failure of the message.
func (d *dispatcher) tryAgain(err error) bool {
	if errors.Is(err, ErrTryAgain) {
		return true
	}
	judge, ok := d.cfg.Store.(RetryJudge)
	return ok && judge.TryAgain(err)
}

// reasonOf is the text kept with a parked message.
func reasonOf(err error) string {
	s := strings.ToValidUTF8(err.Error(), "�")
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason-len("…")], "") + "…"
	}
	return s
}
