package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// Registry keeps the registry of topics and subscriptions for its owner: topics.RegistryStore.
type Registry struct {
	db *sql.DB
	q  registryQueries
}

var _ topics.RegistryStore = (*Registry)(nil)

type registryQueries struct {
	head, topics, subscriptions, outboxes            string
	swap, writeTopic, writeSubscription, writeOutbox string
}

// NewRegistry uses the registry in db, which Migrate (set Orchestrator) has brought up to date.
func NewRegistry(ctx context.Context, db *sql.DB, cfg Config) (*Registry, error) {
	n, err := prepare(ctx, db, Orchestrator, cfg)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	return &Registry{db: db, q: registryQueries{
		head:          n.sql(`SELECT owner::text, version FROM twostep.registry`),
		topics:        n.sql(`SELECT name, delivery, no_subscribers, keyed, version, deleted FROM twostep.registry_topic ORDER BY name`),
		subscriptions: n.sql(`SELECT uid::text, topic, name, created_at, removed FROM twostep.registry_subscription ORDER BY created_at, uid`),
		outboxes:      n.sql(`SELECT uuid::text, name, forgotten FROM twostep.registry_outbox ORDER BY name, uuid`),
		swap:          n.sql(`UPDATE twostep.registry SET version = $1 WHERE version = $2`),
		writeTopic:    n.sql(writeRegistryTopic), writeSubscription: n.sql(writeSubscription), writeOutbox: n.sql(writeOutbox),
	}}, nil
}

// LoadRegistry reads everything, in one snapshot.
func (r *Registry) LoadRegistry(ctx context.Context) (topics.Registry, error) {
	var reg topics.Registry
	subscriptions := map[string][]outbox.RegistrySubscription{}
	err := readSnapshot(ctx, r.db, func(b *pgx.Batch) {
		b.Queue(r.q.head).QueryRow(func(row pgx.Row) error { return row.Scan(&reg.Owner, &reg.Version) })
		b.Queue(r.q.topics).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var t outbox.RegistryTopic
				if err := rows.Scan(&t.Name, &t.Delivery, &t.NoSubscribers, &t.Keyed, &t.Version, &t.Deleted); err != nil {
					return err
				}
				reg.Topics = append(reg.Topics, t)
			}
			return rows.Err()
		})
		b.Queue(r.q.subscriptions).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var s outbox.RegistrySubscription
				if err := rows.Scan(&s.UID, &s.Topic, &s.Name, &s.Created, &s.Removed); err != nil {
					return err
				}
				subscriptions[s.Topic] = append(subscriptions[s.Topic], s)
			}
			return rows.Err()
		})
		b.Queue(r.q.outboxes).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var o topics.RegistryOutbox
				if err := rows.Scan(&o.UUID, &o.Name, &o.Forgotten); err != nil {
					return err
				}
				reg.Outboxes = append(reg.Outboxes, o)
			}
			return rows.Err()
		})
	})
	if err != nil {
		return topics.Registry{}, explain("load the registry", err)
	}
	for i := range reg.Topics {
		reg.Topics[i].Subscriptions = subscriptions[reg.Topics[i].Name]
	}
	return reg, nil
}

const (
	writeRegistryTopic = `INSERT INTO twostep.registry_topic (name, delivery, no_subscribers, keyed, version, deleted)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (name) DO UPDATE SET delivery = excluded.delivery, no_subscribers = excluded.no_subscribers,
  keyed = excluded.keyed, version = excluded.version, deleted = excluded.deleted`

	// A uid keeps its topic and name, and a removed subscription never comes back.
	writeSubscription = `INSERT INTO twostep.registry_subscription AS s (uid, topic, name, created_at, removed) VALUES ($1::text::uuid, $2, $3, $4, $5)
ON CONFLICT (uid) DO UPDATE SET created_at = excluded.created_at, removed = excluded.removed
WHERE s.topic = excluded.topic AND s.name = excluded.name AND s.removed <= excluded.removed`

	writeOutbox = `INSERT INTO twostep.registry_outbox (uuid, name, forgotten) VALUES ($1::text::uuid, $2, $3)
ON CONFLICT (uuid) DO UPDATE SET name = excluded.name, forgotten = excluded.forgotten`
)

// ApplyRegistry writes a change in one transaction if the version still is from; topics.ErrConflict if not.
func (r *Registry) ApplyRegistry(ctx context.Context, from int64, c topics.RegistryChange) error {
	if c.Version <= from {
		return fmt.Errorf("postgres: change the registry: version %d must be above %d", c.Version, from)
	}
	err := withConn(ctx, r.db, func(pg *pgx.Conn) error {
		// The swap alone in the first round trip: what follows could fail for what somebody else has written.
		swapped := false
		b := &pgx.Batch{}
		b.Queue(`BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE`)
		b.Queue(r.q.swap, c.Version, from).Exec(written(&swapped))
		err := sendBatch(ctx, pg, b)
		if err == nil && !swapped {
			err = fmt.Errorf("%w: the registry is no longer at version %d", topics.ErrConflict, from)
		}
		if err == nil {
			err = r.apply(ctx, pg, c)
		}
		return endPlain(ctx, pg, err)
	})
	if errors.Is(err, topics.ErrConflict) {
		return err
	}
	return explain("change the registry", err)
}

// written notes whether a statement changed a row.
func written(did *bool) func(pgconn.CommandTag) error {
	return func(tag pgconn.CommandTag) error {
		*did = tag.RowsAffected() > 0
		return nil
	}
}

func (r *Registry) apply(ctx context.Context, pg *pgx.Conn, c topics.RegistryChange) error {
	b := &pgx.Batch{}
	for _, t := range c.Topics {
		b.Queue(r.q.writeTopic, t.Name, string(t.Delivery), string(t.NoSubscribers), t.Keyed, t.Version, t.Deleted)
		// The removed ones first: their names may go to new ones.
		for _, removed := range []bool{true, false} {
			for _, sub := range t.Subscriptions {
				if sub.Removed == removed {
					r.queueSubscription(b, t.Name, sub)
				}
			}
		}
	}
	for _, o := range c.Outboxes {
		b.Queue(r.q.writeOutbox, o.UUID, o.Name, o.Forgotten)
	}
	if b.Len() == 0 {
		return nil
	}
	return sendBatch(ctx, pg, b)
}

func (r *Registry) queueSubscription(b *pgx.Batch, topic string, s outbox.RegistrySubscription) {
	b.Queue(r.q.writeSubscription, s.UID, topic, s.Name, s.Created, s.Removed).Exec(func(tag pgconn.CommandTag) error {
		if tag.RowsAffected() == 0 {
			return fmt.Errorf("subscription %s of %s: uid %s was removed, or is another subscription's: make a new one", s.Name, topic, s.UID)
		}
		return nil
	})
}
