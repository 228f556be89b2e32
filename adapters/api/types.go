package api

// The JSON of /api/v1. Times are Unix milliseconds and end in _at_ms; spans end in _ms. docs/reference.md lists the fields.

// Topic is a topic with its subscriptions.
type Topic struct {
	Name string `json:"name"`
	// Delivery is confirmed or broker; NoSubscribers is hold or drop.
	Delivery      string         `json:"delivery"`
	NoSubscribers string         `json:"no_subscribers"`
	Keyed         bool           `json:"keyed"`
	Version       int64          `json:"version"`
	Subscriptions []Subscription `json:"subscriptions"`
}

// Subscription is one reader of a topic.
type Subscription struct {
	UID   string `json:"uid"`
	Topic string `json:"topic"`
	Name  string `json:"name"`
	// State is registered, active or removed.
	State       string `json:"state"`
	CreatedAtMS int64  `json:"created_at_ms"`
	// WaitingRows counts, over all outboxes, the rows that lack its word.
	WaitingRows int64 `json:"waiting_rows"`
	// MissingFrom lists the outboxes (UUIDs) that have not recorded it yet, while it is registered.
	MissingFrom []string `json:"missing_from,omitempty"`
}

// TopicList is the answer of GET topics.
type TopicList struct {
	Topics []Topic `json:"topics"`
}

// SubscriptionList is the answer of GET topics/{topic}/subscriptions.
type SubscriptionList struct {
	Subscriptions []Subscription `json:"subscriptions"`
}

// CreateTopic is the body of POST topics. Left out: confirmed, hold, not keyed.
type CreateTopic struct {
	Name          string `json:"name"`
	Delivery      string `json:"delivery,omitempty"`
	NoSubscribers string `json:"no_subscribers,omitempty"`
	Keyed         bool   `json:"keyed,omitempty"`
}

// CreateSubscription is the body of POST topics/{topic}/subscriptions.
type CreateSubscription struct {
	Name string `json:"name"`
}

// TopicDeleted is the answer of DELETE topics/{topic}.
type TopicDeleted struct {
	Topic string `json:"topic"`
	// Left says what a forced deletion leaves behind; empty: nothing.
	Left string `json:"left,omitempty"`
}

// Outbox is an outbox as its relay last reported it.
type Outbox struct {
	UUID string `json:"uuid"`
	Name string `json:"name"`
	// Relay names the process that relays, Epoch its fencing number.
	Relay string `json:"relay"`
	Epoch int64  `json:"epoch"`
	// RegistryVersion is what the outbox has recorded of the registry.
	RegistryVersion int64 `json:"registry_version"`
	// Backlog counts rows that are not released, Unpublished those of them that the broker has not acknowledged.
	Backlog     int64 `json:"backlog"`
	Unpublished int64 `json:"unpublished"`
	// OldestAgeMS is the age of the oldest row that is not released; 0: there is none.
	OldestAgeMS int64     `json:"oldest_age_ms"`
	WaitingFor  []Waiting `json:"waiting_for"`
	// Released counts rows since the relay started.
	Released int64 `json:"released"`
	// Held says why the relay releases nothing, if so.
	Held string `json:"held,omitempty"`
	// ReportAtMS is when the relay reported; 0: the broker has no report of it.
	ReportAtMS  int64 `json:"report_at_ms"`
	ReportAgeMS int64 `json:"report_age_ms"`
	// Stuck: somebody should look; Reason says why.
	Stuck  bool   `json:"stuck"`
	Reason string `json:"reason,omitempty"`
}

// Waiting counts rows that lack the word of one confirmer.
type Waiting struct {
	// Confirmer is "broker", or the subscription's uid; Subscription is topic/name of the latter, if it is known.
	Confirmer    string `json:"confirmer"`
	Subscription string `json:"subscription,omitempty"`
	Rows         int64  `json:"rows"`
}

// OutboxList is the answer of GET outboxes.
type OutboxList struct {
	Outboxes []Outbox `json:"outboxes"`
}

// Transaction is one message that is not done: not released by its outbox, or parked by a subscription.
type Transaction struct {
	GID  string `json:"gid"`
	Mode string `json:"mode"`
	// ID is the message's id; it equals GID where the sender gave no gid.
	ID    string `json:"id"`
	Topic string `json:"topic"`
	Key   string `json:"key,omitempty"`
	// State is unpublished, unconfirmed or parked; parked where nothing but parked messages is left.
	State       string `json:"state"`
	CreatedAtMS int64  `json:"created_at_ms"`
	Size        int    `json:"size"`
	// Outbox and Seq name the row; empty where it is released.
	Outbox     string       `json:"outbox,omitempty"`
	Seq        int64        `json:"seq,omitempty"`
	WaitingFor []string     `json:"waiting_for,omitempty"`
	Parked     []DeadLetter `json:"parked,omitempty"`
}

// TransactionList is the answer of GET transactions and GET transactions/{gid}.
type TransactionList struct {
	Transactions []Transaction `json:"transactions"`
	// Truncated: there is more than the limit.
	Truncated bool `json:"truncated"`
	// Unreachable lists who could not be asked; what they hold is missing here.
	Unreachable []Unreachable `json:"unreachable"`
}

// Unreachable is an outbox or a subscription whose process did not answer.
type Unreachable struct {
	// Kind is outbox or subscription.
	Kind   string `json:"kind"`
	ID     string `json:"id"`
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// DeadLetter is a parked message of a subscription: dead, or waiting or held on its way.
type DeadLetter struct {
	// Subscription is the uid, Topic and Name what it is called.
	Subscription string `json:"subscription"`
	Topic        string `json:"topic"`
	Name         string `json:"name"`
	ID           string `json:"id"`
	GID          string `json:"gid"`
	Key          string `json:"key,omitempty"`
	// State is waiting, held or dead.
	State      string `json:"state"`
	Attempts   int    `json:"attempts"`
	Reason     string `json:"reason"`
	ParkedAtMS int64  `json:"parked_at_ms"`
	NextAtMS   int64  `json:"next_at_ms,omitempty"`
	Size       int    `json:"size"`
	// ContentType, Headers and Payload (base64) are there when one dead letter is asked for.
	ContentType string            `json:"content_type,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	Payload     []byte            `json:"payload,omitempty"`
}

// DeadList is the answer of GET dead.
type DeadList struct {
	Dead        []DeadLetter  `json:"dead"`
	Truncated   bool          `json:"truncated"`
	Unreachable []Unreachable `json:"unreachable"`
}

// Health is the answer of /healthz and /readyz.
type Health struct {
	OK bool `json:"ok"`
	// Checks has "ok" or what is wrong, by name; /readyz alone.
	Checks map[string]string `json:"checks,omitempty"`
}
