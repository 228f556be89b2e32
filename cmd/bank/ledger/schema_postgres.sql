-- As schema_sqlite.sql.
CREATE TABLE IF NOT EXISTS account (
    id      text COLLATE "C" NOT NULL PRIMARY KEY CHECK (id <> ''),
    balance bigint           NOT NULL CHECK (balance >= 0)
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS entry (
    id       bigint           NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transfer text COLLATE "C" NOT NULL CHECK (transfer <> ''),
    account  text COLLATE "C" NOT NULL REFERENCES account (id),
    amount   bigint           NOT NULL CHECK (amount <> 0)
);
