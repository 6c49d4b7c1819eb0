-- As migrations/sqlite/0104_passes.sql explains.
CREATE TABLE passes (
    connection BIGINT           NOT NULL REFERENCES connections (id),
    stream     TEXT COLLATE "C" NOT NULL,
    mark       TEXT             NOT NULL,
    at         DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (connection, stream)
);
