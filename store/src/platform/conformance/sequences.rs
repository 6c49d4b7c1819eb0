//! Random operations on both databases, which have to answer the same.
//!
//! Ids that the stores make and all times are replaced by what they mean: the place of their first sight, and that there is one.

use std::collections::HashMap;

use proptest::prelude::*;

use super::owners::into;
use super::*;

const STATES: [ConnectionState; 4] = [
    ConnectionState::Active,
    ConnectionState::Paused,
    ConnectionState::Parked,
    ConnectionState::Leaving,
];
const FATES: [DeliveryState; 5] = [
    DeliveryState::Waiting,
    DeliveryState::Handled,
    DeliveryState::Ignored,
    DeliveryState::Polled,
    DeliveryState::Failed,
];

/// Numbers stand for tenants, connections, keys and leases: of those that there are, the one at that place.
#[derive(Debug, Clone)]
enum Step {
    CreateTenant(u8, u8),
    UpdateTenant(u8, i64, u8),
    DeleteTenant(u8),
    CreateConnection(u8, u8),
    Change(u8, u8, bool, Option<i64>),
    SetChain(u8, bool),
    Delete(u8),
    Claim(u8),
    Expire(u8),
    Release(u8, bool, u8, bool),
    Count(u8, u32),
    Sweep,
    Receive(Vec<(u8, u8)>),
    Settle(u8, u8, u8, bool),
    Replay(u8, Option<u8>),
    Move(u8, u8, Option<u8>),
    Reseal(u8, bool),
    Note(u8, bool),
    Remember(u8, u8),
    Answer(u8),
    Forget(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0..4_u8, 0..4_u8).prop_map(|(name, cap)| Step::CreateTenant(name, cap)),
        1 => (0..3_u8, 1..3_i64, 0..4_u8).prop_map(|(at, version, cap)| Step::UpdateTenant(at, version, cap)),
        1 => (0..3_u8).prop_map(Step::DeleteTenant),
        4 => (0..3_u8, 0..4_u8).prop_map(|(tenant, name)| Step::CreateConnection(tenant, name)),
        2 => (0..4_u8, 0..8_u8, any::<bool>(), proptest::option::of(1..3_i64)).prop_map(|(at, state, wake, version)| Step::Change(at, state, wake, version)),
        1 => (0..4_u8, any::<bool>()).prop_map(|(at, known)| Step::SetChain(at, known)),
        1 => (0..4_u8).prop_map(Step::Delete),
        8 => (0..4_u8).prop_map(Step::Claim),
        3 => (0..4_u8).prop_map(Step::Expire),
        6 => (0..6_u8, any::<bool>(), 0..2_u8, proptest::bool::weighted(0.1)).prop_map(|(at, soon, failures, park)| Step::Release(at, soon, failures, park)),
        1 => (0..6_u8, 0..9_u32).prop_map(|(at, number)| Step::Count(at, number)),
        1 => Just(Step::Sweep),
        4 => proptest::collection::vec((0..5_u8, 0..6_u8), 1..5).prop_map(Step::Receive),
        4 => (0..6_u8, 0..5_u8, 1..3_u8, any::<bool>()).prop_map(|(at, fate, most, soon)| Step::Settle(at, fate, most, soon)),
        1 => (0..4_u8, proptest::option::of(0..5_u8)).prop_map(|(at, state)| Step::Replay(at, state)),
        2 => (0..6_u8, 0..3_u8, proptest::option::of(0..3_u8)).prop_map(|(at, name, value)| Step::Move(at, name, value)),
        1 => (0..4_u8, any::<bool>()).prop_map(|(at, right)| Step::Reseal(at, right)),
        1 => (0..3_u8, any::<bool>()).prop_map(|(value, replace)| Step::Note(value, replace)),
        1 => (0..2_u8, 0..2_u8).prop_map(|(key, digest)| Step::Remember(key, digest)),
        1 => (0..2_u8).prop_map(Step::Answer),
        1 => (0..2_u8).prop_map(Step::Forget),
    ];
    proptest::collection::vec(step, 1..40)
}

/// A store with what was made in it so far.
struct Player {
    on: Subject,
    tenants: Vec<Tenant>,
    connections: Vec<(String, i64)>,
    claims: Vec<Claim>,
    seen: HashMap<String, usize>,
}

fn at<T>(all: &[T], place: u8) -> Option<&T> {
    let place = usize::from(place).checked_rem(all.len())?;
    all.get(place)
}

impl Player {
    fn new(on: Subject) -> Self {
        Self {
            on,
            tenants: Vec::new(),
            connections: Vec::new(),
            claims: Vec::new(),
            seen: HashMap::new(),
        }
    }

