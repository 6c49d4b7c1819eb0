//! The token's self check, the user, the version and the activity feed.

use serde_json::json;

use crate::gitlab::access::{Token, TokenKind};
use crate::gitlab::call::{Call, Totals};
use crate::gitlab::clock::Micros;
use crate::gitlab::model::{Event, Feature};
use crate::gitlab::reply::{Answer, Reply};
use crate::gitlab::world::World;

pub(super) fn token(world: &World, token: Option<&Token>) -> Answer {
    let token = token.ok_or_else(Reply::unauthorized)?;
    if token.kind == TokenKind::OAuth {
        let text =
            "400 Bad request - This endpoint requires token type to be a personal access token";
        return Err(Reply::message(400, text));
    }
    Ok(Reply::ok(&json!({
        "id": token.id,
        "name": token.name,
        "revoked": token.revoked,
        "created_at": Micros(world.now().0 - 30 * crate::gitlab::clock::DAY).rest(),
        "description": null,
        "scopes": token.scopes,
        "user_id": token.user,
        "last_used_at": world.now().rest(),
        "active": true,
        "expires_at": token.expires_at.map(|day| day.to_string()),
        "last_used_ips": ["127.0.0.1"],
    })))
}

pub(super) fn user(world: &World, call: &Call) -> Answer {
    let user = call
        .viewer
        .0
        .and_then(|id| world.users.get(&id))
        .ok_or_else(Reply::unauthorized)?;
    let mut out = world.user_json(Some(user.id));
    let more = json!({
        "created_at": "2020-01-01T00:00:00.000Z",
        "bio": "",
        "bot": user.bot,
        "email": format!("{}@example.com", user.username),
        "commit_email": format!("{}@example.com", user.username),
        "two_factor_enabled": true,
        "external": false,
        "can_create_project": !user.bot,
        "projects_limit": 100,
        "identities": [],
    });
    crate::gitlab::render::extend(&mut out, more);
    Ok(Reply::ok(&out))
}

pub(super) fn metadata(world: &World, call: &Call) -> Answer {
    if call.viewer.0.is_none() {
        return Err(Reply::unauthorized());
    }
    Ok(Reply::ok(&json!({
        "version": world.knobs.version,
        "revision": "ceb07b24cb0",
        "kas": {
            "enabled": true,
            "externalUrl": "wss://kas.gitlab.example.com",
            "externalK8sProxyUrl": "https://kas.gitlab.example.com/k8s-proxy",
            "version": "18.9.0",
        },
        "enterprise": true,
    })))
}

/// `action=` is another word than `action_name`.
fn is_action(event: &Event, wanted: &str) -> bool {
    match wanted {
        "commented" => event.action == "commented on",
        "pushed" => event.action.starts_with("pushed"),
        "created" => matches!(event.action.as_str(), "opened" | "created"),
        "merged" => event.action == "accepted",
        other => event.action == other,
    }
}

pub(super) fn events(world: &World, call: &Call, capture: &str, project: u64) -> Answer {
    let project = &world.projects[&project];
    let descending = call.params.descending("desc")?;
    let (after, before) = (call.params.time("after")?, call.params.time("before")?);
    let (action, target) = (call.params.get("action"), call.params.get("target_type"));
    let mut rows: Vec<&Event> = project
        .events
        .iter()
        // Days, both ends excluded: `after=D` means after the end of D.
        .filter(|event| after.is_none_or(|day| event.created_at.date() > day.date()))
        .filter(|event| before.is_none_or(|day| event.created_at.date() < day.date()))
        .filter(|event| action.is_none_or(|wanted| is_action(event, wanted)))
        .filter(|event| {
            let kind = event
                .target_type
                .as_deref()
                .unwrap_or_default()
                .to_lowercase();
            target.is_none_or(|wanted| kind == wanted.replace('_', "").to_lowercase())
        })
        .collect();
    rows.sort_by_key(|event| event.id);
    if descending {
        rows.reverse();
    }
    let declared = call.declared(
        &[("id", capture)],
        &[
            ("action", ""),
            ("target_type", ""),
            ("before", ""),
            ("after", ""),
            ("sort", "desc"),
        ],
    );
    let paged = call.offset(world, rows, &declared, Totals::Counted)?;
    let visible = |event: &&Event| {
        let code = world.sees_code(call.viewer, project);
        let issue = |iid: u64| {
            project
                .issues
                .get(&iid)
                .is_none_or(|found| world.sees_issue(call.viewer, project, found))
        };
        let note = event.target_id.and_then(|id| {
            let in_issues = project
                .issues
                .values()
                .filter(|found| Some(found.iid) == event.target_iid);
            in_issues
                .flat_map(|found| found.threads.notes())
                .find(|note| note.id == id)
        });
        match event.target_type.as_deref() {
            None => code && !project.disabled.contains(&Feature::Repository),
            Some("MergeRequest") => {
                world.sees_feature(call.viewer, project, Feature::MergeRequests)
            }
            Some("Issue") => event.target_iid.is_none_or(issue),
            Some(_) => note.is_none_or(|note| {
                world.sees_note(call.viewer, project, note) && event.target_iid.is_none_or(issue)
            }),
        }
    };
    Ok(paged.reply(|event| visible(&event).then(|| world.event_json(project, event))))
}
