-- Scopes whose events this ledger knows: written by it from the beginning, or rebuilt from CortexDB's listing. A scope that is not
-- here is listed before the first write into it.
CREATE TABLE scopes (
    connection INTEGER NOT NULL REFERENCES connections (id),
    scope      TEXT    NOT NULL,
    PRIMARY KEY (connection, scope)
) STRICT, WITHOUT ROWID;

INSERT INTO scopes (connection, scope) SELECT DISTINCT connection, scope FROM events;
