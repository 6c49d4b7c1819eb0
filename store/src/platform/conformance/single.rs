//! What only one of the databases has.

use super::*;

#[tokio::test]
async fn a_copy_of_the_sqlite_store_has_everything_and_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("platform.db"))
        .await
        .unwrap();
    let tenant = store.create_tenant("acme", &Caps::default()).await.unwrap();
    let copy = folder.path().join("copy.db");
    store.backup(&copy).await.unwrap();
    let mode = {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(&copy).unwrap().permissions().mode()
    };
    assert_eq!(mode & 0o777, 0o600);
    store
        .create_tenant("later", &Caps::default())
        .await
        .unwrap();
    let restored = SqliteStore::open(&copy).await.unwrap();
    assert_eq!(restored.tenants(&first(9)).await.unwrap(), [tenant]);
    let error = store.backup(&copy).await.unwrap_err().to_string();
    assert!(error.contains("copy.db"), "{error}");
    assert_eq!(restored.tenants(&first(9)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_store_in_memory_is_a_whole_one() {
    let store = SqliteStore::in_memory().await.unwrap();
    let tenant = store.create_tenant("acme", &Caps::default()).await.unwrap();
    let component = component(None, DIGEST);
    store.put_component(&component, b"wasm").await.unwrap();
    let created = store
        .create_connection(&connection(&tenant.id, "gitlab"), "cli")
        .await
        .unwrap();
    let claim = store.claim_due("here", MINUTE, 3).await.unwrap().unwrap();
    store
        .receive(&[delivery(created.ledger, "one")])
        .await
        .unwrap();
    store
        .release_run(claim.lease, &claim.run, &release(Some(HOUR)))
        .await
        .unwrap();
    assert!(
        !store
            .claim_due("here", MINUTE, 3)
            .await
            .unwrap()
            .unwrap()
            .due
    );
}

#[tokio::test]
async fn a_connection_that_is_in_the_ledger_alone_has_an_inbox_too() {
    let store = SqliteStore::in_memory().await.unwrap();
    let lease = store.claim("gitlab here", "runtime run", MINUTE).await;
    let lease = lease.unwrap();
    let answers = store
        .receive(&[delivery(lease.connection, "one"), delivery(777, "two")])
        .await
        .unwrap();
    assert!(!answers[0].0.is_empty() && answers[0].1, "{answers:?}");
    assert_eq!(answers[1], (String::new(), false));
    let waiting = store.waiting(lease.connection, 9, 1 << 20).await.unwrap();
    assert_eq!(waiting.len(), 1);
    let handled = DeliveryVerdict {
        id: waiting[0].0.id.clone(),
        state: DeliveryState::Handled,
        reason: None,
    };
    store
        .settle_deliveries(lease, &[handled], MINUTE)
        .await
        .unwrap();
    let waiting = store.waiting(lease.connection, 9, 1 << 20).await.unwrap();
    assert!(waiting.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_postgresql_was_told_survives_its_crash_and_nobody_notices() {
    let server = tokio::task::spawn_blocking(|| Server::begin(true));
    let Some(server) = server.await.unwrap().unwrap() else {
        return;
    };
    let url = server.database().await.unwrap();
    let store = PostgresStore::open(&url, 5, MOST_IDLE).await.unwrap();
    let caps = Caps::default();
    let tenant = store.create_tenant("acme", &caps).await.unwrap();
    let component = component(None, DIGEST);
    store.put_component(&component, b"wasm").await.unwrap();
    let created = store
        .create_connection(&connection(&tenant.id, "gitlab"), "cli")
        .await
        .unwrap();
    let restart = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_millis(100));
        server.restart_immediate().unwrap();
        server
    });
    let mut number = 0_i64;
    let mut claims = 0_i64;
    while !restart.is_finished() || number < 50 {
        let one = delivery(created.ledger, &number.to_string());
        let answer = store.receive(&[one]).await.unwrap();
        assert!(answer[0].1, "it was stored, and is its own");
        number += 1;
        if let Some(claim) = store.claim_due("here", MINUTE, 0).await.unwrap() {
            let cursor = ("s".to_owned(), Some(number.to_string()));
            store
                .move_cursors(claim.lease, &[cursor], None)
                .await
                .unwrap();
            store
                .release_run(claim.lease, &claim.run, &release(None))
                .await
                .unwrap();
            claims += 1;
        }
    }
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM deliveries")
        .fetch_one(&store.pool)
        .await
        .unwrap();
    assert_eq!(kept, number);
    assert!(claims > 0);
    store.close().await;
    drop(restart.await.unwrap());
}
