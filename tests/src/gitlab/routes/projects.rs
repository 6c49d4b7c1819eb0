//! Groups and projects.

use std::cmp::Ordering;

use serde_json::{Value, json};

use crate::gitlab::call::{Call, Totals};
use crate::gitlab::model::{Feature, Group, Project};
use crate::gitlab::reply::{Answer, Reply};
use crate::gitlab::world::World;

const ORDERS: &[&str] = &[
    "id",
    "name",
    "path",
    "created_at",
    "updated_at",
    "last_activity_at",
    "similarity",
    "star_count",
    "storage_size",
    "repository_size",
];

pub(super) fn group(world: &World, call: &Call, id: u64) -> Answer {
    let mut out = world.group_json(&world.groups[&id]);
    if call.params.flag("with_projects", true)? {
        let list = |projects: Vec<&Project>| -> Value {
            let visible = projects
                .into_iter()
                .filter(|project| world.sees_project(call.viewer, project));
            visible
                .take(100)
                .map(|project| world.project_json(call.viewer, project, false))
                .collect()
        };
        let shared = world
            .projects
            .values()
            .filter(|project| project.shared_with.contains(&id))
            .collect();
        out["projects"] = list(world.group_projects(id, false, false));
        out["shared_projects"] = list(shared);
    }
    Ok(Reply::ok(&out))
}

pub(super) fn subgroups(world: &World, call: &Call, capture: &str, id: u64, kind: &str) -> Answer {
    let below = |group: &&Group| {
        if kind == "subgroups" {
            group.parent == Some(id)
        } else {
            group.id != id && world.ancestors(group.id).contains(&id)
        }
    };
    let mut found: Vec<&Group> = world
        .groups
        .values()
        .filter(below)
        .filter(|group| world.sees_group(call.viewer, group.id))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let declared = call.declared(
        &[("id", capture)],
        &[
            ("order_by", "name"),
            ("sort", "asc"),
            ("statistics", "false"),
        ],
    );
    let paged = call.offset(world, found, &declared, Totals::Counted)?;
    Ok(paged.reply(|group| Some(world.group_json(group))))
}

pub(super) fn single(world: &World, call: &Call, id: u64) -> Answer {
    let statistics = call.params.flag("statistics", false)?;
    Ok(Reply::ok(&world.project_json(
        call.viewer,
        &world.projects[&id],
        statistics,
    )))
}

fn compare(order_by: &str, a: &Project, b: &Project) -> Ordering {
    match order_by {
        "name" => a.name.cmp(&b.name),
        "path" => a.path.cmp(&b.path),
        "created_at" => a.created_at.cmp(&b.created_at),
        "updated_at" => a.updated_at.cmp(&b.updated_at),
        "last_activity_at" => a.last_activity_at.cmp(&b.last_activity_at),
        _ => Ordering::Equal,
    }
    .then(a.id.cmp(&b.id))
}

/// The filters that both lists share.
fn filter<'w>(
    world: &'w World,
    call: &Call,
    all: Vec<&'w Project>,
) -> Result<Vec<&'w Project>, Reply> {
    let archived = match call.params.get("archived") {
        None => None,
        Some(_) => Some(call.params.flag("archived", false)?),
    };
    let active = match call.params.get("active") {
        None => None,
        Some(_) => Some(call.params.flag("active", false)?),
    };
    let visibility = call.params.get("visibility");
    let search = call.params.get("search").map(str::to_lowercase);
    let issues = call.params.flag("with_issues_enabled", false)?;
    let requests = call.params.flag("with_merge_requests_enabled", false)?;
    let level = call.params.number("min_access_level")?;
    let keep = |project: &&Project| {
        let role = world
            .role(call.viewer, project)
            .map_or(0, |role| role as u64);
        world.sees_project(call.viewer, project)
            && archived.is_none_or(|wanted| world.is_archived(project) == wanted)
            && active.is_none_or(|wanted| world.is_archived(project) != wanted)
            && visibility.is_none_or(|wanted| project.visibility.as_str() == wanted)
            && search
                .as_ref()
                .is_none_or(|text| project.name.to_lowercase().contains(text))
            && !(issues && project.disabled.contains(&Feature::Issues))
            && !(requests && project.disabled.contains(&Feature::MergeRequests))
            && level.is_none_or(|level| role >= level)
    };
    Ok(all.into_iter().filter(keep).collect())
}

