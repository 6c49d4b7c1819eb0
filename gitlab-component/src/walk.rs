//! Reading lists that change while they are read.
//!
//! Offset pages of a list sorted by `updated_at` lose rows: a record that is updated meanwhile leaves its page for the end of the
//! list, everything behind it moves up by one, and the first row of the next page becomes the last one of a page that was
//! read already. [`TimeWalk`] therefore never turns to the next page. It starts again from the last row's time, which is a
//! position that no update can move; a record that jumps is met again at the end. Rows of that time which were handed out
//! already are recognised and left out.
//!
//! That fails where a whole page has one time, as after a bulk edit or an import. Such a *tie* is read page by page in a window
//! of that one millisecond, sorted by something that does not change; if its size changed meanwhile it is read again.

use std::cmp::Ordering;
use std::marker::PhantomData;

use crate::client::{Client, Fault, Listing, Page, Sizing, Slice};
use crate::host::Level;
use crate::json;
use crate::sorted::SortedSet;
use crate::time::Moment;

/// How often a tie is read before the walk gives up on it. A further pass is only needed when records left the tie during
/// one, and there are fewer that can with every pass.
const TIE_PASSES: u8 = 8;

/// How often a list without times is read again when rows were removed from it meanwhile.
const LISTING_PASSES: u8 = 3;

/// A record that has a place in time.
pub(crate) trait Row: json::Read {
    /// Unique in its list.
    fn id(&self) -> Option<u64>;
    /// As GitLab prints it.
    fn updated_at(&self) -> Option<&str>;
}

/// A time, as GitLab printed it and as a number. Only the printed form is ever sent back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) text: String,
    pub(crate) moment: Moment,
}

impl Stamp {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(Self {
            text: text.to_owned(),
            moment: Moment::parse(text)?,
        })
    }
}

impl From<Moment> for Stamp {
    fn from(moment: Moment) -> Self {
        Self {
            text: moment.to_string(),
            moment,
        }
    }
}

/// Some rows, none of which this walk has handed out before in this state.
#[derive(Debug)]
pub(crate) struct Batch<T> {
    pub(crate) rows: Vec<T>,
    /// Where a later walk may start once these rows are safe.
    pub(crate) resume: Option<Stamp>,
}

/// Reads a list from a time on, oldest first, to its end.
pub(crate) struct TimeWalk<'c, T> {
    client: &'c Client<'c>,
    course: Course,
    sizing: Sizing,
    rows: PhantomData<T>,
}

impl<'c, T: Row> TimeWalk<'c, T> {
    /// `listing` comes without order and times. `tie_order` is what to sort a tie by: something that an update does not change.
    pub(crate) fn new(
        client: &'c Client<'c>,
        listing: Listing,
        tie_order: &'static str,
        after: Option<Stamp>,
    ) -> Self {
        let listing = listing.with("order_by", "updated_at").with("sort", "asc");
        let course = Course {
            listing,
            tie_order,
            after,
            offset: 0,
            seen: SortedSet::default(),
            tie: None,
            finished: false,
            asked: false,
            started: None,
            total: None,
        };
        Self {
            client,
            course,
            sizing: Sizing::default(),
            rows: PhantomData,
        }
    }

    /// The next rows; `None` at the end of the list.
    pub(crate) async fn next(&mut self) -> Result<Option<Batch<T>>, Fault> {
        while !self.course.finished {
            let (listing, offset) = self.course.ask();
            let slice: Slice<T> = self
                .client
                .slice(&listing, offset, &mut self.sizing)
                .await?;
            let keys: Vec<Key> = slice.rows.iter().map(Key::of).collect();
            let mut new = match self.course.advance(&keys, slice.page)? {
                Verdict::New(new) => new.into_iter(),
                Verdict::Disbelieved => {
                    let message =
                        "the position to go on from lies in the future; reading from the beginning";
                    self.client
                        .host
                        .log(Level::Warn, message, &[("path", &listing.path)]);
                    continue;
                }
            };
            let mut rows = slice.rows;
            rows.retain(|_| new.next() == Some(true));
            if !rows.is_empty() {
                return Ok(Some(Batch {
                    rows,
                    resume: self.course.after.clone(),
                }));
            }
        }
        Ok(None)
    }

