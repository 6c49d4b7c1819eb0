//! Cursors, the log of changes, remembered requests and notes.

use super::*;

pub(super) async fn cursors_move_together_with_the_count_of_the_run(on: Subject) {
    let platform = &on.platform;
    let (connection, claim) = on.claimed().await;
    let lease = claim.lease;
    let used = Usage {
        requests: 7,
        ..Usage::default()
    };
    let set = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
    let changes = [
        set("a", Some("1")),
        set("b", Some("2")),
        set("a", Some("3")),
    ];
    platform
        .move_cursors(lease, &changes, Some((&claim.run, &used)))
        .await
        .unwrap();
    let expected = BTreeMap::from([("a".into(), "3".into()), ("b".into(), "2".into())]);
    assert_eq!(platform.cursors(lease.connection).await.unwrap(), expected);
    let run = platform.run(&connection.id, &claim.run).await.unwrap();
    assert_eq!(run.usage.requests, 7);
    let unknown = platform
        .move_cursors(lease, &[set("a", None)], Some(("nothing", &used)))
        .await;
    assert!(is_missing(unknown));
    assert_eq!(platform.cursors(lease.connection).await.unwrap(), expected);
    let changes = [
        set("a", Some("4")),
        set("a", None),
        set("unknown", None),
        set("c", Some("")),
    ];
    platform.move_cursors(lease, &changes, None).await.unwrap();
    let expected = BTreeMap::from([("b".into(), "2".into()), ("c".into(), String::new())]);
    assert_eq!(platform.cursors(lease.connection).await.unwrap(), expected);
}

pub(super) async fn cursors_keep_every_character(on: Subject) {
    let (_, claim) = on.claimed().await;
    let odd = "\0 \u{1a}0 \\u0000 \" é \u{1f600}";
    let change = (odd.to_owned(), Some(odd.to_owned()));
    on.platform
        .move_cursors(claim.lease, &[change], None)
        .await
        .unwrap();
    let expected = BTreeMap::from([(odd.to_owned(), odd.to_owned())]);
    let found = on.platform.cursors(claim.lease.connection).await.unwrap();
    assert_eq!(found, expected);
    on.platform
        .move_cursors(claim.lease, &[(odd.to_owned(), None)], None)
        .await
        .unwrap();
    let found = on.platform.cursors(claim.lease.connection).await.unwrap();
    assert!(found.is_empty());
}

pub(super) async fn changes_are_logged_newest_first(on: Subject) {
    let platform = &on.platform;
    for (tenant, action) in [
        (Some("t1"), "a"),
        (None, "b"),
        (Some("t2"), "c"),
        (Some("t1"), "d"),
    ] {
        platform
            .audit(tenant, "cli", action, "subject", &json!({"was": 1}))
            .await
            .unwrap();
    }
    let listed = async |tenant, page: Page| {
        let found = platform.audits(tenant, &page).await.unwrap();
        found.into_iter().map(|one| one.action).collect::<String>()
    };
    assert_eq!(listed(None, first(9)).await, "dcba");
    assert_eq!(listed(Some("t1"), first(9)).await, "da");
    let found = platform.audits(None, &first(1)).await.unwrap();
    assert_eq!(found[0].detail, json!({"was": 1}));
    assert_eq!((&*found[0].by, &*found[0].subject), ("cli", "subject"));
    let behind = Page {
        after: Some(found[0].id.clone()),
        most: 2,
    };
    assert_eq!(listed(None, behind).await, "cb");
}

pub(super) async fn a_request_is_remembered_for_a_day(on: Subject) {
    let platform = &on.platform;
    let ask = async |digest| {
        platform
            .remember_request("t1", "key", digest)
            .await
            .unwrap()
    };
    let remembered = |answer: Option<(u16, Value)>| {
        Some(Remembered {
            digest: "d1".into(),
            answer,
        })
    };
    assert_eq!(ask("d1").await, None);
    assert_eq!(ask("d2").await, remembered(None), "it is worked on");
    let elsewhere = platform.remember_request("t2", "key", "d3").await.unwrap();
    assert_eq!(elsewhere, None);
    let body = json!({"id": 1});
    platform
        .answer_request("t1", "key", 201, &body)
        .await
        .unwrap();
    assert_eq!(ask("d1").await, remembered(Some((201, body.clone()))));
    // Who has answered does not let go of it.
    platform.forget_request("t1", "key").await.unwrap();
    assert_eq!(ask("d1").await, remembered(Some((201, body.clone()))));
    platform.forget_request("t2", "key").await.unwrap();
    let again = platform.remember_request("t2", "key", "d4").await.unwrap();
    assert_eq!(again, None);
    assert!(is_missing(
        platform.answer_request("t1", "other", 201, &body).await
    ));
    on.sql("UPDATE requests SET created_at = created_at - 86400000")
        .await;
    assert_eq!(ask("d1").await, None);
    // The process that worked on it died.
    on.sql("UPDATE requests SET created_at = created_at - 600001")
        .await;
    assert_eq!(ask("d1").await, None);
}

