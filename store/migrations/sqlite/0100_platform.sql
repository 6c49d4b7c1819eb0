-- What the platform remembers beside the ledger. Times are milliseconds since 1970, taken from the database's own clock.

-- `served` is the place in the queue: the tenant with the lowest is served next. A counter, so that no clock can reorder it.
CREATE TABLE tenants (
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    caps       TEXT    NOT NULL,
    version    INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    served     INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX tenants_by_turn ON tenants (served, id);

-- `owner` is a tenant, or empty for the operator; here as in `components`.
CREATE TABLE api_keys (
    id         TEXT    NOT NULL PRIMARY KEY,
    owner      TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    digest     TEXT    NOT NULL,
    scopes     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
) STRICT;

CREATE INDEX api_keys_by_owner ON api_keys (owner, id);

CREATE TABLE components (
    owner       TEXT    NOT NULL,
    digest      TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    version     TEXT    NOT NULL,
    world       TEXT    NOT NULL,
    admitted    INTEGER NOT NULL,
    report      TEXT    NOT NULL,
    description TEXT    NOT NULL,
    bytes       INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (owner, digest)
) STRICT, WITHOUT ROWID;

CREATE INDEX components_by_digest ON components (digest, owner);

-- The files of the components: once, however many tenants have uploaded the same.
CREATE TABLE component_files (
    digest TEXT NOT NULL PRIMARY KEY,
    body   BLOB NOT NULL
) STRICT;

-- `ledger` is the row that carries the lease. `running` says that a claim opened a run which nobody has ended; whether its worker still lives, the
-- lease says. `claims` counts claims since a run ended by itself. `woken` says that its owner asked for a run while one was going on.
-- `inbox_due` is when the first of the waiting deliveries is due, and `held_until` keeps deliveries back after a failure.
CREATE TABLE platform_connections (
    id           TEXT    NOT NULL PRIMARY KEY,
    tenant       TEXT    NOT NULL REFERENCES tenants (id),
    name         TEXT    NOT NULL,
    state        TEXT    NOT NULL,
    state_reason TEXT,
    chain        INTEGER NOT NULL,
    config       TEXT    NOT NULL,
    sealed       TEXT    NOT NULL,
    hook_plan    TEXT,
    ledger       INTEGER NOT NULL UNIQUE REFERENCES connections (id),
    failures     INTEGER NOT NULL DEFAULT 0,
    claims       INTEGER NOT NULL DEFAULT 0,
    running      INTEGER NOT NULL DEFAULT 0,
    woken        INTEGER NOT NULL DEFAULT 0,
    due_at       INTEGER NOT NULL,
    inbox_due    INTEGER,
    held_until   INTEGER NOT NULL DEFAULT 0,
    wake_at      INTEGER NOT NULL GENERATED ALWAYS AS (max(held_until, min(due_at, coalesce(inbox_due, due_at)))) STORED,
    version      INTEGER NOT NULL DEFAULT 1,
    created_at   INTEGER NOT NULL,
    UNIQUE (tenant, name)
) STRICT;

CREATE INDEX platform_connections_by_tenant ON platform_connections (tenant, id);
CREATE INDEX platform_connections_due ON platform_connections (tenant, wake_at, id) WHERE state IN ('active', 'leaving');
CREATE INDEX platform_connections_next ON platform_connections (wake_at) WHERE state IN ('active', 'leaving');
CREATE INDEX platform_connections_running ON platform_connections (tenant) WHERE running = 1;

-- What a connection runs, and what it ran before.
CREATE TABLE chains (
    connection TEXT    NOT NULL REFERENCES platform_connections (id),
    number     INTEGER NOT NULL,
    chain      TEXT    NOT NULL,
    made_by    TEXT    NOT NULL,
    made_at    INTEGER NOT NULL,
    PRIMARY KEY (connection, number)
) STRICT, WITHOUT ROWID;

-- Which components any of those chains uses.
CREATE TABLE chain_uses (
    digest     TEXT NOT NULL,
    connection TEXT NOT NULL REFERENCES platform_connections (id),
    PRIMARY KEY (digest, connection)
) STRICT, WITHOUT ROWID;

CREATE INDEX chain_uses_by_connection ON chain_uses (connection);

-- Outlives its connection, without its receipt: what a tenant has used does not go away with what used it.
CREATE TABLE platform_runs (
    id                TEXT    NOT NULL PRIMARY KEY,
    connection        TEXT    NOT NULL,
    tenant            TEXT    NOT NULL,
    ledger            INTEGER NOT NULL,
    epoch             INTEGER NOT NULL,
    kind              TEXT    NOT NULL,
    worker            TEXT    NOT NULL,
    outcome           TEXT    NOT NULL,
    started_at        INTEGER NOT NULL,
    ended_at          INTEGER,
    cpu_ms            INTEGER NOT NULL DEFAULT 0,
    peak_memory_bytes INTEGER NOT NULL DEFAULT 0,
    requests          INTEGER NOT NULL DEFAULT 0,
    received_bytes    INTEGER NOT NULL DEFAULT 0,
    written_bytes     INTEGER NOT NULL DEFAULT 0,
    records           INTEGER NOT NULL DEFAULT 0,
    deliveries        INTEGER NOT NULL DEFAULT 0,
    receipt           TEXT    NOT NULL DEFAULT '{}'
) STRICT;

CREATE INDEX platform_runs_by_connection ON platform_runs (connection, id);
CREATE INDEX platform_runs_by_tenant ON platform_runs (tenant, started_at);
CREATE INDEX platform_runs_open ON platform_runs (ledger) WHERE ended_at IS NULL;
CREATE INDEX platform_runs_ended ON platform_runs (ended_at) WHERE ended_at IS NOT NULL;

-- Names and values are JSON texts: they are the connector's, and may hold characters that not every database takes.
CREATE TABLE cursors (
    connection INTEGER NOT NULL REFERENCES connections (id),
    name       TEXT    NOT NULL,
    value      TEXT    NOT NULL,
    PRIMARY KEY (connection, name)
) STRICT, WITHOUT ROWID;

-- Also those of `runtime run --listen`, whose connection is in the ledger alone.
-- `body` comes last, so that a list does not read it.
CREATE TABLE deliveries (
    id          TEXT    NOT NULL PRIMARY KEY,
    connection  INTEGER NOT NULL REFERENCES connections (id),
    key         TEXT    NOT NULL,
    headers     TEXT    NOT NULL,
    bytes       INTEGER NOT NULL,
    trace       TEXT    NOT NULL,
    state       TEXT    NOT NULL DEFAULT 'waiting',
    reason      TEXT,
    attempts    INTEGER NOT NULL DEFAULT 0,
    received_at INTEGER NOT NULL,
    due_at      INTEGER NOT NULL,
    settled_at  INTEGER,
    body        BLOB    NOT NULL,
    UNIQUE (connection, key)
) STRICT;

CREATE INDEX deliveries_by_connection ON deliveries (connection, id);
CREATE INDEX deliveries_waiting ON deliveries (connection, received_at, id) WHERE state = 'waiting';
CREATE INDEX deliveries_settled ON deliveries (settled_at) WHERE settled_at IS NOT NULL;

CREATE TABLE audit (
    id      TEXT    NOT NULL PRIMARY KEY,
    at      INTEGER NOT NULL,
    tenant  TEXT,
    made_by TEXT    NOT NULL,
    action  TEXT    NOT NULL,
    subject TEXT    NOT NULL,
    detail  TEXT    NOT NULL
) STRICT;

CREATE INDEX audit_by_tenant ON audit (tenant, id);

-- Creates that carried an idempotency key. `status` and `body` are empty while the first of them is worked on.
CREATE TABLE requests (
    scope      TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    digest     TEXT    NOT NULL,
    status     INTEGER,
    body       TEXT,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_by_age ON requests (created_at);

CREATE TABLE notes (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
