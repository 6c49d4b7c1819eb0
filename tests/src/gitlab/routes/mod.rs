//! The routes of `/api/v4` and what stands before them: the token, its scope, the project behind a path.

mod hooks;
mod instance;
mod issues;
mod merge_requests;
mod notes;
mod pipelines;
mod projects;
mod releases;
mod repository;

use super::access::{Token, TokenKind, Viewer};
use super::call::{Call, Params, decode};
use super::model::{Group, Project};
use super::reply::{Answer, Reply};
use super::webhooks::HookOwner;
use super::world::{Target, World};

/// What the routes need to know of an HTTP request.
#[derive(Clone, Debug)]
pub(crate) struct Inquiry<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) body: &'a [u8],
    pub(crate) is_json: bool,
    pub(crate) private_token: Option<&'a str>,
    pub(crate) authorization: Option<&'a str>,
    pub(crate) root: &'a str,
    pub(crate) link_origin: &'a str,
}

/// The token that was presented, as text, wherever it was.
pub(crate) fn presented<'a>(inquiry: &Inquiry<'a>) -> Option<(&'a str, bool)> {
    let bearer = inquiry.authorization.and_then(|value| {
        let (scheme, rest) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
    });
    inquiry
        .private_token
        .map(|value| (value, false))
        .or(bearer.map(|value| (value, true)))
}

/// Answers one request; the token's value is returned for the log.
pub(crate) fn answer(world: &mut World, inquiry: &Inquiry<'_>) -> (Reply, bool) {
    world.requests += 1;
    let params = Params::parse(inquiry.query);
    let token = match authenticate(world, inquiry, &params) {
        Ok(token) => token,
        Err(reply) => return (reply, false),
    };
    let call = Call {
        params,
        viewer: Viewer(token.as_ref().map(|token| token.user)),
        raw_path: inquiry.path.to_owned(),
        link_origin: inquiry.link_origin.to_owned(),
        root: inquiry.root.to_owned(),
        raw_query: inquiry.query.to_owned(),
        shuffle: world.requests,
    };
    let reply = route(world, &call, inquiry, token.as_ref());
    (reply.unwrap_or_else(|refusal| refusal), token.is_some())
}

fn authenticate(
    world: &World,
    inquiry: &Inquiry<'_>,
    params: &Params,
) -> Result<Option<Token>, Reply> {
    let presented = presented(inquiry)
        .or_else(|| params.get("private_token").map(|value| (value, false)))
        .or_else(|| params.get("access_token").map(|value| (value, true)));
    let Some((value, bearer)) = presented else {
        return Ok(None);
    };
    let Some(token) = world.tokens.iter().find(|token| token.value == value) else {
        return Err(Reply::unauthorized());
    };
    if token.kind == TokenKind::OAuth && !bearer {
        return Err(Reply::unauthorized());
    }
    if token.revoked {
        return Err(Reply::revoked());
    }
    if token
        .expires_at
        .is_some_and(|day| world.now().date() >= day)
    {
        return Err(Reply::expired());
    }
    if world
        .users
        .get(&token.user)
        .is_none_or(|user| user.state != "active")
    {
        return Err(Reply::unauthorized());
    }
    Ok(Some(token.clone()))
}

/// The path below `/api/v4`, split and decoded; nothing if it is elsewhere.
pub(crate) fn segments(path: &str, root: &str) -> Option<Vec<String>> {
    let below = path
        .strip_prefix(root)?
        .strip_prefix("/api/v4")?
        .strip_prefix('/')?;
    Some(below.trim_end_matches('/').split('/').map(decode).collect())
}

/// The class of an endpoint, such as `projects/:id/merge_requests/:iid/notes`.
#[must_use]
pub(crate) fn classify(path: &str, root: &str) -> String {
    let Some(parts) = segments(path, root) else {
        return "other".to_owned();
    };
    let mut out: Vec<&str> = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let before = if index == 0 {
            ""
        } else {
            parts[index - 1].as_str()
        };
        out.push(match before {
            "projects" | "groups" if index == 1 => ":id",
            "merge_requests" | "issues" if index == 3 => ":iid",
            "hooks" => ":hook_id",
            "events" if index > 3 => ":event_id",
            "test" if index > 3 => ":trigger",
            "notes" => ":note_id",
            "discussions" => ":discussion_id",
            "pipelines" => ":pipeline_id",
            "releases" => ":tag",
            "branches" => ":branch",
            "commits" => ":sha",
            _ => part,
        });
    }
    out.join("/")
}

