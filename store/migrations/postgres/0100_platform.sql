-- What the platform remembers beside the ledger. Times are milliseconds since 1970, taken from the database's own clock. Names and ids sort
-- by their bytes, as they do in SQLite.

-- `served` is the place in the queue: the tenant with the lowest is served next. A counter, so that no clock can reorder it.
CREATE TABLE tenants (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name       TEXT COLLATE "C" NOT NULL UNIQUE,
    caps       TEXT             NOT NULL,
    version    BIGINT           NOT NULL DEFAULT 1,
    created_at BIGINT           NOT NULL,
    served     BIGINT           NOT NULL DEFAULT 0
);

CREATE SEQUENCE turns;
CREATE INDEX tenants_by_turn ON tenants (served, id);

-- `owner` is a tenant, or empty for the operator; here as in `components`.
CREATE TABLE api_keys (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    owner      TEXT COLLATE "C" NOT NULL,
    name       TEXT COLLATE "C" NOT NULL,
    digest     TEXT COLLATE "C" NOT NULL,
    scopes     TEXT             NOT NULL,
    created_at BIGINT           NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT
);

CREATE INDEX api_keys_by_owner ON api_keys (owner, id);

CREATE TABLE components (
    owner       TEXT COLLATE "C" NOT NULL,
    digest      TEXT COLLATE "C" NOT NULL,
    name        TEXT COLLATE "C" NOT NULL,
    version     TEXT             NOT NULL,
    world       TEXT             NOT NULL,
    admitted    BIGINT           NOT NULL,
    report      TEXT             NOT NULL,
    description TEXT             NOT NULL,
    bytes       BIGINT           NOT NULL,
    created_at  BIGINT           NOT NULL,
    PRIMARY KEY (owner, digest)
);

CREATE INDEX components_by_digest ON components (digest, owner);

-- The files of the components: once, however many tenants have uploaded the same.
CREATE TABLE component_files (
    digest TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    body   BYTEA            NOT NULL
);

-- `ledger` is the row that carries the lease. `running` says that a claim opened a run which nobody has ended; whether its worker still lives, the
-- lease says. `claims` counts claims since a run ended by itself. `woken` says that its owner asked for a run while one was going on.
-- `inbox_due` is when the first of the waiting deliveries is due, and `held_until` keeps deliveries back after a failure.
CREATE TABLE platform_connections (
    id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant       TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    name         TEXT COLLATE "C" NOT NULL,
    state        TEXT             NOT NULL,
    state_reason TEXT,
    chain        BIGINT           NOT NULL,
    config       TEXT             NOT NULL,
    sealed       TEXT             NOT NULL,
    hook_plan    TEXT,
    ledger       BIGINT           NOT NULL UNIQUE REFERENCES connections (id),
    failures     BIGINT           NOT NULL DEFAULT 0,
    claims       BIGINT           NOT NULL DEFAULT 0,
    running      BIGINT           NOT NULL DEFAULT 0,
    woken        BIGINT           NOT NULL DEFAULT 0,
    due_at       BIGINT           NOT NULL,
    inbox_due    BIGINT,
    held_until   BIGINT           NOT NULL DEFAULT 0,
    wake_at      BIGINT           NOT NULL GENERATED ALWAYS AS (greatest(held_until, least(due_at, inbox_due))) STORED,
    version      BIGINT           NOT NULL DEFAULT 1,
    created_at   BIGINT           NOT NULL,
    UNIQUE (tenant, name)
);

CREATE INDEX platform_connections_by_tenant ON platform_connections (tenant, id);
CREATE INDEX platform_connections_due ON platform_connections (tenant, wake_at, id) WHERE state IN ('active', 'leaving');
CREATE INDEX platform_connections_next ON platform_connections (wake_at) WHERE state IN ('active', 'leaving');
CREATE INDEX platform_connections_running ON platform_connections (tenant) WHERE running = 1;

-- What a connection runs, and what it ran before.
CREATE TABLE chains (
    connection TEXT COLLATE "C" NOT NULL REFERENCES platform_connections (id),
    number     BIGINT           NOT NULL,
    chain      TEXT             NOT NULL,
    made_by    TEXT             NOT NULL,
    made_at    BIGINT           NOT NULL,
    PRIMARY KEY (connection, number)
);

