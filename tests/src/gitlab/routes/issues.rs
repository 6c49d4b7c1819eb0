//! Issues: offset and keyset lists, and single ones.

use crate::gitlab::call::{Call, Totals};
use crate::gitlab::model::{Feature, Issue, Project};
use crate::gitlab::reply::{Answer, Reply};
use crate::gitlab::world::World;

use super::merge_requests::{SCOPES, ordered};

const ORDERS: &[&str] = &[
    "created_at",
    "updated_at",
    "due_date",
    "relative_position",
    "label_priority",
    "milestone_due",
    "popularity",
    "priority",
    "title",
    "weight",
];
/// Orders that keyset paging supports; with another one the parameter is dropped without a word.
const KEYSET_ORDERS: &[&str] = &[
    "created_at",
    "updated_at",
    "title",
    "due_date",
    "relative_position",
    "weight",
];
const TYPES: &[&str] = &["issue", "incident", "test_case", "task"];

const DECLARED: &[(&str, &str)] = &[
    ("author_id", ""),
    ("confidential", ""),
    ("created_after", ""),
    ("created_before", ""),
    ("iids[]", ""),
    ("in", ""),
    ("issue_type", ""),
    ("labels", ""),
    ("milestone", ""),
    ("order_by", "created_at"),
    ("search", ""),
    ("sort", "desc"),
    ("state", "all"),
    ("updated_after", ""),
    ("updated_before", ""),
    ("with_labels_details", "false"),
];

type Row<'w> = (&'w Project, &'w Issue);

fn sort_key(order_by: &str, issue: &Issue) -> String {
    match order_by {
        "updated_at" => issue.updated_at.precise(),
        "title" => issue.title.to_lowercase(),
        "due_date" => issue.due_date.clone().unwrap_or_else(|| "9999".to_owned()),
        _ => issue.created_at.precise(),
    }
}

fn select<'w>(
    world: &'w World,
    call: &Call,
    projects: &[&'w Project],
    scope: &str,
) -> Result<Vec<Row<'w>>, Reply> {
    let params = &call.params;
    let state = params.word("state", &["opened", "closed", "all"], "all")?;
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
    let kind = match params.get("issue_type") {
        None => None,
        Some(_) => Some(params.word("issue_type", TYPES, "issue")?),
    };
    let confidential = match params.get("confidential") {
        None => None,
        Some(_) => Some(params.flag("confidential", false)?),
    };
    let me = call.viewer.0;
    let keep = |project: &Project, found: &Issue| {
        let in_scope = match scope {
            "all" => true,
            "assigned_to_me" | "assigned-to-me" => {
                me.is_some_and(|me| found.assignees.contains(&me))
            }
            _ => found.author.is_some() && found.author == me,
        };
        in_scope
            && (state == "all" || (state == "opened") == found.open)
            && updated.holds(found.updated_at)
            && created.holds(found.created_at)
            && (iids.is_empty() || iids.contains(&found.iid))
            && labels.iter().all(|&label| found.labels.contains(label))
            && author.is_none_or(|author| found.author == Some(author))
            && search
                .as_ref()
                .is_none_or(|text| found.title.to_lowercase().contains(text))
            && kind.is_none_or(|kind| found.issue_type == kind)
            && TYPES.contains(&found.issue_type.as_str())
            && confidential.is_none_or(|wanted| found.confidential == wanted)
            && world.sees_issue(call.viewer, project, found)
    };
    let mut rows: Vec<Row<'w>> = projects
        .iter()
        .filter(|project| world.sees_feature(call.viewer, project, Feature::Issues))
        .flat_map(|project| project.issues.values().map(move |found| (*project, found)))
        .filter(|(project, found)| keep(project, found))
        .collect();
    rows.sort_unstable_by(|(_, a), (_, b)| {
        let primary = match order_by {
            "updated_at" => a.updated_at.cmp(&b.updated_at),
            "title" | "due_date" => sort_key(order_by, a).cmp(&sort_key(order_by, b)),
            _ => a.created_at.cmp(&b.created_at),
        };
        ordered(primary, a.id, b.id, descending)
    });
    Ok(rows)
}

/// Whether this version pages issues by keyset.
fn has_keyset(version: &str) -> bool {
    let mut parts = version
        .split(['.', '-'])
        .map(|part| part.parse::<u64>().unwrap_or(0));
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    (major, minor) >= (18, 3)
}

fn list(
    world: &World,
    call: &Call,
    projects: &[&Project],
    captures: &[(&str, &str)],
    more: &[(&str, &str)],
    default_scope: &'static str,
    keyset: bool,
) -> Answer {
    let scope = call.params.word("scope", SCOPES, default_scope)?;
    let rows = select(world, call, projects, scope)?;
    let order_by = call.params.word("order_by", ORDERS, "created_at")?;
    let declared = call.declared(captures, &[DECLARED, more].concat());
    let wanted = call
        .params
        .word("pagination", &["legacy", "keyset"], "legacy")?
        == "keyset";
    let paged = if keyset
        && wanted
        && KEYSET_ORDERS.contains(&order_by)
        && has_keyset(&world.knobs.version)
    {
        let key = |(_, found): &Row<'_>| (sort_key(order_by, found), found.id);
        let mut declared = declared;
        declared.push(("pagination".to_owned(), "keyset".to_owned()));
        call.keyset(rows, key, order_by, &declared)?
    } else {
        call.offset(world, rows, &declared, Totals::Counted)?
    };
    let details = call.params.flag("with_labels_details", false)?;
    Ok(paged.reply(|(project, found)| Some(world.issue_json(project, found, details))))
}

pub(super) fn of_project(world: &World, call: &Call, capture: &str, id: u64) -> Answer {
    let project = &world.projects[&id];
    list(
        world,
        call,
        &[project],
        &[("id", capture)],
        &[("scope", "")],
        "all",
        true,
    )
}

pub(super) fn of_group(world: &World, call: &Call, capture: &str, group: u64) -> Answer {
    let projects = super::listed_projects(world, call, Some(group))?;
    let more = [("scope", "all"), ("non_archived", "true")];
    list(
        world,
        call,
        &projects,
        &[("id", capture)],
        &more,
        "all",
        false,
    )
}

pub(super) fn everywhere(world: &World, call: &Call) -> Answer {
    if call.viewer.0.is_none() && call.params.get("scope") != Some("all") {
        return Err(Reply::unauthorized());
    }
    let projects = super::listed_projects(world, call, None)?;
    list(
        world,
        call,
        &projects,
        &[],
        &[("scope", "created_by_me"), ("non_archived", "")],
        "created_by_me",
        false,
    )
}

pub(super) fn single(world: &World, call: &Call, id: u64, iid: u64) -> Answer {
    let project = &world.projects[&id];
    let found = project.issues.get(&iid).filter(|found| {
        world.sees_feature(call.viewer, project, Feature::Issues)
            && world.sees_issue(call.viewer, project, found)
    });
    let found = found.ok_or_else(Reply::missing)?;
    let mut out = world.issue_json(project, found, false);
    out["subscribed"] = serde_json::json!(false);
    Ok(Reply::ok(&out))
}
