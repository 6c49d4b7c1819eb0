//! Versions of records: begun, settled, replaced, retracted.

use super::*;

promises! {
    a_begun_version_keeps_its_predecessors_until_it_is_acknowledged,
    a_replaced_version_becomes_obsolete_even_if_its_receipt_never_came,
    how_long_ago_a_version_was_begun_is_known_unless_a_clock_was_moved,
    an_observation_keeps_its_history,
    what_is_held_comes_in_pages_and_without_what_was_retracted,
    retracting_an_issue_retracts_its_comments,
    what_is_to_be_forgotten_comes_in_pages,
    the_receipts_of_all_fragments_become_live,
    a_page_that_names_a_record_twice_keeps_the_last,
    events_of_another_connection_are_out_of_reach,
    what_may_not_be_redacted_is_kept_and_counted_no_more,
    text_of_any_kind_comes_back_as_it_was,
    a_page_of_nothing_changes_nothing,
    records_come_in_the_order_of_their_bytes,
}

async fn a_begun_version_keeps_its_predecessors_until_it_is_acknowledged(store: &impl Subject) {
    let lease = lease(store).await;
    store
        .begin(lease, &[version("gl:note:42/1", 1, "a", "")])
        .await
        .unwrap();
    let entry = store
        .entries(lease.connection, &["gl:note:42/1"])
        .await
        .unwrap()
        .remove("gl:note:42/1")
        .unwrap();
    assert_eq!(
        (entry.status, entry.generation, entry.preceded_by),
        (Status::Begun, 1, vec!["evt_0".to_owned()])
    );
    store
        .settle(lease, &[stored("gl:note:42/1", 1, "evt_1")], &[])
        .await
        .unwrap();
    let entry = store
        .entries(lease.connection, &["gl:note:42/1"])
        .await
        .unwrap()
        .remove("gl:note:42/1")
        .unwrap();
    assert_eq!(
        (entry.status, entry.event_id.as_deref()),
        (Status::Live, Some("evt_1"))
    );
}

async fn a_replaced_version_becomes_obsolete_even_if_its_receipt_never_came(store: &impl Subject) {
    let lease = lease(store).await;
    store
        .begin(lease, &[version("gl:note:42/1", 1, "a", "")])
        .await
        .unwrap();
    store
        .begin(lease, &[version("gl:note:42/1", 2, "b", "")])
        .await
        .unwrap();
    assert!(
        store
            .obsolete(lease.connection, 0, 10)
            .await
            .unwrap()
            .is_empty()
    );
    store
        .settle(lease, &[stored("gl:note:42/1", 2, "evt_2")], &[])
        .await
        .unwrap();
    let obsolete = store.obsolete(lease.connection, 0, 10).await.unwrap();
    assert_eq!(obsolete.len(), 1);
    assert_eq!(
        (obsolete[0].event_id.as_deref(), obsolete[0].key.as_str()),
        (None, "gl:note:42/1@1")
    );
    store.forgotten(lease, &[obsolete[0].row]).await.unwrap();
    assert_eq!(store.count_obsolete(lease.connection).await.unwrap(), 0);
}

async fn how_long_ago_a_version_was_begun_is_known_unless_a_clock_was_moved(store: &impl Subject) {
    let lease = lease(store).await;
    let begin = [version("gl:note:42/1", 1, "a", "")];
    store.begin(lease, &begin).await.unwrap();
    let ago = async || {
        let found = store.entries(lease.connection, &["gl:note:42/1"]).await;
        found.unwrap()["gl:note:42/1"].begun_ago
    };
    assert!(ago().await.unwrap() < Duration::from_secs(60));
    for (begun, expected) in [
        (Some(-90_000.0), Some(25)),
        (Some(90_000.0), None),
        (None, None),
    ] {
        store.set_begun(begun).await;
        // Sent again, it is as old as before.
        store.begin(lease, &begin).await.unwrap();
        assert_eq!(ago().await.map(|ago| ago.as_secs() / 3600), expected);
    }
}

