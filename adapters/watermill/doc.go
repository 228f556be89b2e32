// Package watermill joins twostep and Watermill (github.com/ThreeDotsLabs/watermill), in both directions.
//
// # Watermill's interfaces on twostep
//
// A service that speaks Watermill uses twostep through its message.Publisher and message.Subscriber:
//
//	                        published by                      received by
//	in a transaction, once  OutboxPublisher, PublisherTx      BarrierSubscriber
//	broker alone            Publisher                         Subscriber
//
// OutboxPublisher, PublisherTx and BarrierSubscriber give all of twostep's promises: a message exists if and only if its transaction
// committed, it is handled once in effect, and it is sent again until that is confirmed. Publisher and Subscriber are what Watermill's users
// know from other pub/subs: at least once, as durable as the broker. They mix: a Subscriber sees what an outbox published, each message once
// on the topic; a BarrierSubscriber handles what a Publisher published once, for the message's place on the broker is its identity.
//
// # A Watermill pub/sub as twostep's broker
//
// FromWatermill makes a broker.Broker of any pub/sub that has consumer groups. What then holds, and what weakens:
//
//   - A message has one effect: holds. The barrier knows it by its id.
//   - A committed message reaches every subscription: holds, later. Watermill tells no positions, so nobody can see that a message was lost;
//     the relay sends again what has no receipt after BrokerConfig.ResendAfter. Receipts travel over inboxes as elsewhere. A
//     subscription that is slower than that gets messages twice, and the barrier absorbs them. Give relays the ResendBackoff of this package.
//   - The order of a key: holds, later. Nothing keeps two processes of a keyed subscription from reading at once. A message that overtakes
//     its predecessor is not taken (twostep-prev) and is sent again in its turn.
//   - delivery: broker topics are as durable as the pub/sub, and are not refused when they are full.
//   - The state (registry, relays' reports) is kept by the processes themselves, in memory, and told to newcomers. When the last
//     process ends it is gone: a service that starts alone waits for the registry's owner. What one process announces all see in its
//     order; a change that is lost on the way is missed within five times BrokerConfig.StateWait, and asked for.
//   - A message that kills its process is not found: Watermill does not say that a message was handed out before. Handlers that fail
//     without dying are counted as elsewhere.
//   - A message of others (no headers of ours) is known by Watermill's UUID in its topic. One without a UUID counts as another message at each
//     delivery.
//   - Requests and bells reach this Broker alone: the console cannot ask another process about its rows and dead letters, and a relay in
//     another process finds a new row when it next looks (1 s).
//   - Deleting a topic, a subscription or an inbox leaves the pub/sub's queues where they are.
//   - Batches are what the pub/sub's subscriber hands out at once, which with most is one message: a commit and a receipt each.
//   - Whether a new group begins with what is published from its making on is the pub/sub's affair; what it misses of an outbox's rows is
//     sent again.
package watermill
