//! Recorded GitLab traffic through the built connector.
//!
//! Unit tests of the mapping use records that we made up. This runner uses records that real servers of every age have sent: a
//! tiny GitLab serves each of them as the only record of a project of its own, the released runtime reads that GitLab dry, and
//! every record must come out as an envelope that CortexDB would take, with its whole text in it, or be left out by a policy
//! that the record itself justifies.
//!
//! | module | concern |
//! |---|---|
//! | `kind` | what a JSON value is a record of |
//! | `collect` | the records of a folder |
//! | `world`, `serve` | the GitLab that serves them |
//! | `expect` | what must become of a record |
//! | `drive`, `observe` | the run of the runtime, and what came out of it |
//! | `report` | the verdicts, and the table |

mod collect;
mod drive;
mod expect;
mod kind;
mod observe;
mod report;
mod serve;
mod world;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

pub use report::Report;

/// What to run on what.
#[derive(Debug, Clone)]
pub struct Options {
    /// The runtime's executable.
    pub runtime: PathBuf,
    /// The connector, a `.wasm` file.
    pub component: PathBuf,
    /// The folder of recorded traffic.
    pub folder: PathBuf,
}

/// Feeds every record of the folder through the connector and judges what came out.
///
/// # Errors
///
/// When the folder cannot be read or the runtime cannot be started. What goes wrong in the run itself is in the report.
pub async fn run(options: &Options) -> io::Result<Report> {
    let corpus = collect::collect(&options.folder)?;
    let server = serve::Server::start(corpus.records.clone()).await?;
    let observed = drive::run(options, server.url()).await?;
    Ok(Report::new(&corpus, observed))
}
