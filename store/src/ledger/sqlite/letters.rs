//! Dead letters: reading them, sending them again, letting go of them.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::super::{DeadLetter, KeptLetter, Lease, StoreError, unsigned};
use super::{SqliteStore, to_json};

impl SqliteStore {
    pub(super) async fn read_letters(
        &self,
        connection: i64,
        source_ids: Option<&[&str]>,
    ) -> Result<Vec<KeptLetter>, StoreError> {
        let rows = sqlx::query(
            "SELECT source_id, stream, reason, payload, first_seen, last_seen, attempts FROM dead_letters
             WHERE connection = ?1 AND (?2 IS NULL OR source_id IN (SELECT value FROM json_each(?2))) ORDER BY source_id",
        )
        .bind(connection)
        .bind(source_ids.map(to_json).transpose()?)
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(letter).collect()
    }

    pub(super) async fn page_of_letters(
        &self,
        connection: i64,
        after: Option<&str>,
        most: u32,
    ) -> Result<Vec<KeptLetter>, StoreError> {
        let rows = sqlx::query(
            "SELECT source_id, stream, reason, '' AS payload, first_seen, last_seen, attempts FROM dead_letters
             WHERE connection = ?1 AND (?2 IS NULL OR source_id > ?2) ORDER BY source_id LIMIT ?3",
        )
        .bind(connection)
        .bind(after)
        .bind(most)
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(letter).collect()
    }

    pub(super) async fn revive_refused(
        &self,
        lease: Lease,
        source_ids: &[&str],
    ) -> Result<(), StoreError> {
        let sql = "UPDATE entries SET status = 'begun' WHERE connection = ? AND status = 'dead'
             AND source_id IN (SELECT value FROM json_each(?))";
        self.change_some(lease, sql, source_ids).await
    }

    pub(super) async fn let_go(
        &self,
        lease: Lease,
        source_ids: &[&str],
    ) -> Result<u64, StoreError> {
        let json = to_json(source_ids)?;
        let mut transaction = self.fenced(lease).await?;
        sqlx::query(
            "UPDATE entries SET status = 'dropped' WHERE connection = ? AND status = 'dead'
             AND source_id IN (SELECT source_id FROM dead_letters WHERE connection = entries.connection)
             AND source_id IN (SELECT value FROM json_each(?))",
        )
        .bind(lease.connection)
        .bind(&json)
        .execute(&mut *transaction)
        .await?;
        let dropped = sqlx::query(
            "DELETE FROM dead_letters WHERE connection = ? AND source_id IN (SELECT value FROM json_each(?))",
        )
        .bind(lease.connection)
        .bind(&json)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok(dropped)
    }
}

fn letter(row: &SqliteRow) -> Result<KeptLetter, StoreError> {
    Ok(KeptLetter {
        letter: DeadLetter {
            source_id: row.try_get("source_id")?,
            stream: row.try_get("stream")?,
            reason: row.try_get("reason")?,
            payload: row.try_get("payload")?,
        },
        first_seen: row.try_get("first_seen")?,
        last_seen: row.try_get("last_seen")?,
        attempts: unsigned(row.try_get("attempts")?),
    })
}
