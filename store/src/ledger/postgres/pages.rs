//! The statements that take a page of rows as one JSON document.
//!
//! PostgreSQL refuses a statement that would touch a row twice, where SQLite does the one after the other: of what a page names twice the
//! last one counts (`DISTINCT ON … place DESC`), as if they had come one by one. Order is kept (`WITH ORDINALITY`): what came first gets the lower row.
//!
//! PostgreSQL knows neither how long a page is nor, before it has analysed a table, how many rows a connection has, and would rather walk all rows
//! of a connection for each page than look up each of its rows. `OFFSET 0` leaves it no choice: the subquery is run for each row of the
//! page, by its key. For the same reason what is known is changed by an insert that conflicts, as in SQLite: a conflict is found by the
//! key, where the rows of an `UPDATE … FROM` are found by a plan.

/// Versions before they are sent.
pub(super) const BEGIN_ENTRIES: &str = "
    INSERT INTO entries (connection, source_id, record, event_type, stream, root, scope, digest, generation, status, preceded_by)
    SELECT DISTINCT ON (source_id) $1, source_id, record, event_type, stream, root, scope, digest, generation, 'begun', preceded_by::text
    FROM ROWS FROM (jsonb_to_recordset($2::jsonb) AS (source_id TEXT, record TEXT, event_type TEXT, stream TEXT, root TEXT, scope TEXT,
                    digest TEXT, generation BIGINT, preceded_by JSONB)) WITH ORDINALITY
         AS version (source_id, record, event_type, stream, root, scope, digest, generation, preceded_by, place)
    ORDER BY source_id, place DESC
    ON CONFLICT (connection, source_id) DO UPDATE SET
           stream = excluded.stream, root = excluded.root, scope = excluded.scope, digest = excluded.digest,
           generation = excluded.generation, status = 'begun', preceded_by = excluded.preceded_by";

/// Their fragments. One that is sent again is as old as before.
pub(super) const BEGIN_EVENTS: &str = "
    INSERT INTO events (connection, source_id, generation, fragment, scope, key, state, begun_at)
    SELECT $1, source_id, generation, fragment.place - 1, scope, fragment.key, 'begun', extract(epoch FROM clock_timestamp())::float8
    FROM ROWS FROM (jsonb_to_recordset($2::jsonb) AS (source_id TEXT, generation BIGINT, scope TEXT, keys JSONB)) WITH ORDINALITY
         AS version (source_id, generation, scope, keys, place)
    CROSS JOIN LATERAL jsonb_array_elements_text(keys) WITH ORDINALITY AS fragment (key, place)
    ORDER BY version.place, fragment.place
    ON CONFLICT (connection, source_id, generation, fragment) DO NOTHING";

/// Receipts of fragments.
pub(super) const SETTLE_EVENTS: &str = "
    INSERT INTO events (id, connection, source_id, generation, fragment, scope, key, event_id, state)
    SELECT known.id, known.connection, known.source_id, known.generation, known.fragment, known.scope, known.key, receipt.event_id, 'live'
    FROM (SELECT DISTINCT ON (source_id, generation, fragment.place) source_id, generation, fragment.place - 1 AS fragment, fragment.event_id
          FROM ROWS FROM (jsonb_to_recordset($2::jsonb) AS (source_id TEXT, generation BIGINT, event_ids JSONB)) WITH ORDINALITY
               AS version (source_id, generation, event_ids, place)
          CROSS JOIN LATERAL jsonb_array_elements_text(event_ids) WITH ORDINALITY AS fragment (event_id, place)
          ORDER BY source_id, generation, fragment.place, version.place DESC) AS receipt
    CROSS JOIN LATERAL (SELECT * FROM events WHERE events.connection = $1 AND events.source_id = receipt.source_id
                        AND events.generation = receipt.generation AND events.fragment = receipt.fragment OFFSET 0) AS known
    ON CONFLICT (connection, source_id, generation, fragment) DO UPDATE SET event_id = excluded.event_id, state = excluded.state";

/// Versions that a settled one replaces, those whose receipt never came among them. Observations stay.
pub(super) const RETIRE_EVENTS: &str = "
    INSERT INTO events (id, connection, source_id, generation, fragment, scope, key, state)
    SELECT known.id, known.connection, known.source_id, known.generation, known.fragment, known.scope, known.key, 'obsolete'
    FROM (SELECT source_id, max(generation) AS generation
          FROM jsonb_to_recordset($2::jsonb) AS version (source_id TEXT, generation BIGINT, event_ids JSONB, appends BOOLEAN)
          WHERE NOT appends AND jsonb_array_length(event_ids) > 0 AND generation > 1 GROUP BY source_id) AS newest
    CROSS JOIN LATERAL (SELECT * FROM events WHERE events.connection = $1 AND events.source_id = newest.source_id
                        AND events.generation < newest.generation AND events.state IN ('begun', 'live') OFFSET 0) AS known
    ON CONFLICT (connection, source_id, generation, fragment) DO UPDATE SET state = excluded.state";

