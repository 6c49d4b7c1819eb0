//! The oracle: what a correct connector must have stored.
//!
//! It is computed from the rows, not from the API, so that a fault of the API's rendering or of the client's paging cannot hide
//! itself by being asked twice.

use std::collections::BTreeSet;

use serde::Serialize;

use super::access::Viewer;
use super::clock::Micros;
use super::graph::Walk;
use super::model::{Feature, Project, Threads};
use super::world::World;

/// The kinds of records, in the words of keys and labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// `merge_request`.
    MergeRequest,
    /// `issue`.
    Issue,
    /// `note`.
    Note,
    /// `commit`.
    Commit,
    /// `pipeline`.
    Pipeline,
    /// `release`.
    Release,
}

impl EventType {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::MergeRequest,
        Self::Issue,
        Self::Note,
        Self::Commit,
        Self::Pipeline,
        Self::Release,
    ];

    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MergeRequest => "merge_request",
            Self::Issue => "issue",
            Self::Note => "note",
            Self::Commit => "commit",
            Self::Pipeline => "pipeline",
            Self::Release => "release",
        }
    }
}

/// What a connection selects, and with which eyes.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Groups, with all their subgroups.
    pub groups: Vec<u64>,
    /// Projects.
    pub projects: Vec<u64>,
    /// The token that reads; decides what is visible.
    pub token: String,
    /// Kinds wanted.
    pub event_types: BTreeSet<EventType>,
    /// Confidential issues and internal notes are wanted.
    pub include_confidential: bool,
    /// Archived projects of a selected group are wanted. (A project selected itself always is.)
    pub include_archived: bool,
    /// Projects shared with a selected group are wanted.
    pub include_shared: bool,
}

impl Selection {
    /// Everything in these groups that the token sees, without confidential and without shared projects.
    #[must_use]
    pub fn groups(groups: &[u64], token: &str) -> Self {
        Self {
            groups: groups.to_vec(),
            projects: Vec::new(),
            token: token.to_owned(),
            event_types: EventType::ALL.into_iter().collect(),
            include_confidential: false,
            include_archived: true,
            include_shared: false,
        }
    }

    /// These projects, likewise.
    #[must_use]
    pub fn projects(projects: &[u64], token: &str) -> Self {
        Self {
            projects: projects.to_vec(),
            ..Self::groups(&[], token)
        }
    }
}

/// A record that must be stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// `gl:<event_type>:<project_id>/<id>`.
    pub source_id: String,
    /// Kind.
    pub event_type: EventType,
    /// Project.
    pub project_id: u64,
    /// iid, note id, pipeline id, sha or tag.
    pub id: String,
    /// Title, for the kinds that have one.
    pub title: Option<String>,
    /// The text: description, comment, commit message, release notes.
    pub text: Option<String>,
    /// State or status.
    pub state: Option<String>,
    /// Confidential issue or internal note, or a note on a confidential issue.
    pub confidential: bool,
    /// Author's user name, or name for commits.
    pub author: Option<String>,
    /// Source id of the merge request or issue that a note belongs to.
    pub parent: Option<String>,
    /// Source id of the previous visible comment of the discussion, or of the parent for the first one.
    pub preceded_by: Option<String>,
    /// Discussion of a note.
    pub discussion_id: Option<String>,
    /// When it came into being (commits: committed; releases: released).
    pub created_at: Micros,
}

/// The stable identity of a record.
#[must_use]
pub fn source_id(event_type: EventType, project: u64, id: impl std::fmt::Display) -> String {
    format!("gl:{}:{project}/{id}", event_type.as_str())
}

impl World {
    /// The viewer behind a token's value.
    #[must_use]
    pub fn viewer(&self, token: &str) -> Viewer {
        Viewer(
            self.tokens
                .iter()
                .find(|found| found.value == token)
                .map(|found| found.user),
        )
    }

    /// The ids of the projects that a selection covers and its token sees.
    #[must_use]
    pub fn selected_projects(&self, selection: &Selection) -> BTreeSet<u64> {
        let viewer = self.viewer(&selection.token);
        let by_group = selection.groups.iter().flat_map(|&group| {
            let found = self.group_projects(group, true, selection.include_shared);
            found
                .into_iter()
                .filter(|project| selection.include_archived || !self.is_archived(project))
        });
        let by_id = selection
            .projects
            .iter()
            .filter_map(|id| self.projects.get(id));
        by_group
            .chain(by_id)
            .filter(|project| self.sees_project(viewer, project))
            .map(|p| p.id)
            .collect()
    }

    /// What must be stored for a selection, ordered by source id.
    #[must_use]
    pub fn expected(&self, selection: &Selection) -> Vec<Expected> {
        let viewer = self.viewer(&selection.token);
        let mut out = Vec::new();
        for id in self.selected_projects(selection) {
            if let Some(project) = self.projects.get(&id) {
                self.expect_merge_requests(selection, viewer, project, &mut out);
                self.expect_issues(selection, viewer, project, &mut out);
                self.expect_repository(selection, viewer, project, &mut out);
            }
        }
        out.sort_by(|a, b| a.source_id.cmp(&b.source_id));
        out
    }

    fn username(&self, user: Option<u64>) -> Option<String> {
        user.and_then(|id| self.users.get(&id))
            .map(|user| user.username.clone())
    }

