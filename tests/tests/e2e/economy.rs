//! What a run costs, where the figure does not depend on the machine: requests and memory. Times are for `make bench`.

use std::collections::BTreeMap;
use std::time::Duration;

use simulators::cortex;
use simulators::gitlab::{self, EventType, Expected, Selection, Size, TOKEN, World};

use crate::setup::{KEY, Setup};

/// The program's own promise for any first reading.
const MOST_MEMORY_KIB: u64 = 128 << 10;
/// 124 is what it takes on a machine of its own, and `make bench` has more records; here others compute beside it.
const MOST_GROWTH_PERCENT: u64 = 133;

/// A world of this size, read as one group; what is to be stored, and the least requests that this takes.
async fn one_group(size: &Size) -> (Setup, Vec<Expected>, usize) {
    one_group_away(size, Duration::ZERO).await
}

/// The same of a GitLab that takes so long to answer.
async fn one_group_away(size: &Size, latency: Duration) -> (Setup, Vec<Expected>, usize) {
    let world = World::generate(7, size);
    let group = world.top_groups()[0];
    let selection = Selection::groups(&[group], TOKEN);
    let (expected, least) = (world.expected(&selection), world.least_requests(&selection));
    let cortex_options = cortex::Options {
        // A second opinion on every envelope is for other tests; here it would only take time.
        schema_check: false,
        ..cortex::Options::full(KEY)
    };
    let gitlab_options = gitlab::Options {
        latency,
        ..gitlab::Options::default()
    };
    let mut setup = Setup::with(world, gitlab_options, cortex_options).await;
    setup.set("GITLAB_GROUP_IDS", &group.to_string());
    (setup, expected, least)
}

/// Of each record that has comments the longest line of answers, itself included: what answers a comment is written when that one has an
/// event id, so that a line takes as many writes as it has records.
fn lines(expected: &[Expected]) -> BTreeMap<&str, usize> {
    let before: BTreeMap<&str, &str> = expected
        .iter()
        .filter_map(|record| {
            let before = record.preceded_by.as_deref()?;
            Some((record.source_id.as_str(), before))
        })
        .collect();
    let depth =
        |id: &str| std::iter::successors(Some(id), |record| before.get(record).copied()).count();
    let mut depths: BTreeMap<&str, usize> = BTreeMap::new();
    for note in expected {
        if let Some(parent) = note.parent.as_deref() {
            let deepest = depths.entry(parent).or_default();
            *deepest = depth(&note.source_id).max(*deepest);
        }
    }
    depths
}

