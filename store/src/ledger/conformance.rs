//! What the trait promises, held against both databases.
//!
//! Each promise is one function over [`Subject`], listed in `promises!`, which runs it on SQLite and on PostgreSQL. What only one of them has
//! (a file, a plan, a restart) is tested beside it. [`random`] runs operations that nobody thought of through both and compares.

mod leases;
mod letters;
mod mapping;
mod random;
mod rebuilding;
mod runs;
mod versions;

use super::*;
use crate::testing::postgres::Server;

const TTL: Duration = Duration::from_secs(30);

/// A store, and what a test may do to it behind its back.
trait Subject: Store + Clone + 'static {
    /// Sets when everything was begun: so many seconds from now.
    async fn set_begun(&self, seconds: Option<f64>);
}

impl Subject for SqliteStore {
    async fn set_begun(&self, seconds: Option<f64>) {
        sqlx::query("UPDATE events SET begun_at = unixepoch('subsec') + ?")
            .bind(seconds)
            .execute(&self.writer)
            .await
            .unwrap();
    }
}

impl Subject for PostgresStore {
    async fn set_begun(&self, seconds: Option<f64>) {
        sqlx::query(
            "UPDATE events SET begun_at = extract(epoch FROM clock_timestamp())::float8 + $1",
        )
        .bind(seconds)
        .execute(&self.pool)
        .await
        .unwrap();
    }
}

/// Runs each function on both.
macro_rules! promises {
    ($($promise:ident,)*) => {
        mod on_sqlite {
            $(
                #[tokio::test]
                async fn $promise() {
                    let folder = tempfile::tempdir().unwrap();
                    let store = super::on_sqlite_in(folder.path()).await;
                    super::$promise(&store).await;
                }
            )*
        }

        mod on_postgres {
            $(
                #[tokio::test]
                async fn $promise() {
                    if let Some(store) = super::on_postgres_in_its_own().await {
                        super::$promise(&store).await;
                        store.close().await;
                    }
                }
            )*
        }
    };
}
use promises;

async fn on_sqlite_in(folder: &std::path::Path) -> SqliteStore {
    SqliteStore::open(&folder.join("connectors.db"))
        .await
        .unwrap()
}

/// `None` where there is no PostgreSQL.
pub(super) async fn on_postgres_in_its_own() -> Option<PostgresStore> {
    let url = Server::shared()?.database().await.unwrap();
    Some(PostgresStore::open(&url, 4, MOST_IDLE).await.unwrap())
}

pub(super) async fn lease(store: &impl Store) -> Lease {
    store.claim("gitlab", "test", TTL).await.unwrap()
}

pub(super) fn version(
    source_id: &str,
    generation: u64,
    digest: &str,
    root: &str,
) -> Begun<'static> {
    Begun {
        source_id: source_id.to_owned().into(),
        record: source_id.to_owned().into(),
        event_type: "note".into(),
        stream: "42/issues".into(),
        root: root.to_owned().into(),
        appends: false,
        scope: "org:acme".into(),
        digest: digest.to_owned().into(),
        generation,
        keys: vec![format!("{source_id}@{generation}").into()],
        preceded_by: Cow::Owned(vec!["evt_0".into()]),
    }
}

pub(super) fn stored(source_id: &str, generation: u64, event_id: &str) -> Settled<'static> {
    Settled {
        source_id: source_id.to_owned().into(),
        generation,
        event_ids: vec![event_id.to_owned().into()],
        appends: false,
    }
}

pub(super) fn refused(source_id: &str, generation: u64) -> Settled<'static> {
    Settled {
        event_ids: Vec::new(),
        ..stored(source_id, generation, "")
    }
}

pub(super) fn letter(source_id: &str, reason: &str) -> DeadLetter {
    DeadLetter {
        source_id: source_id.into(),
        stream: "42/issues".into(),
        reason: reason.into(),
        payload: format!("{{\"of\":\"{source_id}\"}}"),
    }
}

fn recorded(number: u32, size: usize) -> Recorded {
    Recorded {
        source_id: format!("gl:issue:42/{number}"),
        stream: "42/issues".into(),
        origin: "project/42".into(),
        digest: format!("{number} {size}"),
        body: vec![0; size],
    }
}

/// What mappers do not make any more: a record, or a part of one.
fn left(source_id: &str, record: &str) -> LeftOut {
    LeftOut {
        source_id: source_id.into(),
        record: record.into(),
        event_type: "note".into(),
        stream: "42/issues".into(),
        root: String::new(),
        preceded_by: vec!["gl:note:42/0".into()],
    }
}

/// The entry of a record that is known.
async fn entry(store: &impl Store, lease: Lease, source_id: &str) -> Entry {
    let mut entries = store.entries(lease.connection, &[source_id]).await.unwrap();
    entries.remove(source_id).unwrap()
}
