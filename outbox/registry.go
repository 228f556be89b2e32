package outbox

// The registry as everybody but its owner sees it. It only grows: a subscription is made, a subscription is removed;
// absence means nothing, and a uid never returns. Its owner (package topics) announces it as broker state:
//
//	registry.topic.<name>   a RegistryTopic, put first
//	registry.head           a RegistryHead, put last
//
// A watcher that has seen the head of version V has seen every topic as it was at V or later. docs/reference.md has the JSON.

// Keys of broker state.
const (
	StateHead        = "registry.head"
	StateTopicPrefix = "registry.topic."
	// StateReportPrefix + outbox UUID: the Report of that outbox's relay.
	StateReportPrefix = "outbox."
	// StateDeclarePrefix + topic + "." + subscription: a declaration by a service; see package topics.
	StateDeclarePrefix = "declare."
)

// RegistryHead says who owns the registry and how far it is.
type RegistryHead struct {
	// Owner is the UUID of the owner's store.
	Owner string `json:"owner"`
	// Version grows with every change.
	Version int64 `json:"version"`
	// Merged lists the outboxes (by UUID) whose reports this owner has taken in.
	Merged []string `json:"merged,omitempty"`
}

// Delivery says what releases a topic's rows.
type Delivery string

const (
	// DeliveryConfirmed: the receipts of every subscription.
	DeliveryConfirmed Delivery = "confirmed"
	// DeliveryBroker: the broker's acknowledgement, which is no proof. Outside promises 1, 3 and 5.
	DeliveryBroker Delivery = "broker"
)

// NoSubscribers says what becomes of rows of a topic that nobody subscribes to.
type NoSubscribers string

const (
	NoSubscribersHold NoSubscribers = "hold"
	NoSubscribersDrop NoSubscribers = "drop"
)

// TopicSettings are what a topic was made with.
type TopicSettings struct {
	Delivery      Delivery      `json:"delivery"`
	NoSubscribers NoSubscribers `json:"no_subscribers"`
	// Keyed topics are read by one process a subscription at a time.
	Keyed bool `json:"keyed"`
}

// RegistryTopic is a topic with all subscriptions it ever had.
type RegistryTopic struct {
	Name string `json:"name"`
	TopicSettings
	// Version of the registry at this topic's last change.
	Version       int64                  `json:"version"`
	Deleted       bool                   `json:"deleted,omitempty"`
	Subscriptions []RegistrySubscription `json:"subscriptions"`
}

// RegistrySubscription is one reader of a topic.
type RegistrySubscription struct {
	UID   string `json:"uid"`
	Topic string `json:"topic"`
	Name  string `json:"name"`
	// Created in Unix nanoseconds, by the owner's clock.
	Created int64 `json:"created"`
	Removed bool  `json:"removed,omitempty"`
}

// Report is what a relay tells about its outbox, as broker state.
type Report struct {
	Outbox string `json:"outbox"`
	Name   string `json:"name"`
	// Relay names the process that holds the lease; Epoch is its fencing number.
	Relay string `json:"relay"`
	Epoch int64  `json:"epoch"`
	// Owner and Version of the registry recorded in the outbox, Subscriptions what it recorded (removed ones too).
	Owner         string                 `json:"owner"`
	Version       int64                  `json:"version"`
	Subscriptions []RegistrySubscription `json:"subscriptions"`
	// Topics this outbox has rows of or had since the relay started, by name, with their settings as last seen.
	Topics []string `json:"topics"`
	// Backlog counts unreleased rows, Unpublished those the broker has not acknowledged.
	Backlog     int64 `json:"backlog"`
	Unpublished int64 `json:"unpublished"`
	// OldestAt is when the oldest unreleased message was made (Unix milliseconds; 0: none).
	OldestAt int64 `json:"oldest_at_ms"`
	// WaitingFor counts, by subscription uid ("broker" for the broker), the rows that lack its word.
	WaitingFor map[string]int64 `json:"waiting_for,omitempty"`
	// Released counts rows released since the relay started.
	Released int64 `json:"released"`
	// Held says why nothing is released, if so.
	Held string `json:"held,omitempty"`
	// At is when the report was made (Unix milliseconds).
	At int64 `json:"at_ms"`
}
