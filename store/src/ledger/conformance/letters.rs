//! Dead letters: kept, sent again, let go.

use super::*;

promises! {
    a_dead_letter_disappears_when_a_later_version_is_stored,
    a_refusal_is_counted_and_its_first_day_kept,
    a_revived_version_is_begun_again_and_its_letter_stays,
    a_letter_that_was_let_go_leaves_its_record_out,
    letters_are_found_by_stream_and_by_record,
    what_is_retracted_keeps_no_letter,
}

async fn a_dead_letter_disappears_when_a_later_version_is_stored(store: &impl Subject) {
    let lease = lease(store).await;
    store
        .begin(lease, &[version("gl:note:42/1", 1, "a", "")])
        .await
        .unwrap();
    let refused = Settled {
        event_ids: vec![],
        ..stored("gl:note:42/1", 1, "")
    };
    let dead = DeadLetter {
        source_id: "gl:note:42/1".into(),
        stream: "42/issues".into(),
        reason: "422".into(),
        payload: String::new(),
    };
    store.settle(lease, &[refused], &[dead]).await.unwrap();
    assert_eq!(store.connections().await.unwrap()[0].dead_letters, 1);
    store
        .begin(lease, &[version("gl:note:42/1", 2, "b", "")])
        .await
        .unwrap();
    store
        .settle(lease, &[stored("gl:note:42/1", 2, "evt_2")], &[])
        .await
        .unwrap();
    assert_eq!(store.connections().await.unwrap()[0].dead_letters, 0);
}

/// Three records, the second and third refused.
async fn with_two_letters(store: &impl Subject) -> Lease {
    let lease = lease(store).await;
    let ids = ["gl:note:42/1", "gl:note:42/2", "gl:note:42/3"];
    store
        .begin(lease, &ids.map(|id| version(id, 1, "a", "")))
        .await
        .unwrap();
    let fates = [
        stored(ids[0], 1, "evt_1"),
        refused(ids[1], 1),
        refused(ids[2], 1),
    ];
    let mut elsewhere = letter(ids[2], "blank");
    elsewhere.stream = "42/merge_requests".into();
    store
        .settle(lease, &fates, &[letter(ids[1], "422"), elsewhere])
        .await
        .unwrap();
    lease
}

async fn a_refusal_is_counted_and_its_first_day_kept(store: &impl Subject) {
    let lease = with_two_letters(store).await;
    let letters = async || {
        store
            .dead_letters(lease.connection, Some(&["gl:note:42/2"]))
            .await
            .unwrap()
    };
    let first = letters().await.remove(0);
    assert_eq!((first.attempts, first.letter.reason.as_str()), (1, "422"));
    assert_eq!(first.first_seen, first.last_seen);
    assert!(
        first.first_seen.ends_with('Z') && first.first_seen.len() == 20,
        "{first:?}"
    );
    let twice = [letter("gl:note:42/2", "413"), letter("gl:note:42/2", "400")];
    store
        .settle(lease, &[refused("gl:note:42/2", 1)], &twice)
        .await
        .unwrap();
    let last = letters().await.remove(0);
    assert_eq!((last.attempts, last.letter.reason.as_str()), (3, "400"));
    assert_eq!(last.first_seen, first.first_seen);
    assert_eq!(
        entry(store, lease, "gl:note:42/2").await.status,
        Status::Dead
    );
}

async fn a_revived_version_is_begun_again_and_its_letter_stays(store: &impl Subject) {
    let lease = with_two_letters(store).await;
    store
        .revive(lease, &["gl:note:42/1", "gl:note:42/2", "gl:note:42/9"])
        .await
        .unwrap();
    assert_eq!(
        entry(store, lease, "gl:note:42/1").await.status,
        Status::Live
    );
    assert_eq!(
        entry(store, lease, "gl:note:42/2").await.status,
        Status::Begun
    );
    assert_eq!(
        entry(store, lease, "gl:note:42/3").await.status,
        Status::Dead
    );
    assert_eq!(
        store
            .dead_letters(lease.connection, None)
            .await
            .unwrap()
            .len(),
        2
    );
    store
        .settle(lease, &[stored("gl:note:42/2", 1, "evt_2")], &[])
        .await
        .unwrap();
    assert_eq!(
        entry(store, lease, "gl:note:42/2").await.status,
        Status::Live
    );
    assert_eq!(
        store
            .dead_letters(lease.connection, None)
            .await
            .unwrap()
            .len(),
        1
    );
}

