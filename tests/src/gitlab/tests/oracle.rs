//! The generated world and the oracle agree with what the API shows.

use std::collections::BTreeSet;

use super::*;

#[test]
fn the_same_seed_makes_the_same_world() {
    let records = |seed| {
        let world = World::generate(seed, &Size::tiny());
        let groups = world.top_groups();
        world.expected(&Selection {
            include_confidential: true,
            ..Selection::groups(&groups, TOKEN)
        })
    };
    assert_eq!(records(5), records(5));
    assert_ne!(records(5), records(6));
}

#[test]
fn a_size_in_items_is_about_right() {
    let world = World::generate(1, &Size::items(2000));
    let groups = world.top_groups();
    let found = world
        .expected(&Selection {
            include_confidential: true,
            ..Selection::groups(&groups, TOKEN)
        })
        .len();
    assert!((1400..2800).contains(&found), "{found}");
}

/// Source ids that a patient reader of the API finds.
fn read_everything(world: &mut World, token: &str, project: u64) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let path = format!("/projects/{project}");
    for (kind, word) in [
        ("merge_requests", EventType::MergeRequest),
        ("issues", EventType::Issue),
    ] {
        let list = format!("{path}/{kind}");
        if ask(world, token, &list).status != 200 {
            continue;
        }
        for parent in walk(world, token, &list) {
            if parent["confidential"] == true {
                continue;
            }
            out.insert(source_id(word, project, &parent["iid"]));
            for discussion in walk(
                world,
                token,
                &format!("{list}/{}/discussions?per_page=2", parent["iid"]),
            ) {
                for note in discussion["notes"].as_array().expect("notes") {
                    if note["system"] == false && note["internal"] == false {
                        out.insert(source_id(EventType::Note, project, &note["id"]));
                    }
                }
            }
        }
    }
    if ask(world, token, &format!("{path}/repository/commits")).status == 200 {
        for commit in walk(world, token, &format!("{path}/repository/commits")) {
            out.insert(source_id(
                EventType::Commit,
                project,
                commit["id"].as_str().expect("a sha"),
            ));
        }
    }
    if ask(world, token, &format!("{path}/pipelines")).status == 200 {
        for query in ["", "?source=parent_pipeline"] {
            for found in walk(world, token, &format!("{path}/pipelines{query}")) {
                if ["success", "failed", "canceled", "skipped"]
                    .contains(&found["status"].as_str().expect("it"))
                {
                    out.insert(source_id(EventType::Pipeline, project, &found["id"]));
                }
            }
        }
    }
    if ask(world, token, &format!("{path}/releases")).status == 200 {
        for release in walk(world, token, &format!("{path}/releases")) {
            out.insert(source_id(
                EventType::Release,
                project,
                release["tag_name"].as_str().expect("a tag"),
            ));
        }
    }
    out
}

#[test]
fn a_patient_reader_finds_exactly_what_is_expected_whatever_its_role() {
    let mut world = tiny();
    world.mutate_some(9, 120);
    world.knobs.hide_every_nth_note = 7;
    let groups = world.top_groups();
    for token in [TOKEN, REPORTER_TOKEN, GUEST_TOKEN, STRANGER_TOKEN] {
        let selection = Selection::groups(&groups, token);
        let expected: BTreeSet<String> = world
            .expected(&selection)
            .into_iter()
            .map(|record| record.source_id)
            .collect();
        let mut found = BTreeSet::new();
        for project in world.selected_projects(&selection) {
            found.extend(read_everything(&mut world, token, project));
        }
        let missing: Vec<&String> = expected.symmetric_difference(&found).collect();
        assert!(missing.is_empty(), "{token}: {missing:?}");
    }
}

#[test]
fn the_predecessor_of_a_reply_skips_what_is_not_stored() {
    let mut world = tiny();
    let project = first_project(&world);
    let target = Target::merge_request(project, 5);
    let first: u64 = world
        .start_thread(target, "first")
        .expect("a note")
        .id
        .parse()
        .expect("an id");
    let second: u64 = world
        .reply(target, first, "second")
        .expect("a note")
        .id
        .parse()
        .expect("an id");
    let third: u64 = world
        .reply(target, first, "third")
        .expect("a note")
        .id
        .parse()
        .expect("an id");
    let hidden = |note: &mut Note| note.hidden = true;
    hidden(
        world
            .threads_mut(target)
            .and_then(|threads| threads.note_mut(second))
            .expect("it"),
    );
    let expected = world.expected(&Selection::projects(&[project], TOKEN));
    let find = |id: u64| {
        expected
            .iter()
            .find(|record| record.id == id.to_string() && record.event_type == EventType::Note)
    };
    let parent = source_id(EventType::MergeRequest, project, 5);
    assert_eq!(find(first).expect("it").preceded_by, Some(parent.clone()));
    assert!(find(second).is_none());
    assert_eq!(
        find(third).expect("it").preceded_by,
        Some(source_id(EventType::Note, project, first))
    );
    assert_eq!(find(third).expect("it").parent, Some(parent));
}

#[test]
fn confidential_records_are_expected_only_when_wanted_and_marked() {
    let mut world = tiny();
    let project = first_project(&world);
    world.set_confidential(project, 1, true).expect("an issue");
    world
        .add_note(Target::issue(project, 1), "secret")
        .expect("a note");
    let base = Selection::projects(&[project], TOKEN);
    assert!(
        world
            .expected(&base)
            .iter()
            .all(|record| !record.confidential)
    );
    let all = world.expected(&Selection {
        include_confidential: true,
        ..base.clone()
    });
    let issue = source_id(EventType::Issue, project, 1);
    let marked = all
        .iter()
        .filter(|record| record.source_id == issue || record.parent.as_ref() == Some(&issue));
    assert!(marked.clone().count() >= 2);
    assert!(marked.clone().all(|record| record.confidential));
    let guest = Selection {
        include_confidential: true,
        token: GUEST_TOKEN.to_owned(),
        ..base
    };
    assert!(
        world
            .expected(&guest)
            .iter()
            .all(|record| record.source_id != issue)
    );
}
