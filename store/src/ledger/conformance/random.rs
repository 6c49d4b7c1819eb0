//! Operations that nobody thought of, through both databases, with every answer compared.
//!
//! The two are written in different SQL, so each is the other's model. Pages name records twice, settle what was never begun and let go of what
//! was never refused. A sequence that fails is kept in `proptest-regressions/` and tried first from then on.

use std::sync::atomic::{AtomicU32, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// Records that stand for all: threads, parts, history, and names that a dictionary would put into another order.
const IDS: [&str; 10] = [
    "gl:issue:42/1",
    "gl:issue:42/1#a",
    "gl:issue:42/1#B",
    "gl:issue:42/2",
    "gl:note:42/3",
    "gl:note:42/-4",
    "gl:note:42/É",
    "gl:pipeline:42/5",
    "gl:release:43/v1",
    "gl:release:43/V2\0",
];

fn kind(id: &str) -> &str {
    id.split(':').nth(1).unwrap()
}

fn record(id: &str) -> &str {
    id.split('#').next().unwrap()
}

fn stream(id: &str) -> &'static str {
    match kind(id) {
        "release" => "43/releases",
        "pipeline" => "42/pipelines",
        _ => "42/issues",
    }
}

fn root(id: &str) -> &'static str {
    match id {
        "gl:note:42/3" | "gl:note:42/É" => "gl:issue:42/1",
        "gl:note:42/-4" => "gl:issue:42/2",
        _ => "",
    }
}

#[derive(Debug, Clone)]
enum Operation {
    Begin(Vec<(usize, u64, usize)>),
    Settle(Vec<(usize, u64, usize)>, Vec<usize>),
    Retract(Vec<usize>),
    LeaveOut(Vec<usize>),
    Revive(Vec<usize>),
    DropLetters(Vec<usize>),
    Forgotten(Vec<Index>),
    Kept(Vec<Index>),
    Record(Vec<(usize, usize)>),
    Trim(u64),
    Rebuild(Vec<(usize, u64, bool)>),
    EndStreams(Vec<(usize, bool)>),
    FinishRun(bool),
    PinOrigin(usize),
    SetMappedBy(usize),
    TakeOver,
}

fn operation() -> impl Strategy<Value = Operation> {
    let ids = || vec(0..IDS.len(), 0..4);
    prop_oneof![
        6 => vec((0..IDS.len(), 1..5_u64, 1..4_usize), 0..6).prop_map(Operation::Begin),
        6 => (vec((0..IDS.len(), 1..5_u64, 0..4_usize), 0..6), ids()).prop_map(|(fates, dead)| Operation::Settle(fates, dead)),
        2 => ids().prop_map(Operation::Retract),
        2 => ids().prop_map(Operation::LeaveOut),
        1 => ids().prop_map(Operation::Revive),
        1 => ids().prop_map(Operation::DropLetters),
        2 => vec(any::<Index>(), 0..3).prop_map(Operation::Forgotten),
        1 => vec(any::<Index>(), 0..3).prop_map(Operation::Kept),
        2 => vec((0..IDS.len(), 0..60_usize), 0..5).prop_map(Operation::Record),
        1 => (0..200_u64).prop_map(Operation::Trim),
        1 => vec((0..IDS.len(), 2..6_u64, any::<bool>()), 0..4).prop_map(Operation::Rebuild),
        1 => vec((0..IDS.len(), any::<bool>()), 0..4).prop_map(Operation::EndStreams),
        1 => any::<bool>().prop_map(Operation::FinishRun),
        1 => (0..3_usize).prop_map(Operation::PinOrigin),
        1 => (0..3_usize).prop_map(Operation::SetMappedBy),
        1 => Just(Operation::TakeOver),
    ]
}