    /// GitLab's clock at the first answer.
    pub(crate) fn started(&self) -> Option<Moment> {
        self.course.started
    }

    /// How many rows there were at the first answer.
    pub(crate) fn total(&self) -> Option<u64> {
        self.course.total
    }
}

/// What a walk looks at in a row.
struct Key {
    id: Option<u64>,
    updated: Option<Stamp>,
}

impl Key {
    fn of(row: &impl Row) -> Self {
        Self {
            id: row.id(),
            updated: row.updated_at().and_then(Stamp::parse),
        }
    }
}

/// What a walk thinks of a page.
enum Verdict {
    /// For each row, whether it is to be handed out.
    New(Vec<bool>),
    /// The position that the walk started from cannot be right; it starts again from the beginning.
    Disbelieved,
}

/// Where a walk is and where it goes next, without asking anybody.
struct Course {
    listing: Listing,
    tie_order: &'static str,
    after: Option<Stamp>,
    /// Only above 0 where rows without a time, or none at all, leave nothing to start again from.
    offset: u64,
    /// Rows from `after` on that were handed out.
    seen: SortedSet<(Moment, u64)>,
    tie: Option<Tie>,
    finished: bool,
    asked: bool,
    started: Option<Moment>,
    total: Option<u64>,
}

/// Where the reading of a tie stands.
struct Tie {
    at: Stamp,
    /// One millisecond later.
    end: Stamp,
    offset: u64,
    pass: u8,
    /// Size of the tie when this pass began.
    total: Option<u64>,
    /// Rows that this pass has met, and the pass before.
    rows: usize,
    rows_before: usize,
    /// Whether this pass has met a row that was not known.
    found: bool,
}

impl Course {
    /// What to ask for next.
    fn ask(&self) -> (Listing, u64) {
        let listing = self.listing.clone();
        match (&self.tie, &self.after) {
            (Some(tie), _) => {
                let listing = listing
                    .with("order_by", self.tie_order)
                    .with("updated_after", &tie.at.text);
                (listing.with("updated_before", &tie.end.text), tie.offset)
            }
            (None, Some(after)) => (listing.with("updated_after", &after.text), self.offset),
            (None, None) => (listing, self.offset),
        }
    }

    /// Takes in the answer.
    fn advance(&mut self, keys: &[Key], page: Page) -> Result<Verdict, Fault> {
        if !self.asked {
            self.asked = true;
            self.started = page.date;
            self.total = page.total;
            if is_ahead(self.after.as_ref(), self.started) {
                self.after = None;
                return Ok(Verdict::Disbelieved);
            }
        }
        let new: Vec<bool> = keys
            .iter()
            .map(|key| match (&key.updated, key.id) {
                (Some(updated), Some(id)) => self.seen.insert((updated.moment, id)),
                _ => true,
            })
            .collect();
        match self.tie.take() {
            Some(tie) => self.advance_in_tie(tie, &new, page)?,
            None => self.advance_in_time(keys, page),
        }
        Ok(Verdict::New(new))
    }

    fn advance_in_time(&mut self, keys: &[Key], page: Page) {
        if !page.more {
            self.finished = true;
            return;
        }
        let reached = |last: &Stamp| {
            self.after
                .as_ref()
                .map(|after| last.moment.cmp(&after.moment))
        };
        match ascending(keys).map(|last| (reached(&last), last)) {
            Some((None | Some(Ordering::Greater), last)) => self.go_on_from(last),
            Some((Some(Ordering::Equal), last)) => {
                let end = last.moment.next_millisecond().into();
                self.tie = Some(Tie {
                    at: last,
                    end,
                    offset: 0,
                    pass: 1,
                    total: None,
                    rows: 0,
                    rows_before: 0,
                    found: false,
                });
            }
            // No time to start again from, or a server that does not sort: the next page is all there is.
            _ => self.offset += u64::from(page.size),
        }
    }