pub(super) async fn a_note_is_replaced_only_where_that_is_wanted(on: Subject) {
    let platform = &on.platform;
    assert_eq!(platform.note("secret").await.unwrap(), None);
    let set = async |value, replace| platform.set_note("secret", value, replace).await.unwrap();
    assert_eq!(set("one", false).await, "one");
    assert_eq!(set("two", false).await, "one");
    assert_eq!(set("three", true).await, "three");
    assert_eq!(
        platform.note("secret").await.unwrap().as_deref(),
        Some("three")
    );
    let (_, claim) = on.claimed().await;
    for value in ["four", "five"] {
        platform
            .set_held_note(claim.lease, "secret", value)
            .await
            .unwrap();
        assert_eq!(set("six", false).await, value);
    }
}

pub(super) async fn a_note_is_changed_by_who_has_read_its_latest_value(on: Subject) {
    let platform = &on.platform;
    let change = async |was, value| platform.change_note("n", was, value).await.unwrap();
    assert!(!change(Some("one"), "two").await, "there is none");
    assert!(change(None, "one").await);
    assert!(!change(None, "other").await);
    assert!(!change(Some("other"), "two").await);
    assert_eq!(platform.note("n").await.unwrap().as_deref(), Some("one"));
    assert!(change(Some("one"), "two").await);
    assert_eq!(platform.note("n").await.unwrap().as_deref(), Some("two"));
}

pub(super) async fn no_text_is_refused_for_its_characters(on: Subject) {
    const ODD: &str = "a\0b";
    const SEEN: &str = "a\u{fffd}b";
    let platform = &on.platform;
    assert!(is_missing(platform.tenant(ODD).await));
    assert!(is_missing(platform.connection(Some(ODD), ODD).await));
    assert_eq!(platform.valid_key(ODD).await.unwrap(), None);
    assert!(is_missing(platform.component(Some(ODD), ODD).await));
    let tenant = on.tenant(ODD).await;
    assert_eq!(tenant.name, SEEN);
    let mut odd = connection(&tenant.id, ODD);
    odd.config = json!({ODD: ODD});
    on.component(DIGEST).await;
    let created = platform.create_connection(&odd, ODD).await.unwrap();
    assert_eq!((&*created.name, &created.config), (SEEN, &odd.config));
    let claim = on.claim().await.unwrap();
    let mut arriving = delivery(created.ledger, ODD);
    arriving.headers = json!({ODD: ODD});
    let ids = platform
        .receive(&[arriving.clone(), arriving.clone()])
        .await
        .unwrap();
    assert_eq!((ids[0].1, ids[1].1), (true, false));
    let verdict = DeliveryVerdict {
        id: ids[0].0.clone(),
        state: DeliveryState::Failed,
        reason: Some(ODD.into()),
    };
    platform
        .settle_deliveries(claim.lease, &[verdict], HOUR)
        .await
        .unwrap();
    let (found, _) = platform.delivery(created.ledger, &ids[0].0).await.unwrap();
    assert_eq!((&*found.key, found.reason.as_deref()), (SEEN, Some(SEEN)));
    assert_eq!(found.headers, arriving.headers);
    let mut release = release(None);
    release.outcome = ODD.into();
    release.receipt = json!({ODD: ODD});
    release.park = Some(ODD.into());
    platform
        .release_run(claim.lease, &claim.run, &release)
        .await
        .unwrap();
    let run = platform.run(&created.id, &claim.run).await.unwrap();
    assert_eq!((&*run.outcome, run.receipt), (SEEN, release.receipt));
    assert_eq!(platform.set_note(ODD, ODD, true).await.unwrap(), SEEN);
}