/// Fates of records.
pub(super) const SETTLE_ENTRIES: &str = "
    INSERT INTO entries (connection, source_id, record, event_type, stream, root, scope, digest, generation, status, event_id, preceded_by)
    SELECT known.connection, known.source_id, known.record, known.event_type, known.stream, known.root, known.scope, known.digest,
           known.generation, CASE WHEN fate.event_id IS NULL THEN 'dead' ELSE 'live' END, coalesce(fate.event_id, known.event_id),
           known.preceded_by
    FROM (SELECT DISTINCT ON (source_id, generation) source_id, generation, event_ids ->> 0 AS event_id
          FROM ROWS FROM (jsonb_to_recordset($2::jsonb) AS (source_id TEXT, generation BIGINT, event_ids JSONB)) WITH ORDINALITY
               AS version (source_id, generation, event_ids, place)
          ORDER BY source_id, generation, place DESC) AS fate
    CROSS JOIN LATERAL (SELECT * FROM entries WHERE entries.connection = $1 AND entries.source_id = fate.source_id
                        AND entries.generation = fate.generation OFFSET 0) AS known
    ON CONFLICT (connection, source_id) DO UPDATE SET status = excluded.status, event_id = excluded.event_id";

/// Dead letters of what was stored after all.
pub(super) const SETTLE_LETTERS: &str = "
    DELETE FROM dead_letters WHERE connection = $1 AND source_id IN (
        SELECT source_id FROM jsonb_to_recordset($2::jsonb) AS version (source_id TEXT, event_ids JSONB)
        WHERE jsonb_array_length(event_ids) > 0)";

/// What was refused for good.
pub(super) const KEEP_LETTERS: &str = "
    INSERT INTO dead_letters (connection, source_id, stream, reason, payload, first_seen, last_seen, attempts)
    SELECT DISTINCT ON (source_id) $1, source_id, stream, reason, payload, now.text, now.text, count(*) OVER (PARTITION BY source_id)
    FROM ROWS FROM (jsonb_to_recordset($2::jsonb) AS (source_id TEXT, stream TEXT, reason TEXT, payload TEXT)) WITH ORDINALITY
         AS letter (source_id, stream, reason, payload, place)
    CROSS JOIN (SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS text) AS now
    ORDER BY source_id, place DESC
    ON CONFLICT (connection, source_id) DO UPDATE SET
           stream = excluded.stream, reason = excluded.reason, payload = excluded.payload,
           last_seen = excluded.last_seen, attempts = dead_letters.attempts + excluded.attempts";

/// How streams ended. One that was complete and then was not has been complete now.
pub(super) const END_STREAMS: &str = "
    INSERT INTO streams (connection, stream, state, detail, at, complete_at)
    SELECT DISTINCT ON (stream) $1, stream, state, detail, now.text,
           CASE WHEN bool_or(state = 'complete') OVER (PARTITION BY stream) THEN now.text END
    FROM ROWS FROM (jsonb_to_recordset($2::jsonb) AS (stream TEXT, state TEXT, detail TEXT)) WITH ORDINALITY
         AS ended (stream, state, detail, place)
    CROSS JOIN (SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS text) AS now
    ORDER BY stream, place DESC
    ON CONFLICT (connection, stream) DO UPDATE SET
           state = excluded.state, detail = excluded.detail, at = excluded.at,
           complete_at = coalesce(excluded.complete_at, streams.complete_at)";

/// Events of records that mappers do not make any more.
pub(super) const LEAVE_OUT_EVENTS: &str = "
    INSERT INTO events (id, connection, source_id, generation, fragment, scope, key, state)
    SELECT known.id, known.connection, known.source_id, known.generation, known.fragment, known.scope, known.key, 'obsolete'
    FROM (SELECT DISTINCT source_id FROM jsonb_to_recordset($2::jsonb) AS gone (source_id TEXT)) AS gone
    CROSS JOIN LATERAL (SELECT * FROM events WHERE events.connection = $1 AND events.source_id = gone.source_id
                        AND events.state IN ('begun', 'live') OFFSET 0) AS known
    ON CONFLICT (connection, source_id, generation, fragment) DO UPDATE SET state = excluded.state";

