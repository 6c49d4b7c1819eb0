//! The machine that the program runs on: a full disk, a folder that cannot be written, clocks that jump.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::setup::{Ran, Setup, dist};

/// A disk of its own, as far as this user may have one. Gone when it is dropped.
pub(crate) struct Disk(TempDir);

impl Disk {
    /// `None` where nothing may be mounted.
    pub(crate) fn mount(options: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let mut mount = Command::new("mount");
        let status = mount.args(["-o", &options]).arg(self.0.path()).status();
        assert!(status.unwrap().success(), "{options}");
    }

    fn state_file(&self) -> PathBuf {
        self.0.path().join("connectors-state.json")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

async fn run_with(setup: &Setup, state_file: &Path) -> Ran {
    let state_file = state_file.to_str().unwrap();
    setup.run(&["--state-file", state_file]).await
}

fn reason(ran: &Ran) -> String {
    ran.receipt()["reason"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_stops_the_run_and_loses_nothing() {
    let Some(disk) = Disk::mount("size=64m") else {
        println!("nothing may be mounted here: the limit on file sizes alone plays the full disk");
        return;
    };
    let setup = Setup::tiny(421).await;
    // From the first run on, at several amounts of room: the ledger is made, the ledger grows, the cursors grow.
    let mut failures = 0;
    for kilobytes in [8, 40, 120, 200, 280, 360] {
        disk.remount(&format!("size={kilobytes}k"));
        let ran = run_with(&setup, &disk.state_file()).await;
        if ran.code == 0 {
            break;
        }
        failures += 1;
        let ran = ran.expect(1);
        let reason = reason(&ran);
        assert!(
            reason.contains("full") || reason.contains("No space left"),
            "{kilobytes}: {reason}"
        );
        assert!(
            reason.contains("connectors.db") || reason.contains("connectors-state.json"),
            "{kilobytes}: no file is named: {reason}"
        );
        assert_eq!(ran.receipt()["dead_lettered"], 0);
    }
    assert!(failures > 1, "the disk was never full");
    disk.remount("size=64m");
    run_with(&setup, &disk.state_file()).await.expect(0);
    setup.assert_complete(&setup.membership());
}

/// The same where nothing can be mounted: no file may grow beyond a size. SIGXFSZ has to be ignored, or it ends the program.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_may_not_grow_stops_the_run_and_loses_nothing() {
    let setup = Setup::tiny(422).await;
    let limited = async |blocks: u32| {
        let script = format!(
            "trap '' XFSZ; ulimit -f {blocks}; exec {} run {} --json",
            dist("runtime").display(),
            dist("gitlab.wasm").display()
        );
        let output = tokio::process::Command::new("sh")
            .args(["-c", &script])
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .env("HOME", setup.home.path())
            .envs(&setup.variables)
            .current_dir(setup.home.path())
            .stdin(Stdio::null())
            .output();
        crate::setup::ran(&output.await.unwrap())
    };
    // In blocks of 512 bytes. With much less the component's memory cannot be made, which is a file for the kernel; the compiled component is
    // kept in a file, too, and not being able to keep it is no reason to fail.
    for blocks in [256, 320] {
        let ran = limited(blocks).await.expect(1);
        let reason = reason(&ran);
        assert!(reason.contains("connectors.db"), "{blocks}: {reason}");
        assert_eq!(ran.receipt()["dead_lettered"], 0);
    }
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_written_is_named_before_anything_is() {
    let setup = Setup::tiny(423).await;
    let file = setup.home.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    let folder = setup.home.path().join("folder");
    std::fs::create_dir_all(folder.join("connectors-state.json")).unwrap();
    let ledger = setup.home.path().join("ledger");
    std::fs::create_dir_all(ledger.join("connectors.db")).unwrap();
    let places = [
        file.join("connectors-state.json"),
        PathBuf::from("/proc/connector/connectors-state.json"),
        PathBuf::from("/sys/connectors-state.json"),
        folder.join("connectors-state.json"),
        ledger.join("connectors-state.json"),
    ];
    for place in places {
        let ran = run_with(&setup, &place).await.expect(1);
        let reason = reason(&ran);
        let parent = place.parent().unwrap().to_str().unwrap();
        assert!(reason.contains(parent), "{}: {reason}", place.display());
        assert!(
            reason.contains("Check") || reason.contains("--state-file"),
            "what to do is missing: {reason}"
        );
    }
    assert_eq!(setup.cortex.stats().events, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_became_read_only_is_named_before_anything_is_written() {
    let Some(disk) = Disk::mount("size=64m") else {
        println!(
            "nothing may be mounted here: other unwritable folders are tested beside this one"
        );
        return;
    };
    let setup = Setup::tiny(424).await;
    run_with(&setup, &disk.state_file()).await.expect(0);
    let before = setup.cortex.stats().events;
    disk.remount("ro");
    setup.gitlab.advance_clock(600);
    setup.gitlab.world().mutate_some(424, 10);
    let ran = run_with(&setup, &disk.state_file()).await.expect(1);
    assert!(reason(&ran).contains("Read-only"), "{}", ran.stdout);
    assert_eq!(setup.cortex.stats().events, before);
    disk.remount("rw");
    run_with(&setup, &disk.state_file()).await.expect(0);
    setup.assert_nothing_is_missing(&setup.membership());
}

/// Changes that a poll must see.
fn work(setup: &Setup, words: &str) {
    let mut world = setup.gitlab.world();
    let project = *world
        .projects
        .iter()
        .find(|(_, project)| !project.merge_requests.is_empty() && !project.releases.is_empty())
        .unwrap()
        .0;
    let iid = *world.projects[&project]
        .merge_requests
        .keys()
        .next()
        .unwrap();
    world.new_issue(project, words, Some(words), false).unwrap();
    world
        .edit_merge_request(project, iid, Some(words), None)
        .unwrap();
    world.new_pipeline(project, "success", "push").unwrap();
    world.new_release(project, words, words, 0).unwrap();
    world.push_commits(project, "main", 2, 0).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn gitlabs_clock_may_jump_either_way_and_no_record_is_lost() {
    let setup = Setup::tiny(425).await;
    setup.run(&[]).await.expect(0);
    let jumps = [-600, -3 * 3600, -9 * 86_400, 5 * 86_400, -2 * 3600, 400];
    for (index, jump) in jumps.into_iter().enumerate() {
        setup.gitlab.advance_clock(jump);
        work(&setup, &format!("after-jump-{index}"));
        setup.run(&[]).await.expect(0);
        setup.assert_complete(&setup.membership());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_in_the_future_hides_nothing() {
    let setup = Setup::tiny(426).await;
    setup.run(&[]).await.expect(0);
    for (index, ahead) in [3600, 20 * 3600, 40 * 86_400].into_iter().enumerate() {
        let future = setup.gitlab.world().now().plus_seconds(ahead).rest();
        let text = std::fs::read_to_string(setup.state_file()).unwrap();
        let mut file: Value = serde_json::from_str(&text).unwrap();
        let connections = file["connections"].as_object_mut().unwrap();
        for connection in connections.values_mut() {
            let streams = connection["streams"].as_object_mut().unwrap();
            for cursor in streams.values_mut() {
                for key in ["updated_after", "child_updated_after"] {
                    if cursor[key].is_string() {
                        cursor[key] = future.clone().into();
                    }
                }
            }
        }
        std::fs::write(setup.state_file(), file.to_string()).unwrap();
        work(&setup, &format!("before-{index}"));
        setup.run(&[]).await.expect(0);
        setup.assert_complete(&setup.membership());
        setup.assert_no_cursor_is_ahead();
    }
}
