//! Taking over what CortexDB's listing says, scope by scope.
//!
//! One transaction for a scope, the mark that it is known included: a crash in between leaves the scope unknown, and it is listed
//! again. What the ledger knows by itself always wins, because it was written down before it was sent.

use std::collections::HashSet;

use sqlx::Row as _;

use super::super::rebuilt::{CHUNK, Row};
use super::super::{Lease, RebuiltEntry, StoreError};
use super::{SqliteStore, to_json};

impl SqliteStore {
    pub(super) async fn read_known_scopes(
        &self,
        connection: i64,
    ) -> Result<HashSet<String>, StoreError> {
        let rows = sqlx::query("SELECT scope FROM scopes WHERE connection = ?")
            .bind(connection)
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter()
            .map(|row| Ok(row.try_get("scope")?))
            .collect()
    }

    pub(super) async fn take_over(
        &self,
        lease: Lease,
        scope: &str,
        found: &[RebuiltEntry],
    ) -> Result<(), StoreError> {
        let mut transaction = self.fenced(lease).await?;
        for chunk in found.chunks(CHUNK) {
            let rows: Vec<Row<'_>> = chunk.iter().map(Row::of).collect();
            let json = to_json(&rows)?;
            sqlx::query(
                "INSERT INTO events (connection, source_id, generation, fragment, scope, key, event_id, state)
                 SELECT ?1, record.value ->> 'source_id', event.value ->> 'generation', event.value ->> 'fragment',
                        record.value ->> 'scope', '', event.value ->> 'event_id', event.value ->> 'state'
                 FROM json_each(?2) AS record, json_each(record.value, '$.events') AS event
                 WHERE NOT EXISTS (SELECT 1 FROM entries
                                   WHERE connection = ?1 AND source_id = record.value ->> 'source_id')
                 ON CONFLICT (connection, source_id, generation, fragment) DO NOTHING",
            )
            .bind(lease.connection)
            .bind(&json)
            .execute(&mut *transaction)
            .await?;
            sqlx::query(
                "INSERT INTO entries (connection, source_id, record, event_type, stream, root, scope, digest, generation, status, event_id, preceded_by)
                 SELECT ?1, value ->> 'source_id', value ->> 'record', value ->> 'event_type', value ->> 'stream', value ->> 'root', value ->> 'scope',
                        value ->> 'digest', value ->> 'generation', value ->> 'status', value ->> 'event_id', '[]'
                 FROM json_each(?2) WHERE true
                 ON CONFLICT (connection, source_id) DO NOTHING",
            )
            .bind(lease.connection)
            .bind(&json)
            .execute(&mut *transaction)
            .await?;
        }
        sqlx::query("INSERT INTO scopes (connection, scope) VALUES (?, ?) ON CONFLICT DO NOTHING")
            .bind(lease.connection)
            .bind(scope)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }
}
