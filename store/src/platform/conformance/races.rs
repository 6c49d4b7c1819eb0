//! What happens at once.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use tokio::task::JoinSet;

use super::*;

/// When each claim of a tenant was asked for and answered.
type Served = HashMap<String, Vec<(Instant, Instant)>>;

pub(super) async fn two_claimants_never_get_the_same(on: Subject) {
    let tenant = on.tenant("acme").await;
    for number in 0..20 {
        on.connection(&tenant, &number.to_string()).await;
    }
    let mut claimants = JoinSet::new();
    for platform in [&on.platform, &on.other] {
        let platform = platform.clone();
        claimants.spawn(async move {
            let mut claimed = Vec::new();
            while let Some(claim) = platform.claim_due("x", MINUTE, 3).await.unwrap() {
                claimed.push(claim.connection.id);
            }
            claimed
        });
    }
    let claimed: Vec<String> = claimants.join_all().await.concat();
    let different: HashSet<_> = claimed.iter().collect();
    assert_eq!((claimed.len(), different.len()), (20, 20));
}

pub(super) async fn the_cap_is_exact_and_all_tenants_are_served_with_thirty_two_claimants(
    on: Subject,
) {
    const CLAIMANTS: usize = 32;
    let mut caps = HashMap::new();
    for number in 0..10_u32 {
        let cap = number % 3 + 1;
        let wanted = Caps {
            concurrent_runs: Some(cap),
            ..Caps::default()
        };
        let name = format!("t{number}");
        let tenant = on.platform.create_tenant(&name, &wanted).await.unwrap();
        for number in 0..20 {
            on.connection(&tenant, &number.to_string()).await;
        }
        caps.insert(tenant.id, i64::from(cap));
    }
    // Each tenant's places: one counts up behind its claim and down before its release, so that it never counts what is not held.
    let held: Arc<HashMap<String, std::sync::atomic::AtomicI64>> =
        Arc::new(caps.keys().map(|id| (id.clone(), 0.into())).collect());
    let served: Arc<std::sync::Mutex<Served>> = Arc::default();
    let mut claimants = JoinSet::new();
    for number in 0..CLAIMANTS {
        let platform = if number % 2 == 0 {
            &on.platform
        } else {
            &on.other
        };
        let (platform, held, served) = (platform.clone(), held.clone(), served.clone());
        let caps = caps.clone();
        claimants.spawn(async move {
            use std::sync::atomic::Ordering::SeqCst;
            let mut done = Vec::new();
            let mut idle = 0;
            while idle < 3 {
                let asked = Instant::now();
                let Some(claim) = platform.claim_due("x", MINUTE, 3).await.unwrap() else {
                    idle += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                idle = 0;
                let tenant = claim.connection.tenant.clone();
                let now = held[&tenant].fetch_add(1, SeqCst) + 1;
                assert!(
                    now <= caps[&tenant],
                    "{now} runs at once of {}",
                    caps[&tenant]
                );
                let answered = (asked, Instant::now());
                {
                    let mut served = served.lock().unwrap();
                    served.entry(tenant.clone()).or_default().push(answered);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
                held[&tenant].fetch_sub(1, SeqCst);
                platform
                    .release_run(claim.lease, &claim.run, &release(Some(HOUR)))
                    .await
                    .unwrap();
                done.push(claim.connection.id);
            }
            done
        });
    }
    let done: Vec<String> = claimants.join_all().await.concat();
    let different: HashSet<_> = done.iter().collect();
    assert_eq!((done.len(), different.len()), (200, 200));
    // Nobody is served a third time while another was not served once, and nobody was about to.
    let mut served = served.lock().unwrap();
    assert_eq!(served.len(), 10);
    for claims in served.values_mut() {
        claims.sort_by_key(|(_, answered)| *answered);
    }
    let last_to_begin = served.values().map(|claims| claims[0].0).max().unwrap();
    for claims in served.values() {
        assert!(last_to_begin < claims[2].1);
    }
}

pub(super) async fn the_same_delivery_received_at_once_is_stored_once(on: Subject) {
    let tenant = on.tenant("acme").await;
    let mut ledgers = Vec::new();
    for number in 0..4 {
        ledgers.push(on.connection(&tenant, &number.to_string()).await.ledger);
    }
    let mut receivers = JoinSet::new();
    for number in 0..16 {
        let platform = if number % 2 == 0 {
            &on.platform
        } else {
            &on.other
        };
        let platform = platform.clone();
        let mut page: Vec<_> = (0..50)
            .map(|key| delivery(ledgers[key % 4], &key.to_string()))
            .collect();
        // In another order each: who locks rows in the order of the page waits for the other for ever.
        page.rotate_left(number * 3);
        receivers.spawn(async move { platform.receive(&page).await.unwrap() });
    }
    let answers: Vec<(String, bool)> = receivers.join_all().await.concat();
    let new = answers.iter().filter(|(_, new)| *new).count();
    let ids: HashSet<_> = answers.iter().map(|(id, _)| id).collect();
    assert_eq!((new, ids.len()), (50, 50));
    assert_eq!(on.number("SELECT count(*) FROM deliveries").await, 50);
}

pub(super) async fn no_delivery_is_forgotten_while_others_are_settled(on: Subject) {
    const DELIVERIES: usize = 200;
    let (connection, claim) = on.claimed().await;
    on.release(&claim).await;
    let ledger = connection.ledger;
    let receiving = {
        let platform = on.other.clone();
        tokio::spawn(async move {
            for number in 0..DELIVERIES {
                let arriving = delivery(ledger, &number.to_string());
                platform.receive(&[arriving]).await.unwrap();
            }
        })
    };
    let mut handled = 0;
    let until = Instant::now() + Duration::from_secs(30);
    while handled < DELIVERIES {
        assert!(Instant::now() < until, "{handled} were handled");
        // Whatever waits makes its connection claimable: nothing else looks for it.
        let Some(claim) = on.claim().await else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let waiting = on.platform.waiting(ledger, 5, 1 << 20).await.unwrap();
        let verdicts: Vec<_> = waiting
            .iter()
            .map(|(one, _)| DeliveryVerdict {
                id: one.id.clone(),
                state: DeliveryState::Handled,
                reason: None,
            })
            .collect();
        on.platform
            .settle_deliveries(claim.lease, &verdicts, HOUR)
            .await
            .unwrap();
        handled += verdicts.len();
        on.platform
            .release_run(claim.lease, &claim.run, &release(None))
            .await
            .unwrap();
    }
    receiving.await.unwrap();
    assert!(on.claim().await.is_none());
}

pub(super) async fn one_of_two_changes_at_once_is_refused(on: Subject) {
    let tenant = on.tenant("acme").await;
    let connection = on.connection(&tenant, "gitlab").await;
    let mut owners = JoinSet::new();
    for platform in [&on.platform, &on.other] {
        let (platform, id) = (platform.clone(), connection.id.clone());
        owners.spawn(async move {
            let change = ConnectionChange {
                config: Some(json!({})),
                ..ConnectionChange::default()
            };
            platform
                .update_connection(None, &id, Some(1), &change)
                .await
        });
    }
    let results = owners.join_all().await;
    let refused =
        |one: &Result<Connection>| matches!(one, Err(PlatformError::Conflict { current: 2 }));
    assert_eq!(results.iter().filter(|one| one.is_ok()).count(), 1);
    assert_eq!(results.iter().filter(|one| refused(one)).count(), 1);
}

pub(super) async fn no_change_of_a_note_is_lost_to_another_at_the_same_time(on: Subject) {
    const EACH: u32 = 20;
    let mut tasks = JoinSet::new();
    for platform in [&on.platform, &on.other, &on.platform, &on.other] {
        let platform = platform.clone();
        tasks.spawn(async move {
            for _ in 0..EACH {
                loop {
                    let was = platform.note("count").await.unwrap();
                    let count: u32 = was.as_deref().map_or(0, |was| was.parse().unwrap());
                    let more = (count + 1).to_string();
                    let changed = platform.change_note("count", was.as_deref(), &more);
                    if changed.await.unwrap() {
                        break;
                    }
                }
            }
        });
    }
    tasks.join_all().await;
    let count = on.platform.note("count").await.unwrap();
    assert_eq!(count, Some((4 * EACH).to_string()));
}
