-- Names: "twostep." and "twostep_" become the configured schema and prefix.
--
-- What a column of the outbox may hold. As constraints of the table the same conditions cost each insert 20 microseconds, four times
-- as much as the insert itself: PostgreSQL plans a table's constraints anew for every statement, and a domain's once a session. For the same
-- reason they use translate: a regular expression costs 9 microseconds.
CREATE DOMAIN twostep.row_number AS bigint CHECK (VALUE > 0);
CREATE DOMAIN twostep.topic AS text COLLATE "C" CHECK (octet_length(VALUE) BETWEEN 1 AND 128
  AND translate(VALUE, 'abcdefghijklmnopqrstuvwxyz0123456789-._ABCDEFGHIJKLMNOPQRSTUVWXYZ', '') = '');
CREATE DOMAIN twostep.message_key AS text COLLATE "C" CHECK (octet_length(VALUE) <= 512);
CREATE DOMAIN twostep.gid AS text COLLATE "C" CHECK (VALUE = '' OR octet_length(VALUE) <= 128
  AND translate(VALUE, 'abcdefghijklmnopqrstuvwxyz0123456789-._:ABCDEFGHIJKLMNOPQRSTUVWXYZ', '') = '');
CREATE DOMAIN twostep.content_type AS text COLLATE "C" CHECK (length(VALUE) <= 256);
CREATE DOMAIN twostep.headers AS json CHECK (json_typeof(VALUE) = 'object');
CREATE DOMAIN twostep.payload AS bytea CHECK (octet_length(VALUE) <= 1000000);

-- Messages that are not released. The default of seq takes the transaction's id before it takes the number (CASE keeps that
-- order), so that whoever has taken a number is among the running transactions of every later snapshot: the relay closes
-- gaps by that. CACHE 1 keeps the numbers in order. Only topic and payload need to be given. payload is bytea, in whose text
-- form a backslash is special: where it is given as text, write convert_to(text, 'UTF8').
CREATE SEQUENCE twostep.outbox_seq AS bigint INCREMENT 1 CACHE 1 NO CYCLE;
CREATE TABLE twostep.outbox (
  seq twostep.row_number NOT NULL PRIMARY KEY DEFAULT (CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('twostep.outbox_seq') END),
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  topic twostep.topic NOT NULL,
  "key" twostep.message_key NOT NULL DEFAULT '',
  gid twostep.gid NOT NULL DEFAULT '',
  content_type twostep.content_type NOT NULL DEFAULT 'application/json',
  headers twostep.headers,
  created_at bigint NOT NULL DEFAULT ((extract(epoch FROM clock_timestamp()) * 1000)::bigint),
  payload twostep.payload NOT NULL
) WITH (vacuum_truncate = false, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
ALTER SEQUENCE twostep.outbox_seq OWNED BY twostep.outbox.seq;

-- The outbox itself: who relays it, the registry as recorded, and the server that the last checkpoint was written on.
CREATE TABLE twostep.outbox_meta (
  one integer NOT NULL PRIMARY KEY DEFAULT 1 CHECK (one = 1),
  uuid uuid NOT NULL DEFAULT gen_random_uuid(),
  lease_owner text COLLATE "C" NOT NULL DEFAULT '',
  epoch bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0),
  beat bigint NOT NULL DEFAULT 0 CHECK (beat >= 0),
  registry_owner text COLLATE "C" NOT NULL DEFAULT '',
  registry_version bigint NOT NULL DEFAULT 0 CHECK (registry_version >= 0),
  server text COLLATE "C" NOT NULL DEFAULT ''
) WITH (fillfactor = 20);
INSERT INTO twostep.outbox_meta DEFAULT VALUES;

