//! What changes move, and what they do not.

use super::*;

fn updated_at(world: &World, project: u64, iid: u64) -> Micros {
    world.projects[&project].merge_requests[&iid].updated_at
}

#[test]
fn a_comment_touches_its_parent_only_after_a_minute_of_silence() {
    let mut world = tiny();
    let project = first_project(&world);
    let target = Target::merge_request(project, 1);
    world.bump(target).expect("a bump");
    let start = updated_at(&world, project, 1);
    world.clock.advance_seconds(60);
    world
        .add_note(target, "exactly a minute later")
        .expect("a note");
    assert_eq!(updated_at(&world, project, 1), start);
    world.clock.advance_seconds(1);
    world.add_note(target, "a second more").expect("a note");
    assert_eq!(updated_at(&world, project, 1), start.plus_seconds(61));
}

#[test]
fn resolving_a_thread_and_deleting_a_comment_touch_nothing() {
    let mut world = tiny();
    let project = first_project(&world);
    let target = Target::merge_request(project, 5);
    assert_eq!(world.threads(target).expect("it").notes().count(), 0);
    let first = world
        .start_thread(target, "first")
        .expect("a note")
        .id
        .parse()
        .expect("an id");
    let second = world
        .start_thread(target, "second")
        .expect("a note")
        .id
        .parse()
        .expect("an id");
    let before = updated_at(&world, project, 5);
    world.clock.advance_seconds(600);
    world.resolve_thread(target, first, true).expect("a thread");
    assert_eq!(updated_at(&world, project, 5), before);
    world.delete_note(target, first).expect("a note");
    assert_eq!(updated_at(&world, project, 5), before);
    world
        .resolve_thread(target, second, true)
        .expect("a thread");
    assert_eq!(
        updated_at(&world, project, 5),
        world.now(),
        "the last open thread leaves a system note"
    );
}

#[test]
fn entries_of_the_project_list_are_stale_until_updated_at_moves() {
    let mut world = tiny();
    let project = first_project(&world);
    let target = Target::merge_request(project, 1);
    world.bump(target).expect("a bump");
    let group = world.projects[&project].group;
    let count = |world: &mut World, path: &str| {
        let list = get(world, path);
        let found = list.as_array().and_then(|all| {
            all.iter()
                .find(|mr| mr["iid"] == 1 && mr["project_id"] == project)
        });
        found.expect("it")["user_notes_count"]
            .as_u64()
            .expect("a number")
    };
    let path = format!("/projects/{project}/merge_requests");
    let before = count(&mut world, &path);
    world
        .add_note(target, "within the throttle")
        .expect("a note");
    assert_eq!(count(&mut world, &path), before, "stale");
    assert_eq!(
        count(&mut world, &format!("{path}?with_labels_details=true")),
        before + 1
    );
    assert_eq!(
        count(
            &mut world,
            &format!("/groups/{group}/merge_requests?per_page=100")
        ),
        before + 1
    );
    assert_eq!(
        get(&mut world, &format!("{path}/1"))["user_notes_count"],
        before + 1
    );
    world.clock.advance_seconds(8 * 3600 + 1);
    assert_eq!(count(&mut world, &path), before + 1, "eight hours are over");
    world.knobs.merge_request_cache_seconds = 0;
    world.add_note(target, "uncached").expect("a note");
    assert_eq!(count(&mut world, &path), before + 2);
}

#[test]
fn commits_pushed_late_are_in_the_range_and_not_after_the_date() {
    let mut world = tiny();
    let project = first_project(&world);
    let path = format!("/projects/{project}/repository/commits");
    let old = world.projects[&project]
        .repository
        .default_head()
        .cloned()
        .expect("a head");
    let cursor = world.now().rest();
    world.clock.advance_seconds(10);
    world
        .push_commits(project, "main", 3, 86_400 * 30)
        .expect("a push");
    assert_eq!(
        walk(&mut world, TOKEN, &format!("{path}?ref_name={old}..main")).len(),
        3
    );
    assert_eq!(
        walk(
            &mut world,
            TOKEN,
            &format!("{path}?ref_name=main&since={cursor}")
        )
        .len(),
        0
    );
    let head = world.projects[&project]
        .repository
        .default_head()
        .cloned()
        .expect("a head");
    world.force_push(project, "main", 2, 1).expect("a push");
    assert_eq!(
        walk(&mut world, TOKEN, &format!("{path}?ref_name={head}..main")).len(),
        1
    );
    assert_eq!(
        ask(&mut world, TOKEN, &format!("{path}/{head}")).status,
        200,
        "kept for a while"
    );
    world
        .projects
        .get_mut(&project)
        .expect("it")
        .repository
        .collect_garbage();
    assert_eq!(
        ask(&mut world, TOKEN, &format!("{path}/{head}")).status,
        404
    );
    assert_eq!(
        walk(&mut world, TOKEN, &format!("{path}?ref_name={head}..main")).len(),
        0
    );
}

