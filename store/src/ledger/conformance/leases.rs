//! Who may write.

use super::*;

promises! {
    a_second_process_is_refused_while_the_first_holds_the_lease,
    whoever_was_taken_over_cannot_commit_any_more,
    whoever_was_taken_over_can_do_nothing_at_all,
    a_lease_that_ran_out_is_taken_over_and_one_that_was_renewed_is_not,
    a_renewal_that_comes_after_the_release_holds_nothing,
    the_same_owner_takes_its_lease_again_with_a_new_epoch,
    of_two_claimants_at_once_one_wins,
    two_connections_settle_at_the_same_time,
    a_lease_of_no_connection_is_fenced,
}

async fn a_second_process_is_refused_while_the_first_holds_the_lease(store: &impl Subject) {
    lease(store).await;
    let error = store.claim("gitlab", "other", TTL).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Held { ref owner, .. } if owner == "test"),
        "{error}"
    );
}

async fn whoever_was_taken_over_cannot_commit_any_more(store: &impl Subject) {
    let old = lease(store).await;
    store.release(old).await.unwrap();
    store.claim("gitlab", "new", TTL).await.unwrap();
    let error = store
        .begin(old, &[version("gl:note:42/1", 1, "a", "")])
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Fenced), "{error}");
    assert!(
        store
            .entries(old.connection, &["gl:note:42/1"])
            .await
            .unwrap()
            .is_empty()
    );
}

async fn whoever_was_taken_over_can_do_nothing_at_all(store: &impl Subject) {
    let old = lease(store).await;
    store
        .begin(old, &[version("gl:note:42/1", 1, "a", "")])
        .await
        .unwrap();
    store.release(old).await.unwrap();
    let new = store.claim("gitlab", "new", TTL).await.unwrap();
    let end = StreamEnd {
        stream: "42/issues",
        state: "complete",
        detail: "",
    };
    let id = "gl:note:42/1";
    let results = [
        store.confirm(old).await,
        store.renew(old, TTL).await,
        store.release(old).await,
        store.pin_origin(old, "project/42", &BTreeMap::new()).await,
        store.rebuild(old, "org:acme", &[]).await,
        store.begin(old, &[version(id, 2, "b", "")]).await,
        store
            .settle(old, &[stored(id, 1, "evt_1")], &[letter(id, "422")])
            .await,
        store.retract(old, &[id.into()]).await.map(drop),
        store.leave_out(old, &[left(id, id)]).await,
        store.keep_recorded(old, &[recorded(1, 1)]).await,
        store.trim_recorded(old, 0).await.map(drop),
        store.set_mapped_by(old, "sha256:1").await,
        store.forgotten(old, &[1]).await,
        store.kept(old, &[1]).await,
        store.revive(old, &[id]).await,
        store.drop_letters(old, &[id]).await.map(drop),
        store.end_streams(old, &[end]).await,
        store.finish_run(old, "{}").await,
        store.go_on_with_pass(old, "all", TTL).await.map(drop),
        store.add_to_pass(old, "all", &["42/issues"]).await,
        store.end_pass(old).await,
    ];
    for (place, result) in results.into_iter().enumerate() {
        assert!(
            matches!(result, Err(StoreError::Fenced)),
            "{place}: {result:?}"
        );
    }
    let known = entry(store, new, id).await;
    assert_eq!((known.status, known.generation), (Status::Begun, 1));
    assert!(store.origins(new.connection).await.unwrap().is_empty());
    assert!(store.known_scopes(new.connection).await.unwrap().is_empty());
    assert!(
        store
            .dead_letters(new.connection, None)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(store.streams(new.connection).await.unwrap().is_empty());
    assert_eq!(store.recorded_bytes(new.connection).await.unwrap(), 0);
    assert_eq!(store.mapped_by(new.connection).await.unwrap(), "");
    // The one that took over is not disturbed.
    store.confirm(new).await.unwrap();
    store.renew(new, TTL).await.unwrap();
}

async fn a_lease_that_ran_out_is_taken_over_and_one_that_was_renewed_is_not(store: &impl Subject) {
    let short = Duration::from_millis(300);
    let first = store.claim("gitlab", "first", short).await.unwrap();
    store.renew(first, TTL).await.unwrap();
    tokio::time::sleep(short).await;
    let held = store.claim("gitlab", "second", TTL).await.unwrap_err();
    assert!(
        matches!(
            held,
            StoreError::Held {
                seconds: 1..=30,
                ..
            }
        ),
        "{held}"
    );
    store.renew(first, Duration::from_millis(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let second = store.claim("gitlab", "second", TTL).await.unwrap();
    assert_eq!(second.connection, first.connection);
    assert!(second.epoch > first.epoch);
    assert!(matches!(
        store.renew(first, TTL).await,
        Err(StoreError::Fenced)
    ));
}

async fn a_renewal_that_comes_after_the_release_holds_nothing(store: &impl Subject) {
    let first = store.claim("gitlab", "first", TTL).await.unwrap();
    store.release(first).await.unwrap();
    store.renew(first, TTL).await.unwrap();
    store.claim("gitlab", "second", TTL).await.unwrap();
}

async fn the_same_owner_takes_its_lease_again_with_a_new_epoch(store: &impl Subject) {
    let first = lease(store).await;
    let again = lease(store).await;
    assert_eq!(
        again,
        Lease {
            epoch: first.epoch + 1,
            ..first
        }
    );
    assert!(matches!(
        store.begin(first, &[]).await,
        Err(StoreError::Fenced)
    ));
    store.begin(again, &[]).await.unwrap();
}

async fn of_two_claimants_at_once_one_wins(store: &impl Subject) {
    for round in 0..10 {
        let name = format!("gitlab {round}");
        let claims = (0..4).map(|claimant| {
            let (store, name) = (store.clone(), name.clone());
            tokio::spawn(async move { store.claim(&name, &format!("owner {claimant}"), TTL).await })
        });
        let mut won = 0;
        for claim in claims.collect::<Vec<_>>() {
            match claim.await.unwrap() {
                Ok(_) => won += 1,
                Err(StoreError::Held { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(won, 1);
    }
}

async fn two_connections_settle_at_the_same_time(store: &impl Subject) {
    let work = async |name: &'static str, store: _| {
        let store: &dyn Store = &store;
        let lease = store.claim(name, "test", TTL).await.unwrap();
        for page in 0..20 {
            let ids: Vec<String> = (0..10)
                .map(|row| format!("gl:note:42/{page}.{row}"))
                .collect();
            let versions: Vec<_> = ids.iter().map(|id| version(id, 1, "a", "")).collect();
            store.begin(lease, &versions).await.unwrap();
            let fates: Vec<_> = ids
                .iter()
                .map(|id| stored(id, 1, &format!("{name} {id}")))
                .collect();
            store.settle(lease, &fates, &[]).await.unwrap();
        }
        lease
    };
    let (one, other) = tokio::join!(work("one", store.clone()), work("other", store.clone()));
    for (lease, name) in [(one, "one"), (other, "other")] {
        let held = store.held_by_stream(lease.connection).await.unwrap();
        assert_eq!(held, [("42/issues".to_owned(), 200)]);
        let known = entry(store, lease, "gl:note:42/7.3").await;
        assert_eq!(known.event_id.unwrap(), format!("{name} gl:note:42/7.3"));
    }
}

async fn a_lease_of_no_connection_is_fenced(store: &impl Subject) {
    let lease = lease(store).await;
    let nobodys = Lease {
        connection: lease.connection + 1,
        ..lease
    };
    assert!(matches!(
        store.begin(nobodys, &[]).await,
        Err(StoreError::Fenced)
    ));
}