/// Does it, and says what the store answered.
async fn apply(store: &dyn Store, lease: &mut Lease, name: &str, operation: &Operation) -> String {
    let names = |ids: &[usize]| ids.iter().map(|&id| IDS[id]).collect::<Vec<_>>();
    let lease_now = *lease;
    let done = match operation {
        Operation::Begin(page) => {
            let page: Vec<_> = page
                .iter()
                .map(|&(id, generation, fragments)| Begun {
                    source_id: IDS[id].into(),
                    record: record(IDS[id]).into(),
                    event_type: kind(IDS[id]).into(),
                    stream: stream(IDS[id]).into(),
                    root: root(IDS[id]).into(),
                    appends: kind(IDS[id]) == "pipeline",
                    scope: format!("scope {fragments}").into(),
                    digest: format!("digest {fragments}").into(),
                    generation,
                    keys: (0..fragments)
                        .map(|part| format!("{id}@{generation}.{part}").into())
                        .collect(),
                    preceded_by: (1..fragments).map(|part| format!("evt {part}")).collect(),
                })
                .collect();
            store.begin(lease_now, &page).await
        }
        Operation::Settle(fates, dead) => {
            let fates: Vec<_> = fates
                .iter()
                .map(|&(id, generation, fragments)| Settled {
                    source_id: IDS[id].into(),
                    generation,
                    event_ids: (0..fragments)
                        .map(|part| format!("evt {id} {generation} {part}").into())
                        .collect(),
                    appends: kind(IDS[id]) == "pipeline",
                })
                .collect();
            let dead: Vec<_> = dead
                .iter()
                .enumerate()
                .map(|(place, &id)| DeadLetter {
                    stream: stream(IDS[id]).into(),
                    payload: format!("{place}\0"),
                    ..letter(IDS[id], &place.to_string())
                })
                .collect();
            store.settle(lease_now, &fates, &dead).await
        }
        Operation::Retract(ids) => {
            let ids: Vec<String> = names(ids).into_iter().map(str::to_owned).collect();
            return answer(store.retract(lease_now, &ids).await);
        }
        Operation::LeaveOut(ids) => {
            let page: Vec<_> = names(ids)
                .into_iter()
                .map(|id| LeftOut {
                    event_type: kind(id).into(),
                    stream: stream(id).into(),
                    root: root(id).into(),
                    ..left(id, record(id))
                })
                .collect();
            store.leave_out(lease_now, &page).await
        }
        Operation::Revive(ids) => store.revive(lease_now, &names(ids)).await,
        Operation::DropLetters(ids) => {
            return answer(store.drop_letters(lease_now, &names(ids)).await);
        }
        Operation::Forgotten(picks) => {
            let rows = picked(store, lease_now, picks).await;
            store.forgotten(lease_now, &rows).await
        }
        Operation::Kept(picks) => {
            let rows = picked(store, lease_now, picks).await;
            store.kept(lease_now, &rows).await
        }
        Operation::Record(page) => {
            let page: Vec<_> = page
                .iter()
                .map(|&(id, size)| Recorded {
                    source_id: record(IDS[id]).into(),
                    stream: stream(IDS[id]).into(),
                    origin: "project/42".into(),
                    digest: size.to_string(),
                    body: vec![7; size],
                })
                .collect();
            store.keep_recorded(lease_now, &page).await
        }
        Operation::Trim(most) => return answer(store.trim_recorded(lease_now, *most).await),
        Operation::Rebuild(page) => {
            let page: Vec<_> = page
                .iter()
                .map(|&(id, generation, whole)| RebuiltEntry {
                    source_id: IDS[id].into(),
                    record: record(IDS[id]).into(),
                    event_type: kind(IDS[id]).into(),
                    root: root(IDS[id]).into(),
                    scope: "scope".into(),
                    digest: if whole { "digest" } else { "" }.into(),
                    generation,
                    status: if whole { Status::Live } else { Status::Begun },
                    event_id: whole.then(|| format!("evt {id} {generation} 0")),
                    events: [EventState::Live, EventState::Obsolete]
                        .into_iter()
                        .zip([generation, generation - 1])
                        .map(|(state, generation)| RebuiltEvent {
                            generation,
                            fragment: 0,
                            event_id: format!("evt {id} {generation} 0"),
                            state,
                        })
                        .collect(),
                })
                .collect();
            store.rebuild(lease_now, "scope", &page).await
        }
        Operation::EndStreams(ends) => {
            let ends: Vec<_> = ends
                .iter()
                .map(|&(id, complete)| StreamEnd {
                    stream: stream(IDS[id]),
                    state: if complete { "complete" } else { "failed" },
                    detail: if complete { "" } else { "words\0" },
                })
                .collect();
            store.end_streams(lease_now, &ends).await
        }
        Operation::FinishRun(reconciled) => {
            let receipt = format!("{{\"reconciled\":{reconciled}}}");
            store.finish_run(lease_now, &receipt).await
        }
        Operation::PinOrigin(which) => {
            let variables = BTreeMap::from([("path".to_owned(), format!("{which}\0"))]);
            let origin = format!("project/{}", which / 2);
            store.pin_origin(lease_now, &origin, &variables).await
        }
        Operation::SetMappedBy(which) => {
            store
                .set_mapped_by(lease_now, &format!("chain {which}"))
                .await
        }
        Operation::TakeOver => {
            *lease = store.claim(name, "test", TTL).await.unwrap();
            store.begin(lease_now, &[]).await
        }
    };
    answer(done)
}

fn answer<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Fenced) => "fenced".into(),
        other => format!("{:?}", other.unwrap()),
    }
}

async fn picked(store: &dyn Store, lease: Lease, picks: &[Index]) -> Vec<i64> {
    let rows = store.obsolete(lease.connection, 0, 100).await.unwrap();
    if rows.is_empty() {
        return Vec::new();
    }
    picks.iter().map(|pick| pick.get(&rows).row).collect()
}