fn route(world: &mut World, call: &Call, inquiry: &Inquiry<'_>, token: Option<&Token>) -> Answer {
    let Some(parts) = segments(inquiry.path, inquiry.root) else {
        return Err(Reply::text(
            404,
            "text/html; charset=utf-8",
            "<!DOCTYPE html><html><body>404</body></html>",
        ));
    };
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let reading = matches!(inquiry.method, "GET" | "HEAD");
    let about_hooks = matches!(
        parts[..],
        ["hooks", ..] | ["projects" | "groups", _, "hooks", ..]
    );
    if !reading {
        let moved = |id: &str| {
            world.project_by_path(id).is_none() && world.redirects.contains_key(&id.to_lowercase())
        };
        if let ["projects", id, ..] = parts[..]
            && moved(id)
        {
            return Err(Reply::message(
                405,
                "405 Non GET methods are not allowed for moved projects",
            ));
        }
        if !about_hooks {
            return Err(Reply::method_not_allowed());
        }
        // Before anything is looked up: who may not write learns nothing of what is there.
        if token.is_some_and(|token| !token.has_any(&["api"])) {
            return Err(Reply::insufficient_scope_for("api"));
        }
    }
    check_scope(&parts, token)?;
    match parts[..] {
        ["hooks", ref rest @ ..] => hooks::route(world, call, inquiry, HookOwner::System, rest),
        ["groups", id, "hooks", ref rest @ ..] => {
            let owner = HookOwner::Group(group(world, call, id)?.id);
            hooks::route(world, call, inquiry, owner, rest)
        }
        ["projects", id, "hooks", ref rest @ ..] => {
            let owner = HookOwner::Project(project(world, call, id)?.id);
            hooks::route(world, call, inquiry, owner, rest)
        }
        ["personal_access_tokens", "self"] => instance::token(world, token),
        ["user"] => instance::user(world, call),
        ["metadata" | "version"] => instance::metadata(world, call),
        ["groups", id, ref rest @ ..] => group_route(world, call, id, rest),
        ["projects"] => projects::all(world, call),
        ["projects", id, ref rest @ ..] => project_route(world, call, id, rest),
        ["merge_requests"] => merge_requests::everywhere(world, call),
        ["issues"] => issues::everywhere(world, call),
        _ => Err(Reply::no_route()),
    }
}

fn check_scope(parts: &[&str], token: Option<&Token>) -> Result<(), Reply> {
    let Some(token) = token else { return Ok(()) };
    let enough = match parts {
        ["personal_access_tokens", "self"] => true,
        ["user" | "metadata" | "version" | "events"] => {
            token.has_any(&["api", "read_api", "read_user"])
        }
        _ => token.has_any(&["api", "read_api"]),
    };
    if enough {
        Ok(())
    } else {
        Err(Reply::insufficient_scope())
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn number(text: &str, name: &str) -> Result<u64, Reply> {
    text.parse()
        .map_err(|_| Reply::invalid(&format!("{name} is invalid")))
}

fn group<'w>(world: &'w World, call: &Call, id: &str) -> Result<&'w Group, Reply> {
    let found = match id.parse::<u64>() {
        Ok(id) => world.groups.get(&id),
        Err(_) => world.group_by_path(id),
    };
    found
        .filter(|group| world.sees_group(call.viewer, group.id))
        .ok_or_else(|| Reply::no_such("Group"))
}