    fn advance_in_tie(&mut self, mut tie: Tie, new: &[bool], page: Page) -> Result<(), Fault> {
        let first_page = tie.offset == 0;
        if first_page {
            tie.total = page.total;
        }
        tie.rows += new.len();
        tie.found |= new.contains(&true);
        let settled = match tie.total {
            Some(total) => page.total == Some(total),
            // Over 10,000 rows GitLab does not count: a pass that meets as many as the one before, and nobody new.
            None => tie.pass > 1 && !tie.found && tie.rows == tie.rows_before,
        };
        if page.more {
            tie.offset += u64::from(page.size);
            self.tie = Some(tie);
        } else if first_page || settled {
            self.go_on_from(tie.end);
        } else if tie.pass < TIE_PASSES {
            let rows_before = tie.rows;
            self.tie = Some(Tie {
                offset: 0,
                pass: tie.pass + 1,
                rows: 0,
                rows_before,
                found: false,
                ..tie
            });
        } else {
            return Err(Fault::Unavailable(format!(
                "the records of {} are being changed faster than they can be read; a later run goes on there",
                tie.at.text
            )));
        }
        Ok(())
    }

    fn go_on_from(&mut self, position: Stamp) {
        self.seen.retain(|(moment, _)| *moment >= position.moment);
        self.after = Some(position);
        self.offset = 0;
    }
}

/// The last row's time, if they are in order. Rows without a time stand before or behind all others and do not count: whoever
/// reads a list that has them must look for them in another way.
fn ascending(keys: &[Key]) -> Option<Stamp> {
    let mut last: Option<&Stamp> = None;
    for stamp in keys.iter().filter_map(|key| key.updated.as_ref()) {
        if last.is_some_and(|last| last.moment > stamp.moment) {
            return None;
        }
        last = Some(stamp);
    }
    last.cloned()
}

/// Whether a position lies ahead of GitLab's clock. This connector writes none (it stays behind that clock), so the clock was set
/// back or the cursor was edited, and believing it would hide what changes until then.
pub(crate) fn is_ahead(position: Option<&Stamp>, clock: Option<Moment>) -> bool {
    position
        .zip(clock)
        .is_some_and(|(position, clock)| position.moment > clock)
}