-- One row for the broker and one for each subscription.
CREATE TABLE twostep.outbox_confirmer (
  confirmer text COLLATE "C" NOT NULL PRIMARY KEY
    CHECK (confirmer = 'broker' OR confirmer ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'),
  topic text COLLATE "C" NOT NULL DEFAULT '',
  name text COLLATE "C" NOT NULL DEFAULT '',
  created_at bigint NOT NULL DEFAULT 0,
  removed boolean NOT NULL DEFAULT false,
  "cursor" bigint NOT NULL DEFAULT 0 CHECK ("cursor" >= 0),
  digest bigint NOT NULL DEFAULT 0,
  bitmap bytea NOT NULL,
  CHECK ((confirmer = 'broker') = (topic = ''))
) WITH (fillfactor = 50);

CREATE TABLE twostep.outbox_topic (
  name text COLLATE "C" NOT NULL PRIMARY KEY CHECK (name <> ''),
  delivery text COLLATE "C" NOT NULL CHECK (delivery IN ('confirmed', 'broker')),
  no_subscribers text COLLATE "C" NOT NULL CHECK (no_subscribers IN ('hold', 'drop')),
  keyed boolean NOT NULL,
  version bigint NOT NULL CHECK (version >= 0),
  deleted boolean NOT NULL DEFAULT false
);

-- One row for each branch that has run. COLLATE "C" compares byte for byte, whatever the database's own collation.
CREATE TABLE twostep.barrier (
  gid text COLLATE "C" NOT NULL CHECK (octet_length(gid) BETWEEN 1 AND 256),
  branch_id text COLLATE "C" NOT NULL CHECK (octet_length(branch_id) BETWEEN 1 AND 128),
  op text COLLATE "C" NOT NULL CHECK (octet_length(op) BETWEEN 1 AND 32),
  barrier_id text COLLATE "C" NOT NULL CHECK (octet_length(barrier_id) BETWEEN 1 AND 128),
  outcome text COLLATE "C" NOT NULL CHECK (outcome IN ('success', 'parked', 'failure', 'ongoing', 'dropped')),
  created_at bigint NOT NULL DEFAULT ((extract(epoch FROM clock_timestamp()) * 1000)::bigint),
  PRIMARY KEY (gid, branch_id, op, barrier_id)
);

-- Messages kept on the consumer's side instead of executed.
CREATE TABLE twostep.parked (
  seq bigint NOT NULL PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY,
  subscription text COLLATE "C" NOT NULL CHECK (octet_length(subscription) BETWEEN 1 AND 128),
  id text COLLATE "C" NOT NULL CHECK (octet_length(id) BETWEEN 1 AND 256),
  topic text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL DEFAULT '',
  state text COLLATE "C" NOT NULL CHECK (state IN ('waiting', 'held', 'dead')),
  attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  next_at bigint NOT NULL DEFAULT 0 CHECK (next_at >= 0),
  reason text NOT NULL DEFAULT '',
  parked_at bigint NOT NULL DEFAULT ((extract(epoch FROM clock_timestamp()) * 1000)::bigint),
  gid text COLLATE "C" NOT NULL DEFAULT '',
  branch_id text COLLATE "C" NOT NULL DEFAULT '',
  op text COLLATE "C" NOT NULL DEFAULT '',
  content_type text COLLATE "C" NOT NULL DEFAULT '',
  headers json CHECK (json_typeof(headers) = 'object'),
  outbox text COLLATE "C" NOT NULL DEFAULT '',
  outbox_seq bigint NOT NULL DEFAULT 0,
  prev text COLLATE "C" NOT NULL DEFAULT '',
  time bigint NOT NULL DEFAULT 0,
  payload bytea NOT NULL,
  UNIQUE (subscription, id)
);
-- The first parked message of each key: of all, and of those that are not dead letters. By the key's hash, since the key of a
-- foreign message may be longer than an index takes.
CREATE INDEX twostep_parked_key ON twostep.parked (subscription, hashtextextended("key", 0), seq) WHERE "key" <> '';
CREATE INDEX twostep_parked_live ON twostep.parked (subscription, hashtextextended("key", 0), seq) WHERE "key" <> '' AND state <> 'dead';
-- Those without a key, by time; and any by state, for listings.
CREATE INDEX twostep_parked_due ON twostep.parked (subscription, state, next_at) WHERE "key" = '';
CREATE INDEX twostep_parked_state ON twostep.parked (state, seq);
