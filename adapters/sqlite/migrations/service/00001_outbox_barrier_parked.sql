-- +goose Up

-- Messages that are not released. seq is AUTOINCREMENT: without it SQLite gives the number of a deleted last row out again.
-- payload is the last column, so that reading the others never touches its overflow pages. Only topic and payload need
-- to be given, and payload may be text.
CREATE TABLE twostep_outbox (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL DEFAULT (
    lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-'
    || substr('89ab', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))))
    CHECK (typeof(id) = 'text' AND length(id) = 36 AND id GLOB '[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]'),
  topic TEXT NOT NULL
    CHECK (typeof(topic) = 'text' AND length(topic) BETWEEN 1 AND 128 AND length(topic) = length(CAST(topic AS BLOB)) AND topic NOT GLOB '*[^A-Za-z0-9_.-]*'),
  "key" TEXT NOT NULL DEFAULT '' CHECK (typeof("key") = 'text' AND length(CAST("key" AS BLOB)) <= 512),
  gid TEXT NOT NULL DEFAULT ''
    CHECK (typeof(gid) = 'text' AND length(CAST(gid AS BLOB)) <= 128 AND gid NOT GLOB '*[^A-Za-z0-9._:-]*'),
  content_type TEXT NOT NULL DEFAULT 'application/json' CHECK (typeof(content_type) = 'text' AND length(content_type) <= 256),
  headers TEXT CHECK (headers IS NULL OR (json_valid(headers) AND json_type(headers) = 'object')),
  created_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)) CHECK (typeof(created_at) = 'integer'),
  payload BLOB NOT NULL CHECK (typeof(payload) IN ('blob', 'text') AND length(CAST(payload AS BLOB)) <= 1000000)
);

-- The outbox itself: who relays it, and the registry as recorded.
CREATE TABLE twostep_outbox_meta (
  one INTEGER PRIMARY KEY DEFAULT 1 CHECK (one = 1),
  uuid TEXT NOT NULL DEFAULT (
    lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-'
    || substr('89ab', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))))
    CHECK (uuid GLOB '[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]'),
  lease_owner TEXT NOT NULL DEFAULT '',
  epoch INTEGER NOT NULL DEFAULT 0 CHECK (epoch >= 0),
  beat INTEGER NOT NULL DEFAULT 0 CHECK (beat >= 0),
  registry_owner TEXT NOT NULL DEFAULT '',
  registry_version INTEGER NOT NULL DEFAULT 0 CHECK (registry_version >= 0)
);
INSERT INTO twostep_outbox_meta DEFAULT VALUES;

-- One row for the broker and one for each subscription.
CREATE TABLE twostep_outbox_confirmer (
  confirmer TEXT NOT NULL PRIMARY KEY CHECK (confirmer = 'broker' OR confirmer GLOB '[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]'),
  topic TEXT NOT NULL DEFAULT '',
  name TEXT NOT NULL DEFAULT '',
  created_at INTEGER NOT NULL DEFAULT 0,
  removed INTEGER NOT NULL DEFAULT 0 CHECK (removed IN (0, 1)),
  "cursor" INTEGER NOT NULL DEFAULT 0 CHECK ("cursor" >= 0),
  digest INTEGER NOT NULL DEFAULT 0,
  bitmap BLOB NOT NULL,
  CHECK ((confirmer = 'broker') = (topic = ''))
);

CREATE TABLE twostep_outbox_topic (
  name TEXT NOT NULL PRIMARY KEY CHECK (name <> ''),
  delivery TEXT NOT NULL CHECK (delivery IN ('confirmed', 'broker')),
  no_subscribers TEXT NOT NULL CHECK (no_subscribers IN ('hold', 'drop')),
  keyed INTEGER NOT NULL CHECK (keyed IN (0, 1)),
  version INTEGER NOT NULL CHECK (version >= 0),
  deleted INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1))
);

-- One row for each branch that has run. Keys are compared byte for byte (BINARY, the default).
CREATE TABLE twostep_barrier (
  gid TEXT NOT NULL CHECK (typeof(gid) = 'text' AND length(CAST(gid AS BLOB)) BETWEEN 1 AND 256),
  branch_id TEXT NOT NULL CHECK (typeof(branch_id) = 'text' AND length(CAST(branch_id AS BLOB)) BETWEEN 1 AND 128),
  op TEXT NOT NULL CHECK (typeof(op) = 'text' AND length(CAST(op AS BLOB)) BETWEEN 1 AND 32),
  barrier_id TEXT NOT NULL CHECK (typeof(barrier_id) = 'text' AND length(CAST(barrier_id AS BLOB)) BETWEEN 1 AND 128),
  outcome TEXT NOT NULL CHECK (outcome IN ('success', 'parked', 'failure', 'ongoing', 'dropped')),
  created_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)),
  PRIMARY KEY (gid, branch_id, op, barrier_id)
) WITHOUT ROWID;

-- Messages kept on the consumer's side instead of executed. seq is AUTOINCREMENT: it orders them, and must not come back.
CREATE TABLE twostep_parked (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  subscription TEXT NOT NULL CHECK (subscription <> ''),
  id TEXT NOT NULL CHECK (length(CAST(id AS BLOB)) BETWEEN 1 AND 256),
  topic TEXT NOT NULL,
  "key" TEXT NOT NULL DEFAULT '',
  state TEXT NOT NULL CHECK (state IN ('waiting', 'held', 'dead')),
  attempts INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  next_at INTEGER NOT NULL DEFAULT 0 CHECK (next_at >= 0),
  reason TEXT NOT NULL DEFAULT '',
  parked_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)),
  gid TEXT NOT NULL DEFAULT '',
  branch_id TEXT NOT NULL DEFAULT '',
  op TEXT NOT NULL DEFAULT '',
  content_type TEXT NOT NULL DEFAULT '',
  headers TEXT CHECK (headers IS NULL OR (json_valid(headers) AND json_type(headers) = 'object')),
  outbox TEXT NOT NULL DEFAULT '',
  outbox_seq INTEGER NOT NULL DEFAULT 0,
  prev TEXT NOT NULL DEFAULT '',
  time INTEGER NOT NULL DEFAULT 0,
  payload BLOB NOT NULL,
  UNIQUE (subscription, id)
);
-- The first parked message of each key: of all, and of those that are not dead letters.
CREATE INDEX twostep_parked_key ON twostep_parked (subscription, "key", seq) WHERE "key" > '';
CREATE INDEX twostep_parked_live ON twostep_parked (subscription, "key", seq) WHERE "key" > '' AND state <> 'dead';
-- Those without a key, by time; and any by state, for listings.
CREATE INDEX twostep_parked_due ON twostep_parked (subscription, state, next_at) WHERE "key" = '';
CREATE INDEX twostep_parked_state ON twostep_parked (state, seq);
