//! What owners create, change and delete.

use super::*;

pub(super) async fn a_tenant_is_changed_by_who_has_seen_its_latest_version(on: Subject) {
    let platform = &on.platform;
    platform.ping().await.unwrap();
    let tenant = platform
        .create_tenant("acme", &Caps::default())
        .await
        .unwrap();
    assert_eq!((tenant.version, &*tenant.name), (1, "acme"));
    assert_eq!(platform.tenant(&tenant.id).await.unwrap(), tenant);
    let again = platform.create_tenant("acme", &Caps::default()).await;
    assert!(matches!(again, Err(PlatformError::Taken("tenant"))));
    let caps = Caps {
        concurrent_runs: Some(7),
        ..Caps::default()
    };
    let changed = platform
        .update_tenant(&tenant.id, 1, None, Some(&caps))
        .await
        .unwrap();
    assert_eq!((changed.version, &*changed.name), (2, "acme"));
    assert_eq!(changed.caps, caps);
    let late = platform
        .update_tenant(&tenant.id, 1, Some("other"), None)
        .await;
    assert!(matches!(late, Err(PlatformError::Conflict { current: 2 })));
    let other = on.tenant("other").await;
    let taken = platform
        .update_tenant(&other.id, 1, Some("acme"), None)
        .await;
    assert!(matches!(taken, Err(PlatformError::Taken("tenant"))));
    assert!(is_missing(platform.tenant("nobody").await));
    assert!(is_missing(
        platform.update_tenant("nobody", 1, None, None).await
    ));
}

pub(super) async fn a_tenant_goes_when_its_connections_are_gone_and_takes_its_keys_and_components(
    on: Subject,
) {
    let platform = &on.platform;
    let tenant = on.tenant("acme").await;
    let connection = on.connection(&tenant, "gitlab").await;
    let own = component(Some(&tenant.id), OTHER_DIGEST);
    platform.put_component(&own, b"own").await.unwrap();
    let key = key("k1", Some(&tenant.id));
    platform.create_key(&key, None).await.unwrap();
    let error = platform.delete_tenant(&tenant.id).await.unwrap_err();
    assert!(matches!(error, PlatformError::InUse(_)), "{error}");
    platform
        .delete_connection(None, &connection.id)
        .await
        .unwrap();
    platform.delete_tenant(&tenant.id).await.unwrap();
    assert!(is_missing(platform.tenant(&tenant.id).await));
    assert_eq!(platform.valid_key("k1").await.unwrap(), None);
    assert!(is_missing(platform.component_bytes(OTHER_DIGEST).await));
    assert_eq!(platform.component_bytes(DIGEST).await.unwrap(), b"wasm");
    assert!(is_missing(platform.delete_tenant(&tenant.id).await));
}

fn key(id: &str, tenant: Option<&str>) -> ApiKey {
    ApiKey {
        id: id.into(),
        tenant: tenant.map(Into::into),
        name: "ci".into(),
        digest: "d".repeat(64),
        scopes: vec!["read".into()],
        created_at: String::new(),
        expires_at: None,
        revoked_at: None,
    }
}

