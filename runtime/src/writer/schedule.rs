//! The order of writing: predecessors first, and as few requests as the longest thread is long.
//!
//! A comment carries the event id of the comment before it, which exists only once that one is acknowledged. Sending comments one by
//! one would cost a request each. So records wait here until what they wait for is acknowledged, and whatever waits for nothing goes
//! together: first the merge requests of a page, then the first comments on them and whatever has arrived meanwhile, then the answers.
//! A page of a hundred threads takes as many requests as its longest thread has turns, and shares them with the pages behind it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

// A few thousand records at the most are on their way, so nobody gains by names that collide; and each is looked up six times.
use foldhash::fast::RandomState;

/// Records on their way, in the order in which they came.
#[derive(Debug)]
pub(super) struct Schedule<T> {
    /// Boxed, because a table is half empty and moves what it holds.
    nodes: HashMap<u64, Box<Node<T>>, RandomState>,
    places: HashMap<Arc<str>, u64, RandomState>,
    /// What waits for nothing.
    ready: BTreeSet<u64>,
    under_way: usize,
    next: u64,
}

#[derive(Debug)]
struct Node<T> {
    id: Arc<str>,
    part_of: Option<String>,
    root: String,
    digest: Arc<str>,
    before: Vec<Before>,
    /// `None` once it was taken.
    value: Option<T>,
    followers: Vec<u64>,
    waiting_for: usize,
    fate: Option<Fate>,
}

/// What CortexDB answered: an event id, or none. None says nothing of an earlier version, which stays what it was.
type Fate = Option<String>;

/// The one before, and its event id as far as it is known.
#[derive(Debug)]
struct Before {
    /// Where it is on its way.
    place: Option<u64>,
    event_id: Option<String>,
}

/// A record that is to be named as the one before, and its event id as far as it is known.
#[derive(Debug)]
pub(super) struct Predecessor {
    pub(super) id: String,
    pub(super) event_id: Option<String>,
}

/// A record that goes now.
#[derive(Debug)]
pub(super) struct Taken<T> {
    pub(super) place: u64,
    pub(super) value: T,
    /// Event ids of those of its predecessors that have one.
    pub(super) preceded_by: Vec<String>,
}

/// What the schedule needs to know of a record.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: Arc<str>,
    /// The record of the source, where this is a part of one.
    pub(super) part_of: Option<String>,
    /// The record that opened its thread, or nothing.
    pub(super) root: String,
    pub(super) digest: Arc<str>,
    pub(super) predecessors: Vec<Predecessor>,
}

impl<T> Node<T> {
    /// The record of the source.
    fn record(&self) -> &str {
        self.part_of.as_deref().unwrap_or(&self.id)
    }
}

