//! Merge requests: of a project (cached entries), of a group and of the instance (fresh ones), and single ones.

use std::cmp::Ordering;

use serde_json::Value;

use crate::gitlab::call::{Call, Paged, Totals};
use crate::gitlab::clock::{Micros, SECOND};
use crate::gitlab::model::{Feature, MergeRequest, Project};
use crate::gitlab::render::pick;
use crate::gitlab::reply::{Answer, Reply};
use crate::gitlab::world::{CachedEntry, World};

const ORDERS: &[&str] = &[
    "created_at",
    "label_priority",
    "milestone_due",
    "popularity",
    "priority",
    "title",
    "updated_at",
    "merged_at",
];
const STATES: &[&str] = &["opened", "closed", "locked", "merged", "all"];
pub(super) const SCOPES: &[&str] = &[
    "created-by-me",
    "assigned-to-me",
    "created_by_me",
    "assigned_to_me",
    "reviews_for_me",
    "all",
];

/// Parameters of all three lists, with the defaults that `Link` shows.
const DECLARED: &[(&str, &str)] = &[
    ("author_id", ""),
    ("author_username", ""),
    ("created_after", ""),
    ("created_before", ""),
    ("iids[]", ""),
    ("in", ""),
    ("labels", ""),
    ("milestone", ""),
    ("order_by", "created_at"),
    ("search", ""),
    ("sort", "desc"),
    ("source_branch", ""),
    ("state", "all"),
    ("target_branch", ""),
    ("updated_after", ""),
    ("updated_before", ""),
    ("view", ""),
    ("with_labels_details", "false"),
    ("with_merge_status_recheck", "false"),
];

type Row<'w> = (&'w Project, &'w MergeRequest);

/// The order of the table: the tie-break is the id, descending, in both directions.
pub(super) fn ordered(primary: Ordering, a: u64, b: u64, descending: bool) -> Ordering {
    if descending {
        primary.reverse()
    } else {
        primary
    }
    .then(b.cmp(&a))
}

fn select<'w>(
    world: &'w World,
    call: &Call,
    projects: &[&'w Project],
    scope: &str,
) -> Result<Vec<Row<'w>>, Reply> {
    let params = &call.params;
    let state = params.word("state", STATES, "all")?;
    let order_by = params.word("order_by", ORDERS, "created_at")?;
    let descending = params.descending("desc")?;
    let (updated, created) = (params.window("updated")?, params.window("created")?);
    let iids = params
        .list("iids")
        .iter()
        .map(|text| super::number(text, "iids"))
        .collect::<Result<Vec<u64>, Reply>>()?;
    let labels = params.list("labels");
    let author = params.number("author_id")?;
    let search = params.get("search").map(str::to_lowercase);
    let (source, target) = (params.get("source_branch"), params.get("target_branch"));
    let me = call.viewer.0;
    let keep = |found: &MergeRequest| {
        let in_scope = match scope {
            "all" => true,
            "assigned_to_me" | "assigned-to-me" => {
                me.is_some_and(|me| found.assignees.contains(&me))
            }
            "reviews_for_me" => me.is_some_and(|me| found.reviewers.contains(&me)),
            _ => found.author.is_some() && found.author == me,
        };
        in_scope
            && (state == "all" || found.state.as_str() == state)
            && updated.holds(found.updated_at)
            && created.holds(found.created_at)
            && (iids.is_empty() || iids.contains(&found.iid))
            && labels.iter().all(|&label| found.labels.contains(label))
            && author.is_none_or(|author| found.author == Some(author))
            && search
                .as_ref()
                .is_none_or(|text| found.title.to_lowercase().contains(text))
            && source.is_none_or(|branch| found.source_branch == branch)
            && target.is_none_or(|branch| found.target_branch == branch)
    };
    let mut rows: Vec<Row<'w>> = projects
        .iter()
        .filter(|project| world.sees_feature(call.viewer, project, Feature::MergeRequests))
        .flat_map(|project| {
            project
                .merge_requests
                .values()
                .map(move |found| (*project, found))
        })
        .filter(|(_, found)| keep(found))
        .collect();
    let merged_at = |found: &MergeRequest| found.merged.map(|(at, _)| at);
    rows.sort_unstable_by(|(_, a), (_, b)| {
        let primary = match order_by {
            "updated_at" => a.updated_at.cmp(&b.updated_at),
            "title" => a.title.cmp(&b.title),
            "merged_at" => merged_at(a).cmp(&merged_at(b)),
            _ => a.created_at.cmp(&b.created_at),
        };
        ordered(primary, a.id, b.id, descending)
    });
    Ok(rows)
}

