//! What only PostgreSQL has: addresses with passwords, restarts, commits of unknown outcome, plans.

use std::time::Instant;

use super::super::conformance::{lease, letter, on_postgres_in_its_own, refused, stored, version};
use super::*;
use crate::testing::postgres::Server;

const TTL: Duration = Duration::from_secs(30);

#[tokio::test]
async fn an_address_that_does_not_do_is_named_without_its_password() {
    let wrong = PostgresStore::open("postgres://me:s3cret@[oops/ledger", 1, MOST_IDLE).await;
    let wrong = wrong.unwrap_err().to_string();
    assert!(
        wrong.contains("postgres://user:password@") && !wrong.contains("s3cret"),
        "{wrong}"
    );
    let Some(server) = Server::shared() else {
        return;
    };
    let right = server.url_over_tcp("postgres");
    PostgresStore::open(&right, 1, MOST_IDLE)
        .await
        .unwrap()
        .close()
        .await;
    for (url, expected) in [
        (
            right.replace(":not-to-be-shown@", ":s3cret@"),
            "check the user and the password",
        ),
        (server.url_over_tcp("nowhere"), "create the database"),
    ] {
        let refused = PostgresStore::open(&url, 1, MOST_IDLE)
            .await
            .unwrap_err()
            .to_string();
        assert!(refused.contains(expected), "{refused}");
        assert!(
            refused.contains("postgres://postgres:***@127.0.0.1:"),
            "{refused}"
        );
        assert!(
            !refused.contains("s3cret") && !refused.contains("not-to-be-shown"),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn processes_that_start_together_migrate_once() {
    let Some(server) = Server::shared() else {
        return;
    };
    let url = server.database().await.unwrap();
    let opened = (0..4).map(|_| {
        let url = url.clone();
        tokio::spawn(async move { PostgresStore::open(&url, 2, MOST_IDLE).await })
    });
    for store in opened.collect::<Vec<_>>() {
        let store = store.await.unwrap().unwrap();
        lease(&store).await;
        assert_eq!(store.connections().await.unwrap().len(), 1);
        store.close().await;
    }
}

#[tokio::test]
async fn a_process_frozen_within_a_transaction_does_not_keep_the_next_one_waiting() {
    let Some(store) = on_postgres_in_its_own().await else {
        return;
    };
    let settings: (String, String) = sqlx::query_as(
        "SELECT current_setting('idle_in_transaction_session_timeout'), current_setting('synchronous_commit')",
    )
    .fetch_one(&store.pool)
    .await
    .unwrap();
    assert_eq!(settings, ("10s".to_owned(), "on".to_owned()));
    let old = store
        .claim("gitlab", "frozen", Duration::from_millis(1))
        .await
        .unwrap();
    let mut frozen = store.fenced(old).await.unwrap();
    sqlx::query("SELECT set_config('idle_in_transaction_session_timeout', '300ms', false)")
        .execute(&mut *frozen)
        .await
        .unwrap();
    let began = Instant::now();
    let new = store.claim("gitlab", "next", TTL).await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    frozen.commit().await.unwrap_err();
    assert!(matches!(
        store.begin(old, &[]).await,
        Err(StoreError::Fenced)
    ));
    store.begin(new, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_database_in_the_middle_of_the_work_is_waited_for() {
    let Some(server) = Server::begin(true).unwrap() else {
        return;
    };
    let server = Arc::new(server);
    let store = PostgresStore::open(&server.database().await.unwrap(), 4, MOST_IDLE)
        .await
        .unwrap();
    let lease = lease(&store).await;
    let restarts = tokio::task::spawn_blocking({
        let server = server.clone();
        move || {
            std::thread::sleep(Duration::from_millis(200));
            server.restart_immediate().unwrap();
            std::thread::sleep(Duration::from_millis(200));
            server.stop().unwrap();
            std::thread::sleep(Duration::from_millis(500));
            server.start().unwrap();
        }
    });
    let mut pages = 0_u64;
    let mut letters = 0_u64;
    while !restarts.is_finished() || pages < 50 {
        let ids: Vec<String> = (0..10)
            .map(|row| format!("gl:note:42/{pages}.{row}"))
            .collect();
        let versions: Vec<_> = ids.iter().map(|id| version(id, 1, "a", "")).collect();
        store.begin(lease, &versions).await.unwrap();
        let fates: Vec<_> = ids
            .iter()
            .map(|id| stored(id, 1, &format!("evt {id}")))
            .collect();
        store
            .settle(lease, &fates, &[letter("gl:note:42/refused", "422")])
            .await
            .unwrap();
        letters += 1;
        assert_eq!(
            store.retract(lease, &ids[..1]).await.unwrap(),
            1,
            "counted once"
        );
        store.renew(lease, TTL).await.unwrap();
        pages += 1;
    }
    restarts.await.unwrap();
    let held = store.held_by_stream(lease.connection).await.unwrap();
    assert_eq!(held, [("42/issues".to_owned(), pages * 9)]);
    assert_eq!(store.count_obsolete(lease.connection).await.unwrap(), pages);
    let kept = store.dead_letters(lease.connection, None).await.unwrap();
    assert_eq!(kept[0].attempts, letters, "each refusal is counted once");
    store.close().await;
}

/// Passes bytes on to the server, and breaks a connection off at its next `COMMIT`, as often as asked: before the server has seen it,
/// or after it has answered.
mod breaking {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    #[derive(Clone, Default)]
    pub(super) struct Breaks {
        pub(super) before: Arc<AtomicU32>,
        pub(super) after: Arc<AtomicU32>,
    }

    fn take(count: &AtomicU32) -> bool {
        let less = |left: u32| left.checked_sub(1);
        count
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
            .is_ok()
    }

    pub(super) async fn proxy(server: u16, breaks: Breaks) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, breaks.clone()));
            }
        });
        port
    }

    async fn pass(mut client: TcpStream, server: u16, breaks: Breaks) {
        let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
        let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        loop {
            tokio::select! {
                read = client.read(&mut asked) => {
                    let Ok(read @ 1..) = read else { return };
                    let commits = asked[..read].windows(6).any(|word| word == b"COMMIT");
                    if commits && take(&breaks.before) {
                        return;
                    }
                    server.write_all(&asked[..read]).await.unwrap();
                    if commits && take(&breaks.after) {
                        assert_ne!(server.read(&mut answered).await.unwrap(), 0);
                        return;
                    }
                }
                read = server.read(&mut answered) => {
                    let Ok(read @ 1..) = read else { return };
                    if client.write_all(&answered[..read]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_neither_lost_nor_done_twice() {
    use std::sync::atomic::Ordering;
    let Some(server) = Server::shared() else {
        return;
    };
    let direct = on_postgres_in_its_own().await.unwrap();
    let database: String = sqlx::query_scalar("SELECT current_database()")
        .fetch_one(&direct.pool)
        .await
        .unwrap();
    let breaks = breaking::Breaks::default();
    let port = breaking::proxy(server.port(), breaks.clone()).await;
    let own = format!(":{}/", server.port());
    let url = server
        .url_over_tcp(&database)
        .replace(&own, &format!(":{port}/"));
    let store = PostgresStore::open(&url, 2, MOST_IDLE).await.unwrap();
    let lease = lease(&store).await;
    let id = "gl:note:42/1";
    store
        .begin(lease, &[version(id, 1, "a", "")])
        .await
        .unwrap();
    for (round, count) in [&breaks.before, &breaks.after].into_iter().enumerate() {
        count.store(2, Ordering::SeqCst);
        store
            .settle(lease, &[refused(id, 1)], &[letter(id, "422")])
            .await
            .unwrap();
        store.renew(lease, TTL).await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 0, "no commit was broken off");
        let kept = store.dead_letters(lease.connection, None).await.unwrap();
        assert_eq!(kept[0].attempts, round as u64 + 1);
    }
    breaks.after.store(1, Ordering::SeqCst);
    assert_eq!(store.drop_letters(lease, &[id]).await.unwrap(), 1);
    breaks.after.store(1, Ordering::SeqCst);
    store.release(lease).await.unwrap();
    breaks.after.store(1, Ordering::SeqCst);
    let again = store.claim("gitlab", "another", TTL).await.unwrap();
    assert_eq!(
        again.epoch,
        lease.epoch + 2,
        "claimed, and claimed again by the same owner"
    );
    store.renew(again, TTL).await.unwrap();
    assert_eq!(breaks.after.load(Ordering::SeqCst), 0);
    store.close().await;
    direct.close().await;
}

#[tokio::test]
async fn a_page_is_looked_up_by_key_and_never_by_walking_the_table() {
    let Some(store) = on_postgres_in_its_own().await else {
        return;
    };
    let lease = lease(&store).await;
    let other = store.claim("another", "test", TTL).await.unwrap();
    // Enough for a walk to look cheap to a planner that expects few rows of the page.
    for lease in [lease, other] {
        for page in 0..10 {
            let ids = (0..1000).map(|row| format!("gl:note:42/{page}.{row}"));
            let versions: Vec<_> = ids.map(|id| version(&id, 1, "a", "")).collect();
            store.begin(lease, &versions).await.unwrap();
        }
    }
    let page: Vec<_> = (0..100)
        .map(|row| stored(&format!("gl:note:42/5.{row}"), 1, "evt"))
        .collect();
    let json = to_json(&page).unwrap();
    // As they are planned for the first times, and as they are once their plan is kept; before and after the tables are analysed.
    for (mode, analyse) in [
        ("force_custom_plan", false),
        ("force_generic_plan", false),
        ("force_generic_plan", true),
    ] {
        let mut transaction = store.fenced(lease).await.unwrap();
        if analyse {
            sqlx::query("ANALYZE")
                .execute(&mut *transaction)
                .await
                .unwrap();
        }
        sqlx::query("SELECT set_config('plan_cache_mode', $1, true)")
            .bind(mode)
            .execute(&mut *transaction)
            .await
            .unwrap();
        for sql in [
            pages::SETTLE_EVENTS,
            pages::RETIRE_EVENTS,
            pages::SETTLE_ENTRIES,
            pages::LEAVE_OUT_EVENTS,
        ] {
            let plan = sqlx::query(sqlx::AssertSqlSafe(format!(
                "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {sql}"
            )))
            .bind(lease.connection)
            .bind(&json)
            .fetch_all(&mut *transaction)
            .await
            .unwrap();
            let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
            let walked = plan.iter().any(|step| rows_seen(step) > 1000);
            assert!(!walked, "{mode} {sql}\n{}", plan.join("\n"));
        }
    }
}

/// How many rows a step of a plan touched, in all its rounds.
fn rows_seen(step: &str) -> u64 {
    let number = |name: &str| {
        let digits = step.split_once(name)?.1.split([' ', ')']).next()?;
        digits.parse::<u64>().ok()
    };
    let found = number("actual rows=").unwrap_or(0) * number("loops=").unwrap_or(1);
    found
        .max(number("Rows Removed by Filter: ").unwrap_or(0))
        .max(number("Rows Removed by Join Filter: ").unwrap_or(0))
}