pub(super) async fn a_key_is_valid_until_it_expires_or_is_revoked(on: Subject) {
    let platform = &on.platform;
    let tenant = on.tenant("acme").await;
    let created = platform
        .create_key(&key("k1", Some(&tenant.id)), Some(HOUR))
        .await
        .unwrap();
    assert!(created.expires_at.is_some());
    assert_eq!(platform.valid_key("k1").await.unwrap(), Some(created));
    let again = platform.create_key(&key("k1", None), None).await;
    assert!(matches!(again, Err(PlatformError::Taken("key"))));
    assert!(is_missing(
        platform.create_key(&key("k2", Some("nobody")), None).await
    ));
    let lasting = platform.create_key(&key("k3", None), None).await.unwrap();
    assert_eq!((lasting.expires_at, lasting.tenant), (None, None));
    on.sql("UPDATE api_keys SET expires_at = 1 WHERE id = 'k1'")
        .await;
    assert_eq!(platform.valid_key("k1").await.unwrap(), None);
    assert!(is_missing(
        platform.revoke_key(Some(&tenant.id), "k3").await
    ));
    platform.revoke_key(None, "k3").await.unwrap();
    let revoked_at = platform.keys(None, &first(9)).await.unwrap()[0]
        .revoked_at
        .clone();
    assert!(revoked_at.is_some());
    platform.revoke_key(None, "k3").await.unwrap();
    let keys = platform.keys(None, &first(9)).await.unwrap();
    assert_eq!((keys.len(), &keys[0].revoked_at), (1, &revoked_at));
    assert_eq!(platform.valid_key("k3").await.unwrap(), None);
}

pub(super) async fn lists_come_in_pages_behind_the_last_id(on: Subject) {
    let mut all = Vec::new();
    for name in ["a", "b", "c"] {
        all.push(on.tenant(name).await);
    }
    let page = on.platform.tenants(&first(2)).await.unwrap();
    assert_eq!(page, all[..2]);
    let behind = Page {
        after: Some(page[1].id.clone()),
        most: 2,
    };
    assert_eq!(on.platform.tenants(&behind).await.unwrap(), all[2..]);
    let mut connections = Vec::new();
    for (tenant, name) in [(0, "x"), (1, "x"), (0, "y")] {
        connections.push(on.connection(&all[tenant], name).await.id);
    }
    let names = async |tenant: Option<&str>, page: Page| {
        let found = on.platform.connections(tenant, &page).await.unwrap();
        found.into_iter().map(|one| one.id).collect::<Vec<_>>()
    };
    assert_eq!(names(None, first(9)).await, connections);
    let behind = Page {
        after: Some(connections[0].clone()),
        most: 9,
    };
    assert_eq!(
        names(Some(&all[0].id), behind).await,
        [connections[2].clone()]
    );
}

pub(super) async fn a_component_is_the_tenants_own_or_the_operators(on: Subject) {
    let platform = &on.platform;
    let tenant = on.tenant("acme").await;
    let stranger = on.tenant("stranger").await;
    on.component(DIGEST).await;
    let own = component(Some(&tenant.id), OTHER_DIGEST);
    let put = platform.put_component(&own, b"mine").await.unwrap();
    assert_eq!(put.bytes, 4);
    let mut reported = own.clone();
    reported.admitted = false;
    reported.report = json!({"findings": ["imports a clock"]});
    let again = platform.put_component(&reported, b"mine").await.unwrap();
    assert_eq!(
        (again.admitted, &again.created_at),
        (false, &put.created_at)
    );
    let seen = async |tenant: Option<&str>| {
        let found = platform.components(tenant, &first(9)).await.unwrap();
        found.into_iter().map(|one| one.digest).collect::<Vec<_>>()
    };
    assert_eq!(seen(Some(&tenant.id)).await, [DIGEST, OTHER_DIGEST]);
    assert_eq!(seen(Some(&stranger.id)).await, [DIGEST]);
    assert_eq!(seen(None).await, [DIGEST]);
    assert!(is_missing(
        platform.component(Some(&stranger.id), OTHER_DIGEST).await
    ));
    assert!(is_missing(platform.component(None, OTHER_DIGEST).await));
    // The same file, uploaded by a tenant, is its own from then on.
    let same = component(Some(&tenant.id), DIGEST);
    platform.put_component(&same, b"wasm").await.unwrap();
    let found = platform.component(Some(&tenant.id), DIGEST).await.unwrap();
    assert_eq!(found.tenant.as_deref(), Some(&*tenant.id));
    assert_eq!(seen(Some(&tenant.id)).await, [DIGEST, OTHER_DIGEST]);
    platform.delete_component(None, DIGEST).await.unwrap();
    assert_eq!(platform.component_bytes(DIGEST).await.unwrap(), b"wasm");
    platform
        .delete_component(Some(&tenant.id), DIGEST)
        .await
        .unwrap();
    assert!(is_missing(platform.component_bytes(DIGEST).await));
}

