-- Text that is compared is VARBINARY: byte for byte, whatever the collation, and without padding. Such columns are a byte longer than what
-- their constraints allow, so that a session without strict mode does not cut a value to one that is allowed.

-- Messages that are not released. Only topic and payload need to be given.
CREATE TABLE IF NOT EXISTS `{p}outbox` (
  seq BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  id VARBINARY(37) NOT NULL DEFAULT (CONCAT_WS('-', LEFT(SHA2(CONCAT(UUID(), RAND()), 256), 8), LEFT(SHA2(CONCAT(UUID(), RAND()), 256), 4),
    CONCAT('4', LEFT(SHA2(CONCAT(UUID(), RAND()), 256), 3)), CONCAT(SUBSTRING('89ab', 1 + FLOOR(RAND() * 4), 1), LEFT(SHA2(CONCAT(UUID(), RAND()), 256), 3)),
    LEFT(SHA2(CONCAT(UUID(), RAND()), 256), 12)))
    CHECK (LENGTH(id) = 36 AND CONVERT(id USING latin1) COLLATE latin1_bin REGEXP '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'),
  topic VARBINARY(129) NOT NULL CHECK (LENGTH(topic) BETWEEN 1 AND 128 AND CONVERT(topic USING latin1) COLLATE latin1_bin NOT REGEXP '[^A-Za-z0-9_.-]'),
  `key` VARBINARY(513) NOT NULL DEFAULT '' CHECK (LENGTH(`key`) <= 512),
  gid VARBINARY(129) NOT NULL DEFAULT ''
    CHECK (LENGTH(gid) <= 128 AND CONVERT(gid USING latin1) COLLATE latin1_bin NOT REGEXP '[^A-Za-z0-9._:-]'),
  content_type VARBINARY(257) NOT NULL DEFAULT 'application/json' CHECK (LENGTH(content_type) <= 256),
  headers MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin CHECK (headers IS NULL OR (JSON_VALID(headers) AND JSON_TYPE(headers) = 'OBJECT')),
  created_at BIGINT NOT NULL DEFAULT (TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000),
  payload MEDIUMBLOB NOT NULL CHECK (LENGTH(payload) <= 1000000)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The outbox itself: who relays it, the registry as recorded, and the server that the last checkpoint was written on.
CREATE TABLE IF NOT EXISTS `{p}outbox_meta` (
  one TINYINT NOT NULL DEFAULT 1 PRIMARY KEY CHECK (one = 1),
  uuid VARBINARY(37) NOT NULL DEFAULT (CONCAT_WS('-', LEFT(SHA2(CONCAT(UUID(), RAND()), 256), 8), LEFT(SHA2(CONCAT(UUID(), RAND()), 256), 4),
    CONCAT('4', LEFT(SHA2(CONCAT(UUID(), RAND()), 256), 3)), CONCAT(SUBSTRING('89ab', 1 + FLOOR(RAND() * 4), 1), LEFT(SHA2(CONCAT(UUID(), RAND()), 256), 3)),
    LEFT(SHA2(CONCAT(UUID(), RAND()), 256), 12)))
    CHECK (LENGTH(uuid) = 36 AND CONVERT(uuid USING latin1) COLLATE latin1_bin REGEXP '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'),
  lease_owner VARBINARY(512) NOT NULL DEFAULT '',
  epoch BIGINT NOT NULL DEFAULT 0 CHECK (epoch >= 0),
  beat BIGINT NOT NULL DEFAULT 0 CHECK (beat >= 0),
  registry_owner VARBINARY(128) NOT NULL DEFAULT '',
  registry_version BIGINT NOT NULL DEFAULT 0 CHECK (registry_version >= 0),
  server VARBINARY(512) NOT NULL DEFAULT ''
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
INSERT INTO `{p}outbox_meta` (one) VALUES (1) ON DUPLICATE KEY UPDATE one = one;

-- One row for the broker and one for each subscription.
CREATE TABLE IF NOT EXISTS `{p}outbox_confirmer` (
  confirmer VARBINARY(37) NOT NULL PRIMARY KEY CHECK (confirmer = 'broker' OR (LENGTH(confirmer) = 36 AND CONVERT(confirmer USING latin1) COLLATE latin1_bin REGEXP '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$')),
  topic VARBINARY(129) NOT NULL DEFAULT '',
  name VARBINARY(129) NOT NULL DEFAULT '',
  created_at BIGINT NOT NULL DEFAULT 0,
  removed TINYINT NOT NULL DEFAULT 0 CHECK (removed IN (0, 1)),
  `cursor` BIGINT NOT NULL DEFAULT 0 CHECK (`cursor` >= 0),
  digest BIGINT NOT NULL DEFAULT 0,
  bitmap LONGBLOB NOT NULL,
  CHECK ((confirmer = 'broker') = (topic = ''))
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `{p}outbox_topic` (
  name VARBINARY(129) NOT NULL PRIMARY KEY CHECK (name <> ''),
  delivery VARBINARY(16) NOT NULL CHECK (delivery IN ('confirmed', 'broker')),
  no_subscribers VARBINARY(16) NOT NULL CHECK (no_subscribers IN ('hold', 'drop')),
  keyed TINYINT NOT NULL CHECK (keyed IN (0, 1)),
  version BIGINT NOT NULL CHECK (version >= 0),
  deleted TINYINT NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1))
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- One row for each branch that has run. token is of the transaction that wrote the row: it tells which rows of a batch were new.
CREATE TABLE IF NOT EXISTS `{p}barrier` (
  gid VARBINARY(257) NOT NULL CHECK (LENGTH(gid) BETWEEN 1 AND 256),
  branch_id VARBINARY(129) NOT NULL CHECK (LENGTH(branch_id) BETWEEN 1 AND 128),
  op VARBINARY(33) NOT NULL CHECK (LENGTH(op) BETWEEN 1 AND 32),
  barrier_id VARBINARY(129) NOT NULL CHECK (LENGTH(barrier_id) BETWEEN 1 AND 128),
  outcome VARBINARY(16) NOT NULL CHECK (outcome IN ('success', 'parked', 'failure', 'ongoing', 'dropped')),
  token VARBINARY(16) NOT NULL DEFAULT '',
  created_at BIGINT NOT NULL DEFAULT (TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000),
  PRIMARY KEY (gid, branch_id, op, barrier_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Messages kept on the consumer's side instead of executed. The indexes lead to the first parked message of each key (of all, and of
-- those that are not dead letters: live_key; a generated column could not be NOT NULL, and its index would be read entry by entry), to
-- those without a key by time, and to any by state.
CREATE TABLE IF NOT EXISTS `{p}parked` (
  seq BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  subscription VARBINARY(129) NOT NULL CHECK (LENGTH(subscription) BETWEEN 1 AND 128),
  id VARBINARY(257) NOT NULL CHECK (LENGTH(id) BETWEEN 1 AND 256),
  topic VARBINARY(1024) NOT NULL,
  `key` VARBINARY(1024) NOT NULL DEFAULT '',
  state VARBINARY(16) NOT NULL CHECK (state IN ('waiting', 'held', 'dead')),
  live_key VARBINARY(1024) NOT NULL DEFAULT '',
  attempts INT NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  next_at BIGINT NOT NULL DEFAULT 0 CHECK (next_at >= 0),
  reason BLOB NOT NULL,
  parked_at BIGINT NOT NULL DEFAULT (TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000),
  gid VARBINARY(257) NOT NULL DEFAULT '',
  branch_id VARBINARY(129) NOT NULL DEFAULT '',
  op VARBINARY(33) NOT NULL DEFAULT '',
  content_type VARBINARY(1024) NOT NULL DEFAULT '',
  headers MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin CHECK (headers IS NULL OR (JSON_VALID(headers) AND JSON_TYPE(headers) = 'OBJECT')),
  outbox VARBINARY(129) NOT NULL DEFAULT '',
  outbox_seq BIGINT NOT NULL DEFAULT 0,
  prev VARBINARY(257) NOT NULL DEFAULT '',
  time BIGINT NOT NULL DEFAULT 0,
  payload LONGBLOB NOT NULL,
  CHECK (live_key = IF(state = 'dead', '', `key`)),
  UNIQUE KEY parked_id (subscription, id),
  KEY parked_key (subscription, `key`, seq),
  KEY parked_live (subscription, live_key, seq),
  KEY parked_due (subscription, `key`, state, next_at),
  KEY parked_state (state, seq)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
