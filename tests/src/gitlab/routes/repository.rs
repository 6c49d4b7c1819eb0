//! Commits, branches, tags and comparisons.

use serde_json::{Value, json};

use crate::gitlab::call::{Call, Totals};
use crate::gitlab::graph::{Revision, Walk};
use crate::gitlab::model::{Commit, Feature, Project};
use crate::gitlab::reply::{Answer, Reply};
use crate::gitlab::world::World;

pub(super) fn route(world: &World, call: &Call, capture: &str, id: u64, rest: &[&str]) -> Answer {
    let project = &world.projects[&id];
    if project.disabled.contains(&Feature::Repository) || !project.repository.exists {
        return Err(Reply::no_such("Repository"));
    }
    if !world.sees_code(call.viewer, project) {
        return Err(Reply::forbidden());
    }
    match *rest {
        ["commits"] => commits(world, call, capture, project),
        ["commits", sha] => commit(world, call, project, sha),
        ["commits", sha, "discussions" | "comments"] => {
            no_comments(world, call, capture, project, sha)
        }
        ["branches"] => branches(world, call, capture, project),
        ["branches", name] => branch(world, call, project, name),
        ["tags"] => tags(world, call, capture, project),
        ["compare"] => compare(world, call, project),
        _ => Err(Reply::no_route()),
    }
}

fn commits(world: &World, call: &Call, capture: &str, project: &Project) -> Answer {
    let params = &call.params;
    let all = params.flag("all", false)?;
    let stats = params.flag("with_stats", false)?;
    let order = params.word("order", &["default", "topo"], "default")?;
    let mut walk = Walk {
        since: params.time("since")?,
        until: params.time("until")?,
        first_parent: params.flag("first_parent", false)?,
        ..Walk::default()
    };
    let repository = &project.repository;
    let wanted = params.get("ref_name").or(params.get("ref"));
    if all {
        walk.from = repository.all_heads();
    } else {
        match wanted.map(|name| repository.revision(name)) {
            None => walk.from = repository.default_head().cloned().into_iter().collect(),
            Some(Revision::Single(sha)) => walk.from = vec![sha],
            Some(Revision::Range(old, new)) => {
                walk.not = vec![old];
                walk.from = vec![new];
            }
            Some(Revision::Missing) if world.knobs.missing_range_is_empty => {}
            Some(Revision::Missing) => return Err(Reply::no_such("Commit")),
            Some(Revision::Invalid) => return Err(Reply::invalid("ref_name is invalid")),
        }
    }
    let mut found = repository.log(&walk);
    if order == "topo" {
        found = topological(&found);
    }
    if let Some(author) = params.get("author") {
        found.retain(|commit| {
            format!("{} <{}>", commit.author_name, commit.author_email).contains(author)
        });
    }
    let declared = call.declared(
        &[("id", capture)],
        &[
            ("all", ""),
            ("author", ""),
            ("first_parent", ""),
            ("follow", ""),
            ("order", "default"),
            ("path", ""),
            ("ref_name", ""),
            ("since", ""),
            ("trailers", "false"),
            ("until", ""),
            ("with_stats", ""),
        ],
    );
    let first_page_only = all && world.knobs.all_commits_page_bug;
    let paged = if first_page_only {
        // The bug: whatever the page, the commits are those of the first one; the headers move on.
        let per_page: usize = params
            .get("per_page")
            .and_then(|text| text.parse().ok())
            .unwrap_or(20)
            .min(100);
        let page: usize = params
            .get("page")
            .and_then(|text| text.parse().ok())
            .unwrap_or(1);
        let first: Vec<&Commit> = found.iter().take(per_page).copied().collect();
        let padded = std::iter::repeat_n(first, page).flatten().collect();
        call.offset(world, padded, &declared, Totals::Unknown)?
    } else {
        call.offset(world, found, &declared, Totals::Unknown)?
    };
    Ok(paged.reply(|commit| Some(world.commit_json(project, commit, stats))))
}

/// Children before parents, without regard to dates.
fn topological<'w>(found: &[&'w Commit]) -> Vec<&'w Commit> {
    let mut children = std::collections::HashMap::<&str, usize>::new();
    for commit in found {
        for parent in &commit.parents {
            *children.entry(parent).or_default() += 1;
        }
    }
    let by_sha: std::collections::HashMap<&str, &Commit> = found
        .iter()
        .map(|&commit| (commit.sha.as_str(), commit))
        .collect();
    let ready = |commit: &&&Commit| !children.contains_key(commit.sha.as_str());
    let mut stack: Vec<&Commit> = found.iter().rev().filter(ready).copied().collect();
    let mut out = Vec::with_capacity(found.len());
    while let Some(commit) = stack.pop() {
        out.push(commit);
        for parent in commit.parents.iter().rev() {
            let Some(left) = children.get_mut(parent.as_str()) else {
                continue;
            };
            *left -= 1;
            if *left == 0 {
                stack.extend(by_sha.get(parent.as_str()));
            }
        }
    }
    out
}

