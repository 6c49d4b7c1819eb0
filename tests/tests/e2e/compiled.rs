//! Where the runs of all tests find what was compiled before: each would compile the component again, two seconds of computing of which
//! most tests have no other. What a fresh home does is tested where [`Setup::compiles_itself`](crate::setup::Setup::compiles_itself) is asked for.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

const PREFIX: &str = "compiled-";

/// A folder for `XDG_CACHE_HOME`, one for each process of tests. Those of processes that have ended are removed.
pub fn cache() -> &'static Path {
    static CACHE: LazyLock<PathBuf> = LazyLock::new(|| {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR"));
        for entry in std::fs::read_dir(all).unwrap().flatten() {
            let name = entry.file_name();
            let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            if process.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let folder = all.join(format!("{PREFIX}{}", std::process::id()));
        // One that a former process with the same number left was compiled by another program, perhaps.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        folder
    });
    &CACHE
}
