-- Names: "twostep." and "twostep_" become the configured schema and prefix.
--
-- The registry. It only grows: topics and subscriptions are marked, never deleted.
CREATE TABLE twostep.registry (
  one integer NOT NULL PRIMARY KEY DEFAULT 1 CHECK (one = 1),
  owner uuid NOT NULL DEFAULT gen_random_uuid(),
  version bigint NOT NULL DEFAULT 0 CHECK (version >= 0)
);
INSERT INTO twostep.registry DEFAULT VALUES;

CREATE TABLE twostep.registry_topic (
  name text COLLATE "C" NOT NULL PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9_.-]{1,128}$'),
  delivery text COLLATE "C" NOT NULL CHECK (delivery IN ('confirmed', 'broker')),
  no_subscribers text COLLATE "C" NOT NULL CHECK (no_subscribers IN ('hold', 'drop')),
  keyed boolean NOT NULL,
  version bigint NOT NULL CHECK (version > 0),
  deleted boolean NOT NULL DEFAULT false
);

-- A uid is never used again and a removed subscription stays removed.
CREATE TABLE twostep.registry_subscription (
  uid uuid NOT NULL PRIMARY KEY,
  topic text COLLATE "C" NOT NULL REFERENCES twostep.registry_topic (name),
  name text COLLATE "C" NOT NULL CHECK (name ~ '^[A-Za-z0-9_-]{1,64}$'),
  created_at bigint NOT NULL,
  removed boolean NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX twostep_registry_subscription_name ON twostep.registry_subscription (topic, name) WHERE NOT removed;

CREATE TABLE twostep.registry_outbox (
  uuid uuid NOT NULL PRIMARY KEY,
  name text COLLATE "C" NOT NULL DEFAULT '',
  forgotten boolean NOT NULL DEFAULT false
);
