//! The script of the API that the manual names.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::setup::dist;

#[tokio::test(flavor = "multi_thread")]
async fn the_script_of_the_api_runs_from_the_tenant_to_the_end() {
    let component = dist("gitlab.wasm");
    let mapper = dist("mappers/rust.wasm");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let home = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .arg("examples/platform.sh")
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap())
        .env("HOME", home.path())
        .env("COMPONENT", component)
        .env("MAPPER", mapper)
        .envs(std::env::var_os("CARGO_TARGET_DIR").map(|folder| ("CARGO_TARGET_DIR", folder)))
        .current_dir(root)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(180), output)
        .await
        .expect("it does not end")
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    for words in [
        "connection.create",
        "component.upload",
        "chain.promote",
        "chain.rollback",
        "delivery.replay",
        "done",
    ] {
        assert!(said.contains(words), "{words} is missing in\n{said}");
    }
}
