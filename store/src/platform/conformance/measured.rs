//! How fast it is. Nothing here fails for being slow; run it on a quiet machine:
//! `cargo test --release -p connector-store --lib -- --ignored --nocapture --test-threads 1 measure`.

use std::time::Instant;

use tokio::task::JoinSet;

use super::*;

const FOR: Duration = Duration::from_secs(5);
const CLAIMANTS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures"]
async fn measure_sqlite() {
    measure(&Subject::sqlite().await, "SQLite").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures"]
async fn measure_postgresql() {
    if let Some(subject) = Subject::postgres().await {
        measure(&subject, "PostgreSQL").await;
    }
}

async fn measure(on: &Subject, name: &str) {
    let tenant = on.tenant("acme").await;
    let mut ledgers = Vec::new();
    for number in 0..20 {
        ledgers.push(on.connection(&tenant, &number.to_string()).await.ledger);
    }
    for batch in [1, 32, 256] {
        receive(on, name, &ledgers, batch).await;
    }
    on.sql("UPDATE platform_connections SET inbox_due = NULL, state = 'paused'")
        .await;
    many_connections(on).await;
    claims(on, name).await;
}

async fn receive(on: &Subject, name: &str, ledgers: &[i64], batch: usize) {
    let mut took = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < FOR {
        let page: Vec<_> = (0..batch)
            .map(|at| NewDelivery {
                body: vec![b'x'; 8192],
                ..delivery(
                    ledgers[at % ledgers.len()],
                    &format!("{batch}-{}-{at}", took.len()),
                )
            })
            .collect();
        let call = Instant::now();
        on.platform.receive(&page).await.unwrap();
        took.push(call.elapsed());
    }
    let rate = (took.len() * batch) as f64 / begun.elapsed().as_secs_f64();
    took.sort();
    let p50 = took[took.len() / 2];
    let p99 = took[took.len() * 99 / 100];
    eprintln!("{name}: receive {batch} x 8 KiB: {rate:.0}/s, p50 {p50:.1?}, p99 {p99:.1?}");
}

/// 10,000 connections of 100 tenants, all of them due.
async fn many_connections(on: &Subject) {
    for tenant in 0..100 {
        let tenant = on.tenant(&format!("t{tenant}")).await;
        let ids: Vec<String> = (0..100).map(|_| new_id()).collect();
        let rows =
            |row: &dyn Fn(&String) -> String| ids.iter().map(row).collect::<Vec<_>>().join(",");
        let leases = rows(&|id| format!("('platform:{id}')"));
        on.sql(&format!("INSERT INTO connections (name) VALUES {leases}"))
            .await;
        let tenant = &tenant.id;
        on.sql(&format!(
            "INSERT INTO platform_connections (id, tenant, name, state, chain, config, sealed, ledger, due_at, created_at)
             SELECT substr(name, 10), '{tenant}', name, 'active', 1, '{{}}', '{{}}', id, 1, 1 FROM connections
             WHERE name IN ({})",
            rows(&|id| format!("'platform:{id}'"))
        ))
        .await;
        let chain = serde_json::to_string(&chain(DIGEST)).unwrap();
        let chains = rows(&|id| format!("('{id}', 1, '{chain}', 'cli', 1)"));
        on.sql(&format!(
            "INSERT INTO chains (connection, number, chain, made_by, made_at) VALUES {chains}"
        ))
        .await;
    }
}

async fn claims(on: &Subject, name: &str) {
    let begun = Instant::now();
    let mut claimants = JoinSet::new();
    for _ in 0..CLAIMANTS {
        let platform = on.platform.clone();
        claimants.spawn(async move {
            let mut took = Vec::new();
            loop {
                let call = Instant::now();
                let Some(claim) = platform.claim_due("x", MINUTE, 3).await.unwrap() else {
                    return took;
                };
                let release = release(Some(HOUR));
                platform
                    .release_run(claim.lease, &claim.run, &release)
                    .await
                    .unwrap();
                took.push(call.elapsed());
            }
        });
    }
    let mut took = claimants.join_all().await.concat();
    let elapsed = begun.elapsed();
    took.sort();
    let rate = took.len() as f64 / elapsed.as_secs_f64();
    let p99 = took[took.len() * 99 / 100];
    eprintln!(
        "{name}: claim and release, {CLAIMANTS} at once, {} connections of 100 tenants: {rate:.0}/s, p99 {p99:.1?}",
        took.len()
    );
    let idle = Instant::now();
    for _ in 0..100 {
        assert!(on.claim().await.is_none());
    }
    let next = Instant::now();
    for _ in 0..100 {
        on.platform.next_due_in().await.unwrap();
    }
    eprintln!(
        "{name}: a claim that finds nothing {:.2?}, what is due next {:.2?}",
        (next - idle) / 100,
        next.elapsed() / 100
    );
}