fn fresh(
    world: &World,
    call: &Call,
    project: &Project,
    found: &MergeRequest,
) -> Result<Value, Reply> {
    let details = call.params.flag("with_labels_details", false)?;
    let full = world.merge_request_json(project, found, details);
    if call.params.get("view") == Some("simple") {
        return Ok(pick(
            &full,
            &[
                "id",
                "iid",
                "project_id",
                "title",
                "description",
                "state",
                "created_at",
                "updated_at",
                "web_url",
            ],
        ));
    }
    Ok(full)
}

pub(super) fn of_project(world: &mut World, call: &Call, capture: &str, id: u64) -> Answer {
    let details = call.params.flag("with_labels_details", false)?;
    let (page, headers) = {
        let project = &world.projects[&id];
        if !world.sees_feature(call.viewer, project, Feature::MergeRequests) {
            return Err(Reply::forbidden());
        }
        let scope = call.params.word("scope", SCOPES, "all")?;
        let rows = select(world, call, &[project], scope)?;
        let declared = call.declared(&[("id", capture)], &[DECLARED, &[("scope", "")]].concat());
        let Paged { items, headers } = call.offset(world, rows, &declared, Totals::Counted)?;
        (
            items
                .iter()
                .map(|(_, found)| found.iid)
                .collect::<Vec<u64>>(),
            headers,
        )
    };
    let cached = world.knobs.merge_request_cache_seconds > 0
        && !details
        && call.params.get("view") != Some("simple");
    let mut items = Vec::with_capacity(page.len());
    for iid in page {
        items.push(if cached {
            entry(world, call, id, iid)
        } else {
            let project = &world.projects[&id];
            fresh(world, call, project, &project.merge_requests[&iid])?
        });
    }
    Ok(Reply {
        headers,
        ..Reply::ok(&Value::Array(items))
    })
}

/// An entry through the cache: fields that change without `updated_at` may be up to eight hours old.
fn entry(world: &mut World, call: &Call, project: u64, iid: u64) -> Value {
    let now = world.now();
    let found = &world.projects[&project].merge_requests[&iid];
    let fingerprint = format!(
        "{}/{:?}/{:?}/{:?}/{:?}",
        found.updated_at.0, found.labels, found.assignees, found.reviewers, found.state
    );
    let key = (call.viewer, found.id);
    let oldest = Micros(now.0 - world.knobs.merge_request_cache_seconds * SECOND);
    let usable = |hit: &&CachedEntry| hit.fingerprint == fingerprint && hit.stored_at > oldest;
    if let Some(hit) = world.merge_request_cache.get(&key).filter(usable) {
        return hit.body.clone();
    }
    let body = world.merge_request_json(&world.projects[&project], found, false);
    world.merge_request_cache.insert(
        key,
        CachedEntry {
            fingerprint,
            stored_at: now,
            body: body.clone(),
        },
    );
    body
}

fn list(
    world: &World,
    call: &Call,
    group: Option<u64>,
    captures: &[(&str, &str)],
    default_scope: &'static str,
) -> Answer {
    let scope = call.params.word("scope", SCOPES, default_scope)?;
    let projects = super::listed_projects(world, call, group)?;
    let rows = select(world, call, &projects, scope)?;
    let non_archived = if group.is_some() { "true" } else { "" };
    let declared = call.declared(
        captures,
        &[
            DECLARED,
            &[("scope", default_scope), ("non_archived", non_archived)],
        ]
        .concat(),
    );
    let paged = call.offset(world, rows, &declared, Totals::Counted)?;
    let Paged { items, headers } = paged;
    let items: Vec<Value> = items
        .into_iter()
        .map(|(project, found)| fresh(world, call, project, found))
        .collect::<Result<_, _>>()?;
    Ok(Reply {
        headers,
        ..Reply::ok(&Value::Array(items))
    })
}

pub(super) fn of_group(world: &World, call: &Call, capture: &str, group: u64) -> Answer {
    list(world, call, Some(group), &[("id", capture)], "all")
}

pub(super) fn everywhere(world: &World, call: &Call) -> Answer {
    if call.viewer.0.is_none() && call.params.get("scope") != Some("all") {
        return Err(Reply::unauthorized());
    }
    list(world, call, None, &[], "created_by_me")
}

pub(super) fn single(world: &World, call: &Call, id: u64, iid: u64) -> Answer {
    let project = &world.projects[&id];
    if !world.sees_feature(call.viewer, project, Feature::MergeRequests) {
        return Err(Reply::forbidden());
    }
    let found = project
        .merge_requests
        .get(&iid)
        .ok_or_else(Reply::missing)?;
    Ok(Reply::ok(&world.merge_request_detail_json(
        call.viewer,
        project,
        found,
    )))
}
