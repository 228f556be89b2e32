-- +goose Up

-- The registry. It only grows: topics and subscriptions are marked, never deleted.
CREATE TABLE twostep_registry (
  one INTEGER PRIMARY KEY DEFAULT 1 CHECK (one = 1),
  owner TEXT NOT NULL DEFAULT (
    lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-'
    || substr('89ab', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))))
    CHECK (owner GLOB '[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]'),
  version INTEGER NOT NULL DEFAULT 0 CHECK (version >= 0)
);
INSERT INTO twostep_registry DEFAULT VALUES;

CREATE TABLE twostep_registry_topic (
  name TEXT NOT NULL PRIMARY KEY
    CHECK (length(name) BETWEEN 1 AND 128 AND length(name) = length(CAST(name AS BLOB)) AND name NOT GLOB '*[^A-Za-z0-9_.-]*'),
  delivery TEXT NOT NULL CHECK (delivery IN ('confirmed', 'broker')),
  no_subscribers TEXT NOT NULL CHECK (no_subscribers IN ('hold', 'drop')),
  keyed INTEGER NOT NULL CHECK (keyed IN (0, 1)),
  version INTEGER NOT NULL CHECK (version > 0),
  deleted INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1))
);

-- A uid is never used again and a removed subscription stays removed.
CREATE TABLE twostep_registry_subscription (
  uid TEXT NOT NULL PRIMARY KEY CHECK (uid GLOB '[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]'),
  topic TEXT NOT NULL REFERENCES twostep_registry_topic (name),
  name TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 64 AND name NOT GLOB '*[^A-Za-z0-9_-]*'),
  created_at INTEGER NOT NULL,
  removed INTEGER NOT NULL DEFAULT 0 CHECK (removed IN (0, 1))
);
CREATE UNIQUE INDEX twostep_registry_subscription_name ON twostep_registry_subscription (topic, name) WHERE removed = 0;

CREATE TABLE twostep_registry_outbox (
  uuid TEXT NOT NULL PRIMARY KEY CHECK (uuid GLOB '[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]'),
  name TEXT NOT NULL DEFAULT '',
  forgotten INTEGER NOT NULL DEFAULT 0 CHECK (forgotten IN (0, 1))
);