impl<T> Schedule<T> {
    pub(super) fn new() -> Self {
        Self {
            nodes: HashMap::default(),
            places: HashMap::default(),
            ready: BTreeSet::new(),
            under_way: 0,
            next: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Records that wait or are under way.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Records that wait for nothing.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// The digest of the version of a record that is on its way.
    pub(super) fn digest_of(&self, id: &str) -> Option<&str> {
        let node = self.nodes.get(self.places.get(id)?)?;
        Some(&node.digest)
    }

    /// Whether one of the records and parts on their way is such a one; the first word is the record, the second its id or that of the part.
    pub(super) fn any(&self, is_one: impl Fn(&str, &str) -> bool) -> bool {
        let mut nodes = self.nodes.values();
        nodes.any(|node| is_one(node.record(), &node.id))
    }

    /// Whether one of these records, a part of one, or one of those in the threads that they opened, is on its way.
    pub(super) fn concerns(&self, ids: &HashSet<&str>) -> bool {
        self.nodes.values().any(|node| {
            let names = [&*node.id, node.record(), node.root.as_str()];
            names.iter().any(|name| ids.contains(name))
        })
    }

    /// Adds records of which no version is on its way. They may name each other in any order.
    pub(super) fn add(&mut self, records: impl IntoIterator<Item = (Waiting, T)>) {
        let mut links = Vec::new();
        for (waiting, value) in records {
            self.places.insert(Arc::clone(&waiting.id), self.next);
            let node = Node {
                id: waiting.id,
                part_of: waiting.part_of,
                root: waiting.root,
                digest: waiting.digest,
                before: Vec::new(),
                value: Some(value),
                followers: Vec::new(),
                waiting_for: 0,
                fate: None,
            };
            self.nodes.insert(self.next, Box::new(node));
            links.push((self.next, waiting.predecessors));
            self.next += 1;
        }
        for (place, predecessors) in links {
            self.link(place, predecessors);
        }
    }

    fn link(&mut self, place: u64, predecessors: Vec<Predecessor>) {
        let Some(mut node) = self.nodes.remove(&place) else {
            return;
        };
        node.before.reserve_exact(predecessors.len());
        for Predecessor { id, mut event_id } in predecessors {
            let mut on_its_way = None;
            if let Some(place_before) = self.places.get(id.as_str()).copied()
                && let Some(before) = self.nodes.get_mut(&place_before)
            {
                match &before.fate {
                    Some(fate) => event_id = fate.clone().or(event_id),
                    None => {
                        before.followers.push(place);
                        node.waiting_for += 1;
                        on_its_way = Some(place_before);
                    }
                }
            }
            node.before.push(Before {
                place: on_its_way,
                event_id,
            });
        }
        if node.waiting_for == 0 {
            self.ready.insert(place);
        }
        self.nodes.insert(place, node);
    }

    /// Takes what waits for nothing, oldest first, as long as it `fits`.
    pub(super) fn take(&mut self, mut fits: impl FnMut(&T) -> bool) -> Vec<Taken<T>> {
        if self.ready.is_empty() && self.under_way == 0 {
            // A circle, which only a faulty or hostile component makes: written as it is.
            let left = self.nodes.iter().filter(|(_, node)| node.value.is_some());
            self.ready.extend(left.map(|(place, _)| *place));
        }
        let mut taken = Vec::new();
        while let Some(place) = self.ready.first().copied()
            && let Some(node) = self.nodes.get_mut(&place)
            && node.value.as_ref().is_some_and(&mut fits)
            && let Some(value) = node.value.take()
        {
            self.ready.remove(&place);
            self.under_way += 1;
            let before = node.before.iter();
            taken.push(Taken {
                place,
                value,
                preceded_by: before.filter_map(|one| one.event_id.clone()).collect(),
            });
        }
        taken
    }

    /// CortexDB has answered about a record that was taken: whoever waited for it may go. It stays on its way until it is [`Self::done`].
    pub(super) fn answered(&mut self, place: u64, event_id: Option<&str>) {
        let Some(node) = self.nodes.get_mut(&place) else {
            return;
        };
        if node.fate.is_some() {
            return;
        }
        let fate = event_id.map(str::to_owned);
        node.fate = Some(fate.clone());
        self.under_way -= 1;
        for follower in std::mem::take(&mut node.followers) {
            let Some(waiting) = self.nodes.get_mut(&follower) else {
                continue;
            };
            for before in &mut waiting.before {
                if before.place == Some(place) {
                    before.event_id = fate.clone().or(before.event_id.take());
                }
            }
            waiting.waiting_for -= 1;
            if waiting.waiting_for == 0 && waiting.value.is_some() {
                self.ready.insert(follower);
            }
        }
    }

    /// The ledger knows what became of a record.
    pub(super) fn done(&mut self, place: u64, event_id: Option<&str>) {
        self.answered(place, event_id);
        if let Some(node) = self.nodes.remove(&place) {
            self.places.remove(&node.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, predecessors: &[&str]) -> (Waiting, String) {
        let predecessors = predecessors.iter().map(|id| Predecessor {
            id: (*id).to_owned(),
            event_id: None,
        });
        let waiting = Waiting {
            id: id.into(),
            part_of: None,
            root: String::new(),
            digest: Arc::default(),
            predecessors: predecessors.collect(),
        };
        (waiting, id.to_owned())
    }

    fn add(schedule: &mut Schedule<String>, id: &str, predecessors: &[&str]) {
        schedule.add([record(id, predecessors)]);
    }

    /// Takes all that is ready and acknowledges it; the names, with what they follow.
    fn wave(schedule: &mut Schedule<String>) -> Vec<String> {
        let taken = schedule.take(|_| true);
        for one in &taken {
            schedule.done(one.place, Some(&format!("event of {}", one.value)));
        }
        let words = taken.into_iter().map(|one| {
            let before = one.preceded_by.iter();
            before.fold(one.value, |words, id| format!("{words} < {id}"))
        });
        words.collect()
    }

    #[test]
    fn a_page_takes_as_many_waves_as_its_longest_thread() {
        let mut schedule = Schedule::new();
        add(&mut schedule, "mr", &[]);
        add(&mut schedule, "a", &["mr"]);
        add(&mut schedule, "x", &["mr"]);
        add(&mut schedule, "b", &["a"]);
        add(&mut schedule, "c", &["b"]);
        assert_eq!(wave(&mut schedule), ["mr"]);
        assert_eq!(wave(&mut schedule), ["a < event of mr", "x < event of mr"]);
        assert_eq!(wave(&mut schedule), ["b < event of a"]);
        assert_eq!(wave(&mut schedule), ["c < event of b"]);
        assert!(schedule.is_empty());
    }

    #[test]
    fn the_waves_of_one_page_take_the_next_page_along() {
        let mut schedule = Schedule::new();
        add(&mut schedule, "mr", &[]);
        add(&mut schedule, "a", &["mr"]);
        wave(&mut schedule);
        add(&mut schedule, "later", &[]);
        assert_eq!(wave(&mut schedule), ["a < event of mr", "later"]);
    }

    #[test]
    fn who_comes_while_its_predecessor_is_under_way_waits_for_it() {
        let mut schedule = Schedule::new();
        add(&mut schedule, "mr", &[]);
        let taken = schedule.take(|_| true);
        add(&mut schedule, "a", &["mr"]);
        assert_eq!(schedule.ready(), 0);
        assert!(schedule.take(|_| true).is_empty());
        schedule.done(taken[0].place, Some("e"));
        assert_eq!(wave(&mut schedule), ["a < e"]);
    }

    #[test]
    fn who_follows_goes_when_there_is_an_answer_and_the_record_stays_on_its_way_until_it_is_done() {
        let mut schedule = Schedule::new();
        add(&mut schedule, "mr", &[]);
        add(&mut schedule, "x", &[]);
        add(&mut schedule, "a", &["mr"]);
        let taken = schedule.take(|_| true);
        schedule.answered(taken[0].place, Some("e"));
        schedule.answered(taken[0].place, Some("another"));
        schedule.answered(taken[1].place, None);
        assert!(schedule.digest_of("mr").is_some());
        assert!(schedule.any(|record, id| (record, id) == ("mr", "mr")));
        // Also who comes only now.
        add(&mut schedule, "b", &["mr"]);
        add(&mut schedule, "y", &["x"]);
        assert_eq!(wave(&mut schedule), ["a < e", "b < e", "y"]);
        for one in taken {
            schedule.done(one.place, Some("e"));
        }
        assert!(schedule.is_empty());
    }

    #[test]
    fn a_circle_is_broken_while_something_is_answered_and_not_done() {
        let mut schedule = Schedule::new();
        add(&mut schedule, "mr", &[]);
        let taken = schedule.take(|_| true);
        schedule.answered(taken[0].place, Some("e"));
        schedule.add([record("a", &["b"]), record("b", &["a"])]);
        assert_eq!(wave(&mut schedule), ["a", "b"]);
        schedule.done(taken[0].place, Some("e"));
        assert!(schedule.is_empty());
    }

    #[test]
    fn who_follows_a_refused_record_goes_without_it() {
        let mut schedule = Schedule::new();
        add(&mut schedule, "mr", &[]);
        add(&mut schedule, "a", &["mr", "mr"]);
        let taken = schedule.take(|_| true);
        schedule.done(taken[0].place, None);
        assert_eq!(wave(&mut schedule), ["a"]);
    }

    #[test]
    fn who_follows_a_record_whose_newer_version_is_refused_follows_the_one_that_is_stored() {
        let known = |id: &str| {
            let (mut waiting, value) = record(id, &["mr"]);
            waiting.predecessors[0].event_id = Some("first version".to_owned());
            (waiting, value)
        };
        let mut schedule = Schedule::new();
        add(&mut schedule, "mr", &[]);
        schedule.add([known("a")]);
        let taken = schedule.take(|_| true);
        schedule.answered(taken[0].place, None);
        schedule.add([known("b")]);
        assert_eq!(
            wave(&mut schedule),
            ["a < first version", "b < first version"]
        );
    }

    #[test]
    fn records_that_come_together_may_name_each_other_in_any_order() {
        let mut schedule = Schedule::new();
        schedule.add([record("a", &["mr"]), record("mr", &[])]);
        assert_eq!(wave(&mut schedule), ["mr"]);
        assert_eq!(wave(&mut schedule), ["a < event of mr"]);
    }

    #[test]
    fn a_record_is_on_its_way_as_long_as_it_or_a_part_or_a_turn_of_its_thread_is() {
        let mut schedule = Schedule::new();
        let (mut part, name) = record("issue~a", &[]);
        part.part_of = Some("issue".to_owned());
        part.root = "epic".to_owned();
        schedule.add([(part, name)]);
        let concerns = |schedule: &Schedule<String>, id| schedule.concerns(&HashSet::from([id]));
        for id in ["issue~a", "issue", "epic"] {
            assert!(concerns(&schedule, id), "{id}");
        }
        assert!(!concerns(&schedule, "other"));
        wave(&mut schedule);
        assert!(!concerns(&schedule, "issue"));
    }

    #[test]
    fn a_circle_does_not_hang_and_loses_nothing() {
        let mut schedule = Schedule::new();
        schedule.add([
            record("a", &["b"]),
            record("b", &["a"]),
            record("self", &["self"]),
        ]);
        assert_eq!(wave(&mut schedule), ["self"]);
        assert_eq!(wave(&mut schedule), ["a", "b"]);
        assert!(schedule.is_empty());
    }
}
