//! Tokens, and what the user behind a token may see.
//!
//! GitLab hides rather than refuses: a private project answers 404, a confidential issue is absent from a list, an internal
//! note is removed from a page after the page was cut. A client that takes absence for deletion loses data, so the simulator
//! decides visibility per token exactly where GitLab does.

use std::collections::BTreeSet;

use chrono::NaiveDate;

use super::model::{Feature, Issue, Note, Project, Role, Visibility};
use super::world::World;

/// How a token may be presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Personal, project and group tokens: `PRIVATE-TOKEN` or `Authorization: Bearer`.
    Personal,
    /// OAuth access tokens: `Authorization: Bearer` only.
    OAuth,
}

/// An access token.
#[derive(Clone, Debug)]
pub struct Token {
    /// Id shown by the self check.
    pub id: u64,
    /// The secret.
    pub value: String,
    /// Name shown by the self check.
    pub name: String,
    /// How it may be presented.
    pub kind: TokenKind,
    /// Whose it is.
    pub user: u64,
    /// `api`, `read_api`, `read_user`, `read_repository` …
    pub scopes: BTreeSet<String>,
    /// Ends at 00:00 UTC of this day.
    pub expires_at: Option<NaiveDate>,
    /// Revoked.
    pub revoked: bool,
}

impl Token {
    /// A personal token with the given scopes that never expires.
    #[must_use]
    pub fn personal(value: &str, user: u64, scopes: &[&str]) -> Self {
        Self {
            id: 0,
            value: value.to_owned(),
            name: value.to_owned(),
            kind: TokenKind::Personal,
            user,
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            expires_at: None,
            revoked: false,
        }
    }

    /// Whether one of the scopes is held.
    #[must_use]
    pub fn has_any(&self, scopes: &[&str]) -> bool {
        scopes.iter().any(|scope| self.scopes.contains(*scope))
    }
}

/// The user that a request acts for; `None` is anonymous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Viewer(pub Option<u64>);

impl World {
    /// The groups that hold `group`, itself first.
    #[must_use]
    pub fn ancestors(&self, group: u64) -> Vec<u64> {
        let mut out = Vec::new();
        let mut next = Some(group);
        while let Some(id) = next.filter(|id| !out.contains(id)) {
            out.push(id);
            next = self.groups.get(&id).and_then(|group| group.parent);
        }
        out
    }

    /// The highest role of the viewer in a project: direct, inherited, or by sharing.
    #[must_use]
    pub fn role(&self, viewer: Viewer, project: &Project) -> Option<Role> {
        let user = viewer.0?;
        if self.admins.contains(&user) {
            return Some(Role::Owner);
        }
        let direct = project.members.get(&user).copied();
        let inherited = self.group_role(viewer, project.group);
        let shared = project
            .shared_with
            .iter()
            .filter_map(|&group| self.group_role(viewer, group))
            .max();
        direct
            .max(inherited)
            .max(shared.map(|role| role.min(Role::Developer)))
    }

    /// The highest role of the viewer in a group.
    #[must_use]
    pub fn group_role(&self, viewer: Viewer, group: u64) -> Option<Role> {
        let user = viewer.0?;
        if self.admins.contains(&user) {
            return Some(Role::Owner);
        }
        self.ancestors(group)
            .iter()
            .filter_map(|id| self.groups.get(id)?.members.get(&user).copied())
            .max()
    }

    fn is_open_to(&self, visibility: Visibility, viewer: Viewer) -> bool {
        match visibility {
            Visibility::Public => true,
            Visibility::Internal => viewer.0.is_some(),
            Visibility::Private => false,
        }
    }

    /// Whether the viewer administers the instance.
    #[must_use]
    pub fn is_admin(&self, viewer: Viewer) -> bool {
        viewer.0.is_some_and(|user| self.admins.contains(&user))
    }

    /// Whether the project exists for the viewer.
    #[must_use]
    pub fn sees_project(&self, viewer: Viewer, project: &Project) -> bool {
        self.is_open_to(project.visibility, viewer) || self.role(viewer, project).is_some()
    }

    /// Whether the group exists for the viewer: by its visibility, by membership, or by a visible project inside.
    #[must_use]
    pub fn sees_group(&self, viewer: Viewer, group: u64) -> bool {
        let Some(found) = self.groups.get(&group) else {
            return false;
        };
        self.is_open_to(found.visibility, viewer)
            || self.group_role(viewer, group).is_some()
            || self
                .projects
                .values()
                .any(|p| self.ancestors(p.group).contains(&group) && self.sees_project(viewer, p))
    }

    /// Whether the viewer may read the project's code and what hangs on it. Guests of private projects may not.
    #[must_use]
    pub fn sees_code(&self, viewer: Viewer, project: &Project) -> bool {
        self.is_open_to(project.visibility, viewer)
            || self
                .role(viewer, project)
                .is_some_and(|role| role >= Role::Reporter)
    }

    /// Whether a feature is on and readable. (Issues need no role beyond seeing the project.)
    #[must_use]
    pub fn sees_feature(&self, viewer: Viewer, project: &Project, feature: Feature) -> bool {
        let allowed = match feature {
            Feature::Issues | Feature::Releases => self.sees_project(viewer, project),
            Feature::MergeRequests | Feature::Builds | Feature::Repository => {
                self.sees_code(viewer, project)
            }
        };
        allowed && !project.disabled.contains(&feature)
    }

    /// Whether the viewer may read confidential issues and internal notes.
    #[must_use]
    pub fn sees_internals(&self, viewer: Viewer, project: &Project) -> bool {
        self.role(viewer, project)
            .is_some_and(|role| role >= Role::Planner)
    }

    /// Whether the viewer may read this issue.
    #[must_use]
    pub fn sees_issue(&self, viewer: Viewer, project: &Project, issue: &Issue) -> bool {
        let own = viewer
            .0
            .is_some_and(|user| issue.author == Some(user) || issue.assignees.contains(&user));
        !issue.confidential || own || self.sees_internals(viewer, project)
    }

    /// Whether the viewer may read this note (given that the parent is readable).
    #[must_use]
    pub fn sees_note(&self, viewer: Viewer, project: &Project, note: &Note) -> bool {
        !note.hidden && (!note.internal || self.sees_internals(viewer, project))
    }

    /// Whether a knob takes this note away from everybody.
    #[must_use]
    pub fn is_hidden_by_knob(&self, note: &Note) -> bool {
        let nth = u64::try_from(self.knobs.hide_every_nth_note).unwrap_or(0);
        (note.internal && self.knobs.hide_internal_notes)
            || (nth > 0 && note.id.is_multiple_of(nth))
    }
}
