//! The control API under `/_sim/`: what a test does by calling methods, for whoever runs the binary.

use std::time::Duration;

use serde_json::{Value, json};

use super::call::Params;
use super::expected::Selection;
use super::faults::Rule;
use super::generate::TOKEN;
use super::reply::Reply;
use super::server::{Shared, lock};
use super::webhooks::Storm;
use super::wire::Request;
use super::world::{Knobs, World};

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
        (method, ["webhooks", rest @ ..]) => webhooks(shared, request, method, rest, body),
        ("POST", ["knobs"]) => match set_knobs(&mut lock(&shared.world).knobs, &body) {
            Ok(()) => Reply::ok(&json!({})),
            Err(why) => bad_request(why),
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

/// Hooks: their list, what was sent, and what goes wrong with it.
fn webhooks(shared: &Shared, request: &Request, method: &str, rest: &[&str], body: Value) -> Reply {
    let mut world = lock(&shared.world);
    match (method, rest) {
        ("GET", []) => {
            let hooks: Vec<Value> = world
                .webhooks
                .hooks
                .values()
                .map(|hook| {
                    let mut out = world.webhook_json(hook);
                    out["owner"] = json!(hook.owner);
                    out["failures"] = json!(hook.failures);
                    out
                })
                .collect();
            Reply::ok(&json!({
                "hooks": hooks,
                "counts": world.webhook_counts(),
                "waiting": world.webhooks.queue.len() + world.webhooks.in_flight,
            }))
        }
        ("GET", ["deliveries"]) => {
            let params = Params::parse(&request.query);
            let number = |name: &str| params.get(name).and_then(|text| text.parse::<u64>().ok());
            let (hook, last) = (number("hook"), number("last").unwrap_or(100));
            let sent = world.webhooks.log.iter().rev();
            let sent: Vec<_> = sent
                .filter(|sent| hook.is_none_or(|hook| sent.hook == hook))
                .take(usize::try_from(last).unwrap_or(usize::MAX))
                .collect();
            Reply::ok(&json!(sent))
        }
        ("POST", ["faults"]) => match serde_json::from_value(body) {
            Ok(faults) => {
                world.set_webhook_faults(faults);
                Reply::ok(&json!(world.webhooks.faults))
            }
            Err(error) => bad_request(error),
        },
        ("DELETE", ["faults"]) => {
            world.set_webhook_faults(Default::default());
            Reply::ok(&json!({}))
        }
        ("POST", ["fire"]) => match serde_json::from_value(body) {
            Ok(what) => Reply::ok(&json!({ "queued": world.announce(what) })),
            Err(error) => bad_request(error),
        },
        ("POST", ["storm"]) => {
            let number = |name: &str, default: u64| {
                body.get(name).and_then(Value::as_u64).unwrap_or(default)
            };
            let per_second = u32::try_from(number("per_second", 100)).unwrap_or(u32::MAX);
            let lasting = Duration::from_millis(number("ms", 1000));
            drop(world);
            let world = std::sync::Arc::clone(&shared.world);
            Storm::start(world, per_second, lasting, number("seed", 0));
            Reply::ok(&json!({ "per_second": per_second, "ms": lasting.as_millis() }))
        }
        _ => Reply::no_route(),
    }
}

/// The knobs of webhooks, by name; an unknown name is refused.
fn set_knobs(knobs: &mut Knobs, body: &Value) -> Result<(), String> {
    let fields = body.as_object().ok_or("expected an object")?;
    let mut fresh = knobs.clone();
    for (name, value) in fields {
        let wrong = || format!("{name}: not a value that it can have");
        let flag = || value.as_bool().ok_or_else(wrong);
        match name.as_str() {
            "version" => value
                .as_str()
                .ok_or_else(wrong)?
                .clone_into(&mut fresh.version),
            "premium" => fresh.premium = flag()?,
            "auto_disabling" => fresh.auto_disabling = flag()?,
            "local_hook_targets" => fresh.local_hook_targets = flag()?,
            "silent_mode" => fresh.silent_mode = flag()?,
            "hook_timeout_ms" => {
                fresh.hook_timeout = Duration::from_millis(value.as_u64().ok_or_else(wrong)?);
            }
            "hook_zone_minutes" => {
                let minutes = value.as_i64().and_then(|number| i32::try_from(number).ok());
                fresh.hook_zone_minutes = minutes.ok_or_else(wrong)?;
            }
            "hook_clock_skew_seconds" => {
                fresh.hook_clock_skew_seconds = value.as_i64().ok_or_else(wrong)?;
            }
            "hook_calls_per_minute" => fresh.hook_calls_per_minute = value.as_u64(),
            _ => return Err(format!("no knob {name}")),
        }
    }
    *knobs = fresh;
    Ok(())
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
