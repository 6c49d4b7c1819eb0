//! `check`: what would go wrong in a run, before it does, and what to do about it.
//!
//! Cheap by intention: one small request for each question, and at most a few projects looked at closely.

use crate::client::{Client, Fault, Listing, Sizing, Slice};
use crate::executor::gather;
use crate::gitlab::{Metadata, Token, User};
use crate::host::{Failure, Finding, Severity};
use crate::json::AnyObject;
use crate::mapping::Project;
use crate::selection::{self, Kind, Unresolved};
use crate::settings::{Name, Settings};
use crate::time::Moment;

/// Projects whose features are looked at.
const PROBED_PROJECTS: usize = 20;

/// Projects that are looked at at the same time.
const CONCURRENT: usize = 8;

/// A token that ends within this many days is worth a notice.
const EXPIRY_NOTICE_DAYS: i64 = 30;

/// Asks all questions. A refused token ends the asking, with a finding.
pub(crate) async fn run(
    client: &Client<'_>,
    settings: &Settings,
    now: Moment,
) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    match ask(client, settings, now, &mut findings).await {
        Ok(()) => Ok(findings),
        Err(Fault::Stop(Failure::Standing(words))) => {
            findings.push(problem(
                "token",
                words,
                "Set another token (GITLAB_TOKEN) with the scope read_api.",
            ));
            Ok(findings)
        }
        Err(fault) => Err(selection::failure(fault)),
    }
}

async fn ask(
    client: &Client<'_>,
    settings: &Settings,
    now: Moment,
    findings: &mut Vec<Finding>,
) -> Result<(), Fault> {
    token(client, now, findings).await?;
    version(client, findings).await?;
    let projects = projects(client, settings, findings).await?;
    let probed = &projects[..projects.len().min(PROBED_PROJECTS)];
    let probes = probed
        .iter()
        .map(|project| features(client, settings, project));
    findings.extend(gather(CONCURRENT, probes).await?.into_iter().flatten());
    if projects.len() > probed.len() {
        findings.push(notice(
            "projects",
            format!(
                "{} more projects were not looked at one by one.",
                projects.len() - probed.len()
            ),
        ));
    }
    Ok(())
}

async fn token(client: &Client<'_>, now: Moment, findings: &mut Vec<Finding>) -> Result<(), Fault> {
    let token: Token = match client.object("/personal_access_tokens/self", &[]).await {
        Ok(token) => token,
        // An OAuth token, or a GitLab before 15.5: ask who it is instead.
        Err(Fault::Refused(_)) => {
            let found = match client.object::<User>("/user", &[]).await {
                Ok(user) => good(
                    "token",
                    format!(
                        "Accepted, for the user {}.",
                        user.username.as_deref().unwrap_or("?")
                    ),
                ),
                Err(Fault::Refused(refusal)) => problem(
                    "token",
                    format!("{refusal}."),
                    "Use a token with the scope read_api.",
                ),
                Err(fault) => return Err(fault),
            };
            findings.push(found);
            return Ok(());
        }
        Err(fault) => return Err(fault),
    };
    let name = token.name.as_deref().unwrap_or("without a name");
    if token.revoked == Some(true) || token.active == Some(false) {
        findings.push(problem(
            "token",
            format!("The token \"{name}\" is revoked or has expired."),
            "Create a new token with the scope read_api and set it as GITLAB_TOKEN.",
        ));
        return Ok(());
    }
    let scopes: Vec<&str> = token.scopes.iter().flatten().map(String::as_str).collect();
    if scopes.is_empty()
        || scopes
            .iter()
            .any(|scope| matches!(*scope, "api" | "read_api"))
    {
        findings.push(good(
            "token",
            format!(
                "The token \"{name}\" is accepted (scopes: {}).",
                scopes.join(", ")
            ),
        ));
    } else {
        findings.push(problem(
            "token",
            format!(
                "The token \"{name}\" has the scopes {}, which do not include read_api.",
                scopes.join(", ")
            ),
            "Create a token with the scope read_api.",
        ));
    }
    if let Some(expires) = token.expires_at.as_deref()
        && let Some(days) = Moment::parse(expires).map(|expiry| now.days_until(expiry))
        && days <= EXPIRY_NOTICE_DAYS
    {
        findings.push(Finding {
            remedy: Some("Rotate it, or create a new one, before then.".to_owned()),
            ..notice(
                "token",
                format!("The token expires on {expires}, in {} days.", days.max(0)),
            )
        });
    }
    Ok(())
}

async fn version(client: &Client<'_>, findings: &mut Vec<Finding>) -> Result<(), Fault> {
    let answer = match client.object::<Metadata>("/metadata", &[]).await {
        // GitLab before 15.2.
        Err(Fault::Refused(refusal)) if refusal.status == 404 => {
            client.object("/version", &[]).await
        }
        answer => answer,
    };
    findings.push(match answer {
        Ok(metadata) => good(
            "GitLab",
            format!(
                "Version {}.",
                metadata.version.as_deref().unwrap_or("unknown")
            ),
        ),
        Err(Fault::Refused(refusal)) => notice(
            "GitLab",
            format!("Reachable, but does not say its version: {refusal}."),
        ),
        Err(fault) => return Err(fault),
    });
    Ok(())
}

