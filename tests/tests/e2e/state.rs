//! Cursors and ledger: the user's files, crashes, and two processes at once.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use simulators::cortex;
use simulators::gitlab::{self, Size, World};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::setup::{KEY, Setup, ran};

#[tokio::test(flavor = "multi_thread")]
async fn deleted_cursors_mean_reading_everything_again_and_writing_nothing_twice() {
    let setup = Setup::tiny(61).await;
    setup.run(&[]).await.expect(0);
    std::fs::remove_file(setup.state_file()).unwrap();
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], 0, "{receipt}");
    assert!(receipt["unchanged"].as_u64().unwrap() > 0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_the_user_edits_is_obeyed_even_if_it_is_nonsense() {
    let setup = Setup::tiny(62).await;
    setup.run(&[]).await.expect(0);
    let text = std::fs::read_to_string(setup.state_file()).unwrap();
    let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
    let streams = file["connections"]
        .as_object_mut()
        .unwrap()
        .values_mut()
        .next()
        .unwrap()["streams"]
        .as_object_mut()
        .unwrap();
    for (index, cursor) in streams.values_mut().enumerate() {
        *cursor = match index % 3 {
            0 => serde_json::json!("not a cursor"),
            1 => serde_json::json!({"updated_after": "2020-01-01T00:00:00Z"}),
            _ => serde_json::json!({"head": 17, "branch": []}),
        };
    }
    std::fs::write(setup.state_file(), file.to_string()).unwrap();
    let receipt = setup.run(&[]).await.expect(0).receipt();
    assert_eq!(receipt["written"], 0, "{receipt}");
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_file_is_private_and_a_corrupt_one_is_set_aside() {
    let setup = Setup::tiny(63).await;
    setup.run(&[]).await.expect(0);
    for name in ["connectors-state.json", "connectors.db"] {
        let mode = std::fs::metadata(setup.cortexdb_folder().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    std::fs::write(setup.state_file(), "{\"connections\": ").unwrap();
    let done = setup.run(&[]).await.expect(0);
    assert!(done.stdout.contains("corrupt-1"), "{}", done.stdout);
    assert!(
        setup
            .cortexdb_folder()
            .join("connectors-state.json.corrupt-1")
            .exists()
    );
    assert_eq!(done.receipt()["written"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_at_once_on_one_state_are_one_run_and_a_refusal() {
    let options = gitlab::Options {
        latency: Duration::from_millis(500),
        ..gitlab::Options::default()
    };
    let setup = Setup::with(
        World::generate(64, &Size::tiny()),
        options,
        cortex::Options::full(KEY),
    )
    .await;
    let first = setup.start(&[]);
    while setup.gitlab.requests().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let second = setup.run(&[]).await.expect(1);
    assert!(
        second.receipt()["reason"]
            .as_str()
            .unwrap()
            .contains("another `runtime run`"),
        "{}",
        second.stdout
    );
    ran(&first.wait_with_output().await.unwrap()).expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_the_next_run_completes_without_doubles() {
    for round in 0..6_u64 {
        let options = gitlab::Options {
            latency: Duration::from_millis(15),
            ..gitlab::Options::default()
        };
        let setup = Setup::with(
            World::generate(65 + round, &Size::tiny()),
            options,
            cortex::Options::full(KEY),
        )
        .await;
        for attempt in 0..3 {
            let mut child = setup.start(&[]);
            tokio::time::sleep(Duration::from_millis(60 + 170 * round + 130 * attempt)).await;
            child.kill().await.unwrap();
            assert_eq!(
                setup.cortex.cortex().invariant_violations(),
                Vec::<String>::new()
            );
        }
        setup.run(&[]).await.expect(0);
        setup.assert_complete(&setup.membership());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_finishes_the_batch_saves_the_cursors_and_says_so() {
    let options = gitlab::Options {
        latency: Duration::from_millis(300),
        ..gitlab::Options::default()
    };
    let setup = Setup::with(
        World::generate(71, &Size::items(1200)),
        options,
        cortex::Options::full(KEY),
    )
    .await;
    let child = setup.start(&[]);
    while setup.cursors().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let process = i32::try_from(child.id().unwrap()).unwrap();
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &process.to_string()])
            .status()
            .unwrap()
            .success()
    );
    let interrupted = ran(&child.wait_with_output().await.unwrap()).expect(130);
    assert_eq!(interrupted.receipt()["outcome"], "interrupted");
    setup.run(&[]).await.expect(0);
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_polls_again_until_it_is_stopped() {
    let setup = Setup::tiny(72).await;
    let mut child = setup.start(&["--watch", "--interval", "1"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut receipts = 0;
    while receipts < 2 {
        let line = lines.next_line().await.unwrap().expect("watching ended");
        receipts += u32::from(line.contains("\"event\":\"receipt\""));
    }
    let process = child.id().unwrap().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-TERM", &process])
            .status()
            .unwrap()
            .success()
    );
    while lines.next_line().await.unwrap().is_some() {}
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    setup.assert_complete(&setup.membership());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_lost_to_another_process_ends_the_run_as_failed() {
    let setup = Setup::tiny(73).await;
    setup.cortex.cortex().add_fault(cortex::FaultRule::on(
        cortex::Route::Bulk,
        cortex::Fault::unavailable(),
    ));
    let child = setup.start(&["--patience", "100s"]);
    while setup.cortex.cortex().faults_fired() == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It waits for CortexDB, and notices when it renews its lease.
    setup
        .change_ledger("UPDATE connections SET epoch = epoch + 1, owner = 'somebody else'")
        .await;
    let ended = ran(&child.wait_with_output().await.unwrap()).expect(1);
    let receipt = ended.receipt();
    assert_eq!(receipt["outcome"], "failed", "{receipt}");
    assert!(
        receipt["reason"]
            .as_str()
            .unwrap()
            .contains("another process has taken over"),
        "{receipt}"
    );
}