pub(super) async fn a_component_stays_while_a_chain_uses_it(on: Subject) {
    let platform = &on.platform;
    let tenant = on.tenant("acme").await;
    let connection = on.connection(&tenant, "gitlab").await;
    on.component(OTHER_DIGEST).await;
    platform
        .set_chain(None, &connection.id, None, &chain(OTHER_DIGEST), 60, "cli")
        .await
        .unwrap();
    for digest in [DIGEST, OTHER_DIGEST] {
        let error = platform.delete_component(None, digest).await.unwrap_err();
        assert!(matches!(error, PlatformError::InUse(_)), "{error}");
    }
    platform
        .delete_connection(None, &connection.id)
        .await
        .unwrap();
    platform.delete_component(None, DIGEST).await.unwrap();
    assert!(is_missing(platform.delete_component(None, DIGEST).await));
}

pub(super) async fn a_tenant_stores_as_many_components_as_it_may(on: Subject) {
    let platform = &on.platform;
    let caps = Caps {
        components: Some(1),
        ..Caps::default()
    };
    let tenant = platform.create_tenant("acme", &caps).await.unwrap();
    let put = async |owner: Option<&str>, digest: &str| {
        let component = component(owner, digest);
        platform.put_component(&component, b"wasm").await
    };
    put(Some(&tenant.id), DIGEST).await.unwrap();
    put(Some(&tenant.id), DIGEST).await.unwrap();
    let error = put(Some(&tenant.id), OTHER_DIGEST).await.unwrap_err();
    assert!(matches!(error, PlatformError::OverCap { most: 1, .. }));
    assert!(is_missing(platform.component_bytes(OTHER_DIGEST).await));
    put(None, OTHER_DIGEST).await.unwrap();
    let delete = platform.delete_component(Some(&tenant.id), DIGEST).await;
    delete.unwrap();
    put(Some(&tenant.id), OTHER_DIGEST).await.unwrap();
}

pub(super) async fn a_connection_needs_a_tenant_with_room_and_components_that_exist(on: Subject) {
    let platform = &on.platform;
    let caps = Caps {
        connections: Some(1),
        ..Caps::default()
    };
    let tenant = platform.create_tenant("acme", &caps).await.unwrap();
    let wanted = connection(&tenant.id, "gitlab");
    assert!(is_missing(platform.create_connection(&wanted, "cli").await));
    on.component(DIGEST).await;
    let nobodys = connection("nobody", "gitlab");
    assert!(is_missing(
        platform.create_connection(&nobodys, "cli").await
    ));
    let created = platform.create_connection(&wanted, "cli").await.unwrap();
    assert!(created.due_at.is_some() && created.ledger > 0 && created.version == 1);
    assert_eq!((&created.id, &created.sealed), (&wanted.id, &wanted.sealed));
    let found = platform.connection(Some(&tenant.id), &wanted.id).await;
    assert_eq!(found.unwrap(), created);
    assert!(is_missing(
        platform.connection(Some("nobody"), &wanted.id).await
    ));
    let error = platform
        .create_connection(&connection(&tenant.id, "second"), "cli")
        .await
        .unwrap_err();
    let over = PlatformError::OverCap {
        what: "connections",
        most: 1,
    };
    assert_eq!(error.to_string(), over.to_string());
    let roomy = on.tenant("roomy").await;
    on.connection(&roomy, "gitlab").await;
    let same = platform
        .create_connection(&connection(&roomy.id, "gitlab"), "cli")
        .await;
    assert!(matches!(same, Err(PlatformError::Taken("connection"))));
}

