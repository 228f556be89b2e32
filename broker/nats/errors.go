package nats

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/twostep-mq/twostep/broker"
)

// Error codes of JetStream that nats.go has no name for (nats-server, jetstream_errors_generated.go).
const (
	codeStreamStore           jetstream.ErrorCode = 10049 // also while the folder of a deleted stream of that name still goes
	codeNoSuitablePeers       jetstream.ErrorCode = 10005
	codeReplicasNotSupported  jetstream.ErrorCode = 10074
	codeInsufficientResources jetstream.ErrorCode = 10023
	codeMemoryExceeded        jetstream.ErrorCode = 10028
	codeStorageExceeded       jetstream.ErrorCode = 10047
	codeStoreFailed           jetstream.ErrorCode = 10077 // the description says why
	codeAccountResources      jetstream.ErrorCode = 10002
)

// errNameTaken: a stream of the name is there and is something else.
var errNameTaken = errors.New("broker/nats: name taken")

// refusal maps the server's answer to a publish onto the port's errors.
func refusal(e *jetstream.APIError) error {
	switch e.ErrorCode {
	case codeStoreFailed:
		// "maximum bytes exceeded", "maximum messages exceeded", "maximum messages per subject exceeded", and others
		// that are no word on fullness, as an I/O error or "message too large".
		if strings.HasPrefix(e.Description, "maximum ") {
			return fmt.Errorf("%w: %s", broker.ErrFull, e.Description)
		}
		if strings.Contains(e.Description, "too large") || strings.Contains(e.Description, "exceeds maximum") {
			return fmt.Errorf("%w: %s", broker.ErrTooLarge, e.Description)
		}
	case codeInsufficientResources, codeMemoryExceeded, codeStorageExceeded, codeAccountResources:
		return fmt.Errorf("%w: %s", broker.ErrFull, e.Description)
	case jetstream.JSErrCodeStreamMessageExceedsMaximum:
		return fmt.Errorf("%w: %s", broker.ErrTooLarge, e.Description)
	case jetstream.JSErrCodeStreamNotFound:
		return broker.ErrNoTopic
	}
	return fmt.Errorf("broker/nats: the server refused the message: %w", e)
}

// connError maps errors of the connection onto the port's.
func connError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: %w", broker.ErrTooLarge, err)
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining):
		return broker.ErrClosed
	}
	return err
}

func isCode(err error, code jetstream.ErrorCode) bool {
	var api jetstream.JetStreamError
	return errors.As(err, &api) && api.APIError() != nil && api.APIError().ErrorCode == code
}

func noStream(err error) bool { return errors.Is(err, jetstream.ErrStreamNotFound) }

func noConsumer(err error) bool {
	return errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrConsumerDoesNotExist)
}
