//! From what the user named to the projects that are read.
//!
//! Nothing is written before every name has been resolved: a typing error in one of ten projects must not look like a run that
//! went well. Names are resolved to numeric ids at once, because paths change and ids do not.

use crate::client::{Client, Fault, Listing, Refusal, Sizing, Slice};
use crate::executor::gather;
use crate::gitlab;
use crate::host::{Failure, Level};
use crate::mapping::Project;
use crate::settings::{Name, Settings};
use crate::sorted::SortedSet;
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
    /// Its full path, or what the user named it.
    pub(crate) path: String,
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
    let mut in_a_group = SortedSet::default();
    for (name, result) in resolved {
        match result {
            Ok((segment, path, projects)) => {
                if projects.is_empty() {
                    empty.push(name.to_string());
                }
                let ids = projects.iter().map(|project| project.id);
                groups.push(Group {
                    segment,
                    path,
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
pub(crate) fn was_read(client: &Client<'_>, name: &Name) -> bool {
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
    ids: SortedSet<u64>,
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

/// A group as a segment of an API path, its full path, and all projects of it and its subgroups.
pub(crate) async fn group(
    client: &Client<'_>,
    name: &Name,
) -> Result<(String, String, Vec<Project>), Unresolved> {
    let group: gitlab::Group = client
        .object(
            &format!("/groups/{}", name.segment()),
            &[("with_projects", "false")],
        )
        .await?;
    let segment = group.id.map_or_else(|| name.segment(), |id| id.to_string());
    let path = group.full_path.unwrap_or_else(|| name.to_string());
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
    Ok((segment, path, selected.projects))
}

fn membership_listing() -> Listing {
    Listing::new(
        "/projects".to_owned(),
        &[
            ("membership", "true"),
            ("pagination", "keyset"),
            ("order_by", "id"),
            ("sort", "asc"),
        ],
    )
}

/// All projects that the token's user is a member of.
pub(crate) async fn memberships(client: &Client<'_>) -> Result<Vec<Project>, Fault> {
    let listing = membership_listing();
    let mut projects = Vec::new();
    client
        .keyset(&listing, |rows: Vec<gitlab::Project>| {
            let last = rows.iter().filter_map(|row| row.id).max();
            projects.extend(rows.into_iter().filter_map(Project::new));
            last
        })
        .await?;
    Ok(projects)
}

/// Whether a project is one of those that a run would read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is, and this is how GitLab shows it now.
    Selected(Box<Project>),
    /// It is there, and not selected.
    Elsewhere,
    /// This token does not see it; GitLab's words.
    Invisible(String),
}

/// Tells by the rules of [`resolve`] which of these projects are selected, without reading a list of projects.
pub(crate) async fn locate(
    client: &Client<'_>,
    settings: &Settings,
    ids: &[u64],
) -> Result<Vec<Result<Place, Fault>>, Fault> {
    let everything = settings.projects.is_empty() && settings.groups.is_empty();
    let seen = gather(
        CONCURRENT,
        ids.iter().map(async |id| {
            let seen = if everything {
                membership(client, *id).await
            } else {
                client
                    .object::<gitlab::Project>(&format!("/projects/{id}"), &[])
                    .await
                    .map(Some)
            };
            match seen {
                Err(fault @ Fault::Stop(_)) => Err(fault),
                seen => Ok(seen),
            }
        }),
    )
    .await?;
    let undecided = seen.iter().flatten().flatten().any(|project| {
        !everything && !is_named(client, settings, project) && !is_below(settings, project, &[])
    });
    let mut paths = Vec::new();
    if undecided {
        let by_id = settings
            .groups
            .iter()
            .filter(|name| matches!(name, Name::Id(_)));
        let groups = by_id.map(async |name| {
            let path = format!("/groups/{}", name.segment());
            match client
                .object::<gitlab::Group>(&path, &[("with_projects", "false")])
                .await
            {
                Ok(group) => Ok(group.full_path),
                // Nothing is selected by a group that is not there.
                Err(Fault::Refused(_)) => Ok(None),
                Err(fault) => Err(fault),
            }
        });
        paths.extend(gather(CONCURRENT, groups).await?.into_iter().flatten());
    }
    let place = |project: gitlab::Project| {
        let selected = everything
            || is_named(client, settings, &project)
            || is_below(settings, &project, &paths);
        match Project::new(project) {
            Some(project) if selected => Place::Selected(Box::new(project)),
            _ => Place::Elsewhere,
        }
    };
    let places = seen.into_iter().map(|seen| match seen {
        Ok(Some(project)) => Ok(place(project)),
        Ok(None) => Ok(Place::Elsewhere),
        Err(Fault::Refused(refusal)) => Ok(Place::Invisible(refusal.to_string())),
        Err(fault) => Err(fault),
    });
    Ok(places.collect())
}

/// One project of the list of memberships.
async fn membership(client: &Client<'_>, id: u64) -> Result<Option<gitlab::Project>, Fault> {
    let listing = membership_listing()
        .with("id_after", &id.saturating_sub(1).to_string())
        .with("id_before", &id.saturating_add(1).to_string());
    let slice: Slice<gitlab::Project> = client.slice(&listing, 0, &mut Sizing::single()).await?;
    let mut rows = slice.rows.into_iter();
    Ok(rows.find(|project| project.id == Some(id)))
}

fn is_named(client: &Client<'_>, settings: &Settings, project: &gitlab::Project) -> bool {
    settings.projects.iter().any(|name| match name {
        Name::Id(id) => project.id == Some(*id),
        Name::Path(path) => {
            let now = project.path_with_namespace.as_deref();
            now.is_some_and(|now| now.eq_ignore_ascii_case(path))
                // A path that it had before.
                || project.id.is_some_and(|id| {
                    client.host.state(&path_key(path)) == Some(id.to_string())
                })
        }
    })
}

/// Whether the project lies in a named group, or in one with such a path.
fn is_below(settings: &Settings, project: &gitlab::Project, paths: &[String]) -> bool {
    let Some(namespace) = &project.namespace else {
        return false;
    };
    let below = |group: &str| {
        namespace
            .full_path
            .as_deref()
            .is_some_and(|path| is_at_or_below(path, group))
    };
    paths.iter().any(|path| below(path))
        || settings.groups.iter().any(|name| match name {
            Name::Id(id) => namespace.id == Some(*id),
            Name::Path(path) => below(path),
        })
}

/// Whether a full path is that of a group or of something below it. GitLab does not tell capitals from small letters.
pub(crate) fn is_at_or_below(path: &str, group: &str) -> bool {
    let (path, group) = (path.to_ascii_lowercase(), group.to_ascii_lowercase());
    path.strip_prefix(&group)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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
