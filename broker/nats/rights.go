package nats

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// ErrDenied: the account has no right to do that; the message names the subject. `twostep broker plan` prints the rights that are needed.
var ErrDenied = errors.New("broker/nats: permission denied")

// rights remembers what the server refused to this connection. It says so beside the call that it refuses, which gets no answer.
type rights struct {
	mu   sync.Mutex
	last string // subject of the JetStream API, the last one refused
	at   time.Time
}

// refusedSubject is the subject in the server's word on a refused publish: Permissions Violation for Publish to "x".
func refusedSubject(err error) (subject string, ok bool) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return "", false
	}
	_, quoted, ok := strings.Cut(strings.ToLower(err.Error()), "publish to \"")
	if !ok {
		return "", false
	}
	n := len(err.Error()) - len(quoted) // the subject as it was written
	subject, _, ok = strings.Cut(err.Error()[n:], "\"")
	return subject, ok
}

func denied(subject string) error {
	return fmt.Errorf("%w: the account may not publish to %q: let it, as `twostep broker plan` says", ErrDenied, subject)
}

// refused takes the server's word that a publish was refused.
func (b *Broker) refused(subject string) {
	if strings.HasPrefix(subject, "$JS.") {
		b.rights.mu.Lock()
		defer b.rights.mu.Unlock()
		b.rights.last, b.rights.at = subject, time.Now()
		return
	}
	b.mu.Lock()
	pub := b.pub
	b.mu.Unlock()
	if pub != nil {
		pub.end(denied(subject), func(s *slot) bool { return s.subject == subject })
	}
}

// since returns ErrDenied where a call of the JetStream API was refused after start.
func (r *rights) since(start time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at.Before(start) || r.last == "" {
		return nil
	}
	return denied(r.last)
}
