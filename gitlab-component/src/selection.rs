//! From what the user named to the projects that are read.
//!
//! Nothing is written before every name has been resolved: a typing error in one of ten projects must not look like a run that
//! went well. Names are resolved to numeric ids at once, because paths change and ids do not.

use std::collections::BTreeSet;

use crate::client::{Client, Fault, Listing, Refusal};
use crate::executor::gather;
use crate::gitlab;
use crate::host::{Failure, Level};
use crate::mapping::Project;
use crate::settings::{Name, Settings};
use crate::streams;
use crate::walk;

/// Names that are resolved at the same time.
const CONCURRENT: usize = 8;

/// Whether a name is one of a project or of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Project,
    Group,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Group => "group",
        }
    }

    fn variable(self) -> &'static str {
        match self {
            Self::Project => "GITLAB_PROJECT_IDS",
            Self::Group => "GITLAB_GROUP_IDS",
        }
    }

    /// What to do about a name that GitLab does not know.
    pub(crate) fn remedy(self) -> String {
        let word = self.word();
        let moved = match self {
            Self::Project => "",
            Self::Group => " A renamed group is only found under its new path.",
        };
        format!(
            "Check the id or path in `{word}s` ({}). GitLab answers 404 also for what the token may not see: the token's user \
             needs at least the role Reporter in the {word}.{moved}",
            self.variable()
        )
    }
}

/// Why a name could not be resolved.
pub(crate) enum Unresolved {
    /// GitLab does not know it, or does not want to.
    Unknown(Refusal),
    Fault(Fault),
}

impl From<Fault> for Unresolved {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(refusal) if matches!(refusal.status, 400 | 404) => {
                Self::Unknown(refusal)
            }
            other => Self::Fault(other),
        }
    }
}

/// What a run reads.
#[derive(Default)]
pub(crate) struct Selection {
    /// Each once, in the order in which they were named.
    pub(crate) projects: Vec<Project>,
    /// The named groups that are to be read.
    pub(crate) groups: Vec<Group>,
    /// Named projects that were read before and are not to be seen any more, with GitLab's words. They do not keep the others
    /// from being read, but the run is not complete.
    pub(crate) gone: Vec<String>,
}

/// A named group.
#[derive(Debug)]
pub(crate) struct Group {
    /// As a segment of an API path.
    pub(crate) segment: String,
    /// Ids of its projects and those of its subgroups, without the ones that a group before it has.
    pub(crate) projects: Vec<u64>,
}

/// The projects and groups of a run.
pub(crate) async fn resolve(
    client: &Client<'_>,
    settings: &Settings,
) -> Result<Selection, Failure> {
    let mut selected = Selected::default();
    let mut groups = Vec::new();
    if settings.projects.is_empty() && settings.groups.is_empty() {
        for project in memberships(client).await.map_err(failure)? {
            selected.add(project);
        }
        if selected.projects.is_empty() {
            return Err(Failure::Configuration(
                "There is nothing to read: no project or group is named, and the token's user is a member of no project. Name \
                 some in `projects` (GITLAB_PROJECT_IDS) or `groups` (GITLAB_GROUP_IDS), or add the user to one."
                    .to_owned(),
            ));
        }
        return Ok(Selection {
            projects: selected.projects,
            ..Selection::default()
        });
    }

    let mut unknown = Vec::new();
    let mut gone = Vec::new();
    let mut empty = Vec::new();
    let projects = settings
        .projects
        .iter()
        .map(async |name| Ok((name, project(client, name).await)));
    let resolved = gather(CONCURRENT, projects).await.map_err(failure)?;
    for (name, result) in resolved {
        match result {
            Ok(project) => {
                remember(client, name, project.id);
                selected.add(project);
            }
            Err(Unresolved::Unknown(refusal)) if was_read(client, name) => {
                gone.push(format!(
                    "project {name}: {refusal}, although it was read before: it was deleted, or this token may not see it any more. \
                     Remove it from `projects` (GITLAB_PROJECT_IDS), or give the token's user access to it"
                ));
            }
            Err(Unresolved::Unknown(refusal)) => unknown.push((Kind::Project, name, refusal)),
            Err(Unresolved::Fault(fault)) => return Err(failure(fault)),
        }
    }
    let named = settings
        .groups
        .iter()
        .map(async |name| Ok((name, group(client, name).await)));
    let resolved = gather(CONCURRENT, named).await.map_err(failure)?;
    let mut in_a_group = BTreeSet::new();
    for (name, result) in resolved {
        match result {
            Ok((segment, projects)) => {
                if projects.is_empty() {
                    empty.push(name.to_string());
                }
                let ids = projects.iter().map(|project| project.id);
                groups.push(Group {
                    segment,
                    projects: ids.filter(|id| in_a_group.insert(*id)).collect(),
                });
                projects
                    .into_iter()
                    .for_each(|project| selected.add(project));
            }
            Err(Unresolved::Unknown(refusal)) => unknown.push((Kind::Group, name, refusal)),
            Err(Unresolved::Fault(fault)) => return Err(failure(fault)),
        }
    }

    if !unknown.is_empty() {
        let named: Vec<_> = unknown
            .iter()
            .map(|(kind, name, refusal)| format!("{} {name}: {refusal}.", kind.word()))
            .collect();
        let remedies: Vec<_> = [Kind::Project, Kind::Group]
            .into_iter()
            .filter(|kind| unknown.iter().any(|(other, ..)| other == kind))
            .map(Kind::remedy)
            .collect();
        return Err(Failure::Configuration(format!(
            "{} {}",
            named.join(" "),
            remedies.join(" ")
        )));
    }
    if selected.projects.is_empty() && !gone.is_empty() {
        return Err(Failure::Unavailable(format!("{}.", gone.join("; "))));
    }
    let empty = empty.join(", ");
    if selected.projects.is_empty() {
        return Err(Failure::Configuration(format!(
            "There is nothing to read: the group {empty} has no projects that this token can see. Name another in `groups` \
             (GITLAB_GROUP_IDS), or give the token's user access to its projects."
        )));
    }
    if !empty.is_empty() {
        client.host.log(
            Level::Warn,
            &format!("no projects to be seen in the group {empty}"),
            &[],
        );
    }
    Ok(Selection {
        projects: selected.projects,
        groups,
        gone,
    })
}

