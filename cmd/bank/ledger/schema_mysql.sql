-- As schema_sqlite.sql.
CREATE TABLE IF NOT EXISTS account (
    id      VARBINARY(64) NOT NULL PRIMARY KEY CHECK (id <> ''),
    balance BIGINT        NOT NULL CHECK (balance >= 0)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS entry (
    id       BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
    transfer VARBINARY(128) NOT NULL CHECK (transfer <> ''),
    account  VARBINARY(64)  NOT NULL,
    amount   BIGINT         NOT NULL CHECK (amount <> 0),
    FOREIGN KEY (account) REFERENCES account (id)
) ENGINE = InnoDB;
