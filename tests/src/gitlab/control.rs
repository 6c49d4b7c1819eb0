//! The control API under `/_sim/`: what a test does by calling methods, for whoever runs the binary.

use serde_json::{Value, json};

use super::call::Params;
use super::expected::Selection;
use super::faults::Rule;
use super::generate::TOKEN;
use super::reply::Reply;
use super::server::{Shared, lock};
use super::wire::Request;
use super::world::World;

fn bad_request(text: impl std::fmt::Display) -> Reply {
    Reply::message(400, &text.to_string())
}

/// Answers a request to the control API.
pub(crate) fn answer(shared: &Shared, request: &Request) -> Reply {
    let body: Value = if request.body.is_empty() {
        json!({})
    } else {
        match serde_json::from_slice(&request.body) {
            Ok(body) => body,
            Err(error) => return bad_request(error),
        }
    };
    let parts: Vec<&str> = request
        .path
        .trim_start_matches("/_sim/")
        .split('/')
        .collect();
    match (request.method.as_str(), &parts[..]) {
        ("GET", ["stats"]) => stats(shared),
        ("GET", ["requests"]) => Reply::ok(&json!(lock(&shared.log).entries())),
        ("GET", ["expected"]) => expected(shared, &Params::parse(&request.query)),
        ("GET", ["least"]) => least(shared, &Params::parse(&request.query)),
        ("GET", ["world"]) => overview(shared),
        ("POST", ["mutate"]) => {
            let number = |name: &str, default: u64| {
                body.get(name).and_then(Value::as_u64).unwrap_or(default)
            };
            let count = usize::try_from(number("count", 1))
                .unwrap_or(usize::MAX)
                .min(100_000);
            Reply::ok(&json!(
                lock(&shared.world).mutate_some(number("seed", 0), count)
            ))
        }
        ("POST", ["mutate", name]) => match lock(&shared.world).command(name, &body) {
            Ok(done) => Reply::ok(&json!(done)),
            Err(why) => bad_request(why),
        },
        ("POST", ["faults"]) => match serde_json::from_value::<Vec<Rule>>(body) {
            Ok(rules) => {
                let count = rules.len();
                lock(&shared.faults).set(rules);
                Reply::ok(&json!({ "rules": count }))
            }
            Err(error) => bad_request(error),
        },
        ("DELETE", ["faults"]) => {
            lock(&shared.faults).set(Vec::new());
            Reply::ok(&json!({ "rules": 0 }))
        }
        ("POST", ["clock"]) => {
            let mut world = lock(&shared.world);
            world.clock.advance_seconds(
                body.get("advance_seconds")
                    .and_then(Value::as_i64)
                    .unwrap_or(0),
            );
            Reply::ok(&json!({ "now": world.now() }))
        }
        ("POST", ["reset"]) => {
            lock(&shared.log).clear();
            Reply::ok(&json!({}))
        }
        _ => Reply::no_route(),
    }
}

fn stats(shared: &Shared) -> Reply {
    let now = lock(&shared.world).now();
    let struck = lock(&shared.faults).struck();
    let log = lock(&shared.log);
    Reply::ok(&json!({
        "now": now,
        "requests": log.total(),
        "most_in_flight": log.most_in_flight,
        "faults_struck": struck,
        "endpoints": log.counters,
    }))
}

/// `?groups=1,2&projects=3&token=…&include_confidential=true`; all top groups by default.
fn selection(world: &World, params: &Params) -> Selection {
    let ids = |name: &str| -> Vec<u64> {
        params
            .list(name)
            .iter()
            .filter_map(|id| id.parse().ok())
            .collect()
    };
    let (mut groups, projects) = (ids("groups"), ids("projects"));
    if groups.is_empty() && projects.is_empty() {
        groups = world.top_groups();
    }
    let base = Selection::groups(&groups, params.get("token").unwrap_or(TOKEN));
    Selection {
        projects,
        include_confidential: flag(params, "include_confidential", false),
        include_archived: flag(params, "include_archived", true),
        include_shared: flag(params, "include_shared", false),
        ..base
    }
}

fn flag(params: &Params, name: &str, default: bool) -> bool {
    params.flag(name, default).unwrap_or(default)
}

/// The least requests that a first reading of a selection takes.
fn least(shared: &Shared, params: &Params) -> Reply {
    let world = lock(&shared.world);
    let least = world.least_requests(&selection(&world, params));
    Reply::ok(&json!({ "requests": least }))
}

/// What must be stored of a selection; with `count_only=true` how much of each kind.
fn expected(shared: &Shared, params: &Params) -> Reply {
    let world = lock(&shared.world);
    let selection = selection(&world, params);
    let all = world.expected(&selection);
    if flag(params, "count_only", false) {
        let mut counts = std::collections::BTreeMap::<&str, usize>::new();
        for record in &all {
            *counts.entry(record.event_type.as_str()).or_default() += 1;
        }
        return Reply::ok(&json!({ "total": all.len(), "by_type": counts }));
    }
    Reply::ok(&json!(all))
}

fn overview(shared: &Shared) -> Reply {
    let world = lock(&shared.world);
    let groups: Vec<Value> = world
        .groups
        .values()
        .map(|group| json!({ "id": group.id, "full_path": world.group_path(group.id) }))
        .collect();
    let projects: Vec<Value> = world
        .projects
        .values()
        .map(|project| {
            json!({
                "id": project.id,
                "path_with_namespace": world.project_path(project),
                "merge_requests": project.merge_requests.len(),
                "issues": project.issues.len(),
                "pipelines": project.pipelines.len(),
                "releases": project.releases.len(),
                "commits": project.repository.commits.len(),
                "disabled": project.disabled,
                "archived": world.is_archived(project),
            })
        })
        .collect();
    Reply::ok(&json!({ "now": world.now(), "groups": groups, "projects": projects }))
}