/// A part that is no longer made is gone; a record that is left out is known, so that nobody calls it missing.
pub(super) const LEAVE_OUT_ENTRIES: &str = "
    INSERT INTO entries (connection, source_id, record, event_type, stream, root, scope, digest, generation, status, preceded_by)
    SELECT DISTINCT ON (source_id) $1, source_id, record, event_type, stream, root, '', '', 0,
           CASE WHEN source_id = record THEN 'left_out' ELSE 'retracted' END, preceded_by::text
    FROM ROWS FROM (jsonb_to_recordset($2::jsonb) AS (source_id TEXT, record TEXT, event_type TEXT, stream TEXT, root TEXT,
                    preceded_by JSONB)) WITH ORDINALITY
         AS gone (source_id, record, event_type, stream, root, preceded_by, place)
    ORDER BY source_id, place DESC
    ON CONFLICT (connection, source_id) DO UPDATE SET
           status = excluded.status, event_id = NULL, stream = excluded.stream, root = excluded.root, preceded_by = excluded.preceded_by";

/// Their dead letters.
pub(super) const LEAVE_OUT_LETTERS: &str = "
    DELETE FROM dead_letters WHERE connection = $1
    AND source_id IN (SELECT source_id FROM jsonb_to_recordset($2::jsonb) AS gone (source_id TEXT))";

/// Events that CortexDB's listing has, of records that the ledger does not know.
pub(super) const REBUILD_EVENTS: &str = "
    INSERT INTO events (connection, source_id, generation, fragment, scope, key, event_id, state)
    SELECT $1, found.source_id, event.generation, event.fragment, found.scope, '', event.event_id, event.state
    FROM ROWS FROM (jsonb_to_recordset($2::jsonb) AS (source_id TEXT, scope TEXT, events JSONB)) WITH ORDINALITY
         AS found (source_id, scope, events, place)
    CROSS JOIN LATERAL ROWS FROM (jsonb_to_recordset(found.events) AS (generation BIGINT, fragment BIGINT, event_id TEXT, state TEXT))
         WITH ORDINALITY AS event (generation, fragment, event_id, state, place)
    WHERE NOT EXISTS (SELECT 1 FROM entries WHERE entries.connection = $1 AND entries.source_id = found.source_id OFFSET 0)
    ORDER BY found.place, event.place
    ON CONFLICT (connection, source_id, generation, fragment) DO NOTHING";

/// Those records.
pub(super) const REBUILD_ENTRIES: &str = "
    INSERT INTO entries (connection, source_id, record, event_type, stream, root, scope, digest, generation, status, event_id, preceded_by)
    SELECT $1, source_id, record, event_type, stream, root, scope, digest, generation, status, event_id, '[]'
    FROM ROWS FROM (jsonb_to_recordset($2::jsonb) AS (source_id TEXT, record TEXT, event_type TEXT, stream TEXT, root TEXT, scope TEXT,
                    digest TEXT, generation BIGINT, status TEXT, event_id TEXT)) WITH ORDINALITY
         AS found (source_id, record, event_type, stream, root, scope, digest, generation, status, event_id, place)
    ORDER BY place
    ON CONFLICT (connection, source_id) DO NOTHING";

/// Records as the connector handed them over. One whose digest is the same keeps its row.
pub(super) const KEEP_RECORDED: &str = "
    INSERT INTO recorded (connection, source_id, stream, origin, digest, body)
    SELECT $1, source_id, stream, origin, digest, body
    FROM (SELECT DISTINCT ON (source_id) source_id, stream, origin, digest, body, min(place) OVER (PARTITION BY source_id) AS first
          FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[]) WITH ORDINALITY
               AS one (source_id, stream, origin, digest, body, place)
          ORDER BY source_id, place DESC) AS latest
    ORDER BY first
    ON CONFLICT (connection, source_id) DO UPDATE SET
           stream = excluded.stream, origin = excluded.origin, digest = excluded.digest, body = excluded.body
    WHERE recorded.digest <> excluded.digest";

/// Latest versions of the wanted records.
pub(super) const SELECT_ENTRIES: &str = "
    SELECT known.source_id, known.digest, known.generation, known.scope, known.status, known.event_id, known.preceded_by,
           (SELECT extract(epoch FROM clock_timestamp())::float8 - begun_at FROM events AS first WHERE first.connection = $1
               AND first.source_id = known.source_id AND first.generation = known.generation AND first.fragment = 0) AS begun_ago
    FROM unnest($2::text[]) AS wanted (source_id)
    CROSS JOIN LATERAL (SELECT * FROM entries WHERE entries.connection = $1 AND entries.source_id = wanted.source_id OFFSET 0) AS known";

/// What is known of the wanted records and of their parts.
pub(super) const SELECT_PARTS: &str = "
    SELECT known.record, known.source_id, known.status FROM unnest($2::text[]) AS wanted (source_id)
    CROSS JOIN LATERAL (SELECT * FROM entries WHERE entries.connection = $1 AND entries.source_id = wanted.source_id OFFSET 0) AS known
    UNION ALL
    SELECT known.record, known.source_id, known.status FROM unnest($2::text[]) AS wanted (record)
    CROSS JOIN LATERAL (SELECT * FROM entries WHERE entries.connection = $1 AND entries.record = wanted.record
                        AND entries.record <> entries.source_id OFFSET 0) AS known";