fn group_route(world: &mut World, call: &Call, id: &str, rest: &[&str]) -> Answer {
    let group = group(world, call, id)?.id;
    match *rest {
        [] => projects::group(world, call, group),
        ["projects"] => projects::of_group(world, call, id, group),
        ["subgroups" | "descendant_groups"] => projects::subgroups(world, call, id, group, rest[0]),
        ["merge_requests"] => merge_requests::of_group(world, call, id, group),
        ["issues"] => issues::of_group(world, call, id, group),
        ["releases"] => releases::of_group(world, call, id, group),
        _ => Err(Reply::no_route()),
    }
}

/// Finds a project by id or path; a path that moved answers 301 with a plain text.
fn project<'w>(world: &'w World, call: &Call, id: &str) -> Result<&'w Project, Reply> {
    let found = if is_number(id) {
        id.parse().ok().and_then(|id: u64| world.projects.get(&id))
    } else {
        world.project_by_path(id)
    };
    if let Some(project) = found.filter(|project| world.sees_project(call.viewer, project)) {
        return Ok(project);
    }
    if !is_number(id) && found.is_none() {
        let moved = world
            .redirects
            .get(&id.to_lowercase())
            .and_then(|id| world.projects.get(id));
        if let Some(project) = moved.filter(|project| world.sees_project(call.viewer, project)) {
            return Err(moved_permanently(call, project.id));
        }
    }
    Err(Reply::no_such("Project"))
}

fn moved_permanently(call: &Call, id: u64) -> Reply {
    let marker = "/projects/";
    let start = call.raw_path.find(marker).map_or(0, |at| at + marker.len());
    let rest = call.raw_path.get(start..).unwrap_or_default();
    let rest = rest
        .find('/')
        .and_then(|at| rest.get(at..))
        .unwrap_or_default();
    let query = if call.raw_query.is_empty() {
        String::new()
    } else {
        format!("?{}", call.raw_query)
    };
    let location = format!(
        "{}{}/api/v4/projects/{id}{rest}{query}",
        call.link_origin, call.root
    );
    Reply::text(
        301,
        "text/plain",
        format!("This resource has been moved permanently to {location}"),
    )
    .with("location", location)
}

fn project_route(world: &mut World, call: &Call, id: &str, rest: &[&str]) -> Answer {
    let project = project(world, call, id)?.id;
    match *rest {
        [] => projects::single(world, call, project),
        ["merge_requests"] => merge_requests::of_project(world, call, id, project),
        ["merge_requests", iid] => {
            merge_requests::single(world, call, project, number(iid, "merge_request_iid")?)
        }
        ["merge_requests", iid, ref rest @ ..] => {
            let target = Target::merge_request(project, number(iid, "noteable_id")?);
            notes::route(world, call, id, target, rest)
        }
        ["issues"] => issues::of_project(world, call, id, project),
        ["issues", iid] => issues::single(world, call, project, number(iid, "issue_iid")?),
        ["issues", iid, ref rest @ ..] => {
            let target = Target::issue(project, number(iid, "noteable_id")?);
            notes::route(world, call, id, target, rest)
        }
        ["repository", ref rest @ ..] => repository::route(world, call, id, project, rest),
        ["pipelines"] => pipelines::list(world, call, id, project),
        ["pipelines", pipeline] => {
            pipelines::single(world, call, project, number(pipeline, "pipeline_id")?)
        }
        ["releases"] => releases::list(world, call, id, project),
        ["releases", tag] => releases::single(world, call, project, tag),
        ["events"] => instance::events(world, call, id, project),
        _ => Err(Reply::no_route()),
    }
}

/// Projects that the viewer sees, in a group or everywhere, for the lists of merge requests and issues.
fn listed_projects<'w>(
    world: &'w World,
    call: &Call,
    group: Option<u64>,
) -> Result<Vec<&'w Project>, Reply> {
    // The instance-wide lists cover archived projects, the lists of a group do not unless asked.
    let non_archived = call.params.flag("non_archived", group.is_some())?;
    let all: Vec<&Project> = match group {
        Some(group) => world.group_projects(group, true, false),
        None => world.projects.values().collect(),
    };
    let visible = |project: &&Project| {
        world.sees_project(call.viewer, project) && !(non_archived && world.is_archived(project))
    };
    Ok(all.into_iter().filter(visible).collect())
}
