//! Which hooks are wanted where, and what remains to be polled.
//!
//! One hook of a group tells of all that its projects have; it needs the role Owner and a paid GitLab. Otherwise each project needs a hook
//! of its own, which a Maintainer may make. A hook of the instance needs an administrator, covers every project there is, and tells of
//! pushes and merge requests only: it is used where it is asked for, or where everything is read, and the projects' hooks tell the rest.
//! Whatever cannot be had is polled, and said with the reason, because a hook that is thought to be there is worse than none.
//!
//! The places where hooks were made are remembered in the state `hooks`, so that they are found again when the selection has changed.
//! What is more than one value of the state may hold goes on in `hooks/2`, `hooks/3` and so on.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;

use futures_util::future::FutureExt;
use serde_json::{Map, Value, json};

use super::registry::{self, Kept, Place};
use crate::client::Client;
use crate::executor::side_by_side;
use crate::host::{Failure, Host, Level, Plan, Polled, Target};
use crate::mapping::Project;
use crate::selection::{self, Group, Selection};
use crate::settings::{Hooks, Settings};
use crate::sorted::{SortedMap, SortedSet, sorted, sorted_by_key};
use crate::time::Moment;

/// Places that are looked at at the same time.
const CONCURRENT: usize = 8;

/// Projects that get their first hook in one call. The next ones follow in the next.
const NEW_AT_ONCE: usize = 200;

/// Hooks whose failed calls are looked for in one call; the list of them carries bodies.
const LOOKED_AT: usize = 50;

/// For how long a project that refused a hook is not asked again.
const REFUSED_SECONDS: i64 = 86_400;

/// Names in a reason.
const NAMED: usize = 5;

/// Key of what is remembered.
const MEMORY: &str = "hooks";

/// Bytes of what is remembered in one value of the state, which may have 64 KiB.
const MEMORY_BYTES: usize = 60 << 10;

/// Characters of a reason that is remembered.
const REASON_CHARS: usize = 2_000;

/// What is remembered from call to call.
#[derive(Debug, Default, PartialEq, Eq)]
struct Memory {
    /// Places that may have a hook of ours.
    places: SortedSet<String>,
    /// Projects that refused one, with the reason.
    refused: SortedMap<String, String>,
    refused_at: Option<Moment>,
    /// The newest call that was sent again, by place.
    resent: SortedMap<String, u64>,
}

impl Memory {
    fn read(host: &dyn Host, now: Option<Moment>) -> Self {
        let mut memory = Self::default();
        for page in 0.. {
            let Some(text) = host.state(&memory_key(page)) else {
                break;
            };
            memory.take(&serde_json::from_str(&text).unwrap_or_default());
        }
        memory.refused_at = memory.refused_at.zip(now).and_then(|(at, now)| {
            (at <= now && now.minus_seconds(REFUSED_SECONDS) < at).then_some(at)
        });
        if memory.refused_at.is_none() {
            memory.refused.clear();
        }
        memory
    }

    /// Takes in what one value of the state says, as far as it makes sense.
    fn take(&mut self, page: &Value) {
        let places = page["places"].as_array().into_iter().flatten();
        let places = places.filter_map(Value::as_str);
        self.places
            .extend(places.filter(|place| is_place(place)).map(str::to_owned));
        let pairs = |key: &str| {
            let pairs = page[key].as_object().cloned().unwrap_or_default();
            pairs.into_iter().filter(|(place, _)| is_place(place))
        };
        self.refused.extend(
            pairs("refused").filter_map(|(place, why)| Some((place, why.as_str()?.to_owned()))),
        );
        self.resent
            .extend(pairs("resent").filter_map(|(place, id)| Some((place, id.as_u64()?))));
        let refused_at = page["refused_at"].as_str().and_then(Moment::parse);
        self.refused_at = self.refused_at.or(refused_at);
    }

    fn save(&self, host: &dyn Host) {
        let pages = self.pages();
        let set = |page: usize, text: String| {
            let key = memory_key(page);
            if host.state(&key).as_ref() != Some(&text) {
                host.set_state(&key, &text);
            }
        };
        // The last one first: what has moved there from the one before is never in neither.
        for (number, (_, page)) in pages.iter().enumerate().rev() {
            set(number, page.to_json().to_string());
        }
        for surplus in pages.len().. {
            if host.state(&memory_key(surplus)).is_none() {
                break;
            }
            set(surplus, "{}".to_owned());
        }
    }

