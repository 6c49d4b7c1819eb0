//! What a webhook's body points at.
//!
//! A body may come from a GitLab of any age, may be cut short, reshaped by a template of the user's, or be a mere test. Nothing that it
//! says about a record is believed; all that is taken from it is *which* record to look at, and whether to look a second time. So this
//! reads little, and what it cannot read becomes a wish for a poll and never a failure.

use crate::gitlab::{Delivery, DeliverySubject};
use crate::json;
use crate::time::Moment;

/// Letters of somebody else's text in a reason.
const SHOWN: usize = 60;

/// Bytes of a tag that GitLab would take.
const TAG_BYTES: usize = 255;

/// What to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hint {
    /// A record of a project.
    Record(u64, Record),
    /// Something about the project itself; what.
    Project(u64, String),
    /// It cannot be followed; why.
    Poll(String),
    /// Nobody wants it; why.
    Ignored(String),
}

/// A record of a project, or all that is new on a branch of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    MergeRequest(u64, Told),
    Issue(u64, Told),
    /// With the status that it is said to have.
    Pipeline(u64, Option<String>),
    /// By its tag.
    Release(String, Said),
    /// Names of branches; none where the call does not say.
    Commits(Vec<String>),
}

/// What is said about a release. Of several calls the one counts that says what comes last here.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Said {
    /// Nothing, only of its tag.
    #[default]
    Tag,
    Exists,
    Deleted,
}

/// What else is said about a merge request or an issue.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// The comment on it that the call is about.
    pub(crate) note: Option<u64>,
    pub(crate) updated: Option<Moment>,
}

/// Kinds that nobody wants, by the headers that announce them. `System Hook` announces anything.
const UNWANTED_HEADERS: [&str; 12] = [
    "Wiki Page Hook",
    "Job Hook",
    "Build Hook",
    "Deployment Hook",
    "Feature Flag Hook",
    "Milestone Hook",
    "Emoji Hook",
    "Resource Access Token Hook",
    "Vulnerability Hook",
    "Member Hook",
    "Subgroup Hook",
    "Resource Deploy Token Hook",
];

/// Reads a body; `header` is the call's `X-Gitlab-Event`.
pub(crate) fn read(header: Option<&str>, body: &str) -> Hint {
    let header = header.map(str::trim);
    let unwanted = header.filter(|header| {
        UNWANTED_HEADERS
            .iter()
            .any(|other| other.eq_ignore_ascii_case(header))
    });
    let delivery = if body.trim_start().starts_with('{') {
        json::from_str::<Delivery>(body).map_err(|error| error.to_string())
    } else {
        Err("it is no JSON object".to_owned())
    };
    let delivery = match (delivery, unwanted, header) {
        (Ok(delivery), ..) => delivery,
        (Err(_), Some(header), _) => return ignored(header),
        (Err(error), None, Some(header)) => {
            return Hint::Poll(format!(
                "the body of a \"{}\" cannot be read: {error}",
                short(header)
            ));
        }
        (Err(error), None, None) => {
            return Hint::Ignored(format!("not a call of GitLab's: {error}"));
        }
    };
    // A push of a system hook has `event_name` alone; where both are there they say the same.
    let kind = delivery
        .object_kind
        .as_deref()
        .or(delivery.event_name.as_deref())
        .or_else(|| header.and_then(kind_of_header));
    match (kind, unwanted, header) {
        (Some(kind), ..) => point_at(kind, &delivery),
        (None, Some(header), _) => ignored(header),
        (None, None, Some(header)) => Hint::Poll(format!(
            "the body of a \"{}\" does not say what it is about",
            short(header)
        )),
        (None, None, None) => Hint::Ignored("not a call of GitLab's: it names no kind".to_owned()),
    }
}

fn kind_of_header(header: &str) -> Option<&'static str> {
    Some(match header {
        "Push Hook" => "push",
        "Tag Push Hook" => "tag_push",
        "Merge Request Hook" => "merge_request",
        "Issue Hook" | "Confidential Issue Hook" => "issue",
        "Note Hook" | "Confidential Note Hook" => "note",
        "Pipeline Hook" => "pipeline",
        "Release Hook" => "release",
        _ => return None,
    })
}

fn ignored(kind: &str) -> Hint {
    Hint::Ignored(format!("{}: nothing that is read", short(kind)))
}