async fn an_observation_keeps_its_history(store: &impl Subject) {
    let lease = lease(store).await;
    for generation in [1, 2] {
        store
            .begin(
                lease,
                &[version(
                    "gl:pipeline:42/1",
                    generation,
                    &format!("d{generation}"),
                    "",
                )],
            )
            .await
            .unwrap();
        let mut fate = stored("gl:pipeline:42/1", generation, &format!("evt_{generation}"));
        fate.appends = true;
        store.settle(lease, &[fate], &[]).await.unwrap();
    }
    assert_eq!(store.count_obsolete(lease.connection).await.unwrap(), 0);
}

async fn what_is_held_comes_in_pages_and_without_what_was_retracted(store: &impl Subject) {
    let lease = lease(store).await;
    let ids = [
        "gl:note:42/1",
        "gl:note:42/2",
        "gl:note:42/3",
        "gl:note:42/4",
    ];
    let versions = ids.map(|id| version(id, 1, "a", "gl:issue:42/7"));
    store.begin(lease, &versions).await.unwrap();
    let settled = [stored(ids[0], 1, "evt_1"), stored(ids[1], 1, "evt_2")];
    store.settle(lease, &settled, &[]).await.unwrap();
    let dead = Settled {
        event_ids: Vec::new(),
        ..stored(ids[3], 1, "")
    };
    store.settle(lease, &[dead], &[]).await.unwrap();
    let held = async |after: &str, most| {
        let page = store
            .held(lease.connection, "42/issues", "note", after, most)
            .await
            .unwrap();
        page.into_iter()
            .map(|record| (record.source_id, record.acknowledged))
            .collect::<Vec<_>>()
    };
    assert_eq!(held("", 1).await, [(ids[0].to_owned(), true)]);
    // Begun, and refused: neither is acknowledged.
    let [begun, refused] = [ids[2], ids[3]].map(|id| (id.to_owned(), false));
    let rest = [(ids[1].to_owned(), true), begun.clone(), refused.clone()];
    assert_eq!(held(ids[0], 9).await, rest);
    store.retract(lease, &[ids[1].to_owned()]).await.unwrap();
    assert_eq!(held(ids[0], 9).await, [begun, refused]);
    let by_stream = store.held_by_stream(lease.connection).await.unwrap();
    assert_eq!(by_stream, [("42/issues".to_owned(), 1)]);
}

async fn retracting_an_issue_retracts_its_comments(store: &impl Subject) {
    let lease = lease(store).await;
    store
        .begin(
            lease,
            &[
                version("gl:issue:42/1", 1, "a", ""),
                version("gl:note:42/9", 1, "b", "gl:issue:42/1"),
                version("gl:issue:42/2", 1, "c", ""),
            ],
        )
        .await
        .unwrap();
    store
        .settle(
            lease,
            &[
                stored("gl:issue:42/1", 1, "evt_1"),
                stored("gl:note:42/9", 1, "evt_2"),
                stored("gl:issue:42/2", 1, "evt_3"),
            ],
            &[],
        )
        .await
        .unwrap();
    assert_eq!(
        store
            .retract(lease, &["gl:issue:42/1".into()])
            .await
            .unwrap(),
        2
    );
    let ids: Vec<_> = store
        .obsolete(lease.connection, 0, 10)
        .await
        .unwrap()
        .into_iter()
        .filter_map(|event| event.event_id)
        .collect();
    assert_eq!(ids, ["evt_1", "evt_2"]);
}

async fn what_is_to_be_forgotten_comes_in_pages(store: &impl Subject) {
    let lease = lease(store).await;
    let ids: Vec<String> = (1..=3).map(|note| format!("gl:note:42/{note}")).collect();
    let begun: Vec<Begun<'_>> = ids.iter().map(|id| version(id, 1, "a", "")).collect();
    store.begin(lease, &begun).await.unwrap();
    store.retract(lease, &ids).await.unwrap();
    let page = async |after| {
        let page = store.obsolete(lease.connection, after, 2).await.unwrap();
        let ids: Vec<String> = page.iter().map(|event| event.source_id.clone()).collect();
        (page.last().map_or(0, |event| event.row), ids)
    };
    let (behind, first) = page(0).await;
    let (last, second) = page(behind).await;
    assert_eq!((first.len(), second.len()), (2, 1));
    let mut all = [first, second].concat();
    all.sort();
    assert_eq!(all, ids);
    assert_eq!(page(last).await, (0, Vec::new()));
}