    /// The same in parts of which each fits into a value of the state, with their sizes.
    fn pages(&self) -> Vec<(usize, Self)> {
        let first = Self {
            refused_at: self.refused_at,
            ..Self::default()
        };
        let mut pages = vec![(0, first)];
        for place in self.places.iter() {
            let page = page_with_room(&mut pages, place.len());
            page.places.insert(place.clone());
        }
        for (place, id) in &self.resent {
            let page = page_with_room(&mut pages, place.len() + id.to_string().len());
            page.resent.insert(place.clone(), *id);
        }
        for (place, why) in &self.refused {
            let why: String = why.chars().take(REASON_CHARS).collect();
            let page = page_with_room(&mut pages, place.len() + json!(why).to_string().len());
            page.refused.insert(place.clone(), why);
        }
        pages
    }

    fn to_json(&self) -> Value {
        json!({
            "places": self.places.iter().collect::<Vec<_>>(),
            "resent": object(&self.resent),
            "refused": object(&self.refused),
            "refused_at": self.refused_at.map(|at| at.to_string()),
        })
    }
}

fn object<V: Clone + Into<Value>>(pairs: &SortedMap<String, V>) -> Value {
    let mut object = Map::new();
    for (key, value) in pairs {
        object.insert(key.clone(), value.clone().into());
    }
    Value::Object(object)
}

/// The last page, or a new one if it has no room for an entry of so many bytes and the signs around it.
fn page_with_room(pages: &mut Vec<(usize, Memory)>, bytes: usize) -> &mut Memory {
    const SIGNS: usize = 8;
    let bytes = bytes + SIGNS;
    let is_full = |(used, _): &(usize, Memory)| used + bytes > MEMORY_BYTES;
    if pages.last().is_none_or(is_full) {
        pages.push((0, Memory::default()));
    }
    let last = pages.len() - 1;
    let (used, page) = &mut pages[last];
    *used += bytes;
    page
}

/// The key of a page of what is remembered, counted from 0.
fn memory_key(page: usize) -> String {
    match page {
        0 => MEMORY.to_owned(),
        page => format!("{MEMORY}/{}", page + 1),
    }
}

/// Whether this is a place as [`Place::path`] names them; what a user put there instead is not asked for.
fn is_place(path: &str) -> bool {
    let is_id = |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
    path.is_empty()
        || path
            .strip_prefix("projects/")
            .or_else(|| path.strip_prefix("groups/"))
            .is_some_and(is_id)
}

/// A place without its events.
fn place(path: String, subject: String) -> Place {
    Place {
        path,
        subject,
        events: Vec::new(),
    }
}

fn remembered(path: &str) -> Place {
    let subject = match path.split_once('/') {
        Some(("groups", id)) => format!("group {id}"),
        Some((_, id)) => format!("project {id}"),
        None => "the instance".to_owned(),
    };
    place(path.to_owned(), subject)
}

fn of_project(project: &Project) -> Place {
    place(
        format!("projects/{}", project.id),
        format!("project {}", project.path),
    )
}

/// What hooks have to tell of with these settings. What becomes confidential is told to hooks for that alone, and has to be forgotten.
fn wanted(settings: &Settings) -> Vec<&'static str> {
    let events = settings.events;
    let kinds = [
        ("push_events", events.commit),
        ("merge_requests_events", events.merge_request),
        ("issues_events", events.issue),
        ("confidential_issues_events", events.issue || events.note),
        ("note_events", events.note),
        ("confidential_note_events", events.note),
        ("pipeline_events", events.pipeline),
        ("releases_events", events.release),
    ];
    let wanted = kinds.into_iter().filter(|(_, wanted)| *wanted);
    wanted.map(|(event, _)| event).collect()
}

/// What the instance can tell of that. A release begins with its tag.
fn of_instance(settings: &Settings) -> Vec<&'static str> {
    let events = settings.events;
    let kinds = [
        ("push_events", events.commit),
        ("tag_push_events", events.release),
        ("merge_requests_events", events.merge_request),
    ];
    let wanted = kinds.into_iter().filter(|(_, wanted)| *wanted);
    wanted.map(|(event, _)| event).collect()
}

