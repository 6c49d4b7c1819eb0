//! Projects that are renamed and transferred between runs, and go on being named as they were.

use std::collections::BTreeSet;

use simulators::gitlab::{Selection, TOKEN};

use crate::setup::Setup;

#[tokio::test(flavor = "multi_thread")]
async fn a_project_named_by_its_old_path_goes_on_in_its_scope_after_a_rename_and_a_transfer() {
    let mut setup = Setup::tiny(481).await;
    let (project, path, groups) = {
        let world = setup.gitlab.world();
        let full = world
            .projects
            .values()
            .find(|project| !project.merge_requests.is_empty() && !project.issues.is_empty());
        let full = full.unwrap();
        let groups: Vec<u64> = world.groups.keys().copied().collect();
        (full.id, world.project_path(full), groups)
    };
    let home = setup.gitlab.world().projects[&project].group;
    let elsewhere = groups.into_iter().find(|group| *group != home).unwrap();
    setup.set("GITLAB_PROJECT_IDS", &path);
    setup.run(&[]).await.expect(0);
    let selection = Selection::projects(&[project], TOKEN);
    setup.assert_complete(&selection);

    for step in 0..2 {
        setup.gitlab.advance_clock(3600);
        {
            let mut world = setup.gitlab.world();
            if step == 0 {
                world.rename_project(project, "renamed").unwrap();
            } else {
                world.transfer_project(project, elsewhere).unwrap();
            }
            world.new_issue(project, "Afterwards", None, false).unwrap();
            let iid = *world.projects[&project]
                .merge_requests
                .keys()
                .next()
                .unwrap();
            let title = format!("Title {step}");
            world
                .edit_merge_request(project, iid, Some(&title), None)
                .unwrap();
        }
        let receipt = setup.run(&[]).await.expect(0).receipt();
        assert!(receipt["written"].as_u64().unwrap() >= 2, "{receipt}");
        setup.assert_complete(&selection);
    }
    let scopes: BTreeSet<String> = setup
        .stored()
        .into_values()
        .flatten()
        .map(|envelope| envelope["scope"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(scopes.len(), 1, "the scope was not pinned: {scopes:?}");
    let first = format!("project:{}", path.replace('/', "__"));
    assert!(
        scopes.iter().all(|scope| scope.ends_with(&first)),
        "{scopes:?}"
    );
    let again = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(again["written"], 0, "{again}");
}
