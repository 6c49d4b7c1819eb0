//! Pipelines: child pipelines only on request, and no order among equal `updated_at`.

use crate::gitlab::call::{Call, Totals};
use crate::gitlab::model::{Feature, Pipeline};
use crate::gitlab::reply::{Answer, Reply};
use crate::gitlab::world::World;

const STATUSES: &[&str] = &[
    "created",
    "waiting_for_resource",
    "preparing",
    "waiting_for_callback",
    "pending",
    "running",
    "canceling",
    "success",
    "failed",
    "canceled",
    "skipped",
    "manual",
    "scheduled",
];
const ORDERS: &[&str] = &["id", "status", "ref", "updated_at", "user_id"];
const SCOPES: &[&str] = &["running", "pending", "finished", "branches", "tags"];

pub(super) fn list(world: &World, call: &Call, capture: &str, id: u64) -> Answer {
    let project = &world.projects[&id];
    if !world.sees_feature(call.viewer, project, Feature::Builds) {
        return Err(Reply::forbidden());
    }
    let params = &call.params;
    let (updated, created) = (params.window("updated")?, params.window("created")?);
    let order_by = params.word("order_by", ORDERS, "id")?;
    let descending = params.descending("desc")?;
    let status = params.word("status", STATUSES, "")?;
    let scope = params.word("scope", SCOPES, "")?;
    let source = params.get("source");
    let (reference, sha, name, username) = (
        params.get("ref"),
        params.get("sha"),
        params.get("name"),
        params.get("username"),
    );
    let keep = |found: &&Pipeline| {
        let user = found
            .user
            .and_then(|id| world.users.get(&id))
            .map(|user| user.username.as_str());
        let in_scope = match scope {
            "running" => found.status == "running",
            "pending" => matches!(
                found.status.as_str(),
                "pending" | "created" | "preparing" | "waiting_for_resource"
            ),
            "finished" => matches!(found.status.as_str(), "success" | "failed" | "canceled"),
            "branches" => project.repository.branches.contains_key(&found.reference),
            "tags" => project.repository.tags.contains_key(&found.reference),
            _ => true,
        };
        in_scope
            && match source {
                None => found.source != "parent_pipeline",
                Some(wanted) => found.source == wanted,
            }
            // A row without `updated_at` is never inside a window.
            && (updated.is_open() || found.updated_at.is_some_and(|at| updated.holds(at)))
            && created.holds(found.created_at)
            && (status.is_empty() || found.status == status)
            && reference.is_none_or(|wanted| found.reference == wanted)
            && sha.is_none_or(|wanted| found.sha == wanted)
            && name.is_none_or(|wanted| found.name.as_deref() == Some(wanted))
            && username.is_none_or(|wanted| user == Some(wanted))
    };
    let mut found: Vec<&Pipeline> = project.pipelines.values().filter(keep).collect();
    found.sort_by(|a, b| {
        let primary = match order_by {
            "status" => a.status.cmp(&b.status),
            "ref" => a.reference.cmp(&b.reference),
            "updated_at" => a.updated_at.cmp(&b.updated_at),
            "user_id" => a.user.cmp(&b.user),
            _ => a.id.cmp(&b.id),
        };
        let primary = if descending {
            primary.reverse()
        } else {
            primary
        };
        primary.then_with(|| call.noise(world, a.id).cmp(&call.noise(world, b.id)))
    });
    let declared = call.declared(
        &[("id", capture)],
        &[
            ("created_after", ""),
            ("created_before", ""),
            ("name", ""),
            ("order_by", "id"),
            ("ref", ""),
            ("scope", ""),
            ("sha", ""),
            ("sort", "desc"),
            ("source", ""),
            ("status", ""),
            ("updated_after", ""),
            ("updated_before", ""),
            ("username", ""),
            ("yaml_errors", ""),
        ],
    );
    let paged = call.offset(world, found, &declared, Totals::Counted)?;
    Ok(paged.reply(|pipeline| Some(world.pipeline_json(project, pipeline))))
}

pub(super) fn single(world: &World, call: &Call, id: u64, pipeline: u64) -> Answer {
    let project = &world.projects[&id];
    if !world.sees_feature(call.viewer, project, Feature::Builds) {
        return Err(Reply::forbidden());
    }
    let found = project
        .pipelines
        .get(&pipeline)
        .ok_or_else(Reply::missing)?;
    Ok(Reply::ok(&world.pipeline_detail_json(project, found)))
}
