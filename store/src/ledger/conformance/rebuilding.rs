//! What is taken over from CortexDB's listing.

use super::*;

promises! {
    a_rebuilt_version_is_superseded_like_any_other,
    a_rebuilt_record_is_held_by_its_stream,
    what_the_ledger_knows_is_not_touched,
    whoever_was_taken_over_rebuilds_nothing,
    a_record_that_was_found_twice_is_taken_over_once,
}

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

async fn a_rebuilt_version_is_superseded_like_any_other(store: &impl Subject) {
    let lease = lease(store).await;
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
    let left = store.obsolete(lease.connection, 0, 10).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].event_id.as_deref(), Some("evt_gl:issue:42/1_1"));
    let next = Begun {
        source_id: "gl:issue:42/1".into(),
        record: "gl:issue:42/1".into(),
        event_type: "issue".into(),
        stream: "42/issues".into(),
        root: "".into(),
        appends: false,
        scope: "org:acme".into(),
        digest: "e".into(),
        generation: 3,
        keys: vec!["k".into()],
        preceded_by: Cow::default(),
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
        .obsolete(lease.connection, 0, 10)
        .await
        .unwrap()
        .into_iter()
        .filter_map(|event| event.event_id)
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

async fn a_rebuilt_record_is_held_by_its_stream(store: &impl Subject) {
    let lease = lease(store).await;
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

async fn what_the_ledger_knows_is_not_touched(store: &impl Subject) {
    let lease = lease(store).await;
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

async fn whoever_was_taken_over_rebuilds_nothing(store: &impl Subject) {
    let old = lease(store).await;
    store.release(old).await.unwrap();
    store.claim("gitlab", "new", TTL).await.unwrap();
    let refused = store
        .rebuild(old, "org:acme", &[found("gl:issue:42/1", 2)])
        .await;
    assert!(matches!(refused, Err(StoreError::Fenced)));
    assert!(store.known_scopes(old.connection).await.unwrap().is_empty());
}

async fn a_record_that_was_found_twice_is_taken_over_once(store: &impl Subject) {
    let lease = lease(store).await;
    let page = [found("gl:issue:42/1", 3), found("gl:issue:42/1", 2)];
    store.rebuild(lease, "org:acme", &page).await.unwrap();
    assert_eq!(entry(store, lease, "gl:issue:42/1").await.generation, 3);
    let old = store.obsolete(lease.connection, 0, 10).await.unwrap();
    let old: Vec<_> = old.iter().map(|event| event.generation).collect();
    assert_eq!(old, [2, 1]);
}
