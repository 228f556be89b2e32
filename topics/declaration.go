package topics

import (
	"encoding/json"
	"fmt"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/outbox"
)

// Declaration is what a service says about a topic and a subscription it handles, as broker state under declare.<topic>.<subscription>
// (declare.<topic> where there is none). The owner of the registry makes what is missing; the answer is its
// appearance in the registry.
type Declaration struct {
	Topic        string               `json:"topic"`
	Settings     outbox.TopicSettings `json:"settings"`
	Subscription string               `json:"subscription,omitempty"`
	// UID and Created are what the registry once answered, if the service knows it: where broker and registry were both lost, the
	// subscription comes back as the one whose barrier rows the service has.
	UID     string `json:"uid,omitempty"`
	Created int64  `json:"created,omitempty"`
}

func (d Declaration) key() string { return declarationKey(d.Topic, d.Subscription) }

func declarationKey(topic, subscription string) string {
	if subscription == "" {
		return outbox.StateDeclarePrefix + topic
	}
	return outbox.StateDeclarePrefix + topic + "." + subscription
}

// encode writes the value of the state entry.
func (d Declaration) encode() ([]byte, error) {
	b, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("topics: encode the declaration of %s: %w", d.key(), err)
	}
	return b, nil
}

// decodeDeclaration reads and checks the value of a state entry.
func decodeDeclaration(key string, value []byte) (Declaration, error) {
	var d Declaration
	if err := json.Unmarshal(value, &d); err != nil {
		return d, fmt.Errorf("topics: declaration %s: %w", key, err)
	}
	d.Settings = withDefaultSettings(d.Settings)
	if err := checkTopic(d.Topic, d.Settings); err != nil {
		return d, err
	}
	if d.Subscription != "" {
		if err := checkSubscription(d.Topic, d.Subscription); err != nil {
			return d, err
		}
	}
	if _, err := uuid.Parse(d.UID); d.UID != "" && (err != nil || d.Subscription == "" || d.Created <= 0) {
		return d, fmt.Errorf("%w: declaration %s names the uid %q", ErrInvalid, key, d.UID)
	}
	if d.key() != key {
		return d, fmt.Errorf("%w: declaration under %s is about %s", ErrInvalid, key, d.key())
	}
	return d, nil
}