fn find<'w>(project: &'w Project, name: &str) -> Result<&'w Commit, Reply> {
    let sha = project.repository.resolve(name);
    sha.and_then(|sha| project.repository.commits.get(&sha))
        .ok_or_else(|| Reply::no_such("Commit"))
}

fn commit(world: &World, call: &Call, project: &Project, sha: &str) -> Answer {
    let commit = find(project, sha)?;
    let mut out = world.commit_json(project, commit, call.params.flag("stats", true)?);
    let last = project
        .pipelines
        .values()
        .rev()
        .find(|pipeline| pipeline.sha == commit.sha);
    out["status"] = json!(last.map(|pipeline| &pipeline.status));
    out["project_id"] = json!(project.id);
    out["last_pipeline"] = last.map_or(Value::Null, |pipeline| {
        world.pipeline_json(project, pipeline)
    });
    Ok(Reply::ok(&out))
}

fn no_comments(world: &World, call: &Call, capture: &str, project: &Project, sha: &str) -> Answer {
    let commit = find(project, sha)?;
    let declared = call.declared(&[("id", capture), ("noteable_id", &commit.sha)], &[]);
    let paged = call.offset(world, Vec::<Value>::new(), &declared, Totals::Counted)?;
    Ok(paged.reply(Some))
}

fn branch_json(world: &World, project: &Project, name: &str, sha: &str) -> Value {
    let is_default = name == project.repository.default_branch;
    let commit = project.repository.commits.get(sha);
    json!({
        "name": name,
        "commit": commit.map(|commit| world.commit_json(project, commit, false)),
        "merged": false,
        "protected": is_default,
        "developers_can_push": false,
        "developers_can_merge": false,
        "can_push": false,
        "default": is_default,
        "web_url": format!("{}/{}/-/tree/{name}", world.external_url, world.project_path(project)),
    })
}

fn branches(world: &World, call: &Call, capture: &str, project: &Project) -> Answer {
    let search = call.params.get("search");
    let keep = |name: &str| match search {
        None => true,
        Some(text) => match (text.strip_prefix('^'), text.strip_suffix('$')) {
            (Some(start), _) => name.starts_with(start),
            (None, Some(end)) => name.ends_with(end),
            (None, None) => name.contains(text),
        },
    };
    let found: Vec<(&String, &String)> = project
        .repository
        .branches
        .iter()
        .filter(|(name, _)| keep(name))
        .collect();
    let declared = call.declared(
        &[("id", capture)],
        &[("regex", ""), ("search", ""), ("sort", "")],
    );
    let paged = call.offset(world, found, &declared, Totals::Counted)?;
    Ok(paged.reply(|(name, sha)| Some(branch_json(world, project, name, sha))))
}

fn branch(world: &World, _call: &Call, project: &Project, name: &str) -> Answer {
    let sha = project
        .repository
        .branches
        .get(name)
        .ok_or_else(|| Reply::no_such("Branch"))?;
    Ok(Reply::ok(&branch_json(world, project, name, sha)))
}

fn tags(world: &World, call: &Call, capture: &str, project: &Project) -> Answer {
    let found: Vec<(&String, &String)> = project.repository.tags.iter().rev().collect();
    let declared = call.declared(
        &[("id", capture)],
        &[("order_by", "updated"), ("search", ""), ("sort", "desc")],
    );
    let paged = call.offset(world, found, &declared, Totals::Counted)?;
    Ok(paged.reply(|(name, sha)| {
        let commit = project.repository.commits.get(sha);
        Some(json!({
            "name": name,
            "message": "",
            "target": sha,
            "commit": commit.map(|commit| world.commit_json(project, commit, false)),
            "release": project.releases.get(name).map(|r| json!({ "tag_name": r.tag, "description": r.description })),
            "protected": false,
            "created_at": null,
        }))
    }))
}

fn compare(world: &World, call: &Call, project: &Project) -> Answer {
    let from = call
        .params
        .get("from")
        .ok_or_else(|| Reply::invalid("from is missing"))?;
    let to = call
        .params
        .get("to")
        .ok_or_else(|| Reply::invalid("to is missing"))?;
    let resolve = |name: &str| {
        project
            .repository
            .resolve(name)
            .ok_or_else(|| Reply::no_such("Ref"))
    };
    let (from, to) = (resolve(from)?, resolve(to)?);
    let same = from == to;
    let walk = Walk {
        from: vec![to],
        not: vec![from],
        ..Walk::default()
    };
    let mut found = project.repository.log(&walk);
    found.reverse();
    let render = |commit: &&Commit| world.commit_json(project, commit, false);
    Ok(Reply::ok(&json!({
        "commit": found.last().map(render),
        "commits": found.iter().map(render).collect::<Value>(),
        "diffs": [],
        "compare_timeout": false,
        "compare_same_ref": same,
        "web_url": format!("{}/{}/-/compare", world.external_url, world.project_path(project)),
    })))
}