/// Some events in words: `issues, comments and pipelines`.
fn in_words(events: &[&str]) -> String {
    let mut words: Vec<&str> = Vec::new();
    for event in events {
        let word = match *event {
            "push_events" => "commits",
            "merge_requests_events" => "merge requests",
            "issues_events" => "issues",
            "confidential_issues_events" if events.contains(&"issues_events") => continue,
            "confidential_issues_events" => "issues that become confidential",
            "note_events" => "comments",
            "confidential_note_events" if events.contains(&"note_events") => continue,
            "confidential_note_events" => "internal comments",
            "pipeline_events" => "pipelines",
            "releases_events" | "tag_push_events" => "releases",
            other => other,
        };
        words.push(word);
    }
    match words.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// Why a group has no hook.
struct Refused {
    /// GitLab did not answer, which says nothing about what it would allow.
    passing: bool,
    reason: String,
}

/// The plan in the making.
struct Making<'c> {
    client: &'c Client<'c>,
    target: &'c Target,
    memory: RefCell<Memory>,
    plan: RefCell<Plan>,
    /// Hooks whose calls have been looked at.
    looked_at: Cell<usize>,
    /// What could not be had: what of which places, by reason.
    lacking: RefCell<SortedMap<(String, String), Vec<String>>>,
}

