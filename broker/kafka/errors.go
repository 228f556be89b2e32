package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/twostep-mq/twostep/broker"
)

var (
	// errAckTimeout: no acknowledgement came in time. The message may be stored.
	errAckTimeout = errors.New("broker/kafka: the broker did not acknowledge in time")
	// errNameTaken: a topic is there whose name Kafka cannot tell from the one wanted.
	errNameTaken = errors.New("broker/kafka: name taken")
	// errMoved: a partition is led by another node now, or a node is away.
	errMoved = errors.New("broker/kafka: the partition's leader is elsewhere, or away")
)

// passing reports whether the error may be gone when the same is tried again.
func passing(err error) bool {
	var code kafka.Error
	var network net.Error
	switch {
	case err == nil:
		return false
	case errors.Is(err, errMoved), missing(err), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return true
	case errors.As(err, &code):
		return code.Temporary() || code == kafka.BrokerNotAvailable || code == kafka.ReplicaNotAvailable || code == kafka.Unknown
	}
	return errors.As(err, &network)
}

// stale reports whether the error may come of a node or a connection that is no more, and not of the topic or group.
func stale(err error) bool {
	var code kafka.Error
	if errors.Is(err, errMoved) || errors.Is(err, kafka.NotController) || errors.Is(err, kafka.BrokerNotAvailable) {
		return true
	}
	return passing(err) && !errors.As(err, &code)
}

// missing reports whether the error says that a topic or partition is not there: Kafka's word, or that of the client's cache.
func missing(err error) bool {
	return errors.Is(err, kafka.UnknownTopicOrPartition) || errors.Is(err, protocol.ErrNoTopic) || errors.Is(err, protocol.ErrNoPartition) ||
		errors.Is(err, protocol.ErrNoLeader) || errors.Is(err, kafka.UnknownTopicID)
}

// tooLarge reports whether the broker refused a batch for its size.
func tooLarge(err error) bool {
	return errors.Is(err, kafka.MessageSizeTooLarge) || errors.Is(err, kafka.RecordListTooLarge)
}

// memberGone reports whether the group has gone on without this member.
func memberGone(err error) bool {
	return errors.Is(err, kafka.UnknownMemberId) || errors.Is(err, kafka.IllegalGeneration) || errors.Is(err, kafka.FencedInstanceID)
}

// refusedForGood reports whether no waiting helps a connection: the login or the certificate is wrong.
func refusedForGood(err error) bool {
	var certificate *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	if errors.As(err, &certificate) || errors.As(err, &authority) || errors.As(err, &host) {
		return true
	}
	for _, code := range []kafka.Error{kafka.SASLAuthenticationFailed, kafka.UnsupportedSASLMechanism, kafka.IllegalSASLState} {
		if errors.Is(err, code) {
			return true
		}
	}
	// What the broker says to a certificate that it wants or does not like crypto/tls has no type for.
	return strings.Contains(err.Error(), "expecting TLS") || strings.Contains(err.Error(), "remote error: tls:")
}

// explain says what to do about errors that somebody has to mend.
func explain(err error, what string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kafka.TopicAuthorizationFailed):
		return fmt.Errorf("%w: the account has no right to %s: grant it on the topics with the prefix, or make them with an account that may and set broker.declare: off", err, what)
	case errors.Is(err, kafka.GroupAuthorizationFailed):
		return fmt.Errorf("%w: the account has no right to %s: grant Read, Describe and Delete on the groups with the prefix", err, what)
	case errors.Is(err, kafka.ClusterAuthorizationFailed):
		return fmt.Errorf("%w: the account has no right to %s: grant Create on the cluster or on the topics with the prefix, or set broker.declare: off", err, what)
	case errors.Is(err, kafka.InvalidReplicationFactor):
		return fmt.Errorf("%w: the cluster has fewer brokers than the replicas asked for: lower broker.replicas", err)
	case errors.Is(err, kafka.PolicyViolation):
		return fmt.Errorf("%w: a policy of the cluster forbids to %s: make the topics by hand and set broker.declare: off", err, what)
	case errors.Is(err, kafka.NotEnoughReplicas):
		return fmt.Errorf("%w: fewer replicas are in sync than the topic's min.insync.replicas", err)
	case refusedForGood(err):
		return fmt.Errorf("%w: check broker.user, broker.password, broker.sasl and broker.tls", err)
	}
	return err
}

// refusal maps what became of a single message onto the port's errors.
func refusal(err error) error {
	if tooLarge(err) {
		return fmt.Errorf("%w: %w: raise max.message.bytes of the topic, or send less", broker.ErrTooLarge, err)
	}
	return explain(err, "write to the topic")
}
