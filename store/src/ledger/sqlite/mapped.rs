//! What mappers need: the parts of a record, what they leave out, and the records as they were before.

use std::collections::HashMap;

use sqlx::Row as _;

use super::super::{Lease, LeftOut, Part, Recorded, Status, StoreError};
use super::{SqliteStore, to_json};

impl SqliteStore {
    pub(super) async fn read_parts(
        &self,
        connection: i64,
        records: &[&str],
    ) -> Result<HashMap<String, Vec<Part>>, StoreError> {
        let rows = sqlx::query(
            "SELECT entries.record, entries.source_id, entries.status FROM json_each(?2) AS wanted
             CROSS JOIN entries ON entries.connection = ?1 AND entries.source_id = wanted.value
             UNION ALL
             SELECT entries.record, entries.source_id, entries.status FROM json_each(?2) AS wanted
             CROSS JOIN entries ON entries.connection = ?1 AND entries.record = wanted.value
                  AND entries.record <> entries.source_id",
        )
        .bind(connection)
        .bind(to_json(records)?)
        .fetch_all(&self.readers)
        .await?;
        let mut parts: HashMap<String, Vec<Part>> = HashMap::new();
        for row in rows {
            let status: String = row.try_get("status")?;
            parts.entry(row.try_get("record")?).or_default().push(Part {
                source_id: row.try_get("source_id")?,
                status: Status::parse(&status),
            });
        }
        Ok(parts)
    }

    pub(super) async fn let_mappers_leave_out(
        &self,
        lease: Lease,
        left: &[LeftOut],
    ) -> Result<(), StoreError> {
        let json = to_json(left)?;
        let mut transaction = self.fenced(lease).await?;
        sqlx::query(
            "UPDATE events SET state = 'obsolete' WHERE connection = ?1 AND state IN ('begun', 'live')
             AND source_id IN (SELECT value ->> 'source_id' FROM json_each(?2))",
        )
        .bind(lease.connection)
        .bind(&json)
        .execute(&mut *transaction)
        .await?;
        // A part that is no longer made is gone; a record that is left out is known, so that nobody calls it missing.
        sqlx::query(
            "INSERT INTO entries (connection, source_id, record, event_type, stream, root, scope, digest, generation, status, preceded_by)
             SELECT ?1, value ->> 'source_id', value ->> 'record', value ->> 'event_type', value ->> 'stream', value ->> 'root', '', '', 0,
                    iif(value ->> 'source_id' = value ->> 'record', 'left_out', 'retracted'), value -> 'preceded_by'
             FROM json_each(?2) WHERE true
             ON CONFLICT (connection, source_id) DO UPDATE SET
                    status = excluded.status, event_id = NULL, stream = excluded.stream, root = excluded.root,
                    preceded_by = excluded.preceded_by",
        )
        .bind(lease.connection)
        .bind(&json)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "DELETE FROM dead_letters WHERE connection = ?1 AND source_id IN (SELECT value ->> 'source_id' FROM json_each(?2))",
        )
        .bind(lease.connection)
        .bind(&json)
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }

    pub(super) async fn keep_as_recorded(
        &self,
        lease: Lease,
        records: &[Recorded],
    ) -> Result<(), StoreError> {
        let mut transaction = self.fenced(lease).await?;
        for record in records {
            sqlx::query(
                "INSERT INTO recorded (connection, source_id, stream, origin, digest, body) VALUES (?, ?, ?, ?, ?, ?)
                 ON CONFLICT (connection, source_id) DO UPDATE SET
                        stream = excluded.stream, origin = excluded.origin, digest = excluded.digest, body = excluded.body
                 WHERE digest <> excluded.digest",
            )
            .bind(lease.connection)
            .bind(&record.source_id)
            .bind(&record.stream)
            .bind(&record.origin)
            .bind(&record.digest)
            .bind(&record.body)
            .execute(&mut *transaction)
            .await?;
        }
        Ok(transaction.commit().await?)
    }

    pub(super) async fn sum_recorded(&self, connection: i64) -> Result<u64, StoreError> {
        let total: i64 = sqlx::query_scalar(
            "SELECT coalesce(sum(length(body)), 0) FROM recorded WHERE connection = ?",
        )
        .bind(connection)
        .fetch_one(&self.readers)
        .await?;
        Ok(total.cast_unsigned())
    }

    pub(super) async fn drop_oldest_recorded(
        &self,
        lease: Lease,
        most_bytes: u64,
    ) -> Result<u64, StoreError> {
        let mut transaction = self.fenced(lease).await?;
        let dropped = sqlx::query(
            "DELETE FROM recorded WHERE connection = ?1 AND seq <= (
                 SELECT max(seq) FROM (SELECT seq, sum(length(body)) OVER (ORDER BY seq DESC) AS newer
                                       FROM recorded WHERE connection = ?1) WHERE newer > ?2)",
        )
        .bind(lease.connection)
        .bind(i64::try_from(most_bytes).unwrap_or(i64::MAX))
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok(dropped)
    }

    pub(super) async fn read_recorded(
        &self,
        connection: i64,
        after: i64,
        most: u32,
    ) -> Result<Vec<(i64, Recorded)>, StoreError> {
        let rows = sqlx::query(
            "SELECT seq, source_id, stream, origin, digest, body FROM recorded
             WHERE connection = ? AND seq > ? ORDER BY seq LIMIT ?",
        )
        .bind(connection)
        .bind(after)
        .bind(most)
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter()
            .map(|row| {
                let record = Recorded {
                    source_id: row.try_get("source_id")?,
                    stream: row.try_get("stream")?,
                    origin: row.try_get("origin")?,
                    digest: row.try_get("digest")?,
                    body: row.try_get("body")?,
                };
                Ok((row.try_get("seq")?, record))
            })
            .collect()
    }

    /// How many records of the connection are held and not recorded.
    pub(super) async fn count_not_recorded(&self, connection: i64) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(DISTINCT record) FROM entries
             WHERE connection = ?1 AND status IN ('live', 'begun', 'dead', 'left_out')
               AND NOT EXISTS (SELECT 1 FROM recorded WHERE recorded.connection = ?1 AND recorded.source_id = entries.record)",
        )
        .bind(connection)
        .fetch_one(&self.readers)
        .await?;
        Ok(count.cast_unsigned())
    }

    pub(super) async fn read_left_out(
        &self,
        connection: i64,
        stream: &str,
    ) -> Result<std::collections::HashSet<String>, StoreError> {
        let rows = sqlx::query(
            "SELECT source_id FROM entries WHERE connection = ? AND stream = ? AND status = 'left_out'",
        )
        .bind(connection)
        .bind(stream)
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter()
            .map(|row| Ok(row.try_get("source_id")?))
            .collect()
    }

    pub(super) async fn read_mapped_by(&self, connection: i64) -> Result<String, StoreError> {
        Ok(
            sqlx::query_scalar("SELECT mapped_by FROM connections WHERE id = ?")
                .bind(connection)
                .fetch_optional(&self.readers)
                .await?
                .unwrap_or_default(),
        )
    }

    pub(super) async fn write_mapped_by(
        &self,
        lease: Lease,
        chain: &str,
    ) -> Result<(), StoreError> {
        let mut transaction = self.fenced(lease).await?;
        sqlx::query("UPDATE connections SET mapped_by = ? WHERE id = ?")
            .bind(chain)
            .bind(lease.connection)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }
}