-- Which components any of those chains uses.
CREATE TABLE chain_uses (
    digest     TEXT COLLATE "C" NOT NULL,
    connection TEXT COLLATE "C" NOT NULL REFERENCES platform_connections (id),
    PRIMARY KEY (digest, connection)
);

CREATE INDEX chain_uses_by_connection ON chain_uses (connection);

-- Outlives its connection, without its receipt: what a tenant has used does not go away with what used it.
CREATE TABLE platform_runs (
    id                TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    connection        TEXT COLLATE "C" NOT NULL,
    tenant            TEXT COLLATE "C" NOT NULL,
    ledger            BIGINT           NOT NULL,
    epoch             BIGINT           NOT NULL,
    kind              TEXT             NOT NULL,
    worker            TEXT             NOT NULL,
    outcome           TEXT             NOT NULL,
    started_at        BIGINT           NOT NULL,
    ended_at          BIGINT,
    cpu_ms            BIGINT           NOT NULL DEFAULT 0,
    peak_memory_bytes BIGINT           NOT NULL DEFAULT 0,
    requests          BIGINT           NOT NULL DEFAULT 0,
    received_bytes    BIGINT           NOT NULL DEFAULT 0,
    written_bytes     BIGINT           NOT NULL DEFAULT 0,
    records           BIGINT           NOT NULL DEFAULT 0,
    deliveries        BIGINT           NOT NULL DEFAULT 0,
    receipt           TEXT             NOT NULL DEFAULT '{}'
);

CREATE INDEX platform_runs_by_connection ON platform_runs (connection, id);
CREATE INDEX platform_runs_by_tenant ON platform_runs (tenant, started_at);
CREATE INDEX platform_runs_open ON platform_runs (ledger) WHERE ended_at IS NULL;
CREATE INDEX platform_runs_ended ON platform_runs (ended_at) WHERE ended_at IS NOT NULL;

-- Names and values are JSON texts: they are the connector's, and may hold characters that not every database takes.
CREATE TABLE cursors (
    connection BIGINT           NOT NULL REFERENCES connections (id),
    name       TEXT COLLATE "C" NOT NULL,
    value      TEXT             NOT NULL,
    PRIMARY KEY (connection, name)
);

-- Also those of `runtime run --listen`, whose connection is in the ledger alone.
-- `body` comes last, so that a list does not read it.
CREATE TABLE deliveries (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    connection  BIGINT           NOT NULL REFERENCES connections (id),
    key         TEXT COLLATE "C" NOT NULL,
    headers     TEXT             NOT NULL,
    bytes       BIGINT           NOT NULL,
    trace       TEXT             NOT NULL,
    state       TEXT             NOT NULL DEFAULT 'waiting',
    reason      TEXT,
    attempts    BIGINT           NOT NULL DEFAULT 0,
    received_at BIGINT           NOT NULL,
    due_at      BIGINT           NOT NULL,
    settled_at  BIGINT,
    body        BYTEA            NOT NULL,
    UNIQUE (connection, key)
);

CREATE INDEX deliveries_by_connection ON deliveries (connection, id);
CREATE INDEX deliveries_waiting ON deliveries (connection, received_at, id) WHERE state = 'waiting';
CREATE INDEX deliveries_settled ON deliveries (settled_at) WHERE settled_at IS NOT NULL;

CREATE TABLE audit (
    id      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    at      BIGINT           NOT NULL,
    tenant  TEXT,
    made_by TEXT             NOT NULL,
    action  TEXT             NOT NULL,
    subject TEXT             NOT NULL,
    detail  TEXT             NOT NULL
);

CREATE INDEX audit_by_tenant ON audit (tenant, id);

-- Creates that carried an idempotency key. `status` and `body` are empty while the first of them is worked on.
CREATE TABLE requests (
    scope      TEXT COLLATE "C" NOT NULL,
    key        TEXT COLLATE "C" NOT NULL,
    digest     TEXT COLLATE "C" NOT NULL,
    status     BIGINT,
    body       TEXT,
    created_at BIGINT           NOT NULL,
    PRIMARY KEY (scope, key)
);

CREATE INDEX requests_by_age ON requests (created_at);

CREATE TABLE notes (
    name  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value TEXT             NOT NULL
);
