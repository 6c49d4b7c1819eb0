//! Releases: no id, no `updated_at`, and yet a filter by it.

use crate::gitlab::call::{Call, Totals};
use crate::gitlab::model::{Feature, Project, Release};
use crate::gitlab::reply::{Answer, Reply};
use crate::gitlab::world::World;

type Row<'w> = (&'w Project, &'w Release);

fn ordered<'w>(
    world: &World,
    call: &Call,
    mut rows: Vec<Row<'w>>,
    order_by: &str,
) -> Result<Vec<Row<'w>>, Reply> {
    let descending = call.params.descending("desc")?;
    rows.sort_by(|(_, a), (_, b)| {
        let primary = match order_by {
            "created_at" => a.created_at.cmp(&b.created_at),
            _ => a.released_at.cmp(&b.released_at),
        };
        let primary = if descending {
            primary.reverse()
        } else {
            primary
        };
        let noise = |release: &Release| call.noise(world, release.created_at.0.unsigned_abs());
        primary.then_with(|| noise(a).cmp(&noise(b)))
    });
    Ok(rows)
}

pub(super) fn list(world: &World, call: &Call, capture: &str, id: u64) -> Answer {
    let project = &world.projects[&id];
    if !world.sees_feature(call.viewer, project, Feature::Releases) {
        return Err(Reply::forbidden());
    }
    let updated = call.params.window("updated")?;
    let order_by = call
        .params
        .word("order_by", &["released_at", "created_at"], "released_at")?;
    let html = call.params.flag("include_html_description", false)?;
    let rows = project
        .releases
        .values()
        .filter(|found| updated.holds(found.updated_at));
    let rows = ordered(
        world,
        call,
        rows.map(|found| (project, found)).collect(),
        order_by,
    )?;
    let declared = call.declared(
        &[("id", capture)],
        &[
            ("include_html_description", ""),
            ("order_by", "released_at"),
            ("sort", "desc"),
            ("updated_after", ""),
            ("updated_before", ""),
        ],
    );
    let paged = call.offset(world, rows, &declared, Totals::Counted)?;
    Ok(paged.reply(|(project, found)| Some(world.release_json(call.viewer, project, found, html))))
}

pub(super) fn of_group(world: &World, call: &Call, capture: &str, group: u64) -> Answer {
    let projects = world.group_projects(group, true, false);
    let visible = projects
        .into_iter()
        .filter(|project| world.sees_feature(call.viewer, project, Feature::Releases));
    let rows = visible
        .flat_map(|project| project.releases.values().map(move |found| (project, found)))
        .collect();
    let rows = ordered(world, call, rows, "released_at")?;
    let simple = call.params.flag("simple", false)?;
    let declared = call.declared(&[("id", capture)], &[("simple", "false"), ("sort", "desc")]);
    let paged = call.offset(world, rows, &declared, Totals::Counted)?;
    Ok(paged.reply(|(project, found)| {
        let full = world.release_json(call.viewer, project, found, false);
        let simple_fields = [
            "name",
            "tag_name",
            "description",
            "created_at",
            "released_at",
            "upcoming_release",
            "_links",
        ];
        Some(if simple {
            crate::gitlab::render::pick(&full, &simple_fields)
        } else {
            full
        })
    }))
}

pub(super) fn single(world: &World, call: &Call, id: u64, tag: &str) -> Answer {
    let project = &world.projects[&id];
    if !world.sees_feature(call.viewer, project, Feature::Releases) {
        return Err(Reply::forbidden());
    }
    let found = project.releases.get(tag).ok_or_else(Reply::missing)?;
    let html = call.params.flag("include_html_description", false)?;
    Ok(Reply::ok(&world.release_json(
        call.viewer,
        project,
        found,
        html,
    )))
}
