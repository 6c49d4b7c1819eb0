//! Merge requests and issues of many projects in one list.
//!
//! A group lists the merge requests of all projects below it, so that five hundred idle projects cost one request and not five hundred.
//! Everything else stays as it is with one project: each has its own stream and its own cursor. A project takes part once its own
//! first reading is over, and only if its cursor is not far behind the others, because the list is read from the oldest one on. The list
//! leaves out what this token may not see, so a project that may hide something is asked by itself.
//!
//! A group that does not answer with such a list is not asked again for a day; its projects are read one by one. One that cannot be
//! reached is asked again by the next run, unless its projects can.

use std::cell::RefCell;

use futures_util::future::FutureExt;
use serde_json::{Value, json};

use super::quiet::OFF;
use super::threads::{self, Announced, Commented};
use super::{End, Session, Stream, stream};
use crate::CONCURRENT_PROJECTS;
use crate::client::{Fault, Listing};
use crate::executor::side_by_side;
use crate::gitlab;
use crate::host::{Level, Mode, StreamState};
use crate::mapping::Project;
use crate::selection::{Group, Selection};
use crate::sorted::SortedMap;
use crate::time::Moment;
use crate::walk::{Stamp, TimeWalk, is_ahead};

/// How far a project's cursor may be behind the newest one of its group.
const LAG_SECONDS: i64 = 6 * 3600;

/// For how long a group that refused its list is not asked for it.
const REFUSED_SECONDS: i64 = 86_400;

/// A list of a group that is read instead of those of its projects.
pub(crate) struct Shared<'s> {
    group: &'s Group,
    list: &'static str,
    members: Vec<Member<'s>>,
}

/// A project that takes part, and where its stream goes on.
struct Member<'s> {
    project: &'s Project,
    from: Stamp,
}

/// Which lists are worth reading for all projects of a group at once. They tell what is new, and never what is gone: who compares
/// reads each project's own.
pub(crate) fn plan<'s>(session: &Session<'s>, selection: &'s Selection) -> Vec<Shared<'s>> {
    let events = session.settings.events;
    let mut plan = Vec::new();
    if session.many && session.since.is_none() {
        let projects: SortedMap<u64, &Project> = selection
            .projects
            .iter()
            .map(|project| (project.id, project))
            .collect();
        for group in &selection.groups {
            if events.merge_request || events.note {
                plan.extend(Shared::of::<gitlab::MergeRequest>(
                    session, group, &projects,
                ));
            }
            if events.issue || events.note {
                plan.extend(Shared::of::<gitlab::Issue>(session, group, &projects));
            }
        }
    }
    plan
}

impl<'s> Shared<'s> {
    fn of<T: Commented>(
        session: &Session<'_>,
        group: &'s Group,
        projects: &SortedMap<u64, &'s Project>,
    ) -> Option<Self> {
        let members: Vec<Member<'s>> = group
            .projects
            .iter()
            .filter_map(|id| projects.get(id).copied())
            // The list says nothing of what is switched off or hidden, and silence must not move a cursor.
            .filter(|project| T::shown_in_groups(project))
            .filter_map(|project| {
                let stream = Stream::new(session, project, T::LIST);
                let cursor = stream.peek().filter(|_| stream.mode() == Mode::Poll)?;
                if cursor.contains_key(OFF) {
                    return None;
                }
                let from = threads::position::<T>(session.settings, &cursor).ok()?;
                let believed = !is_ahead(Some(&from), Some(session.clock()));
                believed.then_some(Member { project, from })
            })
            .collect();
        let newest = members.iter().map(|member| member.from.moment).max()?;
        let oldest = newest.minus_seconds(LAG_SECONDS);
        let members: Vec<_> = members
            .into_iter()
            .filter(|member| member.from.moment >= oldest)
            .collect();
        let shared = Self {
            group,
            list: T::LIST,
            members,
        };
        (shared.members.len() >= super::quiet::MANY_PROJECTS && !shared.was_refused(session))
            .then_some(shared)
    }

    /// Whether this stream of the project is read here.
    pub(crate) fn covers(&self, project: &Project, name: &str) -> bool {
        self.list == name
            && self
                .members
                .iter()
                .any(|member| member.project.id == project.id)
    }

    /// Reads the list for all members. An error ends the run.
    pub(crate) async fn read(&self, session: &Session<'_>) -> Result<(), Fault> {
        if self.list == gitlab::MergeRequest::LIST {
            self.read_as::<gitlab::MergeRequest>(session).await
        } else {
            self.read_as::<gitlab::Issue>(session).await
        }
    }

    async fn read_as<T: Commented>(&self, session: &Session<'_>) -> Result<(), Fault> {
        let members: SortedMap<u64, Reader<'_>> = self
            .members
            .iter()
            .map(|member| {
                let reader = Reader {
                    stream: Stream::new(session, member.project, T::LIST),
                    from: &member.from,
                    failed: RefCell::default(),
                };
                (member.project.id, reader)
            })
            .collect();
        for member in members.values() {
            let stream = &member.stream;
            stream
                .host()
                .stream_status(&stream.key, &StreamState::Reading);
        }
        match self.walk::<T>(session, &members).await {
            Ok(()) => {
                for member in members.into_values() {
                    let end = match member.failed.into_inner() {
                        Some(fault) => Err(fault),
                        None => Ok(End::Complete),
                    };
                    member.stream.finish(end).await.map_err(Fault::Stop)?;
                }
                Ok(())
            }
            Err(fault) => {
                drop(members);
                self.read_one_by_one(session, fault).await
            }
        }
    }

