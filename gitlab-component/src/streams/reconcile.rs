//! What CortexDB holds and GitLab does not list any more.
//!
//! Deletions leave no trace in lists by time: a stream that has been read from its beginning to its end is the only proof that a
//! record is not there. And it is no proof that the record is gone. A list shifts while it is read; a feature that is switched off and
//! a role that was taken away hide records one by one as a deletion does. So every record that was not met is asked for by
//! itself, and then the project is asked whether it can still be seen, with what role. Only a 404 on the record below a project
//! that is all there is taken for a deletion. Every doubt keeps the record and says so.

use super::{End, Stream, commits};
use crate::client::Fault;
use crate::executor::gather;
use crate::gitlab;
use crate::host::{Held, Level};
use crate::settings::percent_encode;

/// Records that are asked for at the same time, within the limit for the whole run.
const CONCURRENT: usize = 16;

/// The role from which on confidential issues and internal comments are shown (Planner).
const SEES_INTERNALS: u64 = 15;

/// What became of a record that was not listed.
pub(super) enum Fate {
    /// GitLab does not know it.
    Gone,
    /// It is there, and must not be kept any more.
    Hidden,
    /// It is there after all.
    Exists,
    /// It cannot be told; GitLab's words.
    Unclear(String),
}

/// What was found about records that were not listed.
pub(super) struct Settled {
    /// Why nothing can be told of the whole stream, where that is so.
    pub(super) off: Option<String>,
    /// Records that are kept, and why.
    pub(super) kept: Vec<(String, String)>,
}

/// Settles every kind of a stream that has been read from beginning to end.
pub(super) async fn settle(stream: &Stream<'_>, kinds: &[&'static str]) -> Result<End, Fault> {
    // A project of which nothing is listed any more writes nothing, and a host that has lost its memory would never look up what
    // CortexDB holds of it.
    if !stream.only_lists() {
        stream.host().write(&stream.key, &stream.origin, &[])?;
    }
    for kind in kinds {
        let mut after: Option<String> = None;
        loop {
            let page = stream
                .host()
                .unlisted(&stream.key, kind, after.as_deref())?;
            let Some(last) = page.last() else { break };
            after = Some(last.source_id.clone());
            if *kind == "commit" {
                settle_commits(stream, &page).await?;
            } else if let Some(off) = settle_page(stream, kind, &page).await?.off {
                return Ok(End::Off(off));
            }
        }
    }
    Ok(End::Complete)
}

/// Looks at records one by one, and forgets those that are gone or hidden.
pub(super) async fn settle_page(
    stream: &Stream<'_>,
    kind: &str,
    page: &[Held],
) -> Result<Settled, Fault> {
    let verdicts = gather(
        CONCURRENT,
        page.iter().map(|held| look_at(stream, kind, held)),
    )
    .await?;
    let (mut gone, mut hidden) = (Vec::new(), Vec::new());
    let mut kept = Vec::new();
    let mut unclear = Vec::new();
    for (held, verdict) in page.iter().zip(verdicts) {
        match verdict {
            Fate::Gone => gone.push(held.source_id.clone()),
            Fate::Hidden => hidden.push(held.source_id.clone()),
            Fate::Exists => kept.push((held.source_id.clone(), "it exists".to_owned())),
            Fate::Unclear(words) => {
                kept.push((held.source_id.clone(), words.clone()));
                unclear.push(words);
            }
        }
    }
    if let Some(words) = unclear.first() {
        let message = format!(
            "{}: {} records of the kind {kind} were not listed, and whether they are gone cannot be told ({words}); they are kept",
            stream.key,
            unclear.len()
        );
        let fields = [("stream", stream.key.as_str())];
        stream.host().log(Level::Warn, &message, &fields);
    }
    if !gone.is_empty() {
        let project = see_project(stream).await?;
        if let Some(off) = switched_off(stream, &project) {
            return Ok(Settled {
                off: Some(off),
                kept,
            });
        }
        if stream.session.settings.include_confidential
            && matches!(kind, "issue" | "note")
            && !sees_internals(&project)
        {
            let message = format!(
                "{}: {} records of the kind {kind} are not to be seen any more, and kept: the token's role in {} does not show \
                 what is confidential, so they may be hidden and not gone",
                stream.key,
                gone.len(),
                stream.project.path
            );
            let fields = [("stream", stream.key.as_str())];
            stream.host().log(Level::Warn, &message, &fields);
            let why = "the token's role does not show what is confidential";
            kept.extend(gone.drain(..).map(|id| (id, why.to_owned())));
        }
    }
    let there: Vec<String> = kept.iter().map(|(id, _)| id.clone()).collect();
    stream.list(kind, &there, false)?;
    stream.retract(&gone, "deleted in GitLab")?;
    stream.retract(&hidden, "became confidential")?;
    Ok(Settled { off: None, kept })
}