/// Resolves every name by itself, so that each bad one is named.
async fn projects(
    client: &Client<'_>,
    settings: &Settings,
    findings: &mut Vec<Finding>,
) -> Result<Vec<Project>, Fault> {
    let mut projects: Vec<Project> = Vec::new();
    let mut add = |project: Project| {
        if projects.iter().all(|other| other.id != project.id) {
            projects.push(project);
        }
    };
    let unresolved = |kind: Kind, name: &Name, problem_: Unresolved| match problem_ {
        Unresolved::Unknown(refusal) => Ok(problem(
            &format!("{} {name}", kind.word()),
            format!("{refusal}."),
            &kind.remedy(),
        )),
        Unresolved::Fault(Fault::Refused(refusal)) => Ok(problem(
            &format!("{} {name}", kind.word()),
            format!("{refusal}."),
            "Give the token's user at least the role Reporter there.",
        )),
        Unresolved::Fault(fault) => Err(fault),
    };
    for name in &settings.projects {
        match selection::project(client, name).await {
            Ok(project) => {
                findings.push(good(
                    &format!("project {name}"),
                    format!("Found, id {}.", project.id),
                ));
                add(project);
            }
            Err(error) => findings.push(unresolved(Kind::Project, name, error)?),
        }
    }
    for name in &settings.groups {
        let subject = format!("group {name}");
        match selection::group(client, name).await {
            Ok((_, _, found)) if found.is_empty() => findings.push(problem(
                &subject,
                "Found, but it has no projects that this token can see.".to_owned(),
                "Name another group in `groups` (GITLAB_GROUP_IDS), or give the token's user access to its projects.",
            )),
            Ok((_, _, found)) => {
                findings.push(good(&subject, format!("Found, with {} projects.", found.len())));
                found.into_iter().for_each(&mut add);
            }
            Err(error) => findings.push(unresolved(Kind::Group, name, error)?),
        }
    }
    if settings.projects.is_empty() && settings.groups.is_empty() {
        let found = selection::memberships(client).await?;
        findings.push(if found.is_empty() {
            problem(
                "projects",
                "No project or group is named, and the token's user is a member of no project."
                    .to_owned(),
                "Name some in `projects` (GITLAB_PROJECT_IDS) or `groups` (GITLAB_GROUP_IDS).",
            )
        } else {
            good(
                "projects",
                format!(
                    "The token's user is a member of {} projects; all are read.",
                    found.len()
                ),
            )
        });
        found.into_iter().for_each(&mut add);
    }
    Ok(projects)
}

/// Which features a project does not offer to this token.
async fn features(
    client: &Client<'_>,
    settings: &Settings,
    project: &Project,
) -> Result<Vec<Finding>, Fault> {
    let events = settings.events;
    let subject = format!("project {}", project.path);
    let mut findings = Vec::new();
    let probes = [
        (
            events.merge_request || events.note,
            "Merge requests",
            "merge_requests",
        ),
        (events.issue || events.note, "Issues", "issues"),
        (events.commit, "The repository", "repository/commits"),
        (events.pipeline, "CI/CD", "pipelines"),
        (events.release, "Releases", "releases"),
    ];
    for (wanted, feature, path) in probes {
        if !wanted {
            continue;
        }
        let listing = Listing::new(format!("/projects/{}/{path}", project.id), &[]);
        let answer: Result<Slice<AnyObject>, Fault> =
            client.slice(&listing, 0, &mut Sizing::single()).await;
        match answer {
            Ok(_) => {}
            Err(Fault::Refused(refusal)) => findings.push(notice(
                &subject,
                format!("{feature}: off, or not for this token's user ({refusal}). It is left out until that changes."),
            )),
            Err(Fault::TooMuch(reason) | Fault::Unavailable(reason)) => {
                findings.push(notice(&subject, format!("{feature}: no answer ({reason}).")));
            }
            Err(fault @ Fault::Stop(_)) => return Err(fault),
        }
    }
    if findings.is_empty() {
        findings.push(good(
            &subject,
            "Everything that is wanted can be read.".to_owned(),
        ));
    }
    Ok(findings)
}

fn good(subject: &str, message: String) -> Finding {
    Finding {
        severity: Severity::Ok,
        subject: subject.to_owned(),
        message,
        remedy: None,
    }
}

fn notice(subject: &str, message: String) -> Finding {
    Finding {
        severity: Severity::Notice,
        subject: subject.to_owned(),
        message,
        remedy: None,
    }
}

fn problem(subject: &str, message: String, remedy: &str) -> Finding {
    Finding {
        severity: Severity::Problem,
        subject: subject.to_owned(),
        message,
        remedy: Some(remedy.to_owned()),
    }
}
