//! One dry run of the released runtime, in an environment that holds nothing but what it needs.

use std::path::Path;
use std::time::Duration;
use std::{env, fs, io};

use tokio::process::Command;

use super::Options;
use super::observe::Observed;

/// Longer than any corpus takes: a run that hangs must not hang the build.
const PATIENCE: Duration = Duration::from_secs(900);

/// Every status that a pipeline can have, so that none is left out for not being finished.
const PIPELINE_STATUSES: &str = "created,waiting_for_resource,preparing,waiting_for_callback,pending,running,canceling,success,\
                                 failed,canceled,skipped,manual,scheduled";

/// Lines of standard error that are shown when the runtime fails.
const SHOWN_LINES: usize = 5;

/// Lets the runtime read everything at `url`, and takes in what came out.
pub(crate) async fn run(options: &Options, url: &str) -> io::Result<Observed> {
    let home = tempfile::tempdir()?;
    let envelopes = home.path().join("envelopes.jsonl");
    let mut command = Command::new(existing(&options.runtime)?);
    command
        .arg("run")
        .arg(existing(&options.component)?)
        .args(["--json", "--dry-run", "--include-confidential", "--out"])
        .arg(&envelopes)
        .arg("--state-file")
        .arg(home.path().join("state.json"))
        .args([
            "--scope-template",
            "org:corpus/source:gitlab/project:{project_id}",
        ])
        .args(["--set", &format!("pipeline_statuses={PIPELINE_STATUSES}")])
        .env_clear()
        .env("HOME", home.path())
        .env("PATH", env::var_os("PATH").unwrap_or_default())
        .env("GITLAB_URL", url)
        .env("GITLAB_TOKEN", "corpus-token")
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output())
        .await
        .map_err(|_| {
            let message = format!("the runtime was still running after {PATIENCE:?}");
            io::Error::new(io::ErrorKind::TimedOut, message)
        })??;

    let mut observed = Observed::default();
    observed.read_events(&String::from_utf8_lossy(&output.stdout));
    observed.read_envelopes(&fs::read_to_string(&envelopes).unwrap_or_default());
    let words = String::from_utf8_lossy(&output.stderr);
    // 3: complete with dead letters, which are judged one by one.
    if !matches!(output.status.code(), Some(0 | 3)) || words.contains("panicked") {
        let mut last: Vec<&str> = words.lines().rev().take(SHOWN_LINES).collect();
        last.reverse();
        let line = format!(
            "the runtime ended with {}: {}",
            output.status,
            last.join(" | ")
        );
        observed.troubles.push(line);
    }
    Ok(observed)
}

/// The file in full, or an error that names it.
fn existing(path: &Path) -> io::Result<std::path::PathBuf> {
    path.canonicalize()
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