pub(super) async fn what_an_owner_changes_raises_the_version_and_what_a_run_changes_does_not(
    on: Subject,
) {
    let platform = &on.platform;
    let (created, claim) = on.claimed().await;
    platform
        .set_hook_plan(claim.lease, &json!({"hooks": 1}))
        .await
        .unwrap();
    on.release(&claim).await;
    let ran = platform.connection(None, &created.id).await.unwrap();
    assert_eq!(ran.version, 1);
    assert_eq!(ran.hook_plan, Some(json!({"hooks": 1})));
    let change = ConnectionChange {
        name: Some("renamed".into()),
        config: Some(json!({"url": "https://other.example"})),
        sealed: Some(BTreeMap::from([
            ("token".into(), String::new()),
            ("key".into(), "new".into()),
        ])),
        ..ConnectionChange::default()
    };
    let changed = platform
        .update_connection(Some(&created.tenant), &created.id, Some(1), &change)
        .await
        .unwrap();
    assert_eq!((changed.version, &*changed.name), (2, "renamed"));
    assert_eq!(
        changed.sealed,
        BTreeMap::from([("key".into(), "new".into())])
    );
    assert_eq!(changed.due_at, ran.due_at);
    let late = platform
        .update_connection(None, &created.id, Some(1), &change)
        .await;
    assert!(matches!(late, Err(PlatformError::Conflict { current: 2 })));
    let strange = platform
        .update_connection(Some("nobody"), &created.id, None, &change)
        .await;
    assert!(is_missing(strange));
    let wake = ConnectionChange {
        wake: true,
        ..ConnectionChange::default()
    };
    let woken = platform
        .update_connection(None, &created.id, None, &wake)
        .await
        .unwrap();
    assert_eq!(woken.version, 2);
    assert!(woken.due_at < ran.due_at);
    let tenant = platform.tenant(&created.tenant).await.unwrap();
    on.connection(&tenant, "gitlab").await;
    let taken = ConnectionChange {
        name: Some("gitlab".into()),
        ..ConnectionChange::default()
    };
    let taken = platform
        .update_connection(None, &created.id, None, &taken)
        .await;
    assert!(matches!(taken, Err(PlatformError::Taken("connection"))));
}

pub(super) fn into(state: ConnectionState) -> ConnectionChange {
    ConnectionChange {
        state: Some((state, Some("because".into()))),
        ..ConnectionChange::default()
    }
}

pub(super) async fn a_connection_that_leaves_does_not_come_back(on: Subject) {
    let (connection, claim) = on.claimed().await;
    on.release(&claim).await;
    let left = on
        .platform
        .update_connection(None, &connection.id, None, &into(ConnectionState::Leaving))
        .await
        .unwrap();
    assert_eq!(left.state, ConnectionState::Leaving);
    assert_eq!(left.state_reason.as_deref(), Some("because"));
    let back = on
        .platform
        .update_connection(None, &connection.id, None, &into(ConnectionState::Active))
        .await;
    assert!(matches!(back, Err(PlatformError::InUse(_))));
    // It is due at once, whatever its schedule said.
    assert_eq!(on.claim().await.unwrap().connection.id, connection.id);
}

pub(super) async fn chains_are_kept_and_the_newest_is_current(on: Subject) {
    let platform = &on.platform;
    let tenant = on.tenant("acme").await;
    let connection = on.connection(&tenant, "gitlab").await;
    let unknown = platform
        .set_chain(None, &connection.id, None, &chain(OTHER_DIGEST), 60, "k1")
        .await;
    assert!(is_missing(unknown));
    on.component(OTHER_DIGEST).await;
    let with_mapper = Chain {
        connector: DIGEST.into(),
        mappers: vec![MapperUse {
            digest: OTHER_DIGEST.into(),
            settings: json!({"drop": "bots"}),
        }],
    };
    let set = platform
        .set_chain(
            Some(&tenant.id),
            &connection.id,
            Some(1),
            &with_mapper,
            60,
            "k1",
        )
        .await
        .unwrap();
    let late = platform
        .set_chain(None, &connection.id, Some(1), &chain(DIGEST), 60, "k2")
        .await;
    assert!(matches!(late, Err(PlatformError::Conflict { current: 2 })));
    assert_eq!((set.number, set.current, &*set.by), (2, true, "k1"));
    let kept = platform.chains(None, &connection.id).await.unwrap();
    assert_eq!(kept[0], set);
    assert_eq!((kept[1].number, kept[1].current), (1, false));
    assert_eq!((kept.len(), &*kept[1].by), (2, "cli"));
    let now = platform.connection(None, &connection.id).await.unwrap();
    assert_eq!((now.chain, now.version), (with_mapper, 2));
    assert!(is_missing(
        platform.chains(Some("nobody"), &connection.id).await
    ));
}