/// The writes that the comments need if no page shares one with another: of each page of a hundred merge requests or issues the longest line.
fn waves(expected: &[Expected]) -> usize {
    let depths = lines(expected);
    let mut lists: BTreeMap<(EventType, u64), Vec<usize>> = BTreeMap::new();
    for record in expected {
        if matches!(
            record.event_type,
            EventType::MergeRequest | EventType::Issue
        ) {
            let list = lists
                .entry((record.event_type, record.project_id))
                .or_default();
            list.push(depths.get(record.source_id.as_str()).copied().unwrap_or(1));
        }
    }
    let pages = lists.values().flat_map(|list| list.chunks(100));
    pages.filter_map(|page| page.iter().max()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_reading_asks_gitlab_little_more_than_its_interface_makes_it() {
    let (setup, expected, least) = one_group(&Size::items(3_000)).await;
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], expected.len());
    let asked = setup.gitlab.requests().len();
    assert!(asked >= least, "{asked} requests, the least is {least}");
    assert!(
        asked * 100 <= least * 115,
        "{asked} requests, the least is {least}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_is_what_counting_by_hand_gives() {
    let world = World::generate(7, &Size::items(1_000));
    let selection = Selection::groups(&[world.top_groups()[0]], TOKEN);
    let project = world.projects.values().next().unwrap();
    let talked_about = project
        .merge_requests
        .values()
        .map(|found| &found.threads)
        .chain(
            project
                .issues
                .values()
                .filter(|issue| !issue.confidential)
                .map(|issue| &issue.threads),
        )
        .filter(|threads| threads.user_notes() > 0)
        .count();
    let of = |event_type| {
        let expected = world.expected(&selection);
        let found = expected
            .iter()
            .filter(|record| record.event_type == event_type);
        found.count()
    };
    // One page each: the group, merge requests, issues, pipelines, their children, releases.
    let lists = 6 + of(EventType::Commit).div_ceil(100);
    assert_eq!(
        world.least_requests(&selection),
        lists + talked_about + of(EventType::Pipeline)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_reading_writes_in_bulk() {
    let (setup, expected, _) = one_group(&Size::items(3_000)).await;
    assert_written_within(&setup, &expected, waves(&expected)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_reading_writes_in_bulk_however_far_gitlab_is() {
    let (setup, expected, _) =
        one_group_away(&Size::items(3_000), Duration::from_millis(100)).await;
    // Pages that come one by one share their writes, so that the longest line of all is what counts.
    let longest = lines(&expected).into_values().max().unwrap_or(1);
    assert_written_within(&setup, &expected, longest).await;
}

/// Reads everything, with a write for each two hundred records and these `lines` more.
async fn assert_written_within(setup: &Setup, expected: &[Expected], lines: usize) {
    setup.run(&[]).await.expect(0);
    let stats = setup.cortex.stats();
    assert_eq!(stats.live_events, expected.len());
    let writes = stats
        .routes
        .get(&cortex::Route::Bulk)
        .map_or(0, |route| route.requests);
    let most = expected.len() / 200 + lines;
    assert!(
        writes <= most as u64,
        "{writes} writes of {} records, at most {most}",
        expected.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_little_by_little_is_written_before_the_last_of_it_comes() {
    // Too little for a request worth one, from a GitLab that takes twenty seconds and more for all of it.
    let (setup, expected, _) = one_group_away(&Size::items(100), Duration::from_secs(5)).await;
    let (mut first, mut computed) = (None, 0);
    read_watched(&setup, expected.len(), |process| {
        let stored = setup.cortex.stats().live_events;
        if stored > 0 {
            first.get_or_insert(stored);
        }
        computed = hundredths_computed(&format!("{process}/stat")).unwrap_or(computed);
    })
    .await;
    let first = first.expect("something is stored while the run goes on");
    assert!(
        first < expected.len(),
        "all {first} came at once, at the end"
    );
    // A tenth of a second is what reading takes; a writer that looks again and again whether it has waited long enough takes a core.
    assert!(computed > 0, "what it computed was never seen");
    assert!(
        computed < 60,
        "it computed {computed} hundredths of a second"
    );
}

/// A first reading to its end, which stores so many records. `look` sees the process's folder under `/proc` from time to time.
async fn read_watched(setup: &Setup, records: usize, mut look: impl FnMut(&str)) {
    let mut child = setup.start(&["--quiet"]);
    let process = format!("/proc/{}", child.id().unwrap());
    let code = loop {
        if let Some(code) = child.try_wait().unwrap() {
            break code;
        }
        look(&process);
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(code.code(), Some(0));
    assert_eq!(setup.cortex.stats().live_events, records);
}

/// Hundredths of a second that a process has computed.
fn hundredths_computed(stat: &str) -> Option<u64> {
    let text = std::fs::read_to_string(stat).ok()?;
    // Behind its name, which is in brackets: the 12th and 13th field.
    let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
    let times = fields.get(11..13)?.iter().map(|ticks| ticks.parse::<u64>());
    times.sum::<Result<u64, _>>().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_reading_takes_no_more_memory_the_more_there_is_to_read() {
    let few = peak_kib(1_000).await;
    let many = peak_kib(30_000).await;
    assert!(many <= MOST_MEMORY_KIB, "VmHWM was {many} KiB");
    assert!(
        many * 100 <= few * MOST_GROWTH_PERCENT,
        "VmHWM was {few} KiB with 1,000 records and {many} KiB with 30,000"
    );
}

/// VmHWM of a first reading of about so many records.
async fn peak_kib(items: usize) -> u64 {
    let (setup, expected, _) = one_group(&Size::items(items)).await;
    let mut peak = 0;
    read_watched(&setup, expected.len(), |process| {
        let now = high_water(&format!("{process}/status"));
        peak = now.unwrap_or(0).max(peak);
    })
    .await;
    assert!(peak > 0, "the peak was never seen");
    peak
}

fn high_water(status: &str) -> Option<u64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmHWM"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Polls a world in which nothing has happened since the first reading; answers the requests.
async fn idle_poll(projects: usize) -> usize {
    let (setup, _, _) = one_group(&Size::small_projects(projects)).await;
    setup.run(&[]).await.expect(0);
    let (asked, written) = (setup.gitlab.requests().len(), setup.cortex.stats().events);
    setup.run(&[]).await.expect(0);
    assert_eq!(setup.cortex.stats().events, written);
    setup.gitlab.requests().len() - asked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_of_few_projects_asks_each_list_once() {
    let projects = 10;
    let asked = idle_poll(projects).await;
    // The group, its projects, and of each project merge requests, issues, the head, pipelines, their children, releases.
    assert!(asked <= 2 + 6 * projects, "{asked} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_of_five_hundred_idle_projects_takes_a_dozen_requests() {
    let asked = idle_poll(500).await;
    assert!(asked <= 12, "{asked} requests");
}