    /// The answer without what differs between two stores that do the same.
    fn normal(&mut self, answer: impl std::fmt::Debug) -> String {
        let text = format!("{answer:?}");
        let is_id = |word: &str| word.len() == 36 && word.matches('-').count() == 4;
        let is_time = |word: &str| word.len() == 24 && word.ends_with('Z') && word.contains('T');
        text.split_inclusive(|c: char| !(c.is_ascii_alphanumeric() || "-:.".contains(c)))
            .map(|piece| {
                let word = piece.trim_end_matches(|c: char| !(c.is_ascii_alphanumeric()));
                let rest = &piece[word.len()..];
                if is_id(word) {
                    let next = self.seen.len();
                    let place = *self.seen.entry(word.to_owned()).or_insert(next);
                    format!("#{place}{rest}")
                } else if is_time(word) {
                    format!("time{rest}")
                } else {
                    piece.to_owned()
                }
            })
            .collect()
    }

    async fn play(&mut self, step: &Step, id: &str) -> String {
        let platform = self.on.platform.clone();
        // No two of what is ordered by time happen in the same millisecond.
        tokio::time::sleep(Duration::from_millis(2)).await;
        match step {
            Step::CreateTenant(name, cap) => {
                let created = platform
                    .create_tenant(&format!("t{name}"), &capped(*cap))
                    .await;
                self.tenants.extend(created.as_ref().ok().cloned());
                self.normal(created)
            }
            Step::UpdateTenant(place, version, cap) => {
                let Some(tenant) = at(&self.tenants, *place) else {
                    return String::new();
                };
                let caps = capped(*cap);
                let updated = platform
                    .update_tenant(&tenant.id, *version, None, Some(&caps))
                    .await;
                self.normal(updated)
            }
            Step::DeleteTenant(place) => {
                let Some(tenant) = at(&self.tenants, *place) else {
                    return String::new();
                };
                self.normal(platform.delete_tenant(&tenant.id.clone()).await)
            }
            Step::CreateConnection(tenant, name) => {
                let Some(tenant) = at(&self.tenants, *tenant) else {
                    return String::new();
                };
                let mut wanted = connection(&tenant.id, &format!("c{name}"));
                id.clone_into(&mut wanted.id);
                let created = platform.create_connection(&wanted, "cli").await;
                if let Ok(created) = &created {
                    self.connections.push((created.id.clone(), created.ledger));
                }
                self.normal(created.map(comparable))
            }
            Step::Count(..) | Step::Release(..) | Step::Settle(..) | Step::Move(..) => {
                self.play_held(step).await
            }
            Step::Claim(park_after) => {
                let claim = platform
                    .claim_due("w", HOUR, u32::from(*park_after))
                    .await
                    .unwrap();
                self.claims.extend(claim.clone());
                self.normal(claim.map(|claim| {
                    let found = comparable(claim.connection);
                    (claim.lease.epoch, found, claim.run, claim.due, claim.claims)
                }))
            }
            Step::Sweep => self.normal(platform.sweep_runs().await),
            Step::Receive(page) => {
                let page: Vec<_> = page
                    .iter()
                    .map(|(place, key)| {
                        let ledger = at(&self.connections, *place).map_or(999, |one| one.1);
                        delivery(ledger, &key.to_string())
                    })
                    .collect();
                self.normal(platform.receive(&page).await)
            }
            Step::Note(value, replace) => {
                let set = platform.set_note("n", &value.to_string(), *replace).await;
                self.normal(set)
            }
            Step::Remember(key, digest) => {
                let (key, digest) = (key.to_string(), digest.to_string());
                self.normal(platform.remember_request("s", &key, &digest).await)
            }
            Step::Answer(key) => {
                let (key, body) = (key.to_string(), json!(1));
                let answered = platform.answer_request("s", &key, 201, &body).await;
                self.normal(answered)
            }
            Step::Forget(key) => {
                let forgotten = platform.forget_request("s", &key.to_string()).await;
                self.normal(forgotten)
            }
            Step::Change(place, ..)
            | Step::SetChain(place, ..)
            | Step::Delete(place)
            | Step::Expire(place)
            | Step::Replay(place, ..)
            | Step::Reseal(place, ..) => match at(&self.connections, *place).cloned() {
                Some((id, ledger)) => self.play_on(step, &id, ledger).await,
                None => String::new(),
            },
        }
    }

    /// A step of an owner on one connection.
    async fn play_on(&mut self, step: &Step, id: &str, ledger: i64) -> String {
        let platform = self.on.platform.clone();
        match step {
            Step::Change(_, state, wake, version) => {
                let mut change = ConnectionChange::default();
                if let Some(state) = STATES.get(usize::from(*state)) {
                    change = into(*state);
                }
                change.wake = *wake;
                let changed = platform
                    .update_connection(None, id, *version, &change)
                    .await;
                self.normal(changed.map(comparable))
            }
            Step::SetChain(_, known) => {
                let digest = if *known { DIGEST } else { "sha256:unknown" };
                let set = platform
                    .set_chain(None, id, None, &chain(digest), 60, "k")
                    .await;
                let kept = platform.chains(None, id).await;
                self.normal((set, kept))
            }
            Step::Delete(_) => self.normal(platform.delete_connection(None, id).await),
            Step::Replay(_, state) => {
                let filter = DeliveryFilter {
                    state: state.and_then(|state| FATES.get(usize::from(state)).copied()),
                    ..DeliveryFilter::default()
                };
                self.normal(platform.replay(ledger, None, &filter).await)
            }
            Step::Reseal(_, right) => {
                let was = if *right { "sealed" } else { "other" };
                self.normal(platform.reseal(id, "token", was, "sealed").await)
            }
            _ => {
                let sql = format!(
                    "UPDATE connections SET lease_until = 1 WHERE id = {ledger} AND lease_until > 0"
                );
                self.on.sql(&sql).await;
                String::new()
            }
        }
    }