/// Commits are not deleted; they drop out of the branch. A history that was read whole proves that, and GitLab would go on
/// showing a single commit for weeks.
async fn settle_commits(stream: &Stream<'_>, page: &[Held]) -> Result<(), Fault> {
    let ids: Vec<String> = page.iter().map(|held| held.source_id.clone()).collect();
    let proven = !commits::is_limited(stream) && commits::is_at_its_cursor(stream);
    if !stream.session.settings.forget_unreachable_commits || !proven {
        return stream.list("commit", &ids, false);
    }
    see_project(stream).await?;
    stream.retract(&ids, "no longer part of the default branch")
}

/// The project as it is seen now. If it is not, nothing that was missed in it means anything.
async fn see_project(stream: &Stream<'_>) -> Result<gitlab::Project, Fault> {
    let path = format!("/projects/{}", stream.project.id);
    match stream.client().object(&path, &[]).await {
        Err(Fault::Refused(refusal)) => Err(Fault::Unavailable(format!(
            "the project can no longer be seen with this token ({refusal}), so nothing of it is forgotten"
        ))),
        answer => answer,
    }
}

/// GitLab answers an empty list where issues are switched off, or kept from this user.
fn switched_off(stream: &Stream<'_>, project: &gitlab::Project) -> Option<String> {
    let (enabled, what) = if stream.key.ends_with("/issues") {
        (project.issues_enabled, "issues")
    } else if stream.key.ends_with("/merge_requests") {
        (project.merge_requests_enabled, "merge requests")
    } else {
        return None;
    };
    (enabled == Some(false)).then(|| {
        format!("{what} are switched off or hidden from this token; what was stored stays")
    })
}

/// Whether this user is shown what is confidential. Where GitLab says nothing about roles, nothing speaks against it.
fn sees_internals(project: &gitlab::Project) -> bool {
    let Some(permissions) = &project.permissions else {
        return true;
    };
    let roles = [&permissions.project_access, &permissions.group_access];
    roles
        .into_iter()
        .flatten()
        .filter_map(|role| role.access_level)
        .any(|level| level >= SEES_INTERNALS)
}

/// Asks GitLab for one record.
pub(super) async fn look_at(stream: &Stream<'_>, kind: &str, held: &Held) -> Result<Fate, Fault> {
    let Some(path) = path_of(stream, kind, held) else {
        return Ok(Fate::Unclear("its address is not known".to_owned()));
    };
    match stream
        .client()
        .object::<gitlab::Visibility>(&stream.path(&path), &[])
        .await
    {
        Ok(record) => {
            let hidden = record.confidential == Some(true) || record.internal == Some(true);
            Ok(if hidden && !stream.session.settings.include_confidential {
                Fate::Hidden
            } else {
                Fate::Exists
            })
        }
        Err(Fault::Refused(refusal)) if refusal.status == 404 => Ok(Fate::Gone),
        Err(Fault::Refused(refusal)) => Ok(Fate::Unclear(refusal.to_string())),
        Err(fault) => Err(fault),
    }
}

/// Where a record is, below its project.
fn path_of(stream: &Stream<'_>, kind: &str, held: &Held) -> Option<String> {
    let id_of = |kind: &str, source_id: &str| {
        let prefix = stream.project.source_id(kind, "");
        source_id.strip_prefix(&prefix).map(percent_encode)
    };
    let id = id_of(kind, &held.source_id)?;
    Some(match kind {
        "merge_request" => format!("merge_requests/{id}"),
        "issue" => format!("issues/{id}"),
        "pipeline" => format!("pipelines/{id}"),
        "release" => format!("releases/{id}"),
        "note" => {
            let root = held.root.as_deref()?;
            let parent = id_of("merge_request", root)
                .map(|iid| format!("merge_requests/{iid}"))
                .or_else(|| id_of("issue", root).map(|iid| format!("issues/{iid}")))?;
            format!("{parent}/notes/{id}")
        }
        _ => return None,
    })
}
