//! A platform is put back to what it was: CortexDB is not, and nothing is written twice.

use std::time::Duration;

use serde_json::json;
use simulators::gitlab::{Size, World};

use super::failures::once_more;
use super::house::{House, Kind, on_both_databases};

on_both_databases!(a_ledger_that_was_forgotten_is_put_together_again);

/// An issue that everybody may see.
fn issue(house: &House) -> (u64, u64) {
    let world = house.setup.gitlab.world();
    let mut issues = world.projects.iter().flat_map(|(id, project)| {
        let shown = project
            .issues
            .iter()
            .filter(|(_, issue)| !issue.confidential);
        shown.map(move |(iid, _)| (*id, *iid))
    });
    issues.next().unwrap()
}

fn edit(house: &House, (project, iid): (u64, u64), title: &str) {
    let gitlab = &house.setup.gitlab;
    gitlab.advance_clock(600);
    gitlab
        .world()
        .edit_issue(project, iid, Some(title), None)
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_edited_after_the_backup_is_not_doubled_by_the_restore() {
    let world = World::generate(731, &Size::tiny());
    let mut house = House::new(Kind::Sqlite, world, Duration::ZERO)
        .await
        .unwrap();
    let process = house.serve(&[]).await;
    let id = house.connected(&process, json!({})).await;
    house.wait_for_run(&process, &id, "complete").await;
    let backup = house.setup.home.path().join("backup");
    let backup = backup.to_str().unwrap().to_owned();
    assert_eq!(house.admin(&["backup", &backup]).await.0, 0);
    // Twice: the ledger of the backup would count the third version as the second.
    let issue = issue(&house);
    for title in ["Second", "Third"] {
        edit(&house, issue, title);
        once_more(&house, &process, &id).await;
    }
    assert_eq!(process.terminate().await, 0);
    let written = house.written();
    // No key of then is remembered.
    let clock = house.setup.cortex.cortex().clock();
    clock.advance_seconds(2 * 86_400);

    let (code, said) = house.admin(&["restore", &backup]).await;
    assert!(code != 0 && said.contains("platform.db exists"), "{said}");
    std::fs::rename(&house.data, house.setup.home.path().join("lost")).unwrap();
    std::fs::create_dir(&house.data).unwrap();
    let log = house.data.join("platform.db-wal");
    std::fs::write(&log, "of another").unwrap();
    let (code, said) = house.admin(&["restore", &backup]).await;
    assert!(code != 0 && said.contains("platform.db-wal"), "{said}");
    std::fs::remove_file(log).unwrap();
    let (code, said) = house.admin(&["restore", &backup]).await;
    assert_eq!(code, 0, "{said}");

    let process = house.serve(&[]).await;
    once_more(&house, &process, &id).await;
    house.setup.assert_complete(&house.setup.membership());
    assert_eq!(house.written(), written, "something was written again");
    // What the backup did not know is replaced like everything else.
    edit(&house, issue, "Fourth");
    once_more(&house, &process, &id).await;
    house.setup.assert_complete(&house.setup.membership());
    assert_eq!(house.written(), written + 1);
    assert_eq!(process.terminate().await, 0);
}

async fn a_ledger_that_was_forgotten_is_put_together_again(kind: Kind) {
    let world = World::generate(732, &Size::tiny());
    let Some(mut house) = House::new(kind, world, Duration::ZERO).await else {
        return;
    };
    let process = house.serve(&[]).await;
    let id = house.connected(&process, json!({})).await;
    house.wait_for_run(&process, &id, "complete").await;
    let issue = issue(&house);
    edit(&house, issue, "Second");
    once_more(&house, &process, &id).await;
    assert_eq!(process.terminate().await, 0);
    let written = house.written();
    let (code, said) = house.admin(&["forget-ledger"]).await;
    assert_eq!(code, 0, "{said}");
    edit(&house, issue, "Third");
    let process = house.serve(&[]).await;
    once_more(&house, &process, &id).await;
    house.setup.assert_complete(&house.setup.membership());
    assert_eq!(house.written(), written + 1);
    assert_eq!(process.terminate().await, 0);
}