fn point_at(kind: &str, delivery: &Delivery) -> Hint {
    let subject = delivery.object_attributes.as_deref();
    let project = delivery
        .project
        .as_ref()
        .and_then(|project| project.id)
        .or(delivery.project_id);
    let record = |project: Option<u64>, record: Option<Record>| match (project, record) {
        (Some(project), Some(record)) => Hint::Record(project, record),
        _ => Hint::Poll(format!("a {kind} that does not say which one it is")),
    };
    let told = |subject: &DeliverySubject| Told {
        note: None,
        updated: subject.updated_at.as_deref().and_then(Moment::parse),
    };
    match kind {
        "merge_request" => record(
            // It belongs to the project that it is to be merged into.
            subject
                .and_then(|subject| subject.target_project_id)
                .or(project),
            subject.and_then(|subject| Some(Record::MergeRequest(subject.iid?, told(subject)))),
        ),
        // Not every kind of work item has a project, and those of groups are not read.
        "work_item" if project.is_none() => ignored("a work item of a group"),
        "issue" | "work_item" => record(
            project.or_else(|| subject?.project_id),
            subject.and_then(|subject| Some(Record::Issue(subject.iid?, told(subject)))),
        ),
        "note" => note(delivery, project, &record),
        "pipeline" => record(
            project,
            subject.and_then(|subject| Some(Record::Pipeline(subject.id?, subject.status.clone()))),
        ),
        "release" => {
            let said = match delivery.action.as_deref() {
                Some("delete") => Said::Deleted,
                _ => Said::Exists,
            };
            let tag = delivery.tag.as_deref();
            record(project, tag.and_then(|tag| release(tag, said)))
        }
        "push" => match delivery.reference.as_deref() {
            Some(reference) => pushed(project, &[reference], &record),
            None => record(project, Some(Record::Commits(Vec::new()))),
        },
        "repository_update" => {
            let changes = delivery.changes.iter().flatten();
            let references: Vec<&str> = changes
                .filter_map(|change| change.reference.as_deref())
                .collect();
            if references.is_empty() {
                record(project, Some(Record::Commits(Vec::new())))
            } else {
                pushed(project, &references, &record)
            }
        }
        "tag_push" => {
            let tag = delivery.reference.as_deref();
            let tag = tag.and_then(|reference| reference.strip_prefix("refs/tags/"));
            match tag.and_then(|tag| release(tag, Said::Tag)) {
                Some(release) => record(project, Some(release)),
                None => Hint::Ignored("a tag changes no branch".to_owned()),
            }
        }
        "project_create" | "project_update" | "project_rename" | "project_transfer"
        | "project_destroy" => match delivery.project_id.or(project) {
            Some(project) => Hint::Project(project, kind.to_owned()),
            None => Hint::Poll(format!("a {kind} that does not say which project")),
        },
        "group_rename" => Hint::Poll("a group was renamed".to_owned()),
        other => ignored(other),
    }
}

/// A comment points at what it was made on.
fn note(
    delivery: &Delivery,
    project: Option<u64>,
    record: &dyn Fn(Option<u64>, Option<Record>) -> Hint,
) -> Hint {
    let subject = delivery.object_attributes.as_deref();
    let told = Told {
        note: subject.and_then(|subject| subject.id),
        updated: None,
    };
    let merge_request = delivery.merge_request.as_deref();
    let issue = delivery.issue.as_deref().or(delivery.work_item.as_deref());
    let kind = subject.and_then(|subject| subject.noteable_type.as_deref());
    let kind = kind.or_else(|| {
        let found = [(merge_request, "MergeRequest"), (issue, "Issue")];
        found
            .into_iter()
            .find_map(|(there, kind)| there.map(|_| kind))
    });
    match kind {
        Some("MergeRequest") => record(
            merge_request
                .and_then(|parent| parent.target_project_id)
                .or(project),
            merge_request.and_then(|parent| Some(Record::MergeRequest(parent.iid?, told))),
        ),
        Some("Issue" | "WorkItem") => record(
            project.or_else(|| issue?.project_id),
            issue.and_then(|parent| Some(Record::Issue(parent.iid?, told))),
        ),
        Some(other) => Hint::Ignored(format!("comments on a {} are not read", short(other))),
        None => record(None, None),
    }
}

fn pushed(
    project: Option<u64>,
    references: &[&str],
    record: &dyn Fn(Option<u64>, Option<Record>) -> Hint,
) -> Hint {
    let branches: Vec<String> = references
        .iter()
        .filter_map(|reference| reference.strip_prefix("refs/heads/"))
        .map(str::to_owned)
        .collect();
    if branches.is_empty() {
        return Hint::Ignored("no branch was pushed to".to_owned());
    }
    record(project, Some(Record::Commits(branches)))
}

/// A tag becomes part of a path, so it has to be one that git would take.
fn release(tag: &str, said: Said) -> Option<Record> {
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    let mut parts = tag.split('/');
    let possible = tag.len() <= TAG_BYTES
        && !tag.contains(forbidden)
        && !tag.contains("..")
        && parts.all(|part| !part.is_empty() && !part.starts_with('.'));
    possible.then(|| Record::Release(tag.to_owned(), said))
}

/// The beginning of a text that may be of any length, for a reason.
fn short(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    printable.take(SHOWN).collect()
}
