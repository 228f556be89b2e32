package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// Registry keeps the registry of topics and subscriptions for its owner: topics.RegistryStore.
type Registry struct {
	db  *sql.DB
	drv *fileDriver
}

var _ topics.RegistryStore = (*Registry)(nil)

// NewRegistry uses the registry in db, which Open has opened and Migrate (set Orchestrator) has brought up to date.
func NewRegistry(ctx context.Context, db *sql.DB) (*Registry, error) {
	drv, err := checkTables(ctx, db, Orchestrator)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	return &Registry{db: db, drv: drv}, nil
}

// LoadRegistry reads everything, in one snapshot.
func (r *Registry) LoadRegistry(ctx context.Context) (topics.Registry, error) {
	var reg topics.Registry
	err := func() error {
		sqlTx, err := r.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			return err
		}
		defer func() { _ = sqlTx.Rollback() }()
		if err := sqlTx.QueryRowContext(ctx, `SELECT owner, version FROM twostep_registry`).Scan(&reg.Owner, &reg.Version); err != nil {
			return err
		}
		if reg.Topics, err = loadTopics(ctx, sqlTx); err != nil {
			return err
		}
		reg.Outboxes, err = loadOutboxes(ctx, sqlTx)
		return err
	}()
	if err != nil {
		return topics.Registry{}, explain("load the registry", r.drv.path, err)
	}
	return reg, nil
}

// loadTopics reads the topics by name, each with its subscriptions in order of their making.
func loadTopics(ctx context.Context, sqlTx *sql.Tx) (list []outbox.RegistryTopic, err error) {
	subscriptions, err := loadSubscriptions(ctx, sqlTx)
	if err != nil {
		return nil, err
	}
	rows, err := sqlTx.QueryContext(ctx, `SELECT name, delivery, no_subscribers, keyed, version, deleted FROM twostep_registry_topic ORDER BY name`)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var t outbox.RegistryTopic
		if err := rows.Scan(&t.Name, &t.Delivery, &t.NoSubscribers, &t.Keyed, &t.Version, &t.Deleted); err != nil {
			return nil, err
		}
		t.Subscriptions = subscriptions[t.Name]
		list = append(list, t)
	}
	return list, rows.Err()
}

func loadSubscriptions(ctx context.Context, sqlTx *sql.Tx) (byTopic map[string][]outbox.RegistrySubscription, err error) {
	rows, err := sqlTx.QueryContext(ctx, `SELECT uid, topic, name, created_at, removed FROM twostep_registry_subscription ORDER BY created_at, uid`)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	byTopic = map[string][]outbox.RegistrySubscription{}
	for rows.Next() {
		var s outbox.RegistrySubscription
		if err := rows.Scan(&s.UID, &s.Topic, &s.Name, &s.Created, &s.Removed); err != nil {
			return nil, err
		}
		byTopic[s.Topic] = append(byTopic[s.Topic], s)
	}
	return byTopic, rows.Err()
}

func loadOutboxes(ctx context.Context, sqlTx *sql.Tx) (list []topics.RegistryOutbox, err error) {
	rows, err := sqlTx.QueryContext(ctx, `SELECT uuid, name, forgotten FROM twostep_registry_outbox ORDER BY name, uuid`)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var o topics.RegistryOutbox
		if err := rows.Scan(&o.UUID, &o.Name, &o.Forgotten); err != nil {
			return nil, err
		}
		list = append(list, o)
	}
	return list, rows.Err()
}

// ApplyRegistry writes a change in one transaction if the version still is from; topics.ErrConflict if not.
func (r *Registry) ApplyRegistry(ctx context.Context, from int64, c topics.RegistryChange) error {
	if c.Version <= from {
		return fmt.Errorf("sqlite: change the registry: version %d must be above %d", c.Version, from)
	}
	err := func() error {
		sqlTx, err := r.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = sqlTx.Rollback() }()
		if err := applyRegistry(ctx, sqlTx, from, c); err != nil {
			return err
		}
		return sqlTx.Commit()
	}()
	if errors.Is(err, topics.ErrConflict) {
		return err
	}
	return explain("change the registry", r.drv.path, err)
}

const (
	writeRegistryTopic = `INSERT INTO twostep_registry_topic (name, delivery, no_subscribers, keyed, version, deleted)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET delivery = excluded.delivery, no_subscribers = excluded.no_subscribers,
  keyed = excluded.keyed, version = excluded.version, deleted = excluded.deleted`

	// A uid keeps its topic and name, and a removed subscription never comes back.
	writeSubscription = `INSERT INTO twostep_registry_subscription (uid, topic, name, created_at, removed) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (uid) DO UPDATE SET created_at = excluded.created_at, removed = excluded.removed
WHERE topic = excluded.topic AND name = excluded.name AND removed <= excluded.removed`

	writeOutbox = `INSERT INTO twostep_registry_outbox (uuid, name, forgotten) VALUES (?, ?, ?)
ON CONFLICT (uuid) DO UPDATE SET name = excluded.name, forgotten = excluded.forgotten`
)

func applyRegistry(ctx context.Context, sqlTx *sql.Tx, from int64, c topics.RegistryChange) error {
	swapped, err := changed(sqlTx.ExecContext(ctx, `UPDATE twostep_registry SET version = ? WHERE version = ?`, c.Version, from))
	if err != nil {
		return err
	}
	if !swapped {
		return fmt.Errorf("%w: the registry is no longer at version %d", topics.ErrConflict, from)
	}
	for _, t := range c.Topics {
		if _, err := sqlTx.ExecContext(ctx, writeRegistryTopic, t.Name, string(t.Delivery), string(t.NoSubscribers), t.Keyed, t.Version, t.Deleted); err != nil {
			return fmt.Errorf("topic %s: %w", t.Name, err)
		}
		// The removed ones first: their names may go to new ones.
		for _, removed := range []bool{true, false} {
			for _, sub := range t.Subscriptions {
				if sub.Removed != removed {
					continue
				}
				if err := applySubscription(ctx, sqlTx, t.Name, sub); err != nil {
					return err
				}
			}
		}
	}
	for _, o := range c.Outboxes {
		if _, err := sqlTx.ExecContext(ctx, writeOutbox, o.UUID, o.Name, o.Forgotten); err != nil {
			return fmt.Errorf("outbox %s: %w", o.UUID, err)
		}
	}
	return nil
}

func applySubscription(ctx context.Context, sqlTx *sql.Tx, topic string, s outbox.RegistrySubscription) error {
	written, err := changed(sqlTx.ExecContext(ctx, writeSubscription, s.UID, topic, s.Name, s.Created, s.Removed))
	if err != nil {
		return fmt.Errorf("subscription %s of %s: %w", s.Name, topic, err)
	}
	if !written {
		return fmt.Errorf("subscription %s of %s: uid %s was removed, or is another subscription's: make a new one", s.Name, topic, s.UID)
	}
	return nil
}

// changed reports whether a write changed a row.
func changed(res sql.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}