pub(super) async fn sealed_fields_are_replaced_one_by_one_and_only_where_they_are_what_they_were(
    on: Subject,
) {
    let platform = &on.platform;
    let tenant = on.tenant("acme").await;
    let one = on.connection(&tenant, "one").await;
    on.component(DIGEST).await;
    let mut without = connection(&tenant.id, "without");
    without.sealed.clear();
    platform.create_connection(&without, "cli").await.unwrap();
    let found = platform.sealed(&first(1)).await.unwrap();
    let expected = (
        one.id.clone(),
        tenant.id.clone(),
        "token".to_owned(),
        "sealed".to_owned(),
    );
    assert_eq!(found, [expected]);
    let behind = Page {
        after: Some(one.id.clone()),
        most: 9,
    };
    assert!(platform.sealed(&behind).await.unwrap().is_empty());
    let reseal = async |field, was, now| platform.reseal(&one.id, field, was, now).await.unwrap();
    assert!(!reseal("token", "other", "new").await);
    assert!(!reseal("unknown", "sealed", "new").await);
    assert!(reseal("token", "sealed", "new").await);
    assert!(!reseal("token", "sealed", "new").await);
    let now = platform.connection(None, &one.id).await.unwrap();
    assert_eq!((&*now.sealed["token"], now.version), ("new", 1));
}

/// Everything that a connection can have anywhere.
async fn fill(on: &Subject, claim: &Claim) {
    let lease = claim.lease;
    let ledger = &on.ledger;
    let versions: Vec<_> = (0..1200)
        .map(|number| crate::ledger::Begun {
            source_id: format!("gl:note:42/{number}").into(),
            record: format!("gl:note:42/{number}").into(),
            event_type: "note".into(),
            stream: "42/issues".into(),
            root: "".into(),
            appends: false,
            scope: "s".into(),
            digest: "d".into(),
            generation: 1,
            keys: vec!["a".into(), "b".into()],
            preceded_by: Vec::new().into(),
        })
        .collect();
    ledger.begin(lease, &versions).await.unwrap();
    let dead = crate::ledger::DeadLetter {
        source_id: "gl:note:42/1".into(),
        stream: "42/issues".into(),
        reason: "422".into(),
        payload: "{}".into(),
    };
    ledger.settle(lease, &[], &[dead]).await.unwrap();
    ledger
        .pin_origin(lease, "project/42", &BTreeMap::new())
        .await
        .unwrap();
    ledger.rebuild(lease, "s", &[]).await.unwrap();
    let recorded = crate::ledger::Recorded {
        source_id: "gl:note:42/1".into(),
        stream: "42/issues".into(),
        origin: "project/42".into(),
        digest: "d".into(),
        body: b"body".to_vec(),
    };
    ledger.keep_recorded(lease, &[recorded]).await.unwrap();
    let end = crate::ledger::StreamEnd {
        stream: "42/issues",
        state: "complete",
        detail: "",
    };
    ledger.end_streams(lease, &[end]).await.unwrap();
    ledger.finish_run(lease, "{}").await.unwrap();
    ledger
        .add_to_pass(lease, "all", &["42/issues"])
        .await
        .unwrap();
    let cursor = ("42/issues".to_owned(), Some("1".to_owned()));
    on.platform
        .move_cursors(lease, &[cursor], None)
        .await
        .unwrap();
    let arriving: Vec<_> = (0..600)
        .map(|number| delivery(lease.connection, &number.to_string()))
        .collect();
    on.platform.receive(&arriving).await.unwrap();
}

