package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// Registry keeps the registry of topics and subscriptions for its owner: topics.RegistryStore.
type Registry struct{ srv *server }

var _ topics.RegistryStore = (*Registry)(nil)

// NewRegistry uses the registry in db, which Migrate (set Orchestrator) has brought up to date.
func NewRegistry(ctx context.Context, db *sql.DB, cfg Config) (*Registry, error) {
	srv, err := connect(ctx, db, cfg, Orchestrator)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	return &Registry{srv: srv}, nil
}

// registryTx is a transaction on the registry.
type registryTx struct {
	*sql.Tx
	cfg Config
}

// in runs fn in a transaction and commits it.
func (r *Registry) in(ctx context.Context, opts sql.TxOptions, fn func(registryTx) error) error {
	tx, err := r.srv.db.BeginTx(ctx, &opts)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := fn(registryTx{tx, r.srv.cfg}); err != nil {
		return err
	}
	return tx.Commit()
}

func (t registryTx) exec(ctx context.Context, statement string, args ...any) (sql.Result, error) {
	return t.ExecContext(ctx, t.cfg.sql(statement), args...)
}

// each runs a query and calls scan for each row.
func (t registryTx) each(ctx context.Context, statement string, scan func(*sql.Rows) error) (err error) {
	rows, err := t.QueryContext(ctx, t.cfg.sql(statement))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// LoadRegistry reads everything, in one snapshot.
func (r *Registry) LoadRegistry(ctx context.Context) (topics.Registry, error) {
	var reg topics.Registry
	err := r.in(ctx, repeatable, func(t registryTx) error {
		if err := t.QueryRowContext(ctx, t.cfg.sql("SELECT owner, version FROM `{p}registry`")).Scan(&reg.Owner, &reg.Version); err != nil {
			return err
		}
		var err error
		if reg.Topics, err = t.topics(ctx); err != nil {
			return err
		}
		reg.Outboxes, err = t.outboxes(ctx)
		return err
	})
	if err != nil {
		return topics.Registry{}, explain("load the registry", err)
	}
	return reg, nil
}

// topics reads the topics by name, each with its subscriptions in order of their making.
func (t registryTx) topics(ctx context.Context) (list []outbox.RegistryTopic, err error) {
	byTopic := map[string][]outbox.RegistrySubscription{}
	err = t.each(ctx, "SELECT uid, topic, name, created_at, removed FROM `{p}registry_subscription` ORDER BY created_at, uid", func(rows *sql.Rows) error {
		var s outbox.RegistrySubscription
		if err := rows.Scan(&s.UID, &s.Topic, &s.Name, &s.Created, &s.Removed); err != nil {
			return err
		}
		byTopic[s.Topic] = append(byTopic[s.Topic], s)
		return nil
	})
	if err != nil {
		return nil, err
	}
	const query = "SELECT name, delivery, no_subscribers, keyed, version, deleted FROM `{p}registry_topic` ORDER BY name"
	err = t.each(ctx, query, func(rows *sql.Rows) error {
		var topic outbox.RegistryTopic
		if err := rows.Scan(&topic.Name, &topic.Delivery, &topic.NoSubscribers, &topic.Keyed, &topic.Version, &topic.Deleted); err != nil {
			return err
		}
		topic.Subscriptions = byTopic[topic.Name]
		list = append(list, topic)
		return nil
	})
	return list, err
}

func (t registryTx) outboxes(ctx context.Context) (list []topics.RegistryOutbox, err error) {
	err = t.each(ctx, "SELECT uuid, name, forgotten FROM `{p}registry_outbox` ORDER BY name, uuid", func(rows *sql.Rows) error {
		var o topics.RegistryOutbox
		if err := rows.Scan(&o.UUID, &o.Name, &o.Forgotten); err != nil {
			return err
		}
		list = append(list, o)
		return nil
	})
	return list, err
}

// ApplyRegistry writes a change in one transaction if the version still is from; topics.ErrConflict if not.
func (r *Registry) ApplyRegistry(ctx context.Context, from int64, c topics.RegistryChange) error {
	if c.Version <= from {
		return fmt.Errorf("mysql: change the registry: version %d must be above %d", c.Version, from)
	}
	err := r.in(ctx, sql.TxOptions{Isolation: sql.LevelReadCommitted}, func(t registryTx) error { return t.apply(ctx, from, c) })
	if errors.Is(err, topics.ErrConflict) {
		return err
	}
	return explain("change the registry", err)
}

const (
	writeRegistryTopic = "INSERT INTO `{p}registry_topic` (name, delivery, no_subscribers, keyed, version, deleted) VALUES (?, ?, ?, ?, ?, ?) " +
		"ON DUPLICATE KEY UPDATE delivery = VALUES(delivery), no_subscribers = VALUES(no_subscribers), keyed = VALUES(keyed), " +
		"version = VALUES(version), deleted = VALUES(deleted)"

	writeRegistryOutbox = "INSERT INTO `{p}registry_outbox` (uuid, name, forgotten) VALUES (?, ?, ?) " +
		"ON DUPLICATE KEY UPDATE name = VALUES(name), forgotten = VALUES(forgotten)"
)

func (t registryTx) apply(ctx context.Context, from int64, c topics.RegistryChange) error {
	// This locks the registry's one row: others wait here.
	res, err := t.exec(ctx, "UPDATE `{p}registry` SET version = ? WHERE one = 1 AND version = ?", c.Version, from)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		return fmt.Errorf("%w: the registry is no longer at version %d", topics.ErrConflict, from)
	}
	for _, topic := range c.Topics {
		_, err := t.exec(ctx, writeRegistryTopic,
			topic.Name, string(topic.Delivery), string(topic.NoSubscribers), topic.Keyed, topic.Version, topic.Deleted)
		if err != nil {
			return fmt.Errorf("topic %s: %w", topic.Name, err)
		}
		// The removed ones first: their names may go to new ones.
		for _, removed := range []bool{true, false} {
			for _, sub := range topic.Subscriptions {
				if sub.Removed != removed {
					continue
				}
				if err := t.applySubscription(ctx, topic.Name, sub); err != nil {
					return fmt.Errorf("subscription %s of %s: %w", sub.Name, topic.Name, err)
				}
			}
		}
	}
	for _, o := range c.Outboxes {
		if _, err := t.exec(ctx, writeRegistryOutbox, o.UUID, []byte(o.Name), o.Forgotten); err != nil {
			return fmt.Errorf("outbox %s: %w", o.UUID, err)
		}
	}
	return nil
}

