package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/twostep-mq/twostep/outbox"
)

const (
	// deleteRows deletes rows by number and counts those whose id was the right one as well; the caller undoes all of it if that is not
	// every one. Finding them by number alone keeps to the primary key:
	//
	//	Delete on twostep_outbox → Index Scan using twostep_outbox_pkey, Index Cond: (seq = ANY (…))
	//
	// where a join with the pairs would read the whole table once its statistics say that it is small.
	deleteRows = `WITH gone AS (DELETE FROM twostep.outbox WHERE seq = ANY($1::bigint[]) RETURNING seq, id)
SELECT count(*) FROM gone JOIN unnest($1::bigint[], $2::text[]::uuid[]) AS asked (seq, id) ON gone.seq = asked.seq AND gone.id = asked.id`

	writeConfirmer = `INSERT INTO twostep.outbox_confirmer (confirmer, topic, name, created_at, removed, "cursor", digest, bitmap)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (confirmer) DO UPDATE SET topic = excluded.topic, name = excluded.name, created_at = excluded.created_at,
  removed = excluded.removed, "cursor" = excluded."cursor", digest = excluded.digest, bitmap = excluded.bitmap`

	writeHead = `UPDATE twostep.outbox_meta SET registry_owner = $1, registry_version = $2`

	writeTopic = `INSERT INTO twostep.outbox_topic (name, delivery, no_subscribers, keyed, version, deleted)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (name) DO UPDATE SET delivery = excluded.delivery, no_subscribers = excluded.no_subscribers,
  keyed = excluded.keyed, version = excluded.version, deleted = excluded.deleted`
)

// Commit writes the checkpoint in one transaction, if the lease still has l's owner and epoch. It takes two round trips: all that
// is written, and then COMMIT or ROLLBACK.
func (o *Outbox) Commit(ctx context.Context, l outbox.Lease, c outbox.Checkpoint) (outbox.Lease, error) {
	if l.Owner == "" {
		return outbox.Lease{}, outbox.ErrLeaseLost
	}
	seqs, ids, err := pairs(c.Release)
	if err != nil {
		return outbox.Lease{}, err
	}
	const op = "write the relay's checkpoint"
	var next outbox.Lease
	err = withConn(ctx, o.db, func(pg *pgx.Conn) error {
		var server string
		released := int64(len(seqs))
		b := &pgx.Batch{}
		b.Queue(`BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE`)
		// The server first: in another database the lease is another's, too, and that is the better explanation.
		b.Queue(o.q.server).QueryRow(func(row pgx.Row) error { return row.Scan(&server) })
		b.Queue(o.q.swap, l.Owner, l.Epoch).QueryRow(func(row pgx.Row) error {
			err := row.Scan(&next.Owner, &next.Epoch, &next.Beat)
			switch {
			case server != c.Server:
				return outbox.ErrServerChanged
			case errors.Is(err, pgx.ErrNoRows):
				return outbox.ErrLeaseLost
			}
			return err
		})
		if len(seqs) > 0 {
			b.Queue(o.q.release, seqs, ids).QueryRow(func(row pgx.Row) error { return row.Scan(&released) })
		}
		o.queueBits(b, c.Bits)
		o.queueRegistry(b, c.Head, c.Topics)
		err := sendBatch(ctx, pg, b)
		if err == nil && released != int64(len(seqs)) {
			err = fmt.Errorf("%w: %d of %d", outbox.ErrShortDelete, released, len(seqs))
		}
		return endPlain(ctx, pg, err)
	})
	if errors.Is(err, outbox.ErrLeaseLost) || errors.Is(err, outbox.ErrServerChanged) || errors.Is(err, outbox.ErrShortDelete) {
		return outbox.Lease{}, fmt.Errorf("%w (%s)", err, op)
	}
	if err != nil {
		return outbox.Lease{}, explain(op, err)
	}
	return next, nil
}

// endPlain commits where err is nil and rolls back where it is not.
func endPlain(ctx context.Context, pg *pgx.Conn, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer cancel()
	if err != nil {
		_, _ = pg.Exec(ctx, `ROLLBACK`) // where that fails the pool throws the connection away
		return err
	}
	tag, err := pg.Exec(ctx, `COMMIT`)
	if err != nil {
		return err
	}
	if tag.String() != "COMMIT" {
		return fmt.Errorf("%w (COMMIT was answered with %s)", ErrEnded, tag)
	}
	return nil
}

// pairs takes rows to release apart. An id in another spelling is another id to everybody else, so it is none here.
func pairs(rows []outbox.RowID) (seqs []int64, ids []string, err error) {
	for _, row := range rows {
		if id, err := uuid.Parse(row.ID); err != nil || id.String() != row.ID {
			return nil, nil, fmt.Errorf("%w: %q is no id", outbox.ErrShortDelete, row.ID)
		}
		seqs, ids = append(seqs, row.Seq), append(ids, row.ID)
	}
	return seqs, ids, nil
}

func (o *Outbox) queueBits(b *pgx.Batch, bits []outbox.Bits) {
	for _, c := range bits {
		sub := c.Subscription
		b.Queue(o.q.confirm, c.Confirmer, sub.Topic, sub.Name, sub.Created, sub.Removed, c.Cursor, int64(c.Digest), notNil(c.Bitmap))
	}
}

func (o *Outbox) queueRegistry(b *pgx.Batch, head *outbox.RegistryHead, topics []outbox.RegistryTopic) {
	if head != nil {
		b.Queue(o.q.head, head.Owner, head.Version)
	}
	for _, t := range topics {
		b.Queue(o.q.topic, t.Name, string(t.Delivery), string(t.NoSubscribers), t.Keyed, t.Version, t.Deleted)
	}
}