/// Reads a list without times to its end, page by page through `each`. If it became shorter meanwhile, so that a row may
/// have slipped to a page that was read already, it is read again: `each` must expect repetitions. Answers GitLab's clock at
/// the first answer.
pub(crate) async fn listing<T: json::Read>(
    client: &Client<'_>,
    listing: &Listing,
    each: &mut dyn FnMut(Vec<T>) -> Result<(), Fault>,
) -> Result<Option<Moment>, Fault> {
    let mut started = None;
    let mut sizing = Sizing::default();
    for _ in 0..LISTING_PASSES {
        let mut offset = 0;
        let mut total = None;
        loop {
            let slice: Slice<T> = client.slice(listing, offset, &mut sizing).await?;
            started = started.or(slice.page.date);
            total = total.or(slice.page.total);
            each(slice.rows)?;
            if !slice.page.more {
                if offset == 0 || slice.page.total >= total {
                    return Ok(started);
                }
                break;
            }
            offset += u64::from(slice.page.size);
        }
    }
    Err(Fault::Unavailable(format!(
        "{} is being changed faster than it can be read; a later run reads it again",
        listing.path
    )))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::executor::{self, Queue};
    use crate::gitlab::Pipeline;
    use crate::host::Host;
    use crate::testing::{self, FakeGitLab, TestHost, micros};

    const PATH: &str = "/projects/42/pipelines";

    /// Walks to the end; answers the rows as (id, printed time), in order.
    fn walk(host: &TestHost, after: Option<&str>) -> Result<Vec<(u64, String)>, Fault> {
        let queue = Queue::default();
        let client = Client::new(host, &queue);
        executor::block_on(&queue, || host.next(), async {
            let after = after.and_then(Stamp::parse);
            let mut walk =
                TimeWalk::<Pipeline>::new(&client, Listing::new(PATH.to_owned(), &[]), "id", after);
            let mut rows = Vec::new();
            while let Some(batch) = walk.next().await? {
                for row in batch.rows {
                    rows.push((row.id.expect("an id"), row.updated_at.expect("a time")));
                }
            }
            Ok(rows)
        })
    }

    fn rows(times: &[i64]) -> FakeGitLab {
        let rows = times.iter().zip(1..).map(|(updated, id)| testing::Row {
            id,
            updated: *updated,
            body: json!({}),
        });
        let mut gitlab = FakeGitLab::default();
        gitlab.lists.insert(PATH.to_owned(), rows.collect());
        gitlab
    }

    fn base() -> i64 {
        micros("2026-11-20T00:00:00Z")
    }

    #[test]
    fn a_walk_hands_out_every_row_once_and_in_order_of_time() {
        let times: Vec<i64> = (0..250).map(|n| base() + n % 90 * 1_000_000).collect();
        let host = TestHost::new(rows(&times));
        let walked = walk(&host, None).expect("read");
        assert_eq!(walked.len(), 250);
        assert!(walked.is_sorted_by_key(|(_, time)| time.clone()));
        assert_eq!(
            walked
                .iter()
                .map(|(id, _)| id)
                .collect::<BTreeSet<_>>()
                .len(),
            250
        );
    }

    #[test]
    fn a_walk_starts_at_its_position_inclusive() {
        let host = TestHost::new(rows(&[base(), base() + 1_000, base() + 2_000]));
        let walked = walk(&host, Some("2026-11-20T00:00:00.001Z")).expect("read");
        assert_eq!(walked.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn a_tie_of_more_than_a_page_is_read_whole_and_the_walk_goes_on_behind_it() {
        let times: Vec<i64> = (0..330)
            .map(|n| {
                if n < 320 {
                    base() + n
                } else {
                    base() + 5_000 + n
                }
            })
            .collect();
        let host = TestHost::new(rows(&times));
        assert_eq!(walk(&host, None).expect("read").len(), 330);
        let windows = host
            .requests
            .borrow()
            .iter()
            .filter(|request| request.query.iter().any(|(key, _)| key == "updated_before"))
            .count();
        assert_eq!(windows, 4, "one pass of four pages");
    }

    #[test]
    fn short_and_empty_pages_in_the_middle_do_not_end_a_walk() {
        let mut pages = vec![
            (json!([{"id": 1, "updated_at": "2026-11-20T00:00:00Z"}]), "2"),
            (json!([]), "2"),
            (json!([{"id": 1, "updated_at": "2026-11-20T00:00:00Z"}, {"id": 2, "updated_at": "2026-11-21T00:00:00Z"}]), ""),
        ]
        .into_iter();
        let host = TestHost::new(FakeGitLab::default()).handler(move |_| {
            let (body, next) = pages.next()?;
            let headers = vec![("x-next-page".to_owned(), next.to_owned())];
            Some(Ok(crate::host::Response {
                status: 200,
                headers,
                body: body.to_string(),
            }))
        });
        let walked = walk(&host, None).expect("read");
        assert_eq!(walked.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn rows_without_a_time_are_read_by_page() {
        let all: Vec<_> = (1..=250)
            .map(|id| json!({"id": id, "updated_at": null}))
            .collect();
        let mut gitlab = FakeGitLab::default();
        gitlab.plain.insert(PATH.to_owned(), all);
        let host = TestHost::new(gitlab);
        let queue = Queue::default();
        let client = Client::new(&host, &queue);
        let count = executor::block_on(&queue, || host.next(), async {
            let mut walk =
                TimeWalk::<Pipeline>::new(&client, Listing::new(PATH.to_owned(), &[]), "id", None);
            let mut count = 0;
            while let Some(batch) = walk.next().await? {
                count += batch.rows.len();
            }
            Ok::<_, Fault>(count)
        });
        assert_eq!(count, Ok(250));
    }

    #[test]
    fn a_position_in_the_future_is_not_believed() {
        let host = TestHost::new(rows(&[base()]));
        assert_eq!(
            walk(&host, Some("2999-01-01T00:00:00Z"))
                .expect("read")
                .len(),
            1
        );
        assert!(host.logged("lies in the future"));
    }

    #[test]
    fn a_gitlab_that_is_too_slow_for_large_pages_is_read_in_small_ones() {
        for patience in [99, 7, 1] {
            let mut gitlab = rows(&(0..230).map(|n| base() + n / 3 * 1_000).collect::<Vec<_>>());
            gitlab.patience = Some(patience);
            assert_eq!(
                walk(&TestHost::new(gitlab), None).expect("read").len(),
                230,
                "{patience}"
            );
        }
    }

    #[test]
    fn a_list_that_became_shorter_meanwhile_is_read_again() {
        let mut gitlab = FakeGitLab::default();
        gitlab.plain.insert(
            "/list".to_owned(),
            (0..250).map(|id| json!({"id": id})).collect(),
        );
        let mut requests = 0;
        let host = TestHost::new(gitlab).hook(move |gitlab, _| {
            requests += 1;
            if requests == 2 {
                gitlab.plain.get_mut("/list").expect("the list").drain(..10);
            }
        });
        let queue = Queue::default();
        let client = Client::new(&host, &queue);
        let mut ids = BTreeSet::new();
        let result = executor::block_on(&queue, || host.next(), async {
            let list = Listing::new("/list".to_owned(), &[]);
            listing(&client, &list, &mut |rows: Vec<Pipeline>| {
                ids.extend(rows.into_iter().filter_map(|row| row.id));
                Ok(())
            })
            .await
        });
        assert!(result.is_ok());
        assert!((10..250).all(|id| ids.contains(&id)));
    }

    #[derive(Debug, Clone)]
    enum Change {
        Nothing,
        /// The nth row is updated now.
        Touch(usize),
        Delete(usize),
        /// A new row.
        Create,
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let change = prop_oneof![
            2 => Just(Change::Nothing),
            5 => (0_usize..400).prop_map(Change::Touch),
            1 => (0_usize..400).prop_map(Change::Delete),
            1 => Just(Change::Create),
        ];
        prop::collection::vec(change, 0..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

        /// Whatever is updated, deleted or created between two requests, every row is handed out with its last time.
        #[test]
        fn nothing_is_missed_while_rows_change(
            // Few distinct times, so that ties of several pages are common; microseconds within, as in the database.
            times in prop::collection::vec((0_i64..4, 0_i64..1_000), 1..400),
            changes in changes(),
            hide_totals in any::<bool>(),
            patience in prop_oneof![3 => Just(None), 1 => Just(Some(20)), 1 => Just(Some(5))],
        ) {
            let times: Vec<i64> = times.into_iter().map(|(millisecond, micro)| base() + millisecond * 1_000 + micro).collect();
            let mut gitlab = rows(&times);
            gitlab.hide_totals = hide_totals;
            gitlab.patience = patience;
            let mut changes = changes.into_iter();
            let mut clock = base() + 60_000_000;
            let host = TestHost::new(gitlab).hook(move |gitlab, _| {
                clock += 700;
                let rows = gitlab.lists.get_mut(PATH).expect("the list");
                match changes.next() {
                    Some(Change::Touch(n)) if !rows.is_empty() => {
                        let n = n % rows.len();
                        rows[n].updated = clock;
                    }
                    Some(Change::Delete(n)) if !rows.is_empty() => {
                        let n = n % rows.len();
                        rows.remove(n);
                    }
                    Some(Change::Create) => {
                        let id = rows.iter().map(|row| row.id).max().unwrap_or(0) + 1;
                        rows.push(testing::Row { id, updated: clock, body: json!({}) });
                    }
                    _ => {}
                }
            });
            match walk(&host, None) {
                Ok(walked) => {
                    let mut last: BTreeMap<u64, String> = BTreeMap::new();
                    for (id, time) in walked {
                        prop_assert!(last.insert(id, time.clone()).as_ref() != Some(&time), "{id} was handed out twice");
                    }
                    for row in &host.gitlab.borrow().lists[PATH] {
                        prop_assert_eq!(last.get(&row.id), Some(&testing::printed(row.updated)), "row {}", row.id);
                    }
                }
                // Giving up is allowed, and loses nothing: the cursor is held.
                Err(fault) => prop_assert!(matches!(fault, Fault::Unavailable(_))),
            }
        }
    }
}
