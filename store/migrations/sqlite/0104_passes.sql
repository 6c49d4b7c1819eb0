-- Streams that a reconcile pass has compared, while it is not over: a pass that was interrupted goes on with the others. `mark` tells passes
-- apart that compare different things.
CREATE TABLE passes (
    connection INTEGER NOT NULL REFERENCES connections (id),
    stream     TEXT    NOT NULL,
    mark       TEXT    NOT NULL,
    at         REAL    NOT NULL,
    PRIMARY KEY (connection, stream)
) STRICT, WITHOUT ROWID;
