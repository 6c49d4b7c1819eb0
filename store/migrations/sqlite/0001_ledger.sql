-- The ledger of the embedded store. Times are seconds since 1970, taken from the database's own clock.

CREATE TABLE connections (
    id          INTEGER PRIMARY KEY,
    name        TEXT    NOT NULL UNIQUE,
    epoch       INTEGER NOT NULL DEFAULT 0,
    owner       TEXT    NOT NULL DEFAULT '',
    lease_until REAL    NOT NULL DEFAULT 0
) STRICT;

-- Scope variables of an origin (a project), pinned at first sight so that a rename does not split its history.
CREATE TABLE origins (
    connection INTEGER NOT NULL REFERENCES connections (id),
    origin     TEXT    NOT NULL,
    variables  TEXT    NOT NULL,
    PRIMARY KEY (connection, origin)
) STRICT, WITHOUT ROWID;

-- One row a record: its latest version.
CREATE TABLE entries (
    connection  INTEGER NOT NULL REFERENCES connections (id),
    source_id   TEXT    NOT NULL,
    event_type  TEXT    NOT NULL,
    stream      TEXT    NOT NULL,
    root        TEXT    NOT NULL,
    scope       TEXT    NOT NULL,
    digest      TEXT    NOT NULL,
    generation  INTEGER NOT NULL,
    status      TEXT    NOT NULL,
    event_id    TEXT,
    preceded_by TEXT    NOT NULL,
    PRIMARY KEY (connection, source_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX entries_by_root ON entries (connection, root) WHERE root <> '';

-- One row a fragment of a version that is in CortexDB or on its way. state: begun (sent, not acknowledged), live, obsolete (to be
-- forgotten), kept (replaced, but the token may not redact it).
CREATE TABLE events (
    id         INTEGER PRIMARY KEY,
    connection INTEGER NOT NULL REFERENCES connections (id),
    source_id  TEXT    NOT NULL,
    generation INTEGER NOT NULL,
    fragment   INTEGER NOT NULL,
    scope      TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    event_id   TEXT,
    state      TEXT    NOT NULL,
    UNIQUE (connection, source_id, generation, fragment)
) STRICT;

CREATE INDEX events_obsolete ON events (connection, id) WHERE state = 'obsolete';

CREATE TABLE dead_letters (
    connection INTEGER NOT NULL REFERENCES connections (id),
    source_id  TEXT    NOT NULL,
    stream     TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    payload    TEXT    NOT NULL,
    first_seen TEXT    NOT NULL,
    last_seen  TEXT    NOT NULL,
    attempts   INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (connection, source_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE streams (
    connection INTEGER NOT NULL REFERENCES connections (id),
    stream     TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    detail     TEXT    NOT NULL,
    at         TEXT    NOT NULL,
    PRIMARY KEY (connection, stream)
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
    id         INTEGER PRIMARY KEY,
    connection INTEGER NOT NULL REFERENCES connections (id),
    ended_at   TEXT    NOT NULL,
    receipt    TEXT    NOT NULL
) STRICT;

CREATE INDEX runs_by_connection ON runs (connection, id);
