//! What mappers make of records, leave out, and the records as they were before.

use super::*;

promises! {
    the_newest_version_of_each_record_is_kept_and_the_oldest_records_go_first,
    what_is_retracted_is_not_kept_either_with_the_turns_of_its_thread,
    a_part_is_found_by_its_record,
    what_is_left_out_is_known_and_a_part_is_gone,
    the_chain_is_remembered,
    what_was_never_recorded_is_counted_once_a_record,
    what_is_dropped_of_the_recorded_counts_as_never_recorded,
    recorded_records_come_in_the_order_of_first_sight,
    a_bound_beyond_all_numbers_drops_nothing,
}

async fn the_newest_version_of_each_record_is_kept_and_the_oldest_records_go_first(
    store: &impl Subject,
) {
    let lease = lease(store).await;
    let first = [recorded(1, 100), recorded(2, 100), recorded(3, 100)];
    store.keep_recorded(lease, &first).await.unwrap();
    store
        .keep_recorded(lease, &[recorded(1, 50)])
        .await
        .unwrap();
    assert_eq!(store.recorded_bytes(lease.connection).await.unwrap(), 250);
    assert_eq!(store.trim_recorded(lease, 250).await.unwrap(), 0);
    assert_eq!(store.trim_recorded(lease, 120).await.unwrap(), 2);
    let left = store.recorded(lease.connection, 0, 10).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].1, recorded(3, 100));
}

async fn what_is_retracted_is_not_kept_either_with_the_turns_of_its_thread(store: &impl Subject) {
    let lease = lease(store).await;
    let records = [recorded(1, 10), recorded(2, 10)];
    store.keep_recorded(lease, &records).await.unwrap();
    let turn = LeftOut {
        source_id: "gl:issue:42/2".into(),
        record: "gl:issue:42/2".into(),
        event_type: "issue".into(),
        stream: "42/issues".into(),
        root: "gl:issue:42/1".into(),
        preceded_by: vec![],
    };
    store.leave_out(lease, &[turn]).await.unwrap();
    store
        .retract(lease, &["gl:issue:42/1".into()])
        .await
        .unwrap();
    let left = store.recorded(lease.connection, 0, 10).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

fn part(source_id: &str, record: &str) -> Begun<'static> {
    Begun {
        record: record.to_owned().into(),
        ..version(source_id, 1, "a", "")
    }
}

async fn a_part_is_found_by_its_record(store: &impl Subject) {
    let lease = lease(store).await;
    let page = [
        version("gl:note:42/1", 1, "a", ""),
        part("gl:note:42/1#a", "gl:note:42/1"),
        version("gl:note:42/2", 1, "a", ""),
    ];
    store.begin(lease, &page).await.unwrap();
    let parts = store
        .parts(lease.connection, &["gl:note:42/1", "gl:note:42/9"])
        .await
        .unwrap();
    assert_eq!(parts.len(), 1);
    let mut parts = parts["gl:note:42/1"].clone();
    parts.sort_by(|one, other| one.source_id.cmp(&other.source_id));
    let ids: Vec<_> = parts
        .iter()
        .map(|part| (part.source_id.as_str(), part.status))
        .collect();
    assert_eq!(
        ids,
        [
            ("gl:note:42/1", Status::Begun),
            ("gl:note:42/1#a", Status::Begun)
        ]
    );
    // The record and its part are one that is held, and go together.
    let held = store
        .held(lease.connection, "42/issues", "note", "", 10)
        .await
        .unwrap();
    assert_eq!(held.len(), 2);
    assert_eq!(
        store
            .retract(lease, &["gl:note:42/1".into()])
            .await
            .unwrap(),
        2
    );
}

