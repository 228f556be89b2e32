-- A bank. Nothing here makes a transfer happen once: entry has no unique key on purpose, so that a credit that ran twice
-- shows, and is not absorbed by the schema instead of the barrier.
CREATE TABLE IF NOT EXISTS account (
    id      TEXT    NOT NULL PRIMARY KEY CHECK (id <> ''),
    balance INTEGER NOT NULL CHECK (balance >= 0)
) STRICT, WITHOUT ROWID;

-- One row for each change of a balance; those of one account in the order of the commits.
CREATE TABLE IF NOT EXISTS entry (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    transfer TEXT    NOT NULL CHECK (transfer <> ''),
    account  TEXT    NOT NULL REFERENCES account (id),
    amount   INTEGER NOT NULL CHECK (amount <> 0)
) STRICT;
