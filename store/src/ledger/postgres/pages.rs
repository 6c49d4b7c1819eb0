//! The statements that take a page of rows as one JSON document.
//!
//! PostgreSQL refuses a statement that would touch a row twice, where SQLite does the one after the other: of what a page names twice the
//! last one counts (`DISTINCT ON … place DESC`), as if they had come one by one. Order is kept (`WITH ORDINALITY`): what came first gets the lower row.

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
    UPDATE events SET event_id = receipt.event_id, state = 'live'
    FROM (SELECT DISTINCT ON (source_id, generation, fragment.place) source_id, generation, fragment.place - 1 AS fragment, fragment.event_id
          FROM ROWS FROM (jsonb_to_recordset($2::jsonb) AS (source_id TEXT, generation BIGINT, event_ids JSONB)) WITH ORDINALITY
               AS version (source_id, generation, event_ids, place)
          CROSS JOIN LATERAL jsonb_array_elements_text(event_ids) WITH ORDINALITY AS fragment (event_id, place)
          ORDER BY source_id, generation, fragment.place, version.place DESC) AS receipt
    WHERE events.connection = $1 AND events.source_id = receipt.source_id AND events.generation = receipt.generation
      AND events.fragment = receipt.fragment";

/// Versions that a settled one replaces, those whose receipt never came among them. Observations stay.
pub(super) const RETIRE_EVENTS: &str = "
    UPDATE events SET state = 'obsolete'
    FROM (SELECT source_id, max(generation) AS generation
          FROM jsonb_to_recordset($2::jsonb) AS version (source_id TEXT, generation BIGINT, event_ids JSONB, appends BOOLEAN)
          WHERE NOT appends AND jsonb_array_length(event_ids) > 0 AND generation > 1 GROUP BY source_id) AS newest
    WHERE events.connection = $1 AND events.source_id = newest.source_id AND events.generation < newest.generation
      AND events.state IN ('begun', 'live')";

/// Fates of records.
pub(super) const SETTLE_ENTRIES: &str = "
    UPDATE entries SET status = CASE WHEN fate.event_id IS NULL THEN 'dead' ELSE 'live' END,
                       event_id = coalesce(fate.event_id, entries.event_id)
    FROM (SELECT DISTINCT ON (source_id, generation) source_id, generation, event_ids ->> 0 AS event_id
          FROM ROWS FROM (jsonb_to_recordset($2::jsonb) AS (source_id TEXT, generation BIGINT, event_ids JSONB)) WITH ORDINALITY
               AS version (source_id, generation, event_ids, place)
          ORDER BY source_id, generation, place DESC) AS fate
    WHERE entries.connection = $1 AND entries.source_id = fate.source_id AND entries.generation = fate.generation";

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
    UPDATE events SET state = 'obsolete' WHERE connection = $1 AND state IN ('begun', 'live')
    AND source_id IN (SELECT source_id FROM jsonb_to_recordset($2::jsonb) AS gone (source_id TEXT))";

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
    WHERE NOT EXISTS (SELECT 1 FROM entries WHERE entries.connection = $1 AND entries.source_id = found.source_id)
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