async fn what_is_left_out_is_known_and_a_part_is_gone(store: &impl Subject) {
    let lease = lease(store).await;
    let page = [
        version("gl:note:42/1", 1, "a", ""),
        part("gl:note:42/2#a", "gl:note:42/2"),
        version("gl:note:42/3", 1, "a", ""),
    ];
    store.begin(lease, &page).await.unwrap();
    let fates = [
        stored("gl:note:42/1", 1, "evt_1"),
        stored("gl:note:42/2#a", 1, "evt_2"),
        refused("gl:note:42/3", 1),
    ];
    store
        .settle(lease, &fates, &[letter("gl:note:42/3", "422")])
        .await
        .unwrap();
    let gone = [
        left("gl:note:42/1", "gl:note:42/1"),
        left("gl:note:42/2#a", "gl:note:42/2"),
        left("gl:note:42/3", "gl:note:42/3"),
        left("gl:note:42/4", "gl:note:42/4"),
    ];
    store.leave_out(lease, &gone).await.unwrap();
    let out = store
        .left_out_in_stream(lease.connection, "42/issues")
        .await
        .unwrap();
    assert_eq!(
        out,
        ["gl:note:42/1", "gl:note:42/3", "gl:note:42/4"]
            .map(str::to_owned)
            .into()
    );
    assert_eq!(
        entry(store, lease, "gl:note:42/2#a").await.status,
        Status::Retracted
    );
    let known = entry(store, lease, "gl:note:42/1").await;
    assert_eq!(
        (known.status, known.event_id, known.generation),
        (Status::LeftOut, None, 1)
    );
    assert_eq!(known.preceded_by, ["gl:note:42/0"]);
    assert_eq!(entry(store, lease, "gl:note:42/4").await.generation, 0);
    assert!(
        store
            .dead_letters(lease.connection, None)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(store.count_obsolete(lease.connection).await.unwrap(), 3);
    assert!(
        store
            .held_by_stream(lease.connection)
            .await
            .unwrap()
            .is_empty()
    );
}

async fn the_chain_is_remembered(store: &impl Subject) {
    let lease = lease(store).await;
    assert_eq!(store.mapped_by(lease.connection).await.unwrap(), "");
    store.set_mapped_by(lease, "sha256:1").await.unwrap();
    assert_eq!(store.mapped_by(lease.connection).await.unwrap(), "sha256:1");
    assert_eq!(store.mapped_by(lease.connection + 1).await.unwrap(), "");
}

async fn what_was_never_recorded_is_counted_once_a_record(store: &impl Subject) {
    let lease = lease(store).await;
    let page = [
        version("gl:issue:42/1", 1, "a", ""),
        part("gl:issue:42/2#a", "gl:issue:42/2"),
        part("gl:issue:42/2#b", "gl:issue:42/2"),
        version("gl:issue:42/3", 1, "a", ""),
    ];
    store.begin(lease, &page).await.unwrap();
    assert_eq!(store.not_recorded(lease.connection).await.unwrap(), 3);
    store
        .keep_recorded(lease, &[recorded(2, 10)])
        .await
        .unwrap();
    store
        .retract(lease, &["gl:issue:42/3".into()])
        .await
        .unwrap();
    assert_eq!(store.not_recorded(lease.connection).await.unwrap(), 1);
}

async fn what_is_dropped_of_the_recorded_counts_as_never_recorded(store: &impl Subject) {
    let lease = lease(store).await;
    let page = [1, 2].map(|number| version(&format!("gl:issue:42/{number}"), 1, "a", ""));
    store.begin(lease, &page).await.unwrap();
    let kept = [recorded(1, 10), recorded(2, 10)];
    store.keep_recorded(lease, &kept).await.unwrap();
    let dropped = ["gl:issue:42/1", "gl:issue:42/9"];
    store.drop_recorded(lease, &dropped).await.unwrap();
    assert_eq!(store.not_recorded(lease.connection).await.unwrap(), 1);
    let left = store.recorded(lease.connection, 0, 10).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].1, kept[1]);
}

async fn recorded_records_come_in_the_order_of_first_sight(store: &impl Subject) {
    let lease = lease(store).await;
    let first = [recorded(9, 10), recorded(1, 10), recorded(9, 20)];
    store.keep_recorded(lease, &first).await.unwrap();
    store
        .keep_recorded(lease, &[recorded(5, 10), recorded(1, 30)])
        .await
        .unwrap();
    let mut seen = Vec::new();
    let mut after = 0;
    loop {
        let page = store.recorded(lease.connection, after, 1).await.unwrap();
        let Some((place, record)) = page.into_iter().next() else {
            break;
        };
        after = place;
        seen.push(record);
    }
    assert_eq!(seen, [recorded(9, 20), recorded(1, 30), recorded(5, 10)]);
}

async fn a_bound_beyond_all_numbers_drops_nothing(store: &impl Subject) {
    let lease = lease(store).await;
    store
        .keep_recorded(lease, &[recorded(1, 10)])
        .await
        .unwrap();
    assert_eq!(store.trim_recorded(lease, u64::MAX).await.unwrap(), 0);
    assert_eq!(store.trim_recorded(lease, 0).await.unwrap(), 1);
    assert_eq!(store.recorded_bytes(lease.connection).await.unwrap(), 0);
}