fn render(world: &World, call: &Call) -> Result<impl Fn(&Project) -> Option<Value>, Reply> {
    let simple = call.params.flag("simple", false)? || call.viewer.0.is_none();
    let statistics = call.params.flag("statistics", false)?;
    let viewer = call.viewer;
    Ok(move |project: &Project| {
        Some(if simple {
            world.project_simple_json(viewer, project)
        } else {
            world.project_json(viewer, project, statistics)
        })
    })
}

pub(super) fn of_group(world: &World, call: &Call, capture: &str, group: u64) -> Answer {
    let subgroups = call.params.flag("include_subgroups", false)?;
    let shared = call.params.flag("with_shared", true)?;
    let order_by = call.params.word("order_by", ORDERS, "created_at")?;
    let descending = call.params.descending("desc")?;
    if call.params.get("pagination") == Some("keyset") {
        return Err(Reply::no_keyset());
    }
    let mut found = filter(world, call, world.group_projects(group, subgroups, shared))?;
    found.sort_by(|a, b| {
        if descending {
            compare(order_by, b, a)
        } else {
            compare(order_by, a, b)
        }
    });
    let declared = call.declared(
        &[("id", capture)],
        &[
            ("archived", ""),
            ("active", ""),
            ("visibility", ""),
            ("search", ""),
            ("include_subgroups", "false"),
            ("with_shared", "true"),
            ("order_by", "created_at"),
            ("sort", "desc"),
            ("simple", "false"),
            ("statistics", ""),
            ("with_issues_enabled", "false"),
            ("with_merge_requests_enabled", "false"),
            ("min_access_level", ""),
            ("owned", "false"),
            ("starred", "false"),
            ("include_ancestor_groups", "false"),
            ("with_custom_attributes", "false"),
            ("with_security_reports", "false"),
        ],
    );
    let paged = call.offset(world, found, &declared, Totals::Counted)?;
    let render = render(world, call)?;
    Ok(paged.reply(render))
}

pub(super) fn all(world: &World, call: &Call) -> Answer {
    let order_by = call.params.word("order_by", ORDERS, "created_at")?;
    let descending = call.params.descending("desc")?;
    let updated = call.params.window("updated")?;
    if !updated.is_open() && order_by != "updated_at" {
        let text = "400 Bad request - `updated_at` filter and `updated_at` sorting must be paired";
        return Err(Reply::message(400, text));
    }
    let activity = call.params.window("last_activity")?;
    let (id_after, id_before) = (
        call.params.number("id_after")?,
        call.params.number("id_before")?,
    );
    let membership = call.params.flag("membership", false)? || call.params.flag("owned", false)?;
    let mut found = filter(world, call, world.projects.values().collect())?;
    found.retain(|project| {
        updated.holds(project.updated_at)
            && activity.holds(project.last_activity_at)
            && id_after.is_none_or(|id| project.id > id)
            && id_before.is_none_or(|id| project.id < id)
            && (!membership || world.role(call.viewer, project).is_some())
    });
    found.sort_by(|a, b| {
        if descending {
            compare(order_by, b, a)
        } else {
            compare(order_by, a, b)
        }
    });
    let declared = call.declared(
        &[],
        &[
            ("archived", ""),
            ("active", ""),
            ("visibility", ""),
            ("search", ""),
            ("membership", "false"),
            ("owned", "false"),
            ("order_by", "created_at"),
            ("sort", "desc"),
            ("simple", "false"),
            ("statistics", "false"),
            ("pagination", ""),
            ("id_after", ""),
            ("id_before", ""),
            ("last_activity_after", ""),
            ("last_activity_before", ""),
            ("updated_after", ""),
            ("updated_before", ""),
            ("with_issues_enabled", "false"),
            ("with_merge_requests_enabled", "false"),
            ("min_access_level", ""),
            ("repository_checksum_failed", "false"),
            ("starred", "false"),
            ("wiki_checksum_failed", "false"),
            ("with_custom_attributes", "false"),
            ("imported", "false"),
            ("include_hidden", "false"),
        ],
    );
    let paged = if call.params.get("pagination") == Some("keyset") {
        if order_by != "id" {
            return Err(Reply::no_keyset());
        }
        call.keyset_by_id(found, |project| project.id, descending, &declared)?
    } else {
        let limit = world.knobs.offset_limit;
        if call.viewer.0.is_none() && call.depth()? > limit {
            let text = format!(
                "Offset pagination has a maximum allowed offset of {limit} for requests that return objects of type Project. \
                 Remaining records can be retrieved using keyset pagination."
            );
            return Err(Reply::json(405, &json!({ "message": text })));
        }
        call.offset(world, found, &declared, Totals::Counted)?
    };
    let render = render(world, call)?;
    Ok(paged.reply(render))
}