// applySubscription writes a subscription. A uid keeps its topic and name, and a removed one never comes back. (ON DUPLICATE KEY
// would also take another row of the same name for this one.)
func (t registryTx) applySubscription(ctx context.Context, topic string, s outbox.RegistrySubscription) error {
	var known outbox.RegistrySubscription
	const query = "SELECT topic, name, removed FROM `{p}registry_subscription` WHERE uid = ? FOR UPDATE"
	err := t.QueryRowContext(ctx, t.cfg.sql(query), s.UID).Scan(&known.Topic, &known.Name, &known.Removed)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		_, err := t.exec(ctx, "INSERT INTO `{p}registry_subscription` (uid, topic, name, created_at, removed) VALUES (?, ?, ?, ?, ?)",
			s.UID, topic, s.Name, s.Created, s.Removed)
		if is(err, codeDuplicate) {
			return fmt.Errorf("the topic has one of this name: remove that first (%w)", err)
		}
		return err
	case err != nil:
		return err
	case known.Topic != topic || known.Name != s.Name || known.Removed && !s.Removed:
		return fmt.Errorf("uid %s was removed, or is another subscription's: make a new one", s.UID)
	}
	_, err = t.exec(ctx, "UPDATE `{p}registry_subscription` SET created_at = ?, removed = ? WHERE uid = ?", s.Created, s.Removed, s.UID)
	return err
}