    /// A step of a worker, which may have lost its lease.
    async fn play_held(&mut self, step: &Step) -> String {
        let (Step::Count(place, ..)
        | Step::Release(place, ..)
        | Step::Settle(place, ..)
        | Step::Move(place, ..)) = step
        else {
            return String::new();
        };
        let Some(claim) = at(&self.claims, *place).cloned() else {
            return String::new();
        };
        let platform = self.on.platform.clone();
        let soon = |soon: bool| if soon { Duration::ZERO } else { HOUR };
        let done = match step {
            Step::Count(_, number) => {
                let usage = Usage {
                    records: u64::from(*number),
                    ..Usage::default()
                };
                platform.count_run(claim.lease, &claim.run, &usage).await
            }
            Step::Release(_, at_once, failures, park) => {
                let mut release = release(Some(soon(*at_once)));
                release.failures = u32::from(*failures);
                release.park = park.then(|| "it fails".to_owned());
                platform
                    .release_run(claim.lease, &claim.run, &release)
                    .await
            }
            Step::Settle(_, fate, most, at_once) => {
                let waiting = platform
                    .waiting(claim.lease.connection, u32::from(*most), 1 << 20)
                    .await
                    .unwrap();
                let verdicts: Vec<_> = waiting
                    .iter()
                    .map(|(one, _)| DeliveryVerdict {
                        id: one.id.clone(),
                        state: FATES[usize::from(*fate)],
                        reason: Some("because".into()),
                    })
                    .collect();
                platform
                    .settle_deliveries(claim.lease, &verdicts, soon(*at_once))
                    .await
            }
            Step::Move(_, name, value) => {
                let change = (name.to_string(), value.map(|value| value.to_string()));
                platform.move_cursors(claim.lease, &[change], None).await
            }
            _ => Ok(()),
        };
        self.normal(done)
    }

    /// All that can be read.
    async fn look(&mut self) -> Vec<String> {
        let platform = self.on.platform.clone();
        let page = first(99);
        let next = platform.next_due_in().await.unwrap();
        let next = next.map(|next| (next.is_zero(), next > HOUR / 2));
        let mut all = vec![
            self.normal(next),
            self.normal(platform.tenants(&page).await),
            self.normal(platform.sealed(&page).await),
        ];
        let connections = platform.connections(None, &page).await.unwrap();
        let connections: Vec<_> = connections.into_iter().map(comparable).collect();
        all.push(self.normal(connections));
        for tenant in self.tenants.clone() {
            all.push(self.normal(platform.usage(&tenant.id, HOUR).await));
        }
        for (id, ledger) in self.connections.clone() {
            all.push(self.normal(platform.runs(&id, &page).await));
            all.push(self.normal(platform.cursors(ledger).await));
            let filter = DeliveryFilter::default();
            let mut listed = platform.deliveries(ledger, &filter, &page).await.unwrap();
            listed.iter_mut().for_each(|one| one.connection = 0);
            all.push(self.normal(listed));
            let waiting = platform.waiting(ledger, 9, 30).await.unwrap();
            let keys: Vec<_> = waiting.iter().map(|(one, _)| &one.key).collect();
            all.push(format!("{keys:?}"));
        }
        all
    }
}

fn capped(cap: u8) -> Caps {
    Caps {
        concurrent_runs: (cap < 3).then(|| u32::from(cap)),
        connections: (cap == 1).then_some(2),
        memory_bytes: (cap == 3).then_some(130),
        ..Caps::default()
    }
}

/// The row of the ledger is a number that each database counts for itself.
fn comparable(connection: Connection) -> Connection {
    Connection {
        ledger: 0,
        ..connection
    }
}

fn compare(steps: &[Step]) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let Some(postgres) = Subject::postgres().await else {
            return;
        };
        let mut sqlite = Player::new(Subject::sqlite().await);
        let mut postgres = Player::new(postgres);
        sqlite.on.component(DIGEST).await;
        postgres.on.component(DIGEST).await;
        for step in steps {
            let id = new_id();
            let answers = (sqlite.play(step, &id).await, postgres.play(step, &id).await);
            assert_eq!(answers.0, answers.1, "{step:?}");
        }
        assert_eq!(sqlite.look().await, postgres.look().await);
    });
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("SEQUENCES").ok().and_then(|text| text.parse().ok()).unwrap_or(24),
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn both_databases_answer_the_same_whatever_is_asked(steps in steps()) {
        compare(&steps);
    }
}
