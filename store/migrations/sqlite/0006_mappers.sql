-- What a mapper makes of a record. `record` is the source's own record: the same as `source_id`, except for the parts that a mapper
-- splits one into. What is listed, compared and retracted is the record; what is written is the part.
ALTER TABLE entries ADD COLUMN record TEXT NOT NULL DEFAULT '';
UPDATE entries SET record = source_id;
DROP INDEX entries_by_stream;
CREATE INDEX entries_by_stream ON entries (connection, stream, event_type, record);
CREATE INDEX entries_parts ON entries (connection, record) WHERE record <> source_id;

-- The chain of mappers that everything held was last mapped by; empty for none.
ALTER TABLE connections ADD COLUMN mapped_by TEXT NOT NULL DEFAULT '';

-- Records as the connector handed them over, so that another mapper can be tried or used without asking the source again. `seq` is the
-- order of first sight: what others follow comes first. `body` is compressed.
CREATE TABLE recorded (
    seq        INTEGER PRIMARY KEY,
    connection INTEGER NOT NULL REFERENCES connections (id),
    source_id  TEXT    NOT NULL,
    stream     TEXT    NOT NULL,
    origin     TEXT    NOT NULL,
    digest     TEXT    NOT NULL,
    body       BLOB    NOT NULL,
    UNIQUE (connection, source_id)
) STRICT;
