-- The registry. It only grows: topics and subscriptions are marked, never deleted. Columns of text are a byte longer than what their
-- constraints allow, so that a session without strict mode does not cut a value to one that is allowed.
CREATE TABLE IF NOT EXISTS `{p}registry` (
  one TINYINT NOT NULL DEFAULT 1 PRIMARY KEY CHECK (one = 1),
  owner VARBINARY(37) NOT NULL DEFAULT (CONCAT_WS('-', LEFT(SHA2(CONCAT(UUID(), RAND()), 256), 8), LEFT(SHA2(CONCAT(UUID(), RAND()), 256), 4),
    CONCAT('4', LEFT(SHA2(CONCAT(UUID(), RAND()), 256), 3)), CONCAT(SUBSTRING('89ab', 1 + FLOOR(RAND() * 4), 1), LEFT(SHA2(CONCAT(UUID(), RAND()), 256), 3)),
    LEFT(SHA2(CONCAT(UUID(), RAND()), 256), 12)))
    CHECK (LENGTH(owner) = 36 AND CONVERT(owner USING latin1) COLLATE latin1_bin REGEXP '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'),
  version BIGINT NOT NULL DEFAULT 0 CHECK (version >= 0)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
INSERT INTO `{p}registry` (one) VALUES (1) ON DUPLICATE KEY UPDATE one = one;

CREATE TABLE IF NOT EXISTS `{p}registry_topic` (
  name VARBINARY(129) NOT NULL PRIMARY KEY CHECK (LENGTH(name) BETWEEN 1 AND 128 AND CONVERT(name USING latin1) COLLATE latin1_bin NOT REGEXP '[^A-Za-z0-9_.-]'),
  delivery VARBINARY(16) NOT NULL CHECK (delivery IN ('confirmed', 'broker')),
  no_subscribers VARBINARY(16) NOT NULL CHECK (no_subscribers IN ('hold', 'drop')),
  keyed TINYINT NOT NULL CHECK (keyed IN (0, 1)),
  version BIGINT NOT NULL CHECK (version > 0),
  deleted TINYINT NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1))
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- A uid is never used again and a removed subscription stays removed. Of those that are not removed, a topic has one of each name.
CREATE TABLE IF NOT EXISTS `{p}registry_subscription` (
  uid VARBINARY(37) NOT NULL PRIMARY KEY CHECK (LENGTH(uid) = 36 AND CONVERT(uid USING latin1) COLLATE latin1_bin REGEXP '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'),
  topic VARBINARY(129) NOT NULL,
  name VARBINARY(65) NOT NULL CHECK (LENGTH(name) BETWEEN 1 AND 64 AND CONVERT(name USING latin1) COLLATE latin1_bin NOT REGEXP '[^A-Za-z0-9_-]'),
  created_at BIGINT NOT NULL,
  removed TINYINT NOT NULL DEFAULT 0 CHECK (removed IN (0, 1)),
  live_name VARBINARY(65) AS (IF(removed = 0, name, NULL)) STORED,
  UNIQUE KEY subscription_name (topic, live_name),
  FOREIGN KEY (topic) REFERENCES `{p}registry_topic` (name)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `{p}registry_outbox` (
  uuid VARBINARY(37) NOT NULL PRIMARY KEY CHECK (LENGTH(uuid) = 36 AND CONVERT(uuid USING latin1) COLLATE latin1_bin REGEXP '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'),
  name VARBINARY(512) NOT NULL DEFAULT '',
  forgotten TINYINT NOT NULL DEFAULT 0 CHECK (forgotten IN (0, 1))
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
