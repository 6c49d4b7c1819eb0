//! Dead letters: reading them, sending them again, letting go of them.

use sqlx::Row;

use super::super::{DeadLetter, KeptLetter, Lease, StoreError, unsigned};
use super::{SqliteStore, to_json};

impl SqliteStore {
    pub(super) async fn read_letters(
        &self,
        connection: i64,
        source_id: Option<&str>,
    ) -> Result<Vec<KeptLetter>, StoreError> {
        let rows = sqlx::query(
            "SELECT source_id, stream, reason, payload, first_seen, last_seen, attempts FROM dead_letters
             WHERE connection = ?1 AND (?2 IS NULL OR source_id = ?2) ORDER BY source_id",
        )
        .bind(connection)
        .bind(source_id)
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter()
            .map(|row| {
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
            })
            .collect()
    }

    pub(super) async fn revive_refused(
        &self,
        lease: Lease,
        source_ids: &[&str],
    ) -> Result<(), StoreError> {
        let mut transaction = self.fenced(lease).await?;
        sqlx::query(
            "UPDATE entries SET status = 'begun' WHERE connection = ? AND status = 'dead'
             AND source_id IN (SELECT value FROM json_each(?))",
        )
        .bind(lease.connection)
        .bind(to_json(source_ids)?)
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
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
