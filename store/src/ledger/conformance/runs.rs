//! What a run leaves behind: streams, receipts, origins, scopes.

use super::*;

promises! {
    the_last_reconcile_is_remembered_however_many_runs_follow,
    an_origin_is_pinned_once,
    a_stream_remembers_when_it_was_last_read_to_its_end,
    the_list_of_connections_says_what_each_holds,
    a_receipt_that_is_no_json_is_refused,
    nothing_is_left_to_sync,
    a_pass_is_gone_on_with_until_it_ends_rests_too_long_or_is_another,
}

async fn the_last_reconcile_is_remembered_however_many_runs_follow(store: &impl Subject) {
    let lease = lease(store).await;
    assert_eq!(store.last_reconcile(lease.connection).await.unwrap(), None);
    let tried = r#"{"reconciled":false}"#;
    store.finish_run(lease, tried).await.unwrap();
    assert_eq!(store.last_reconcile(lease.connection).await.unwrap(), None);
    let done = r#"{"reconciled":true}"#;
    store.finish_run(lease, done).await.unwrap();
    for _ in 0..RUNS_KEPT + 3 {
        store.finish_run(lease, "{}").await.unwrap();
    }
    assert!(
        store
            .last_reconcile(lease.connection)
            .await
            .unwrap()
            .is_some()
    );
}

async fn an_origin_is_pinned_once(store: &impl Subject) {
    let lease = lease(store).await;
    let first = BTreeMap::from([("project_path".to_owned(), "acme/old".to_owned())]);
    let second = BTreeMap::from([("project_path".to_owned(), "acme/new".to_owned())]);
    store.pin_origin(lease, "project/42", &first).await.unwrap();
    store
        .pin_origin(lease, "project/42", &second)
        .await
        .unwrap();
    assert_eq!(
        store.origins(lease.connection).await.unwrap()["project/42"],
        first
    );
}

async fn a_stream_remembers_when_it_was_last_read_to_its_end(store: &impl Subject) {
    let lease = lease(store).await;
    let end = |stream, state, detail| StreamEnd {
        stream,
        state,
        detail,
    };
    let first = [
        end("42/issues", "complete", ""),
        end("42/Notes", "reading", ""),
    ];
    store.end_streams(lease, &first).await.unwrap();
    store
        .end_streams(lease, &[end("42/issues", "failed", "503")])
        .await
        .unwrap();
    let both = [
        end("43/issues", "complete", ""),
        end("43/issues", "off", "403"),
    ];
    store.end_streams(lease, &both).await.unwrap();
    let streams = store.streams(lease.connection).await.unwrap();
    let seen: Vec<_> = streams
        .iter()
        .map(|row| {
            (
                row.stream.as_str(),
                row.state.as_str(),
                row.detail.as_str(),
                row.complete_at.is_some(),
            )
        })
        .collect();
    let expected = [
        ("42/Notes", "reading", "", false),
        ("42/issues", "failed", "503", true),
        ("43/issues", "off", "403", true),
    ];
    assert_eq!(seen, expected);
}

async fn the_list_of_connections_says_what_each_holds(store: &impl Subject) {
    let lease = lease(store).await;
    store.claim("Another", "test", TTL).await.unwrap();
    let mut issue = version("gl:issue:42/1", 1, "a", "");
    issue.event_type = "issue".into();
    let page = [
        issue,
        version("gl:note:42/1", 1, "a", ""),
        version("gl:note:42/2", 1, "a", ""),
    ];
    store.begin(lease, &page).await.unwrap();
    let fates = [
        stored("gl:issue:42/1", 1, "evt_1"),
        stored("gl:note:42/1", 1, "evt_2"),
        refused("gl:note:42/2", 1),
    ];
    store
        .settle(lease, &fates, &[letter("gl:note:42/2", "422")])
        .await
        .unwrap();
    store
        .retract(lease, &["gl:note:42/1".into()])
        .await
        .unwrap();
    store.finish_run(lease, r#"{"run":1}"#).await.unwrap();
    store.finish_run(lease, r#"{"run":2}"#).await.unwrap();
    let rows = store.connections().await.unwrap();
    assert_eq!(
        rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(),
        ["Another", "gitlab"]
    );
    assert!(rows[0].live.is_empty() && rows[0].last_run.is_none());
    let row = &rows[1];
    assert_eq!(
        (row.id, row.dead_letters, row.obsolete),
        (lease.connection, 1, 1)
    );
    assert_eq!(row.live, BTreeMap::from([("issue".to_owned(), 1)]));
    assert_eq!(row.last_run.as_ref().unwrap().1, r#"{"run":2}"#);
    assert_eq!(row.last_reconcile, None);
}

async fn a_receipt_that_is_no_json_is_refused(store: &impl Subject) {
    let lease = lease(store).await;
    assert!(store.finish_run(lease, "done").await.is_err());
    assert!(store.connections().await.unwrap()[0].last_run.is_none());
}

async fn nothing_is_left_to_sync(store: &impl Subject) {
    lease(store).await;
    store.sync().await.unwrap();
}

async fn a_pass_is_gone_on_with_until_it_ends_rests_too_long_or_is_another(store: &impl Subject) {
    const DAY: Duration = Duration::from_secs(86_400);
    let lease = lease(store).await;
    let other = store.claim("Another", "test", TTL).await.unwrap();
    let compared = async |mark, rest| store.go_on_with_pass(lease, mark, rest).await.unwrap();
    assert!(compared("one", DAY).await.is_empty());
    for streams in [
        &["42/issues", "42/Notes\0"][..],
        &["42/issues", "41/issues", "41/issues"],
        &[],
    ] {
        store.add_to_pass(lease, "one", streams).await.unwrap();
    }
    store
        .add_to_pass(other, "one", &["7/issues"])
        .await
        .unwrap();
    let all = ["41/issues", "42/Notes\0", "42/issues"];
    assert_eq!(compared("one", DAY).await, all);
    assert_eq!(compared("one", DAY).await, all, "looking changes nothing");

    assert!(compared("two", DAY).await.is_empty());
    assert!(
        compared("one", DAY).await.is_empty(),
        "what another pass pushed out is gone"
    );

    store
        .add_to_pass(lease, "two", &["42/issues"])
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(compared("two", Duration::from_millis(200)).await.is_empty());
    assert!(compared("two", DAY).await.is_empty());

    store
        .add_to_pass(lease, "two", &["42/issues"])
        .await
        .unwrap();
    store.end_pass(lease).await.unwrap();
    assert!(compared("two", DAY).await.is_empty());
    let others = store.go_on_with_pass(other, "one", DAY).await.unwrap();
    assert_eq!(others, ["7/issues"]);
}
