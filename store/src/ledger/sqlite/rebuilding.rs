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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ledger::{Begun, EventState, RebuiltEvent, Settled, Status, Store};

    fn found(source_id: &str, generation: u64) -> RebuiltEntry {
        let event = |generation: u64, state| RebuiltEvent {
            generation,
            fragment: 0,
            event_id: format!("evt_{source_id}_{generation}"),
            state,
        };
        RebuiltEntry {
            source_id: source_id.into(),
            record: source_id.into(),
            event_type: "issue".into(),
            root: String::new(),
            scope: "org:acme".into(),
            digest: "d".into(),
            generation,
            status: Status::Live,
            event_id: Some(format!("evt_{source_id}_{generation}")),
            events: vec![
                event(generation, EventState::Live),
                event(generation - 1, EventState::Obsolete),
            ],
        }
    }

    async fn store() -> (SqliteStore, Lease) {
        let store = SqliteStore::in_memory().await.unwrap();
        let lease = store
            .claim("gitlab", "test", Duration::from_secs(30))
            .await
            .unwrap();
        (store, lease)
    }

    #[tokio::test]
    async fn a_rebuilt_version_is_superseded_like_any_other() {
        let (store, lease) = store().await;
        store
            .rebuild(lease, "org:acme", &[found("gl:issue:42/1", 2)])
            .await
            .unwrap();
        assert!(
            store
                .known_scopes(lease.connection)
                .await
                .unwrap()
                .contains("org:acme")
        );
        let left = store.obsolete(lease.connection, 10).await.unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].event_id.as_deref(), Some("evt_gl:issue:42/1_1"));
        let next = Begun {
            source_id: "gl:issue:42/1".into(),
            record: "gl:issue:42/1".into(),
            event_type: "issue".into(),
            stream: "42/issues".into(),
            root: String::new(),
            appends: false,
            scope: "org:acme".into(),
            digest: "e".into(),
            generation: 3,
            keys: vec!["k".into()],
            preceded_by: vec![],
        };
        store.begin(lease, &[next]).await.unwrap();
        let fate = Settled {
            source_id: "gl:issue:42/1".into(),
            generation: 3,
            event_ids: vec!["evt_new".into()],
            appends: false,
        };
        store.settle(lease, &[fate], &[]).await.unwrap();
        let left: Vec<_> = store
            .obsolete(lease.connection, 10)
            .await
            .unwrap()
            .into_iter()
            .filter_map(|event| event.event_id)
            .collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[tokio::test]
    async fn a_rebuilt_record_is_held_by_its_stream() {
        let (store, lease) = store().await;
        let mut note = found("gl:note:42/7", 2);
        note.event_type = "note".into();
        note.root = "gl:merge_request:42/3".into();
        let mut release = found("gl:release:42/v2/rc", 2);
        release.event_type = "release".into();
        let rows = [found("gl:issue:42/1", 2), note, release];
        store.rebuild(lease, "org:acme", &rows).await.unwrap();
        for (stream, kind, id) in [
            ("42/issues", "issue", "gl:issue:42/1"),
            ("42/merge_requests", "note", "gl:note:42/7"),
            ("42/releases", "release", "gl:release:42/v2/rc"),
        ] {
            let held = store.held(lease.connection, stream, kind, "", 10).await;
            let held: Vec<_> = held.unwrap().into_iter().map(|row| row.source_id).collect();
            assert_eq!(held, [id]);
        }
    }

    #[tokio::test]
    async fn what_the_ledger_knows_is_not_touched() {
        let (store, lease) = store().await;
        store
            .rebuild(lease, "org:acme", &[found("gl:issue:42/1", 5)])
            .await
            .unwrap();
        store
            .rebuild(
                lease,
                "org:acme",
                &[found("gl:issue:42/1", 2), found("gl:issue:42/2", 2)],
            )
            .await
            .unwrap();
        let entries = store
            .entries(lease.connection, &["gl:issue:42/1", "gl:issue:42/2"])
            .await
            .unwrap();
        assert_eq!(entries["gl:issue:42/1"].generation, 5);
        assert_eq!(entries["gl:issue:42/2"].generation, 2);
        assert_eq!(store.count_obsolete(lease.connection).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn whoever_was_taken_over_rebuilds_nothing() {
        let (store, old) = store().await;
        store.release(old).await.unwrap();
        store
            .claim("gitlab", "new", Duration::from_secs(30))
            .await
            .unwrap();
        let refused = store
            .rebuild(old, "org:acme", &[found("gl:issue:42/1", 2)])
            .await;
        assert!(matches!(refused, Err(StoreError::Fenced)));
        assert!(store.known_scopes(old.connection).await.unwrap().is_empty());
    }
}
