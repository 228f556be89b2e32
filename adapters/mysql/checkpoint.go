package mysql

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/twostep-mq/twostep/outbox"
)

// Commit writes the checkpoint in one transaction, if the lease still has l's owner and epoch.
func (o *Outbox) Commit(ctx context.Context, l outbox.Lease, c outbox.Checkpoint) (outbox.Lease, error) {
	const op = "write the relay's checkpoint"
	if l.Owner == "" {
		return outbox.Lease{}, outbox.ErrLeaseLost
	}
	err := func() error {
		tx, err := o.srv.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		// The server first: in another database the lease is another's, too, and that is the better explanation.
		s, err := o.identify(ctx, tx)
		if err != nil {
			return err
		}
		if s.server != c.Server {
			return outbox.ErrServerChanged
		}
		beat, swapped, err := o.swap(ctx, tx, beatLease, []byte(l.Owner), l.Epoch)
		if err != nil {
			return err
		}
		if !swapped {
			return outbox.ErrLeaseLost
		}
		l.Beat = beat
		if err := s.write(ctx, c); err != nil {
			return err
		}
		return tx.Commit()
	}()
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, outbox.ErrLeaseLost), errors.Is(err, outbox.ErrServerChanged), errors.Is(err, outbox.ErrShortDelete):
		return outbox.Lease{}, fmt.Errorf("%w (%s)", err, op)
	}
	return outbox.Lease{}, explain(op, err)
}

func (s snapshot) write(ctx context.Context, c outbox.Checkpoint) error {
	if err := s.deleteRows(ctx, c.Release); err != nil {
		return err
	}
	if err := s.writeBits(ctx, c.Bits); err != nil {
		return err
	}
	if s.recorded != s.server {
		if _, err := s.ExecContext(ctx, s.o.srv.cfg.sql("UPDATE `{p}outbox_meta` SET server = ? WHERE one = 1"), s.server); err != nil {
			return fmt.Errorf("server: %w", err)
		}
	}
	return s.writeRegistry(ctx, c.Head, c.Topics)
}

const (
	// deleteMatching deletes rows by number and id, given as a JSON array of pairs. The order of the join is forced: a row that
	// is not named is not looked at, and so a sender's open transaction is not waited for.
	deleteMatching = "DELETE o FROM JSON_TABLE(?, '$[*]' COLUMNS (n BIGINT PATH '$[0]', i VARCHAR(64) PATH '$[1]')) r " +
		"STRAIGHT_JOIN `{p}outbox` o ON o.seq = r.n AND o.id = CAST(r.i AS BINARY)"
	// deleteMost rows are named in one statement.
	deleteMost = 2000
)

func (s snapshot) deleteRows(ctx context.Context, rows []outbox.RowID) error {
	query := s.o.srv.cfg.sql(deleteMatching)
	for len(rows) > 0 {
		some := rows[:min(deleteMost, len(rows))]
		rows = rows[len(some):]
		pairs := make([][2]any, len(some))
		for i, row := range some {
			if len(row.ID) > 36 { // JSON_TABLE would cut it
				return fmt.Errorf("%w: %.40q is no id", outbox.ErrShortDelete, row.ID)
			}
			pairs[i] = [2]any{row.Seq, row.ID}
		}
		text, err := json.Marshal(pairs)
		if err != nil {
			return err
		}
		res, err := s.ExecContext(ctx, query, string(text))
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return err
		}
		if n != int64(len(some)) {
			return fmt.Errorf("%w: %d of %d", outbox.ErrShortDelete, n, len(some))
		}
	}
	return nil
}

const writeConfirmer = "INSERT INTO `{p}outbox_confirmer` (confirmer, topic, name, created_at, removed, `cursor`, digest, bitmap) " +
	"VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE topic = VALUES(topic), name = VALUES(name), created_at = VALUES(created_at), " +
	"removed = VALUES(removed), `cursor` = VALUES(`cursor`), digest = VALUES(digest), bitmap = VALUES(bitmap)"

func (s snapshot) writeBits(ctx context.Context, bits []outbox.Bits) error {
	query := s.o.srv.cfg.sql(writeConfirmer)
	for _, b := range bits {
		sub := b.Subscription
		_, err := s.ExecContext(ctx, query,
			b.Confirmer, sub.Topic, sub.Name, sub.Created, sub.Removed, b.Cursor, int64(b.Digest), blob(b.Bitmap))
		if err != nil {
			return fmt.Errorf("confirmer %s: %w", b.Confirmer, err)
		}
	}
	return nil
}

const writeTopic = "INSERT INTO `{p}outbox_topic` (name, delivery, no_subscribers, keyed, version, deleted) VALUES (?, ?, ?, ?, ?, ?) " +
	"ON DUPLICATE KEY UPDATE delivery = VALUES(delivery), no_subscribers = VALUES(no_subscribers), keyed = VALUES(keyed), " +
	"version = VALUES(version), deleted = VALUES(deleted)"

func (s snapshot) writeRegistry(ctx context.Context, head *outbox.RegistryHead, topics []outbox.RegistryTopic) error {
	if head != nil {
		_, err := s.ExecContext(ctx, s.o.srv.cfg.sql("UPDATE `{p}outbox_meta` SET registry_owner = ?, registry_version = ? WHERE one = 1"),
			head.Owner, head.Version)
		if err != nil {
			return fmt.Errorf("registry: %w", err)
		}
	}
	for _, t := range topics {
		_, err := s.ExecContext(ctx, s.o.srv.cfg.sql(writeTopic), t.Name, string(t.Delivery), string(t.NoSubscribers), t.Keyed, t.Version, t.Deleted)
		if err != nil {
			return fmt.Errorf("topic %s: %w", t.Name, err)
		}
	}
	return nil
}