/// All that the store says of a connection, without rows and times, which are its own.
async fn everything(store: &dyn Store, connection: i64, name: &str) -> Vec<String> {
    let mut all = Vec::new();
    let entries = store.entries(connection, &IDS).await.unwrap();
    for id in IDS {
        all.push(match entries.get(id) {
            Some(entry) => {
                let mut entry = entry.clone();
                let known = entry.begun_ago.take().is_some();
                format!("{id}: {entry:?} begun at a known time: {known}")
            }
            None => format!("{id}: unknown"),
        });
    }
    for event in store.obsolete(connection, 0, 100).await.unwrap() {
        let known = event.begun_ago.is_some();
        let event = Obsolete {
            row: 0,
            begun_ago: None,
            ..event
        };
        all.push(format!("{event:?} begun at a known time: {known}"));
    }
    let count = store.count_obsolete(connection).await.unwrap();
    all.push(format!("obsolete: {count}"));
    for (of, kind, after) in [
        ("42/issues", "issue", ""),
        ("42/issues", "note", ""),
        ("42/issues", "note", "gl:note:42/-4"),
        ("42/pipelines", "pipeline", ""),
        ("43/releases", "release", ""),
    ] {
        let held = store.held(connection, of, kind, after, 2).await.unwrap();
        all.push(format!("held in {of}, {kind} after {after}: {held:?}"));
    }
    for of in ["42/issues", "43/releases"] {
        let sorted =
            |ids: HashSet<String>| ids.into_iter().collect::<std::collections::BTreeSet<_>>();
        let out = sorted(store.left_out_in_stream(connection, of).await.unwrap());
        let refused = sorted(store.refused_in_stream(connection, of).await.unwrap());
        all.push(format!("{of} leaves out {out:?}, refused {refused:?}"));
    }
    let mut held = store.held_by_stream(connection).await.unwrap();
    held.sort();
    all.push(format!("held: {held:?}"));
    for kept in store.dead_letters(connection, None).await.unwrap() {
        all.push(format!("{:?} {}", kept.letter, kept.attempts));
    }
    let parts = store.parts(connection, &IDS).await.unwrap();
    for (record, mut parts) in parts.into_iter().collect::<BTreeMap<_, _>>() {
        parts.sort_by(|one, other| one.source_id.cmp(&other.source_id));
        all.push(format!("{record}: {parts:?}"));
    }
    for (_, record) in store.recorded(connection, 0, 100).await.unwrap() {
        all.push(format!("{record:?}"));
    }
    let bytes = store.recorded_bytes(connection).await.unwrap();
    let missing = store.not_recorded(connection).await.unwrap();
    all.push(format!("recorded: {bytes}, not: {missing}"));
    let origins: BTreeMap<_, _> = store
        .origins(connection)
        .await
        .unwrap()
        .into_iter()
        .collect();
    let scopes = store.known_scopes(connection).await.unwrap();
    let chain = store.mapped_by(connection).await.unwrap();
    all.push(format!("{origins:?} {scopes:?} {chain}"));
    for stream in store.streams(connection).await.unwrap() {
        let complete = stream.complete_at.is_some();
        all.push(format!(
            "{} {} {} {complete}",
            stream.stream, stream.state, stream.detail
        ));
    }
    let reconciled = store.last_reconcile(connection).await.unwrap().is_some();
    all.push(format!("reconciled: {reconciled}"));
    let rows = store.connections().await.unwrap();
    let row = rows.into_iter().find(|row| row.name == name).unwrap();
    let receipt = row.last_run.map(|(_, receipt)| receipt);
    all.push(format!(
        "{:?} {} {} {receipt:?} {}",
        row.live,
        row.dead_letters,
        row.obsolete,
        row.last_reconcile.is_some()
    ));
    all
}

#[test]
fn both_answer_the_same_to_whatever_they_are_asked() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let Some(postgres) = runtime.block_on(on_postgres_in_its_own()) else {
        return;
    };
    let sqlite = runtime.block_on(SqliteStore::in_memory()).unwrap();
    let stores: [&dyn Store; 2] = [&sqlite, &postgres];
    let cases = AtomicU32::new(0);
    let mut config = Config {
        source_file: Some(file!()),
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 32;
    }
    let mut runner = TestRunner::new(config);
    let result = runner.run(&vec(operation(), 1..16), |operations| {
        // A connection for each case: a database for each would take ten times as long.
        let name = format!("case {}", cases.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(async {
            let mut leases = [
                stores[0].claim(&name, "test", TTL).await.unwrap(),
                stores[1].claim(&name, "test", TTL).await.unwrap(),
            ];
            for operation in &operations {
                let one = apply(stores[0], &mut leases[0], &name, operation).await;
                let other = apply(stores[1], &mut leases[1], &name, operation).await;
                prop_assert_eq!(one, other, "{:?}", operation);
                let one = everything(stores[0], leases[0].connection, &name).await;
                let other = everything(stores[1], leases[1].connection, &name).await;
                prop_assert_eq!(one, other, "after {:?}", operation);
            }
            Ok(())
        })
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
