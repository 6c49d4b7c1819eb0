//! Who runs what, when.

use super::owners::into;
use super::*;

pub(super) async fn what_is_due_is_claimed_once_and_again_when_it_is_due_again(on: Subject) {
    assert!(on.claim().await.is_none());
    let (connection, claim) = on.claimed().await;
    assert!(claim.due && claim.connection.running);
    assert_eq!(
        (claim.claims, &claim.connection.sealed),
        (1, &connection.sealed)
    );
    assert!(on.claim().await.is_none());
    on.release(&claim).await;
    let now = on.platform.connection(None, &connection.id).await.unwrap();
    assert!(!now.running);
    assert!(on.claim().await.is_none());
    on.sql("UPDATE platform_connections SET due_at = due_at - 3600001")
        .await;
    let again = on.claim().await.unwrap();
    assert_eq!(again.lease.epoch, claim.lease.epoch + 1);
    let as_it_was = release(None);
    on.platform
        .release_run(again.lease, &again.run, &as_it_was)
        .await
        .unwrap();
    assert!(on.claim().await.is_some(), "its schedule was not touched");
}

pub(super) async fn a_lost_lease_can_be_claimed_and_every_write_of_its_holder_is_refused(
    on: Subject,
) {
    let platform = &on.platform;
    let (connection, lost) = on.claimed().await;
    let lease = lost.lease;
    platform
        .receive(&[delivery(lease.connection, "one")])
        .await
        .unwrap();
    on.expire(lease).await;
    let held = on
        .other
        .claim_due("there", MINUTE, 3)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(held.lease.epoch, lease.epoch + 1);
    let before = platform.connection(None, &connection.id).await.unwrap();
    let (waiting, _) = platform.waiting(lease.connection, 9, 9999).await.unwrap()[0].clone();
    let verdict = DeliveryVerdict {
        id: waiting.id.clone(),
        state: DeliveryState::Handled,
        reason: None,
    };
    let used = Usage {
        cpu_ms: 99,
        ..Usage::default()
    };
    let moved = ("s".to_owned(), Some("1".to_owned()));
    let plan = json!({"hooks": 9});
    assert!(is_fenced(platform.set_hook_plan(lease, &plan).await));
    assert!(is_fenced(platform.set_held_note(lease, "n", "lost").await));
    assert!(is_fenced(platform.count_run(lease, &lost.run, &used).await));
    let release = release(Some(HOUR));
    assert!(is_fenced(
        platform.release_run(lease, &lost.run, &release).await
    ));
    assert!(is_fenced(
        platform
            .move_cursors(lease, &[moved], Some((&lost.run, &used)))
            .await
    ));
    assert!(is_fenced(
        platform
            .settle_deliveries(lease, &[verdict], Duration::ZERO)
            .await
    ));
    assert!(on.ledger.renew(lease, MINUTE).await.is_err());
    assert_eq!(
        platform.connection(None, &connection.id).await.unwrap(),
        before
    );
    assert!(platform.cursors(lease.connection).await.unwrap().is_empty());
    let still = platform.waiting(lease.connection, 9, 9999).await.unwrap();
    assert_eq!(still[0].0, waiting);
    // The run of the one that was taken over is closed, the other goes on.
    let runs = platform.runs(&connection.id, &first(9)).await.unwrap();
    assert_eq!((&*runs[0].outcome, &*runs[0].worker), ("running", "there"));
    assert_eq!(&*runs[1].outcome, "interrupted");
    assert_eq!(runs[1].usage.cpu_ms, 0);
    assert_eq!(platform.note("n").await.unwrap(), None);
    on.release(&held).await;
}