async fn the_receipts_of_all_fragments_become_live(store: &impl Subject) {
    let lease = lease(store).await;
    let mut long = version("gl:issue:42/1", 1, "a", "");
    long.keys = vec!["k0".into(), "k1".into(), "k2".into()];
    store.begin(lease, &[long.clone()]).await.unwrap();
    let mut fate = stored("gl:issue:42/1", 1, "evt_0");
    fate.event_ids = vec!["evt_0".into(), "evt_1".into(), "evt_2".into()];
    store.settle(lease, &[fate], &[]).await.unwrap();
    let known = entry(store, lease, "gl:issue:42/1").await;
    assert_eq!(known.event_id.as_deref(), Some("evt_0"));
    store
        .retract(lease, &["gl:issue:42/1".into()])
        .await
        .unwrap();
    let events = store.obsolete(lease.connection, 0, 10).await.unwrap();
    let events: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event.fragment,
                event.key.as_str(),
                event.event_id.as_deref(),
            )
        })
        .collect();
    let expected = [
        (0, "k0", Some("evt_0")),
        (1, "k1", Some("evt_1")),
        (2, "k2", Some("evt_2")),
    ];
    assert_eq!(events, expected);
    assert_eq!(
        store.obsolete(lease.connection, 0, 2).await.unwrap().len(),
        2
    );
    let retracted = entry(store, lease, "gl:issue:42/1").await;
    assert_eq!(
        (retracted.status, retracted.event_id),
        (Status::Retracted, None)
    );
}

async fn a_page_that_names_a_record_twice_keeps_the_last(store: &impl Subject) {
    let lease = lease(store).await;
    let page = [
        version("gl:note:42/1", 1, "a", ""),
        version("gl:note:42/1", 2, "b", ""),
    ];
    store.begin(lease, &page).await.unwrap();
    let known = entry(store, lease, "gl:note:42/1").await;
    assert_eq!((known.generation, known.digest.as_str()), (2, "b"));
    let fates = [
        stored("gl:note:42/1", 1, "evt_1"),
        stored("gl:note:42/1", 2, "evt_2"),
        stored("gl:note:42/1", 2, "evt_3"),
    ];
    store.settle(lease, &fates, &[]).await.unwrap();
    let known = entry(store, lease, "gl:note:42/1").await;
    assert_eq!(
        (known.status, known.event_id.as_deref()),
        (Status::Live, Some("evt_3"))
    );
    let left = store.obsolete(lease.connection, 0, 10).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].event_id.as_deref(), Some("evt_1"));
}

async fn events_of_another_connection_are_out_of_reach(store: &impl Subject) {
    let lease = lease(store).await;
    let other = store.claim("another", "test", TTL).await.unwrap();
    store
        .begin(lease, &[version("gl:note:42/1", 1, "a", "")])
        .await
        .unwrap();
    store
        .retract(lease, &["gl:note:42/1".into()])
        .await
        .unwrap();
    let row = store.obsolete(lease.connection, 0, 1).await.unwrap()[0].row;
    store.forgotten(other, &[row]).await.unwrap();
    store.kept(other, &[row]).await.unwrap();
    assert_eq!(store.count_obsolete(lease.connection).await.unwrap(), 1);
    assert!(
        store
            .entries(other.connection, &["gl:note:42/1"])
            .await
            .unwrap()
            .is_empty()
    );
}

async fn what_may_not_be_redacted_is_kept_and_counted_no_more(store: &impl Subject) {
    let lease = lease(store).await;
    store
        .begin(lease, &[version("gl:note:42/1", 1, "a", "")])
        .await
        .unwrap();
    store
        .retract(lease, &["gl:note:42/1".into()])
        .await
        .unwrap();
    let row = store.obsolete(lease.connection, 0, 1).await.unwrap()[0].row;
    store.kept(lease, &[row]).await.unwrap();
    assert_eq!(store.count_obsolete(lease.connection).await.unwrap(), 0);
    store
        .begin(lease, &[version("gl:note:42/1", 2, "b", "")])
        .await
        .unwrap();
    store
        .settle(lease, &[stored("gl:note:42/1", 2, "evt_2")], &[])
        .await
        .unwrap();
    assert_eq!(store.count_obsolete(lease.connection).await.unwrap(), 0);
}