#[test]
fn a_retried_pipeline_runs_again_and_loses_what_its_end_had_given_it() {
    let mut world = tiny();
    let project = first_project(&world);
    let id: u64 = world
        .new_pipeline(project, "success", "push")
        .expect("a pipeline")
        .id
        .parse()
        .expect("an id");
    let path = format!("/projects/{project}/pipelines/{id}");
    assert_eq!(get(&mut world, &path)["coverage"], "87.65");
    world
        .set_pipeline_status(project, id, "running")
        .expect("a pipeline");
    let body = get(&mut world, &path);
    assert!(
        body["finished_at"].is_null() && body["duration"].is_null() && body["coverage"].is_null()
    );
}

#[test]
fn an_edited_release_shows_only_in_updated_after() {
    let mut world = tiny();
    let project = first_project(&world);
    let tag = world.projects[&project]
        .releases
        .keys()
        .next()
        .cloned()
        .expect("a release");
    let cursor = world.now().rest();
    let path = format!("/projects/{project}/releases?updated_after={cursor}");
    assert_eq!(get(&mut world, &path), serde_json::json!([]));
    world.clock.advance_seconds(5);
    world
        .edit_release(project, &tag, "better notes")
        .expect("a release");
    let list = get(&mut world, &path);
    assert_eq!(list[0]["tag_name"], tag);
    assert!(list[0].get("updated_at").is_none());
}

#[test]
fn a_moved_issue_closes_and_its_comments_reappear_under_new_ids() {
    let mut world = tiny();
    let all: Vec<u64> = world.projects.keys().copied().collect();
    let (from, to) = (all[0], all[1]);
    let target = Target::issue(from, 1);
    world.add_note(target, "before the move").expect("a note");
    world.move_issue(from, 1, to).expect("an issue");
    let new_iid = world.projects[&to].last_iid.issue;
    let old = get(&mut world, &format!("/projects/{from}/issues/1"));
    let new = get(&mut world, &format!("/projects/{to}/issues/{new_iid}"));
    assert_eq!(
        (old["state"].as_str(), &old["moved_to_id"]),
        (Some("closed"), &new["id"])
    );
    let notes = |world: &World, target| {
        world
            .threads(target)
            .expect("it")
            .notes()
            .map(|n| n.id)
            .collect::<Vec<_>>()
    };
    let (before, after) = (
        notes(&world, target),
        notes(&world, Target::issue(to, new_iid)),
    );
    assert_eq!(after.len(), before.len() + 1, "and a system note");
    assert!(before.iter().all(|id| !after.contains(id)));
}

#[test]
fn a_renamed_group_is_gone_under_its_old_path_while_its_projects_redirect() {
    let mut world = tiny();
    let group = world.top_groups()[0];
    world.rename_group(group, "apex").expect("a group");
    assert_eq!(ask(&mut world, TOKEN, "/groups/acme").status, 404);
    assert_eq!(ask(&mut world, TOKEN, "/groups/apex").status, 200);
    assert_eq!(
        ask(&mut world, TOKEN, "/projects/acme%2Fbackend").status,
        301
    );
}

#[test]
fn every_command_is_known_and_random_changes_repeat_from_their_seed() {
    for name in COMMANDS {
        if let Err(why) = tiny().command(name, &serde_json::json!({})) {
            assert!(
                why.0.contains("is missing") || why.0.contains("not in a thread"),
                "{name}: {why}"
            );
        }
    }
    let (mut one, mut two) = (tiny(), tiny());
    assert_eq!(one.mutate_some(3, 200), two.mutate_some(3, 200));
    assert_eq!(one.mutate_some(4, 50).len(), 50);
}
