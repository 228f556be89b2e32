package topics

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/twostep-mq/twostep/outbox"
)

// ErrInvalid: a name or a setting that can never be right.
var ErrInvalid = errors.New("topics: invalid")

var subscriptionPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// checkTopic says what is wrong with a topic's name or settings.
func checkTopic(name string, s outbox.TopicSettings) error {
	if err := outbox.ValidTopic(name); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	switch s.Delivery {
	case outbox.DeliveryConfirmed, outbox.DeliveryBroker:
	default:
		return fmt.Errorf("%w: topic %s: delivery %q: use confirmed or broker", ErrInvalid, name, s.Delivery)
	}
	switch s.NoSubscribers {
	case outbox.NoSubscribersHold, outbox.NoSubscribersDrop:
	default:
		return fmt.Errorf("%w: topic %s: no_subscribers %q: use hold or drop", ErrInvalid, name, s.NoSubscribers)
	}
	return nil
}

// checkSubscription says what is wrong with a subscription's name.
func checkSubscription(topic, name string) error {
	if !subscriptionPattern.MatchString(name) {
		return fmt.Errorf("%w: subscription %q of %s: use 1 to 64 bytes of [A-Za-z0-9_-]", ErrInvalid, name, topic)
	}
	return nil
}

// withDefaultSettings fills in what is empty.
func withDefaultSettings(s outbox.TopicSettings) outbox.TopicSettings {
	if s.Delivery == "" {
		s.Delivery = outbox.DeliveryConfirmed
	}
	if s.NoSubscribers == "" {
		s.NoSubscribers = outbox.NoSubscribersHold
	}
	return s
}