impl Making<'_> {
    /// Sees to the hook of a place; the refusal where there is none.
    async fn keep(&self, place: &Place) -> Result<Option<(u16, String)>, Failure> {
        let resent = self.memory.borrow().resent.get(&place.path).copied();
        let look = self.looked_at.get() < LOOKED_AT;
        self.looked_at.set(self.looked_at.get() + 1);
        let (kept, newest) = registry::keep(self.client, place, self.target, resent, look).await?;
        let mut memory = self.memory.borrow_mut();
        match kept {
            Kept::Hooked {
                hook,
                missed,
                untold,
            } => {
                memory.places.insert(place.path.clone());
                memory.refused.remove(&place.path);
                if let Some(newest) = newest {
                    memory.resent.insert(place.path.clone(), newest);
                }
                let mut plan = self.plan.borrow_mut();
                plan.hooks.push(hook);
                plan.missed |= missed;
                if !untold.is_empty() {
                    plan.polled.push(Polled {
                        subject: format!("{} of {}", in_words(&untold), place.subject),
                        reason: "this GitLab's hooks do not tell of them; a newer one does"
                            .to_owned(),
                    });
                }
                Ok(None)
            }
            Kept::Refused { status, words } => Ok(Some((status, words))),
        }
    }

    /// Notes that something of a place is polled.
    fn lacks(&self, what: &str, subject: &str, reason: &str) {
        let key = (what.to_owned(), reason.to_owned());
        let mut lacking = self.lacking.borrow_mut();
        lacking.entry(key).or_default().push(subject.to_owned());
    }

    async fn keep_group(
        &self,
        group: &Group,
        events: &[&'static str],
    ) -> Result<Option<Refused>, Failure> {
        let mut events = events.to_vec();
        // New projects, and ones that are moved or removed.
        events.push("project_events");
        let place = Place {
            path: format!("groups/{}", group.segment),
            subject: format!("group {}", group.path),
            events,
        };
        let refusal = self.keep(&place).await?;
        Ok(refusal.map(|(status, words)| {
            let passing = !matches!(status, 400..=499);
            let why = match status {
                404 | 405 => {
                    "this GitLab has no hooks of groups (they need Premium or Ultimate), or the token's user may not see those of this one"
                }
                403 => "a hook of a group needs the role Owner in it, and a token with the scope api",
                _ => "its hook could not be made",
            };
            Refused {
                passing,
                reason: format!("group {}: {why}: {words}", group.path),
            }
        }))
    }

    async fn keep_project(
        &self,
        project: &Project,
        events: &[&'static str],
        what: &str,
        group: Option<&String>,
    ) -> Result<(), Failure> {
        let place = Place {
            events: events.to_vec(),
            ..of_project(project)
        };
        let Some((status, words)) = self.keep(&place).await? else {
            return Ok(());
        };
        let why = match status {
            403 | 404 => {
                "a hook of a project needs the role Maintainer in it, and a token with the scope api"
            }
            _ => "its hook could not be made",
        };
        let group = group.map_or_else(String::new, |group| format!("; {group}"));
        let reason = format!("{why}: {words}{group}");
        self.lacks(what, &place.subject, &reason);
        // A role stays for a while. What else is in the way (an address that is blocked, too many hooks) is tried again in the next call.
        if matches!(status, 403 | 404) {
            let mut memory = self.memory.borrow_mut();
            memory.refused.insert(place.path, reason);
        }
        Ok(())
    }

    /// Everything that is lacking, told once for each reason.
    fn finish(self) -> Plan {
        let mut plan = self.plan.into_inner();
        for ((what, reason), subjects) in self.lacking.into_inner() {
            let subjects = sorted(subjects);
            let subject = if let [subject] = subjects.as_slice() {
                format!("{what} of {subject}")
            } else {
                let named: Vec<&str> = subjects.iter().take(NAMED).map(String::as_str).collect();
                let dots = if subjects.len() > NAMED { ", …" } else { "" };
                format!(
                    "{what} of {} projects ({}{dots})",
                    subjects.len(),
                    named.join(", ")
                )
            };
            plan.polled.push(Polled { subject, reason });
        }
        plan.hooks = sorted_by_key(plan.hooks, |hook| hook.id.clone());
        plan
    }
}

/// See [`super::connect`].
pub(super) async fn connect(
    client: &Client<'_>,
    settings: &Settings,
    target: &Target,
    now: Moment,
) -> Result<Plan, Failure> {
    if settings.hooks == Hooks::Off {
        let polled = disconnect(client, settings, target).await?;
        let off = Polled {
            subject: "everything".to_owned(),
            reason: "`hooks` (GITLAB_HOOKS) is off".to_owned(),
        };
        return Ok(Plan {
            polled: std::iter::once(off).chain(polled).collect(),
            ..Plan::default()
        });
    }
    let selection = selection::resolve(client, settings).await?;
    let now = client.clock().unwrap_or(now);
    let making = Making {
        client,
        target,
        memory: RefCell::new(Memory::read(client.host, Some(now))),
        plan: RefCell::default(),
        looked_at: Cell::new(0),
        lacking: RefCell::default(),
    };
    let made = make(&making, settings, &selection, now).await;
    // Also what was made before something went wrong.
    making.memory.borrow().save(client.host);
    made?;
    Ok(making.finish())
}

/// Sees to all places, and to those that are not wanted any more.
async fn make(
    making: &Making<'_>,
    settings: &Settings,
    selection: &Selection,
    now: Moment,
) -> Result<(), Failure> {
    let before = making.memory.borrow().places.clone();
    let mut used: SortedSet<String> = SortedSet::default();
    let mut events = wanted(settings);

    if reads_instance(settings) && !of_instance(settings).is_empty() {
        let instance = Place {
            events: of_instance(settings),
            ..remembered("")
        };
        let refusal = making.keep(&instance).await?;
        match refusal {
            None => {
                used.insert(instance.path);
                // The tag of a release is told, and not what is changed in it later.
                events.retain(|event| !instance.events.contains(event));
            }
            Some((status, words)) => {
                if !matches!(status, 400..=499) {
                    used.insert(instance.path);
                }
                let reason = format!(
                    "a hook of the instance needs an administrator's token with the scopes api and admin_mode: {words}"
                );
                making.client.host.log(Level::Info, &reason, &[]);
                if settings.hooks == Hooks::System {
                    let what = in_words(&of_instance(settings));
                    making.plan.borrow_mut().polled.push(Polled {
                        subject: format!("{what} of the instance"),
                        reason,
                    });
                }
            }
        }
    }
    if settings.hooks == Hooks::System {
        events.retain(|event| !of_instance(settings).contains(event));
        if !events.is_empty() {
            making.plan.borrow_mut().polled.push(Polled {
                subject: in_words(&events),
                reason: "hooks of the instance do not tell of them; `hooks` = auto also makes those of groups and projects".to_owned(),
            });
        }
    } else if !events.is_empty() {
        below(making, settings, selection, &events, now, &mut used).await?;
    }
    let gone = making
        .memory
        .borrow()
        .places
        .iter()
        .filter(|path| !used.contains(*path) && before.contains(*path))
        .cloned()
        .collect();
    forget(making, gone).await
}

/// Whether a hook of the instance is wanted: it covers projects that nobody named, so it has to be asked for, or nothing is named.
fn reads_instance(settings: &Settings) -> bool {
    match settings.hooks {
        Hooks::System => true,
        Hooks::Auto => settings.groups.is_empty() && settings.projects.is_empty(),
        Hooks::Group | Hooks::Project | Hooks::Off => false,
    }
}

/// Hooks of groups and projects.
async fn below(
    making: &Making<'_>,
    settings: &Settings,
    selection: &Selection,
    events: &[&'static str],
    now: Moment,
    used: &mut SortedSet<String>,
) -> Result<(), Failure> {
    let everything = *events == wanted(settings);
    let what = if everything {
        "everything".to_owned()
    } else {
        in_words(events)
    };
    let mut covered: SortedSet<u64> = SortedSet::default();
    let mut refusals: SortedMap<u64, String> = SortedMap::default();
    if settings.hooks != Hooks::Project {
        for group in top_most(&selection.groups) {
            let below = selection.projects.iter().filter(|project| {
                group.projects.contains(&project.id)
                    || selection::is_at_or_below(&project.group, &group.path)
            });
            match making.keep_group(group, events).await? {
                None => {
                    used.insert(format!("groups/{}", group.segment));
                    covered.extend(below.map(|project| project.id));
                }
                // A hook that is there stays, and no others are made in its place.
                Some(Refused {
                    passing: true,
                    reason,
                }) => {
                    used.insert(format!("groups/{}", group.segment));
                    for project in below {
                        covered.insert(project.id);
                        making.lacks(&what, &of_project(project).subject, &reason);
                    }
                }
                Some(Refused { reason, .. }) => {
                    making.client.host.log(Level::Info, &reason, &[]);
                    refusals.extend(below.map(|project| (project.id, reason.clone())));
                }
            }
        }
    }
    let uncovered = selection
        .projects
        .iter()
        .filter(|project| !covered.contains(&project.id));
    if settings.hooks == Hooks::Group {
        let unnamed =
            "no group that is named has it, and `hooks` = group makes hooks of groups only"
                .to_owned();
        for project in uncovered {
            let reason = refusals.get(&project.id).unwrap_or(&unnamed);
            making.lacks(&what, &of_project(project).subject, reason);
        }
        return Ok(());
    }

    let mut known = Vec::new();
    let mut unknown = Vec::new();
    for project in uncovered {
        let path = of_project(project).path;
        let memory = making.memory.borrow();
        if memory.places.contains(&path) {
            known.push(project);
        } else if let Some(reason) = memory.refused.get(&path) {
            making.lacks(&what, &of_project(project).subject, reason);
        } else {
            unknown.push(project);
        }
    }
    // What is likely to change soon comes first.
    let by_activity = |project: &&Project| Reverse(project.last_activity);
    let known = sorted_by_key(known, by_activity);
    let mut unknown = sorted_by_key(unknown, by_activity);
    let later = unknown.split_off(unknown.len().min(NEW_AT_ONCE));
    used.extend(known.iter().map(|project| of_project(project).path));
    let keeping = known.into_iter().chain(unknown).map(|project| {
        let group = refusals.get(&project.id);
        making
            .keep_project(project, events, &what, group)
            .boxed_local()
    });
    side_by_side(CONCURRENT, keeping).await?;
    for project in later {
        let reason = format!(
            "no more than {NEW_AT_ONCE} projects get a hook at once; the others follow, the most active ones first"
        );
        making.lacks(&what, &of_project(project).subject, &reason);
    }
    let mut memory = making.memory.borrow_mut();
    if memory.refused_at.is_none() && !memory.refused.is_empty() {
        memory.refused_at = Some(now);
    }
    Ok(())
}

/// Groups that do not lie below another one of them.
fn top_most(groups: &[Group]) -> impl Iterator<Item = &Group> {
    groups.iter().enumerate().filter_map(|(index, group)| {
        let covered = groups.iter().enumerate().any(|(other_index, other)| {
            let is_below = selection::is_at_or_below(&group.path, &other.path);
            let is_same = selection::is_at_or_below(&other.path, &group.path);
            // Of one that is named twice the first counts.
            is_below && (!is_same || other_index < index)
        });
        (!covered).then_some(group)
    })
}

/// Removes the hooks of places that are not used any more.
async fn forget(making: &Making<'_>, paths: Vec<String>) -> Result<(), Failure> {
    let clearing = paths.into_iter().map(|path| {
        async move {
            let place = remembered(&path);
            match registry::clear(making.client, &place, making.target).await? {
                // A project or group that is gone took its hooks along.
                None | Some((404, _)) => {
                    let mut memory = making.memory.borrow_mut();
                    memory.places.remove(&path);
                    memory.resent.remove(&path);
                }
                Some((_, words)) => {
                    let line = format!(
                        "the hook of {} is not needed any more and cannot be removed: {words}",
                        place.subject
                    );
                    making.client.host.log(Level::Warn, &line, &[]);
                }
            }
            Ok(())
        }
        .boxed_local()
    });
    side_by_side(CONCURRENT, clearing).await
}

/// See [`super::disconnect`].
pub(super) async fn disconnect(
    client: &Client<'_>,
    settings: &Settings,
    target: &Target,
) -> Result<Vec<Polled>, Failure> {
    let made = match client.host.state(MEMORY) {
        Some(_) => Memory::read(client.host, None).places,
        None => SortedSet::default(),
    };
    let mut places: SortedMap<String, Place> = made
        .iter()
        .map(|path| (path.clone(), remembered(path)))
        .collect();
    let mut left = Vec::new();
    match selection::resolve(client, settings).await {
        Ok(selection) => {
            let groups = selection.groups.iter().map(|group| {
                let path = format!("groups/{}", group.segment);
                place(path, format!("group {}", group.path))
            });
            // What was made is known, but for a state that was lost or could not be saved.
            let projects = selection.projects.iter().map(of_project);
            let projects = projects.take(if made.is_empty() {
                usize::MAX
            } else {
                NEW_AT_ONCE
            });
            for place in groups.chain(projects) {
                places.insert(place.path.clone(), place);
            }
        }
        Err(failure @ (Failure::Standing(_) | Failure::Interrupted)) => return Err(failure),
        Err(
            Failure::Configuration(words) | Failure::Unavailable(words) | Failure::Internal(words),
        ) => left.push(Polled {
            subject: "hooks of what is selected, if any were made that are not remembered"
                .to_owned(),
            reason: words,
        }),
    }
    if reads_instance(settings) {
        places
            .entry(String::new())
            .or_insert_with(|| remembered(""));
    }
    let stay: RefCell<SortedSet<String>> = RefCell::default();
    let failed: RefCell<Vec<Polled>> = RefCell::default();
    let clearing = places.values().map(|place| {
        let (made, stay, failed) = (&made, &stay, &failed);
        async move {
            let was_made = made.contains(&place.path);
            match registry::clear(client, place, target).await? {
                None | Some((404, _)) => {}
                // Where this token may not even look, it made none.
                Some((403, _)) if !was_made => {}
                Some((_, words)) => {
                    stay.borrow_mut().insert(place.path.clone());
                    failed.borrow_mut().push(Polled {
                        subject: format!("the hook of {}", place.subject),
                        reason: format!(
                            "it could not be removed: {words}. Remove it by hand in its settings, under Webhooks"
                        ),
                    });
                }
            }
            Ok(())
        }
        .boxed_local()
    });
    side_by_side(CONCURRENT, clearing).await?;
    left.extend(failed.into_inner());
    let memory = Memory {
        places: stay.into_inner(),
        ..Memory::default()
    };
    if client.host.state(MEMORY).is_some() || !memory.places.is_empty() {
        memory.save(client.host);
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeGitLab, NOW, TestHost};

    #[test]
    fn what_is_remembered_of_thousands_of_projects_fits_into_the_state() {
        let paths = || (1_000_000..1_010_000).map(|id| format!("projects/{id}"));
        let many = Memory {
            places: paths().collect(),
            refused: paths().map(|path| (path, "\"no\" ".repeat(50))).collect(),
            refused_at: Moment::parse(NOW),
            resent: paths().map(|path| (path, u64::MAX)).collect(),
        };
        let few = Memory {
            places: paths().take(3).collect(),
            ..Memory::default()
        };
        let host = TestHost::new(FakeGitLab::default());
        for memory in [many, few] {
            memory.save(&host);
            assert_eq!(Memory::read(&host, Moment::parse(NOW)), memory);
        }
    }
}