pub(super) async fn a_lease_that_ran_out_is_taken_over_within_its_time(on: Subject) {
    let tenant = on.tenant("acme").await;
    on.connection(&tenant, "gitlab").await;
    let ttl = Duration::from_millis(400);
    let begun = std::time::Instant::now();
    let first = on
        .platform
        .claim_due("here", ttl, 3)
        .await
        .unwrap()
        .unwrap();
    let taken = loop {
        if let Some(claim) = on.other.claim_due("there", ttl, 3).await.unwrap() {
            break claim;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let took = begun.elapsed();
    assert!(took >= ttl, "taken over after {took:?}, while it was held");
    assert!(
        took < ttl + Duration::from_secs(2),
        "taken over after {took:?}"
    );
    assert_eq!(
        (taken.lease.epoch, taken.claims),
        (first.lease.epoch + 1, 2)
    );
}

pub(super) async fn deliveries_are_claimed_alone_and_what_is_due_stays_due(on: Subject) {
    let platform = &on.platform;
    let acme = on.tenant("acme").await;
    let other = on.tenant("other").await;
    let called = on.connection(&acme, "called").await;
    let claim = async || {
        let claim = platform.claim_deliveries("here", MINUTE, 3).await;
        claim.unwrap()
    };
    assert!(claim().await.is_none(), "it is due, and nobody called");
    let one = delivery(called.ledger, "one");
    platform.receive(&[one]).await.unwrap();
    let first = claim().await.unwrap();
    assert_eq!(first.connection.id, called.id);
    assert!(!first.due, "the sync is left to others");
    assert!(claim().await.is_none());
    let (waiting, _) = platform.waiting(called.ledger, 9, 9999).await.unwrap()[0].clone();
    let verdict = DeliveryVerdict {
        id: waiting.id,
        state: DeliveryState::Handled,
        reason: None,
    };
    platform
        .settle_deliveries(first.lease, &[verdict], Duration::ZERO)
        .await
        .unwrap();
    platform
        .release_run(first.lease, &first.run, &release(None))
        .await
        .unwrap();
    assert!(claim().await.is_none());
    // Its tenant has not lost its place in the queue by that.
    on.connection(&other, "due").await;
    let sync = on.claim().await.unwrap();
    assert!(sync.due, "it is still due");
    assert_eq!(sync.connection.id, called.id);
    // What failed is left to those who also sync.
    let mut failed = release(Some(Duration::ZERO));
    failed.failures = 1;
    platform
        .release_run(sync.lease, &sync.run, &failed)
        .await
        .unwrap();
    let two = delivery(called.ledger, "two");
    platform.receive(&[two]).await.unwrap();
    assert!(claim().await.is_none());
    on.claim().await.unwrap();
    assert!(on.claim().await.is_some(), "both are due");
}

pub(super) async fn deliveries_that_find_their_tenant_at_its_cap_are_told_of(on: Subject) {
    let platform = &on.platform;
    let caps = |runs, memory_bytes| Caps {
        concurrent_runs: Some(runs),
        memory_bytes,
        ..Caps::default()
    };
    for (name, caps) in [("runs", caps(1, None)), ("memory", caps(9, Some(100)))] {
        let tenant = platform.create_tenant(name, &caps).await.unwrap();
        let wait = async |longer_than| {
            let wait = platform.deliveries_wait(&tenant.id, longer_than).await;
            wait.unwrap()
        };
        let called = on.connection(&tenant, "called").await;
        let one = delivery(called.ledger, "one");
        platform.receive(&[one]).await.unwrap();
        assert!(!wait(Duration::ZERO).await, "there is a place");
        let runs = on.claim().await.unwrap();
        assert_eq!(runs.connection.id, called.id);
        assert!(!wait(Duration::ZERO).await, "somebody follows them");
        let second = on.connection(&tenant, "second").await;
        let one = delivery(second.ledger, "one");
        platform.receive(&[one]).await.unwrap();
        assert!(wait(Duration::ZERO).await, "{name}");
        assert!(!wait(HOUR).await);
        let refused = platform.claim_deliveries("here", MINUTE, 3).await;
        assert!(refused.unwrap().is_none(), "{name}");
        on.release(&runs).await;
        assert!(!wait(Duration::ZERO).await);
        let claim = platform.claim_deliveries("here", MINUTE, 3).await;
        assert!(claim.unwrap().is_some());
    }
}

pub(super) async fn schedules_that_were_missed_become_one_run(on: Subject) {
    let (_, claim) = on.claimed().await;
    on.release(&claim).await;
    on.sql("UPDATE platform_connections SET due_at = due_at - 360000000")
        .await;
    let late = on.claim().await.unwrap();
    on.release(&late).await;
    assert!(on.claim().await.is_none());
}

pub(super) async fn paused_and_parked_connections_wait_and_leaving_ones_do_not(on: Subject) {
    let platform = &on.platform;
    let tenant = on.tenant("acme").await;
    let connection = on.connection(&tenant, "gitlab").await;
    for state in [ConnectionState::Paused, ConnectionState::Parked] {
        platform
            .update_connection(None, &connection.id, None, &into(state))
            .await
            .unwrap();
        platform
            .receive(&[delivery(connection.ledger, state.as_str())])
            .await
            .unwrap();
        assert!(on.claim().await.is_none(), "{state:?}");
        assert_eq!(platform.next_due_in().await.unwrap(), None);
    }
    let now = platform.connection(None, &connection.id).await.unwrap();
    assert_eq!(now.waiting_deliveries, 2);
    platform
        .update_connection(None, &connection.id, None, &into(ConnectionState::Leaving))
        .await
        .unwrap();
    let claim = on.claim().await.unwrap();
    assert_eq!(claim.connection.state, ConnectionState::Leaving);
}

pub(super) async fn a_connection_that_kills_its_workers_is_parked_with_a_reason(on: Subject) {
    let platform = &on.platform;
    let tenant = on.tenant("acme").await;
    let poison = on.connection(&tenant, "poison").await;
    let mut last = None;
    for claims in 1..=3 {
        let claim = on.claim().await.unwrap();
        assert_eq!(claim.claims, claims);
        on.expire(claim.lease).await;
        last = Some(claim.lease);
    }
    // The next one of the tenant is claimed in its place.
    let healthy = on.connection(&tenant, "healthy").await;
    assert_eq!(on.claim().await.unwrap().connection.id, healthy.id);
    let parked = platform.connection(None, &poison.id).await.unwrap();
    assert_eq!(parked.state, ConnectionState::Parked);
    assert!(parked.state_reason.unwrap().contains("3 times"));
    let log = platform.audits(Some(&tenant.id), &first(1)).await.unwrap();
    assert_eq!(
        (&*log[0].action, &*log[0].by, &*log[0].subject),
        ("connection.parked", "worker", &*poison.id)
    );
    let runs = platform.runs(&poison.id, &first(9)).await.unwrap();
    assert!(runs.iter().all(|run| run.outcome == "interrupted"));
    let zombie = platform.set_hook_plan(last.unwrap(), &json!({})).await;
    assert!(is_fenced(zombie));
    platform
        .update_connection(None, &poison.id, None, &into(ConnectionState::Active))
        .await
        .unwrap();
    assert_eq!(on.claim().await.unwrap().claims, 1);
}

pub(super) async fn a_run_that_ends_by_itself_lets_go_of_the_claims(on: Subject) {
    let (_, claim) = on.claimed().await;
    on.expire(claim.lease).await;
    let second = on.claim().await.unwrap();
    assert_eq!(second.claims, 2);
    on.platform
        .release_run(second.lease, &second.run, &release(Some(Duration::ZERO)))
        .await
        .unwrap();
    assert_eq!(on.claim().await.unwrap().claims, 1);
}

pub(super) async fn a_failure_parks_and_holds_back_deliveries_until_the_next_try(on: Subject) {
    let platform = &on.platform;
    let (connection, claim) = on.claimed().await;
    platform
        .receive(&[delivery(connection.ledger, "one")])
        .await
        .unwrap();
    let mut failed = release(Some(HOUR));
    failed.outcome = "failed".into();
    failed.failures = 4;
    platform
        .release_run(claim.lease, &claim.run, &failed)
        .await
        .unwrap();
    platform
        .receive(&[delivery(connection.ledger, "two")])
        .await
        .unwrap();
    assert!(
        on.claim().await.is_none(),
        "nothing is tried before its time"
    );
    let now = platform.connection(None, &connection.id).await.unwrap();
    assert_eq!((now.failures, now.waiting_deliveries), (4, 2));
    on.sql("UPDATE platform_connections SET held_until = held_until - 3600001")
        .await;
    let deliveries_only = on.claim().await.unwrap();
    assert!(!deliveries_only.due);
    failed.park = Some("the token was revoked".into());
    platform
        .release_run(deliveries_only.lease, &deliveries_only.run, &failed)
        .await
        .unwrap();
    let parked = platform.connection(None, &connection.id).await.unwrap();
    assert_eq!(parked.state, ConnectionState::Parked);
    assert_eq!(
        parked.state_reason.as_deref(),
        Some("the token was revoked")
    );
    let log = platform.audits(None, &first(9)).await.unwrap();
    let parked = log.iter().filter(|line| line.action == "connection.parked");
    let reasons: Vec<_> = parked.map(|line| &line.detail["reason"]).collect();
    assert_eq!(reasons, ["the token was revoked"]);
    let unknown = platform
        .release_run(deliveries_only.lease, "nothing", &failed)
        .await;
    assert!(is_missing(unknown));
}

pub(super) async fn a_wish_for_a_run_is_not_lost_by_the_run_that_is_going_on(on: Subject) {
    let (connection, claim) = on.claimed().await;
    let wake = ConnectionChange {
        wake: true,
        ..ConnectionChange::default()
    };
    on.platform
        .update_connection(None, &connection.id, None, &wake)
        .await
        .unwrap();
    on.release(&claim).await;
    let again = on.claim().await.unwrap();
    assert!(again.due);
    on.release(&again).await;
    assert!(on.claim().await.is_none());
}

pub(super) async fn a_run_that_ends_badly_undoes_nothing_that_its_owner_did_meanwhile(on: Subject) {
    let platform = &on.platform;
    let (connection, claim) = on.claimed().await;
    let wake = ConnectionChange {
        wake: true,
        ..ConnectionChange::default()
    };
    let mut badly = release(Some(HOUR));
    badly.outcome = "misconfigured".into();
    badly.failures = 5;
    badly.park = Some("the token was revoked".into());
    // The token was replaced while the last run with the old one went on.
    platform
        .update_connection(None, &connection.id, None, &wake)
        .await
        .unwrap();
    platform
        .release_run(claim.lease, &claim.run, &badly)
        .await
        .unwrap();
    let now = platform.connection(None, &connection.id).await.unwrap();
    assert_eq!(
        (now.state, now.state_reason, now.failures),
        (ConnectionState::Active, None, 0)
    );
    let log = platform.audits(None, &first(9)).await.unwrap();
    assert!(log.iter().all(|line| line.action != "connection.parked"));
    // What was asked for before a claim has no part in how its run ends.
    let again = on.claim().await.unwrap();
    assert!(again.due);
    platform
        .release_run(again.lease, &again.run, &badly)
        .await
        .unwrap();
    let now = platform.connection(None, &connection.id).await.unwrap();
    assert_eq!((now.state, now.failures), (ConnectionState::Parked, 5));
}

pub(super) async fn tenants_take_turns_and_a_tenant_at_its_cap_lets_others_by(on: Subject) {
    let platform = &on.platform;
    let mut tenants = Vec::new();
    for (name, cap) in [
        ("a", Some(1)),
        ("b", None),
        ("c", Some(3)),
        ("none", Some(0)),
    ] {
        let caps = Caps {
            concurrent_runs: cap,
            ..Caps::default()
        };
        let tenant = platform.create_tenant(name, &caps).await.unwrap();
        for number in 0..4 {
            on.connection(&tenant, &number.to_string()).await;
        }
        tenants.push(tenant);
    }
    let mut order = String::new();
    let mut claims = Vec::new();
    while let Some(claim) = on.claim().await {
        let tenant = tenants.iter().find(|one| one.id == claim.connection.tenant);
        order.push_str(&tenant.unwrap().name);
        claims.push(claim);
    }
    assert_eq!(order, "abcbcc");
    // The place that becomes free is the one that is taken.
    on.release(&claims[1]).await;
    let next = on.claim().await.unwrap();
    assert_eq!(next.connection.tenant, tenants[1].id);
    assert!(on.claim().await.is_none());
}

pub(super) async fn a_tenant_that_has_computed_enough_waits(on: Subject) {
    let platform = &on.platform;
    let tenant = on.tenant("acme").await;
    let capped = async |most: Option<u64>| {
        let caps = Caps {
            cpu_ms_per_hour: most,
            ..Caps::default()
        };
        let now = platform.tenant(&tenant.id).await.unwrap();
        platform
            .update_tenant(&tenant.id, now.version, None, Some(&caps))
            .await
            .unwrap();
    };
    capped(Some(100)).await;
    let connection = on.connection(&tenant, "gitlab").await;
    let claim = on.claim().await.unwrap();
    let usage = Usage {
        cpu_ms: 150,
        ..Usage::default()
    };
    platform
        .count_run(claim.lease, &claim.run, &usage)
        .await
        .unwrap();
    on.release(&claim).await;
    let wake = ConnectionChange {
        wake: true,
        ..ConnectionChange::default()
    };
    platform
        .update_connection(None, &connection.id, None, &wake)
        .await
        .unwrap();
    assert!(on.claim().await.is_none(), "it has used 150 of 100 ms");
    let waits = platform.connection(None, &connection.id).await.unwrap();
    let reason = waits.state_reason.unwrap();
    assert!(reason.contains("150 ms of the 100 ms"), "{reason}");
    capped(Some(1000)).await;
    assert_eq!(on.claim().await.unwrap().connection.state_reason, None);
}

pub(super) async fn runs_begin_when_there_is_memory_for_all_that_they_may_take(on: Subject) {
    let platform = &on.platform;
    let caps = |memory_bytes| Caps {
        concurrent_runs: Some(9),
        memory_bytes: Some(memory_bytes),
        ..Caps::default()
    };
    let acme = platform.create_tenant("acme", &caps(130)).await.unwrap();
    for name in ["a", "b", "c"] {
        on.connection(&acme, name).await;
    }
    let first = on.claim().await.unwrap();
    let second = on.claim().await.unwrap();
    assert_eq!(second.connection.memory_bytes, 60);
    assert!(on.claim().await.is_none(), "60 of 130 bytes are used twice");
    // What a run was begun with counts, whatever its owner changes meanwhile.
    let small = ConnectionChange {
        memory_bytes: Some(1),
        ..ConnectionChange::default()
    };
    let change = async |change: &ConnectionChange| {
        let id = &second.connection.id;
        platform
            .update_connection(None, id, None, change)
            .await
            .unwrap()
    };
    assert_eq!(change(&small).await.memory_bytes, 1);
    assert!(on.claim().await.is_none(), "the run goes on with 60 bytes");
    let large = ConnectionChange {
        memory_bytes: Some(60),
        ..ConnectionChange::default()
    };
    change(&large).await;
    // Others are not kept waiting by it.
    let other = on.tenant("other").await;
    on.connection(&other, "a").await;
    assert_eq!(on.claim().await.unwrap().connection.tenant, other.id);
    on.release(&first).await;
    let third = on.claim().await.unwrap();
    assert!(on.claim().await.is_none());
    // What no longer fits at all says so, with the numbers, and what leaves may run alone.
    on.release(&second).await;
    on.release(&third).await;
    let id = first.connection.id;
    platform
        .update_tenant(&acme.id, acme.version, None, Some(&caps(50)))
        .await
        .unwrap();
    let wake = ConnectionChange {
        wake: true,
        ..ConnectionChange::default()
    };
    let woken = platform.update_connection(None, &id, None, &wake).await;
    woken.unwrap();
    assert!(on.claim().await.is_none());
    let parked = platform.connection(None, &id).await.unwrap();
    assert_eq!(parked.state, ConnectionState::Parked);
    let reason = parked.state_reason.unwrap();
    assert!(
        reason.contains("60 bytes") && reason.contains("50 in all"),
        "{reason}"
    );
    let leaving = into(ConnectionState::Leaving);
    for claim in [&second, &third] {
        let id = &claim.connection.id;
        platform
            .update_connection(None, id, None, &leaving)
            .await
            .unwrap();
    }
    assert!(on.claim().await.is_some());
    assert!(on.claim().await.is_none(), "one after the other");
}

pub(super) async fn a_lease_of_a_clock_that_jumped_back_keeps_nobody_out(on: Subject) {
    let (_, claim) = on.claimed().await;
    assert!(on.claim().await.is_none());
    // The clock that gave it was three hours ahead.
    let id = claim.lease.connection;
    let sql = format!("UPDATE connections SET lease_until = lease_until + 10800 WHERE id = {id}");
    on.sql(&sql).await;
    let next = on.claim().await.unwrap();
    assert_eq!(next.lease.epoch, claim.lease.epoch + 1);
    let usage = Usage::default();
    let late = on.platform.count_run(claim.lease, &claim.run, &usage).await;
    assert!(is_fenced(late));
    on.release(&next).await;
}

pub(super) async fn what_is_due_next_is_known(on: Subject) {
    let platform = &on.platform;
    assert_eq!(platform.next_due_in().await.unwrap(), None);
    let tenant = on.tenant("acme").await;
    let connection = on.connection(&tenant, "gitlab").await;
    assert_eq!(platform.next_due_in().await.unwrap(), Some(Duration::ZERO));
    let claim = on.claim().await.unwrap();
    let lease = platform.next_due_in().await.unwrap().unwrap();
    // The database counts milliseconds, and the next one may have begun.
    let most = MINUTE + Duration::from_millis(10);
    assert!(lease <= most && lease > MINUTE / 2, "{lease:?}");
    on.release(&claim).await;
    let schedule = platform.next_due_in().await.unwrap().unwrap();
    assert!(
        schedule <= HOUR + Duration::from_millis(10) && schedule > HOUR / 2,
        "{schedule:?}"
    );
    platform
        .receive(&[delivery(connection.ledger, "one")])
        .await
        .unwrap();
    assert_eq!(platform.next_due_in().await.unwrap(), Some(Duration::ZERO));
}

pub(super) async fn runs_of_workers_that_were_superseded_are_swept(on: Subject) {
    let platform = &on.platform;
    let (connection, claim) = on.claimed().await;
    assert_eq!(platform.sweep_runs().await.unwrap(), 0);
    platform
        .update_connection(None, &connection.id, None, &into(ConnectionState::Paused))
        .await
        .unwrap();
    assert_eq!(platform.sweep_runs().await.unwrap(), 0, "its worker lives");
    on.expire(claim.lease).await;
    assert_eq!(platform.sweep_runs().await.unwrap(), 1);
    let run = platform.run(&connection.id, &claim.run).await.unwrap();
    assert_eq!(&*run.outcome, "interrupted");
    assert!(run.ended_at.is_some());
    let woken_up = platform
        .count_run(claim.lease, &claim.run, &Usage::default())
        .await;
    assert!(is_fenced(woken_up));
    // Whoever takes the lease for something else than a run supersedes it, too.
    platform
        .update_connection(None, &connection.id, None, &into(ConnectionState::Active))
        .await
        .unwrap();
    let claim = on.claim().await.unwrap();
    on.expire(claim.lease).await;
    let name = format!("platform:{}", connection.id);
    on.ledger.claim(&name, "an operator", MINUTE).await.unwrap();
    assert!(on.claim().await.is_none());
    assert_eq!(platform.sweep_runs().await.unwrap(), 1);
}

pub(super) async fn runs_are_listed_summed_and_trimmed(on: Subject) {
    let platform = &on.platform;
    let (connection, one) = on.claimed().await;
    let used = |number: u64| Usage {
        runs: 9,
        cpu_ms: number,
        peak_memory_bytes: number,
        requests: number,
        received_bytes: number,
        written_bytes: number,
        records: number,
        deliveries: number,
    };
    platform
        .count_run(one.lease, &one.run, &used(1))
        .await
        .unwrap();
    platform
        .count_run(one.lease, &one.run, &used(5))
        .await
        .unwrap();
    on.release(&one).await;
    platform
        .receive(&[delivery(connection.ledger, "one")])
        .await
        .unwrap();
    let two = on.claim().await.unwrap();
    platform
        .count_run(two.lease, &two.run, &used(3))
        .await
        .unwrap();
    let runs = platform.runs(&connection.id, &first(1)).await.unwrap();
    assert_eq!(
        (&*runs[0].kind, &*runs[0].outcome),
        ("deliveries", "running")
    );
    let behind = Page {
        after: Some(runs[0].id.clone()),
        most: 9,
    };
    let older = platform.runs(&connection.id, &behind).await.unwrap();
    assert_eq!((older.len(), &*older[0].kind), (1, "sync"));
    assert_eq!(older[0].receipt, json!({"written": 3}));
    assert_eq!((older[0].usage.runs, older[0].usage.cpu_ms), (1, 5));
    let run = platform.run(&connection.id, &one.run).await.unwrap();
    assert_eq!(run, older[0]);
    assert!(is_missing(platform.run("nobody", &one.run).await));
    let mut sums = used(8);
    sums.runs = 2;
    sums.peak_memory_bytes = 5;
    let usage = platform.usage(&connection.tenant, HOUR).await.unwrap();
    assert_eq!(usage, sums);
    let none = platform.usage("nobody", HOUR).await.unwrap();
    assert_eq!(none, Usage::default());
    on.release(&two).await;
    on.sql(
        "UPDATE platform_runs SET started_at = started_at - 7200000, ended_at = ended_at - 7200000",
    )
    .await;
    let earlier = platform.usage(&connection.tenant, HOUR).await.unwrap();
    assert_eq!(earlier.runs, 0);
    assert_eq!(platform.trim_runs(3 * HOUR).await.unwrap(), 0);
    assert_eq!(platform.trim_runs(HOUR).await.unwrap(), 1);
    let kept = platform.runs(&connection.id, &first(9)).await.unwrap();
    assert_eq!((kept.len(), &kept[0].id), (1, &two.run));
}

pub(super) async fn whoever_waits_is_woken(on: Subject) {
    let platform = &on.platform;
    let (connection, claim) = on.claimed().await;
    let mut wakeups = platform.wakeups();
    // PostgreSQL's listener needs a moment to connect, and says so when it has.
    tokio::time::timeout(Duration::from_millis(500), wakeups.changed())
        .await
        .ok();
    let woken = async |wakeups: &mut watch::Receiver<u64>| {
        let woken = tokio::time::timeout(Duration::from_secs(5), wakeups.changed()).await;
        woken.expect("nobody was woken").unwrap();
    };
    wakeups.mark_unchanged();
    platform
        .receive(&[delivery(connection.ledger, "one")])
        .await
        .unwrap();
    woken(&mut wakeups).await;
    // The commits of pages say nothing.
    let cursor = ("s".to_owned(), Some("1".to_owned()));
    platform
        .move_cursors(claim.lease, &[cursor], None)
        .await
        .unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(200), wakeups.changed()).await;
    assert!(quiet.is_err());
    on.release(&claim).await;
    woken(&mut wakeups).await;
}