async fn a_letter_that_was_let_go_leaves_its_record_out(store: &impl Subject) {
    let lease = with_two_letters(store).await;
    let dropped = store
        .drop_letters(lease, &["gl:note:42/1", "gl:note:42/2", "gl:note:42/9"])
        .await;
    assert_eq!(dropped.unwrap(), 1);
    assert_eq!(
        entry(store, lease, "gl:note:42/1").await.status,
        Status::Live
    );
    assert_eq!(
        entry(store, lease, "gl:note:42/2").await.status,
        Status::Dropped
    );
    assert_eq!(
        entry(store, lease, "gl:note:42/3").await.status,
        Status::Dead
    );
}

async fn letters_are_found_by_stream_and_by_record(store: &impl Subject) {
    let lease = with_two_letters(store).await;
    let all = store.dead_letters(lease.connection, None).await.unwrap();
    let all: Vec<_> = all.into_iter().map(|kept| kept.letter.source_id).collect();
    assert_eq!(all, ["gl:note:42/2", "gl:note:42/3"]);
    assert!(
        store
            .dead_letters(lease.connection, Some(&["gl:note:42/1"]))
            .await
            .unwrap()
            .is_empty()
    );
    let page = async |after, most| -> Vec<_> {
        let page = store.list_letters(lease.connection, after, most).await;
        let page = page.unwrap().into_iter();
        page.map(|kept| (kept.letter.source_id, kept.letter.payload))
            .collect()
    };
    let without = |id: &str| (id.to_owned(), String::new());
    assert_eq!(page(None, 1).await, [without("gl:note:42/2")]);
    assert_eq!(
        page(Some("gl:note:42/2"), 9).await,
        [without("gl:note:42/3")]
    );
    assert_eq!(page(Some("gl:note:42/3"), 9).await, []);
    assert_eq!(store.count_letters(lease.connection).await.unwrap(), 2);
    let refused = store
        .refused_in_stream(lease.connection, "42/merge_requests")
        .await
        .unwrap();
    assert_eq!(refused, HashSet::from(["gl:note:42/3".to_owned()]));
}

async fn what_is_retracted_keeps_no_letter(store: &impl Subject) {
    let lease = lease(store).await;
    let [issue, turn, other, part] = [
        "gl:issue:42/1",
        "gl:note:42/2",
        "gl:note:42/3",
        "gl:note:42/4~a",
    ];
    let mut of_a_record = version(part, 1, "a", "");
    of_a_record.record = issue.into();
    let versions = [
        version(issue, 1, "a", ""),
        version(turn, 1, "a", issue),
        version(other, 1, "a", ""),
        of_a_record,
    ];
    store.begin(lease, &versions).await.unwrap();
    let ids = [issue, turn, other, part];
    // The host refused the last one, so that nothing else is known of it.
    let never_begun = "gl:issue:42/5";
    let mut letters = ids.map(|id| letter(id, "422")).to_vec();
    letters.push(letter(never_begun, "blank"));
    store
        .settle(lease, &ids.map(|id| refused(id, 1)), &letters)
        .await
        .unwrap();
    let gone = [issue.to_owned(), never_begun.to_owned()];
    // Whoever compares with the source finds it, though nothing of it is stored.
    let held = async || {
        let page = store.held(lease.connection, "42/issues", "note", "", 9);
        let page = page.await.unwrap().into_iter();
        page.map(|record| (record.source_id, record.acknowledged))
            .collect::<Vec<_>>()
    };
    let unstored = |id: &str| (id.to_owned(), false);
    let before = [issue, turn, other].map(unstored);
    assert_eq!(held().await, before);
    assert!(entry(store, lease, issue).await.may_be_stored());
    assert_eq!(store.retract(lease, &gone).await.unwrap(), 3);
    assert_eq!(held().await, [unstored(other)]);
    assert!(!entry(store, lease, issue).await.may_be_stored());
    let left = store.dead_letters(lease.connection, None).await.unwrap();
    let left: Vec<_> = left.into_iter().map(|kept| kept.letter.source_id).collect();
    assert_eq!(left, [other]);
    assert_eq!(entry(store, lease, issue).await.status, Status::Retracted);
}
