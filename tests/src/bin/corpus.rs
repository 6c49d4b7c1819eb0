//! Feeds recorded GitLab traffic through the built connector and says what became of every record.
//!
//! Exits with 0 if every record came out as it must, with 1 and the reasons otherwise.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use simulators::corpus::{Options, run};

/// Maps recorded GitLab traffic with the built connector.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The runtime's executable.
    #[arg(long, value_name = "FILE")]
    runtime: PathBuf,
    /// The connector.
    #[arg(long, value_name = "FILE.wasm")]
    component: PathBuf,
    /// Say which files the values come from that are no records, and list every reason.
    #[arg(long, short)]
    verbose: bool,
    /// Folder of recorded traffic: .jsonl files, one value a line.
    folder: PathBuf,
}

async fn try_run(arguments: Arguments) -> io::Result<bool> {
    let report = run(&Options {
        runtime: arguments.runtime,
        component: arguments.component,
        folder: arguments.folder,
    })
    .await?;
    report.print(&mut io::stdout().lock(), arguments.verbose)?;
    Ok(report.is_clean())
}

#[tokio::main]
async fn main() -> ExitCode {
    match try_run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "corpus: {error}");
            ExitCode::FAILURE
        }
    }
}
