//! Webhook calls, from their receipt to their end.

use super::*;

fn verdict(id: &str, state: DeliveryState, reason: &str) -> DeliveryVerdict {
    DeliveryVerdict {
        id: id.into(),
        state,
        reason: Some(reason.into()),
    }
}

async fn keys(on: &Subject, connection: i64) -> Vec<String> {
    let found = on.platform.waiting(connection, 99, 1 << 20).await.unwrap();
    found.into_iter().map(|(one, _)| one.key).collect()
}

pub(super) async fn a_key_is_stored_once_in_one_page_or_in_two(on: Subject) {
    let tenant = on.tenant("acme").await;
    let one = on.connection(&tenant, "one").await.ledger;
    let two = on.connection(&tenant, "two").await.ledger;
    assert!(on.platform.receive(&[]).await.unwrap().is_empty());
    let page = [
        delivery(one, "k"),
        delivery(one, "k"),
        delivery(two, "k"),
        delivery(one, "l"),
    ];
    let answers = on.platform.receive(&page).await.unwrap();
    let new: Vec<bool> = answers.iter().map(|(_, new)| *new).collect();
    assert_eq!(new, [true, false, true, true]);
    assert_eq!(answers[0].0, answers[1].0);
    assert_ne!(answers[0].0, answers[2].0);
    let again = on.other.receive(&page).await.unwrap();
    assert!(again.iter().all(|(_, new)| !new));
    let ids = |answers: &[(String, bool)]| {
        let ids = answers.iter().map(|(id, _)| id.clone());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(ids(&again), ids(&answers));
    assert_eq!(keys(&on, one).await, ["k", "l"]);
    assert_eq!(keys(&on, two).await, ["k"]);
}

pub(super) async fn a_delivery_for_nobody_is_answered_with_nothing(on: Subject) {
    let tenant = on.tenant("acme").await;
    let one = on.connection(&tenant, "one").await.ledger;
    let page = [delivery(one + 99, "k"), delivery(one, "k")];
    let answers = on.platform.receive(&page).await.unwrap();
    assert_eq!(answers[0], (String::new(), false));
    assert!(answers[1].1);
    let nobody = on.platform.receive(&page[..1]).await.unwrap();
    assert_eq!(nobody, [(String::new(), false)]);
}

pub(super) async fn a_delivery_wakes_its_connection_and_is_handled_once(on: Subject) {
    let platform = &on.platform;
    let (connection, claim) = on.claimed().await;
    on.release(&claim).await;
    assert!(on.claim().await.is_none());
    platform
        .receive(&[delivery(connection.ledger, "k")])
        .await
        .unwrap();
    let claim = on.claim().await.unwrap();
    assert!(!claim.due, "only its delivery waits");
    assert_eq!(claim.connection.waiting_deliveries, 1);
    let waiting = platform.waiting(connection.ledger, 9, 999).await.unwrap();
    let (found, body) = &waiting[0];
    assert_eq!((&*found.key, &body[..]), ("k", &b"body of k"[..]));
    assert_eq!(found.headers, json!({"x-gitlab-event": "Note Hook"}));
    let verdicts = [
        verdict(&found.id, DeliveryState::Handled, "a note"),
        verdict("unknown", DeliveryState::Handled, ""),
    ];
    platform
        .settle_deliveries(claim.lease, &verdicts, HOUR)
        .await
        .unwrap();
    on.release(&claim).await;
    assert!(on.claim().await.is_none());
    let (settled, body) = platform
        .delivery(connection.ledger, &found.id)
        .await
        .unwrap();
    assert_eq!(settled.state, DeliveryState::Handled);
    assert_eq!((settled.attempts, body.len()), (1, 9));
    assert_eq!(settled.reason.as_deref(), Some("a note"));
    assert!(settled.settled_at.is_some());
    assert!(is_missing(
        platform.delivery(connection.ledger + 1, &found.id).await
    ));
    let again = platform.receive(&[delivery(connection.ledger, "k")]).await;
    assert_eq!(again.unwrap(), [(found.id.clone(), false)]);
    assert!(on.claim().await.is_none(), "a repeated call wakes nobody");
}

pub(super) async fn a_delivery_is_tried_again_when_its_time_has_come(on: Subject) {
    let platform = &on.platform;
    let (connection, claim) = on.claimed().await;
    let page = [
        delivery(connection.ledger, "later"),
        delivery(connection.ledger, "soon"),
    ];
    let ids = platform.receive(&page).await.unwrap();
    let later = verdict(&ids[0].0, DeliveryState::Waiting, "502");
    platform
        .settle_deliveries(claim.lease, &[later], HOUR)
        .await
        .unwrap();
    assert_eq!(keys(&on, connection.ledger).await, ["soon"]);
    let soon = verdict(&ids[1].0, DeliveryState::Waiting, "502");
    platform
        .settle_deliveries(claim.lease, &[soon], Duration::ZERO)
        .await
        .unwrap();
    on.release(&claim).await;
    let claim = on.claim().await.unwrap();
    assert_eq!(keys(&on, connection.ledger).await, ["soon"]);
    let soon = verdict(&ids[1].0, DeliveryState::Polled, "gave up");
    platform
        .settle_deliveries(claim.lease, &[soon], HOUR)
        .await
        .unwrap();
    on.release(&claim).await;
    assert!(on.claim().await.is_none());
    let next = platform.next_due_in().await.unwrap().unwrap();
    assert!(next > MINUTE, "{next:?}");
    for sql in [
        "UPDATE deliveries SET due_at = due_at - 3600001",
        "UPDATE platform_connections SET inbox_due = inbox_due - 3600001",
    ] {
        on.sql(sql).await;
    }
    assert!(!on.claim().await.unwrap().due);
    assert_eq!(keys(&on, connection.ledger).await, ["later"]);
    let (later, _) = platform
        .delivery(connection.ledger, &ids[0].0)
        .await
        .unwrap();
    assert_eq!((later.attempts, later.settled_at), (1, None));
}

pub(super) async fn what_waits_comes_oldest_first_within_the_bounds(on: Subject) {
    let tenant = on.tenant("acme").await;
    let one = on.connection(&tenant, "one").await.ledger;
    for key in ["c", "a", "b"] {
        on.platform.receive(&[delivery(one, key)]).await.unwrap();
    }
    let bounded = async |most, bytes| {
        let found = on.platform.waiting(one, most, bytes).await.unwrap();
        let keys = found.into_iter().map(|(delivery, _)| delivery.key);
        keys.collect::<String>()
    };
    assert_eq!(bounded(9, 1 << 20).await, "cab");
    assert_eq!(bounded(2, 1 << 20).await, "ca");
    // Each has nine bytes.
    assert_eq!(bounded(9, 18).await, "ca");
    assert_eq!(bounded(9, 17).await, "c");
    assert_eq!(bounded(9, 0).await, "c");
    assert_eq!(bounded(0, 99).await, "");
}

pub(super) async fn deliveries_are_listed_and_replayed_by_state_and_time(on: Subject) {
    let platform = &on.platform;
    let (connection, claim) = on.claimed().await;
    let ledger = connection.ledger;
    let page = ["a", "b", "c"].map(|key| delivery(ledger, key));
    let ids = platform.receive(&page).await.unwrap();
    let verdicts = [
        verdict(&ids[0].0, DeliveryState::Failed, "x"),
        verdict(&ids[1].0, DeliveryState::Ignored, "x"),
        verdict(&ids[2].0, DeliveryState::Failed, "x"),
    ];
    platform
        .settle_deliveries(claim.lease, &verdicts, HOUR)
        .await
        .unwrap();
    on.release(&claim).await;
    let sql = format!(
        "UPDATE deliveries SET received_at = 1763863807042 WHERE id = '{}'",
        ids[0].0
    );
    on.sql(&sql).await;
    let failed = DeliveryFilter {
        state: Some(DeliveryState::Failed),
        ..DeliveryFilter::default()
    };
    let old = DeliveryFilter {
        since: Some("2025-11-23T02:10:07.042Z".into()),
        until: Some("2025-11-23T03:10:07.043+01:00".into()),
        ..DeliveryFilter::default()
    };
    let listed = async |filter: &DeliveryFilter, page: Page| {
        let found = platform.deliveries(ledger, filter, &page).await.unwrap();
        found.into_iter().map(|one| one.key).collect::<String>()
    };
    let all = DeliveryFilter::default();
    assert_eq!(listed(&all, first(9)).await, "cba");
    let behind = Page {
        after: Some(ids[2].0.clone()),
        most: 1,
    };
    assert_eq!(listed(&all, behind).await, "b");
    assert_eq!(listed(&failed, first(9)).await, "ca");
    assert_eq!(listed(&old, first(9)).await, "a");
    let nonsense = DeliveryFilter {
        since: Some("yesterday".into()),
        ..DeliveryFilter::default()
    };
    let error = platform.deliveries(ledger, &nonsense, &first(9)).await;
    assert!(matches!(error, Err(PlatformError::Invalid(_))));
    let replay =
        async |id: Option<&str>, filter: &DeliveryFilter| platform.replay(ledger, id, filter).await;
    assert_eq!(replay(None, &old).await.unwrap(), 1);
    assert_eq!(keys(&on, ledger).await, ["a"]);
    let claim = on.claim().await.unwrap();
    assert!(!claim.due);
    assert_eq!(replay(Some(&ids[1].0), &all).await.unwrap(), 1);
    assert!(is_missing(replay(Some("unknown"), &all).await));
    assert_eq!(replay(None, &old).await.unwrap(), 1);
    assert_eq!(replay(None, &failed).await.unwrap(), 1);
    let (replayed, _) = platform.delivery(ledger, &ids[2].0).await.unwrap();
    assert_eq!((replayed.attempts, replayed.reason), (0, None));
    assert_eq!(replay(None, &failed).await.unwrap(), 0);
    assert_eq!(replay(None, &all).await.unwrap(), 3);
}

pub(super) async fn settled_deliveries_are_trimmed_after_a_week_at_the_earliest(on: Subject) {
    const DAYS: i64 = 86_400_000;
    let platform = &on.platform;
    let (connection, claim) = on.claimed().await;
    let ledger = connection.ledger;
    let page = ["old", "young", "waiting"].map(|key| delivery(ledger, key));
    let ids = platform.receive(&page).await.unwrap();
    let verdicts = [
        verdict(&ids[0].0, DeliveryState::Handled, ""),
        verdict(&ids[1].0, DeliveryState::Handled, ""),
    ];
    platform
        .settle_deliveries(claim.lease, &verdicts, HOUR)
        .await
        .unwrap();
    for (key, days) in [("old", 8), ("young", 6), ("waiting", 99)] {
        let age = days * DAYS;
        on.sql(&format!(
            "UPDATE deliveries SET settled_at = settled_at - {age}, received_at = received_at - {age} WHERE key = '{key}'"
        ))
        .await;
    }
    assert_eq!(platform.trim_deliveries(240 * HOUR).await.unwrap(), 0);
    assert_eq!(platform.trim_deliveries(HOUR).await.unwrap(), 1);
    let left = platform
        .deliveries(ledger, &DeliveryFilter::default(), &first(9))
        .await
        .unwrap();
    let left: Vec<_> = left.iter().map(|one| &*one.key).collect();
    assert_eq!(left, ["waiting", "young"]);
}

pub(super) async fn large_bodies_come_out_as_they_went_in(on: Subject) {
    let tenant = on.tenant("acme").await;
    let one = on.connection(&tenant, "one").await.ledger;
    let page: Vec<_> = (0..40_u8)
        .map(|number| NewDelivery {
            body: (0..1_000_000_u32)
                .map(|at| number ^ u8::try_from(at % 251).unwrap())
                .collect(),
            ..delivery(one, &number.to_string())
        })
        .chain([NewDelivery {
            body: Vec::new(),
            ..delivery(one, "empty")
        }])
        .collect();
    let ids = on.platform.receive(&page).await.unwrap();
    for (sent, (id, new)) in page.iter().zip(ids) {
        let (_, body) = on.platform.delivery(one, &id).await.unwrap();
        assert!(new && body == sent.body, "{}", sent.key);
    }
}

pub(super) async fn what_is_replayed_is_told_from_what_has_just_come(on: Subject) {
    let platform = &on.platform;
    let (connection, claim) = on.claimed().await;
    let ids = platform
        .receive(&[delivery(connection.ledger, "one")])
        .await
        .unwrap();
    let id = ids[0].0.as_str();
    let replayed = async || {
        let (found, _) = platform.delivery(connection.ledger, id).await.unwrap();
        found.replayed
    };
    let settle = async |state| {
        let verdicts = [verdict(id, state, "because")];
        let settled = platform.settle_deliveries(claim.lease, &verdicts, HOUR);
        settled.await.unwrap();
    };
    assert!(!replayed().await);
    settle(DeliveryState::Waiting).await;
    assert!(!replayed().await, "it is tried again by itself");
    settle(DeliveryState::Handled).await;
    on.sql("UPDATE deliveries SET received_at = received_at - 1000, due_at = due_at - 1000")
        .await;
    platform
        .replay(connection.ledger, Some(id), &DeliveryFilter::default())
        .await
        .unwrap();
    assert!(replayed().await);
    let waiting = platform.waiting(connection.ledger, 9, 999).await.unwrap();
    assert!(waiting[0].0.replayed);
}