    fn expect_merge_requests(
        &self,
        selection: &Selection,
        viewer: Viewer,
        project: &Project,
        out: &mut Vec<Expected>,
    ) {
        if !self.sees_feature(viewer, project, Feature::MergeRequests) {
            return;
        }
        for found in project.merge_requests.values() {
            let parent = source_id(EventType::MergeRequest, project.id, found.iid);
            if selection.event_types.contains(&EventType::MergeRequest) {
                out.push(Expected {
                    source_id: parent.clone(),
                    event_type: EventType::MergeRequest,
                    project_id: project.id,
                    id: found.iid.to_string(),
                    title: Some(found.title.clone()),
                    text: found.description.clone(),
                    state: Some(found.state.as_str().to_owned()),
                    confidential: false,
                    author: self.username(found.author),
                    parent: None,
                    preceded_by: None,
                    discussion_id: None,
                    created_at: found.created_at,
                });
            }
            self.expect_notes(
                selection,
                viewer,
                project,
                &found.threads,
                &parent,
                false,
                out,
            );
        }
    }

    fn expect_issues(
        &self,
        selection: &Selection,
        viewer: Viewer,
        project: &Project,
        out: &mut Vec<Expected>,
    ) {
        if !self.sees_feature(viewer, project, Feature::Issues) {
            return;
        }
        for found in project.issues.values() {
            if !self.sees_issue(viewer, project, found)
                || (found.confidential && !selection.include_confidential)
            {
                continue;
            }
            let parent = source_id(EventType::Issue, project.id, found.iid);
            if selection.event_types.contains(&EventType::Issue) {
                out.push(Expected {
                    source_id: parent.clone(),
                    event_type: EventType::Issue,
                    project_id: project.id,
                    id: found.iid.to_string(),
                    title: Some(found.title.clone()),
                    text: found.description.clone(),
                    state: Some(if found.open { "opened" } else { "closed" }.to_owned()),
                    confidential: found.confidential,
                    author: self.username(found.author),
                    parent: None,
                    preceded_by: None,
                    discussion_id: None,
                    created_at: found.created_at,
                });
            }
            self.expect_notes(
                selection,
                viewer,
                project,
                &found.threads,
                &parent,
                found.confidential,
                out,
            );
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one private walk with its whole context, called twice"
    )]
    fn expect_notes(
        &self,
        selection: &Selection,
        viewer: Viewer,
        project: &Project,
        threads: &Threads,
        parent: &str,
        confidential: bool,
        out: &mut Vec<Expected>,
    ) {
        if !selection.event_types.contains(&EventType::Note) {
            return;
        }
        for discussion in &threads.discussions {
            let mut previous = parent.to_owned();
            for note in &discussion.notes {
                let visible =
                    self.sees_note(viewer, project, note) && !self.is_hidden_by_knob(note);
                if note.system || !visible || (note.internal && !selection.include_confidential) {
                    continue;
                }
                let own = source_id(EventType::Note, project.id, note.id);
                out.push(Expected {
                    source_id: own.clone(),
                    event_type: EventType::Note,
                    project_id: project.id,
                    id: note.id.to_string(),
                    title: None,
                    text: Some(note.body.clone()),
                    state: None,
                    confidential: confidential || note.internal,
                    author: self.username(note.author),
                    parent: Some(parent.to_owned()),
                    preceded_by: Some(previous),
                    discussion_id: Some(discussion.id.clone()),
                    created_at: note.created_at,
                });
                previous = own;
            }
        }
    }

    fn expect_repository(
        &self,
        selection: &Selection,
        viewer: Viewer,
        project: &Project,
        out: &mut Vec<Expected>,
    ) {
        let wants = |event_type| selection.event_types.contains(&event_type);
        let record = |event_type, id: String, created_at| Expected {
            source_id: source_id(event_type, project.id, &id),
            event_type,
            project_id: project.id,
            id,
            title: None,
            text: None,
            state: None,
            confidential: false,
            author: None,
            parent: None,
            preceded_by: None,
            discussion_id: None,
            created_at,
        };
        if wants(EventType::Commit) && self.sees_feature(viewer, project, Feature::Repository) {
            let walk = Walk {
                from: project
                    .repository
                    .default_head()
                    .cloned()
                    .into_iter()
                    .collect(),
                ..Walk::default()
            };
            out.extend(
                project
                    .repository
                    .log(&walk)
                    .into_iter()
                    .map(|commit| Expected {
                        title: Some(commit.title().to_owned()),
                        text: Some(commit.message.clone()),
                        author: Some(commit.author_name.clone()),
                        ..record(EventType::Commit, commit.sha.clone(), commit.committed_at)
                    }),
            );
        }
        if wants(EventType::Pipeline) && self.sees_feature(viewer, project, Feature::Builds) {
            let done = project
                .pipelines
                .values()
                .filter(|pipeline| pipeline.is_terminal());
            out.extend(done.map(|pipeline| Expected {
                title: pipeline.name.clone(),
                state: Some(pipeline.status.clone()),
                author: self.username(pipeline.user),
                ..record(
                    EventType::Pipeline,
                    pipeline.id.to_string(),
                    pipeline.created_at,
                )
            }));
        }
        if wants(EventType::Release) && self.sees_feature(viewer, project, Feature::Releases) {
            out.extend(project.releases.values().map(|release| Expected {
                title: Some(release.name.clone()),
                text: release.description.clone(),
                author: self.username(release.author),
                ..record(EventType::Release, release.tag.clone(), release.released_at)
            }));
        }
    }
}