/// Key of what is kept about a project that was named by its path: its id.
fn path_key(path: &str) -> String {
    format!("project/{path}")
}

fn remember(client: &Client<'_>, name: &Name, id: u64) {
    if let Name::Path(path) = name {
        let (key, id) = (path_key(path), id.to_string());
        if client.host.state(&key).as_ref() != Some(&id) {
            client.host.set_state(&key, &id);
        }
    }
}

/// Whether this project was read by an earlier run: then its name is no typing error.
fn was_read(client: &Client<'_>, name: &Name) -> bool {
    let id = match name {
        Name::Id(id) => Some(id.to_string()),
        Name::Path(path) => client.host.state(&path_key(path)),
    };
    id.is_some_and(|id| {
        streams::STREAMS
            .iter()
            .any(|stream| client.host.state(&format!("{id}/{stream}")).is_some())
    })
}

/// Projects in the order in which they were named. The same one may come by several ways.
#[derive(Default)]
struct Selected {
    projects: Vec<Project>,
    ids: BTreeSet<u64>,
}

impl Selected {
    fn add(&mut self, project: Project) {
        if self.ids.insert(project.id) {
            self.projects.push(project);
        }
    }
}

/// One project by name, also by a path that it had before.
pub(crate) async fn project(client: &Client<'_>, name: &Name) -> Result<Project, Unresolved> {
    let answer = match client
        .object::<gitlab::Project>(&format!("/projects/{}", name.segment()), &[])
        .await
    {
        Err(Fault::Refused(refusal)) => match refusal.location.as_deref().and_then(project_id_in) {
            Some(id) if (300..400).contains(&refusal.status) => {
                client.host.log(
                    Level::Info,
                    &format!("project {name} has moved; it is read by its id {id}"),
                    &[],
                );
                client.object(&format!("/projects/{id}"), &[]).await
            }
            _ => Err(Fault::Refused(refusal)),
        },
        answer => answer,
    };
    let project = answer?;
    Ok(Project::new(project).ok_or_else(|| {
        Fault::Unavailable(format!(
            "GitLab's answer about the project {name} has no id"
        ))
    })?)
}

/// The numeric id in `…/api/v4/projects/42/…`.
fn project_id_in(location: &str) -> Option<u64> {
    let (_, rest) = location.split_once("/api/v4/projects/")?;
    rest.split(['/', '?', '#']).next()?.parse().ok()
}

/// All projects of a group and its subgroups, and the group as a segment of an API path.
pub(crate) async fn group(
    client: &Client<'_>,
    name: &Name,
) -> Result<(String, Vec<Project>), Unresolved> {
    let group: gitlab::Group = client
        .object(
            &format!("/groups/{}", name.segment()),
            &[("with_projects", "false")],
        )
        .await?;
    let segment = group.id.map_or_else(|| name.segment(), |id| id.to_string());
    let listing = Listing::new(
        format!("/groups/{segment}/projects"),
        &[
            ("include_subgroups", "true"),
            ("with_shared", "false"),
            ("order_by", "id"),
            ("sort", "asc"),
        ],
    );
    let mut selected = Selected::default();
    walk::listing(client, &listing, &mut |rows: Vec<gitlab::Project>| {
        rows.into_iter()
            .filter_map(Project::new)
            .for_each(|project| selected.add(project));
        Ok(())
    })
    .await?;
    Ok((segment, selected.projects))
}

/// All projects that the token's user is a member of.
pub(crate) async fn memberships(client: &Client<'_>) -> Result<Vec<Project>, Fault> {
    let listing = Listing::new(
        "/projects".to_owned(),
        &[
            ("membership", "true"),
            ("pagination", "keyset"),
            ("order_by", "id"),
            ("sort", "asc"),
        ],
    );
    let mut projects = Vec::new();
    client
        .keyset(&listing, |rows: Vec<gitlab::Project>| {
            projects.extend(rows.into_iter().filter_map(Project::new));
        })
        .await?;
    Ok(projects)
}

/// What a fault means before anything was read: there is no stream yet that could fail alone.
pub(crate) fn failure(fault: Fault) -> Failure {
    match fault {
        Fault::Stop(failure) => failure,
        Fault::Refused(refusal) if refusal.status == 403 => Failure::Standing(format!(
            "{refusal}. The token may not read what was named: give its user at least the role Reporter, and the token the scope \
             read_api; on a network with IP restrictions, check that this address is allowed."
        )),
        Fault::Refused(refusal) => Failure::Unavailable(refusal.to_string()),
        Fault::TooMuch(reason) | Fault::Unavailable(reason) => Failure::Unavailable(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_moved_project_is_found_in_the_location() {
        for (location, id) in [
            ("https://gitlab.com/api/v4/projects/42", Some(42)),
            (
                "http://internal/gitlab/api/v4/projects/42/issues?page=1",
                Some(42),
            ),
            ("/api/v4/projects/42?license=true", Some(42)),
            ("https://gitlab.com/users/sign_in", None),
            ("/api/v4/projects/acme%2Fwidget", None),
        ] {
            assert_eq!(project_id_in(location), id, "{location}");
        }
    }
}