    async fn walk<T: Commented>(
        &self,
        session: &Session<'_>,
        members: &SortedMap<u64, Reader<'_>>,
    ) -> Result<(), Fault> {
        let listing = Listing::new(
            format!("/groups/{}/{}", self.group.segment, T::LIST),
            T::QUERY,
        )
        .with("non_archived", "false");
        let oldest = members.values().map(|member| member.from);
        let oldest = oldest.min_by_key(|from| from.moment).cloned();
        let mut walk = TimeWalk::<T>::new(session.client, listing, "created_at", oldest);
        while let Some(batch) = walk.next().await? {
            let mut by_project: SortedMap<u64, Vec<T>> = SortedMap::default();
            for row in batch.rows {
                let Some(project) = row.project_id() else {
                    return Err(Fault::Unavailable(
                        "a row does not say which project it belongs to".to_owned(),
                    ));
                };
                by_project.entry(project).or_default().push(row);
            }
            let pages = by_project.into_iter().filter_map(|(project, rows)| {
                let member = members.get(&project)?;
                Some(member.take(rows).boxed_local())
            });
            side_by_side(CONCURRENT_PROJECTS, pages).await?;
            if let Some(at) = batch.resume {
                move_to::<T>(members, &at, walk.started());
            }
        }
        let end = session.horizon(walk.started());
        move_to::<T>(members, &end, walk.started());
        Ok(())
    }

    fn key(&self) -> String {
        format!("group/{}/{}", self.group.segment, self.list)
    }

    fn was_refused(&self, session: &Session<'_>) -> bool {
        let refused_at = session.client.host.state(&self.key()).and_then(|text| {
            let state: Value = serde_json::from_str(&text).ok()?;
            Moment::parse(state.get("refused_at")?.as_str()?)
        });
        let clock = session.clock();
        refused_at.is_some_and(|at| at <= clock && clock.minus_seconds(REFUSED_SECONDS) < at)
    }

    async fn read_one_by_one(&self, session: &Session<'_>, fault: Fault) -> Result<(), Fault> {
        let (reason, stays) = match fault {
            Fault::Refused(refusal) => (refusal.words, true),
            Fault::TooMuch(reason) => (reason, true),
            Fault::Unavailable(reason) => (reason, false),
            stop @ Fault::Stop(_) => return Err(stop),
        };
        session.client.host.log(
            Level::Info,
            &format!(
                "the {} of the group {} cannot be read in one list ({reason}); its projects are read one by one",
                self.list, self.group.segment
            ),
            &[],
        );
        if stays {
            self.remember(session, &reason);
        }
        let failed_before = session.failed.borrow().len();
        let readings = self
            .members
            .iter()
            .filter_map(|member| stream(session, member.project, self.list));
        side_by_side(CONCURRENT_PROJECTS, readings).await?;
        // Where the projects cannot be read either, it is not the list that does not work, and it is worth asking for next time. What
        // fails beside these makes them look worse, and costs one more request for the list.
        let failed = session.failed.borrow().len() - failed_before;
        if !stays && failed * 2 < self.members.len() {
            self.remember(session, &reason);
        }
        Ok(())
    }

    /// Does not ask for the list again for a day.
    fn remember(&self, session: &Session<'_>, reason: &str) {
        let state = json!({ "refused_at": session.clock().to_string(), "reason": reason });
        session
            .client
            .host
            .set_state(&self.key(), &state.to_string());
    }
}

/// The stream of a member while the list is read.
struct Reader<'s> {
    stream: Stream<'s>,
    from: &'s Stamp,
    failed: RefCell<Option<Fault>>,
}

impl Reader<'_> {
    /// Takes in this project's rows of a page. What goes wrong with them holds this stream's cursor and not the others'.
    async fn take<T: Commented>(&self, mut rows: Vec<T>) -> Result<(), Fault> {
        if self.failed.borrow().is_some() {
            return Ok(());
        }
        let is_new = |row: &T| {
            let updated = row.updated_at().and_then(Moment::parse);
            updated.is_none_or(|updated| updated >= self.from.moment)
        };
        rows.retain(is_new);
        let count = rows.len();
        match threads::write_page(&self.stream, rows, &Announced::default()).await {
            Ok(_) => self.stream.progress(count, None),
            Err(fault @ Fault::Stop(_)) => return Err(fault),
            Err(fault) => *self.failed.borrow_mut() = Some(fault),
        }
        Ok(())
    }
}

/// Moves the cursors of all members that have come this far.
fn move_to<T: Commented>(
    members: &SortedMap<u64, Reader<'_>>,
    at: &Stamp,
    started: Option<Moment>,
) {
    for member in members.values() {
        let ahead = at.moment > member.from.moment;
        if ahead && member.failed.borrow().is_none() {
            let stream = &member.stream;
            let horizon = stream.session.horizon(started);
            let at = if at.moment < horizon.moment {
                at
            } else {
                &horizon
            };
            stream.set_cursor(&threads::cursor::<T>(stream, at));
        }
    }
}