pub(super) async fn a_deleted_connection_leaves_nothing_but_its_numbers(on: Subject) {
    let platform = &on.platform;
    let (connection, claim) = on.claimed().await;
    fill(&on, &claim).await;
    let used = Usage {
        cpu_ms: 5,
        ..Usage::default()
    };
    platform
        .count_run(claim.lease, &claim.run, &used)
        .await
        .unwrap();
    let notes = ["letters", "made_for"].map(|kind| format!("{kind}.{}", connection.id));
    for note in &notes {
        platform.set_note(note, "1", true).await.unwrap();
    }
    let id = claim.lease.connection;
    let tables = [
        "entries",
        "events",
        "recorded",
        "dead_letters",
        "runs",
        "streams",
        "passes",
        "origins",
        "scopes",
        "deliveries",
        "cursors",
    ];
    for table in tables {
        let sql = format!("SELECT count(*) FROM {table} WHERE connection = {id}");
        assert!(on.number(&sql).await > 0, "{table} was empty before");
    }
    assert!(is_missing(
        platform
            .delete_connection(Some("nobody"), &connection.id)
            .await
    ));
    platform
        .delete_connection(Some(&connection.tenant), &connection.id)
        .await
        .unwrap();
    for table in tables {
        let sql = format!("SELECT count(*) FROM {table} WHERE connection = {id}");
        assert_eq!(on.number(&sql).await, 0, "{table} has rows left");
    }
    for note in &notes {
        assert_eq!(platform.note(note).await.unwrap(), None, "{note}");
    }
    let sql = format!("SELECT count(*) FROM connections WHERE id = {id}");
    assert_eq!(on.number(&sql).await, 0);
    assert!(is_missing(platform.connection(None, &connection.id).await));
    assert!(is_missing(
        platform.delete_connection(None, &connection.id).await
    ));
    assert!(is_fenced(
        platform.count_run(claim.lease, &claim.run, &used).await
    ));
    let usage = platform.usage(&connection.tenant, HOUR).await.unwrap();
    assert_eq!((usage.runs, usage.cpu_ms), (1, 5));
    let runs = platform.runs(&connection.id, &first(9)).await.unwrap();
    assert_eq!(&*runs[0].outcome, "interrupted");
    let received = platform.receive(&[delivery(id, "late")]).await.unwrap();
    assert_eq!(received, [(String::new(), false)]);
}

pub(super) async fn a_forgotten_ledger_leaves_what_cortexdb_cannot_tell(on: Subject) {
    let platform = &on.platform;
    let (connection, claim) = on.claimed().await;
    fill(&on, &claim).await;
    let number = claim.lease.connection;
    platform.forget_ledgers().await.unwrap();
    let rows = async |table: &str| {
        let sql = format!("SELECT count(*) FROM {table} WHERE connection = {number}");
        on.number(&sql).await
    };
    for table in ["entries", "events", "scopes", "passes"] {
        assert_eq!(rows(table).await, 0, "{table} has rows left");
    }
    for table in [
        "recorded",
        "dead_letters",
        "streams",
        "origins",
        "cursors",
        "deliveries",
    ] {
        assert!(rows(table).await > 0, "{table} is empty");
    }
    // Whoever held it has read what is gone.
    let used = Usage::default();
    let counted = platform.count_run(claim.lease, &claim.run, &used).await;
    assert!(is_fenced(counted));
    let again = on.claim().await.unwrap();
    assert_eq!(again.connection.id, connection.id);
}