async fn text_of_any_kind_comes_back_as_it_was(store: &impl Subject) {
    let lease = lease(store).await;
    for odd in [
        "\0",
        "a\0b\u{1a}0",
        "\\u0000",
        "\\\0",
        "'\"\\",
        "é\u{10ffff}\u{fffd}",
        "\u{1a}",
    ] {
        let id = format!("gl:release:42/{odd}");
        let mut begun = version(&id, 1, odd, "");
        begun.scope = odd.into();
        begun.keys = vec![odd.into()];
        begun.preceded_by = vec![odd.to_owned()].into();
        store.begin(lease, &[begun]).await.unwrap();
        let known = entry(store, lease, &id).await;
        assert_eq!(
            (
                known.digest.as_str(),
                known.scope.as_str(),
                known.preceded_by
            ),
            (odd, odd, vec![odd.to_owned()])
        );
        let mut dead = letter(&id, odd);
        dead.payload = odd.into();
        store
            .settle(lease, &[refused(&id, 1)], &[dead])
            .await
            .unwrap();
        let letters = store
            .dead_letters(lease.connection, Some(&[&id]))
            .await
            .unwrap();
        assert_eq!(
            (
                letters[0].letter.reason.as_str(),
                letters[0].letter.payload.as_str()
            ),
            (odd, odd)
        );
        let ends = [StreamEnd {
            stream: "42/releases",
            state: "failed",
            detail: odd,
        }];
        store.end_streams(lease, &ends).await.unwrap();
        assert_eq!(
            store.streams(lease.connection).await.unwrap()[0].detail,
            odd
        );
        let variables = BTreeMap::from([("name".to_owned(), odd.to_owned())]);
        store.pin_origin(lease, odd, &variables).await.unwrap();
        assert_eq!(
            store.origins(lease.connection).await.unwrap()[odd],
            variables
        );
        let receipt = serde_json::json!({ "reconciled": true, "words": odd }).to_string();
        store.finish_run(lease, &receipt).await.unwrap();
        let kept = store.connections().await.unwrap().remove(0).last_run;
        assert_eq!(kept.unwrap().1, receipt);
    }
}

async fn a_page_of_nothing_changes_nothing(store: &impl Subject) {
    let lease = lease(store).await;
    store.begin(lease, &[]).await.unwrap();
    store.settle(lease, &[], &[]).await.unwrap();
    store.leave_out(lease, &[]).await.unwrap();
    store.keep_recorded(lease, &[]).await.unwrap();
    store.forgotten(lease, &[]).await.unwrap();
    store.kept(lease, &[]).await.unwrap();
    store.revive(lease, &[]).await.unwrap();
    store.end_streams(lease, &[]).await.unwrap();
    assert_eq!(store.retract(lease, &[]).await.unwrap(), 0);
    assert_eq!(store.drop_letters(lease, &[]).await.unwrap(), 0);
    assert!(
        store
            .entries(lease.connection, &[])
            .await
            .unwrap()
            .is_empty()
    );
    assert!(store.parts(lease.connection, &[]).await.unwrap().is_empty());
    store
        .begin(lease, &[version("gl:note:42/1", 1, "a", "")])
        .await
        .unwrap();
    // A name that is none belongs to no thread.
    assert_eq!(store.retract(lease, &[String::new()]).await.unwrap(), 0);
}

async fn records_come_in_the_order_of_their_bytes(store: &impl Subject) {
    let lease = lease(store).await;
    let ids = [
        "gl:note:42/-",
        "gl:note:42/10",
        "gl:note:42/9",
        "gl:note:42/B",
        "gl:note:42/_",
        "gl:note:42/a",
        "gl:note:42/é",
    ];
    let versions: Vec<_> = ids.iter().rev().map(|id| version(id, 1, "a", "")).collect();
    store.begin(lease, &versions).await.unwrap();
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = store
            .held(lease.connection, "42/issues", "note", &after, 2)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        after.clone_from(&last.source_id);
        seen.extend(page.into_iter().map(|record| record.source_id));
    }
    assert_eq!(seen, ids);
}
