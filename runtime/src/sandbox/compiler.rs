//! Compiles a component in a process of its own.
//!
//! The program starts itself again with a hidden subcommand. That child has an empty environment, no files to write, and limits on its
//! address space and its computing time that it sets before it reads the first byte; the parent holds a watch beside it. It reads the
//! component on its standard input, applies the [rules](super::rules), compiles, and answers on its standard output with a report and the
//! code. A component that makes the compiler loop, swell or crash costs a child, and the parent says which limit it was.
//!
//! What it answers is machine code that the parent will run, so the parent takes it from this child only, through a pipe, and keeps it in the
//! [authenticated cache](super::cache).

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::engine::tenant;
use super::limits::Unit;
use super::rules::{Finding, MAX_FILE_BYTES, judge};

/// Name of the hidden subcommand.
pub const SUBCOMMAND: &str = "compile-component";

/// Address space. CPython and SpiderMonkey were measured to take 350 MiB.
const MAX_MEMORY_BYTES: u64 = 2 << 30;
/// Computing. SpiderMonkey took 12 s on a loaded machine.
const MAX_CPU: Duration = Duration::from_secs(60);
/// The watch of the parent: three times as long, for a machine that has other work.
const MAX_WALL: Duration = Duration::from_secs(180);
/// The compiled code. Real code is two to four times the component's size.
const MAX_CODE_BYTES: u64 = 512 << 20;
const MAX_REPORT_BYTES: u64 = 1 << 20;

/// What the child found and measured.
#[derive(Debug, Default, Serialize, Deserialize)]
struct ChildReport {
    findings: Vec<Finding>,
}

/// The outcome of compiling.
#[derive(Debug)]
pub struct Compiled {
    /// Every rule that was applied.
    pub findings: Vec<Finding>,
    /// The code, if the component keeps them all.
    pub code: Option<Vec<u8>>,
}

/// Compiles in a child of this process.
pub async fn compile(bytes: &[u8]) -> io::Result<Compiled> {
    // Not by its path: the file may have been replaced by a newer version while this process runs.
    let mut child = Command::new("/proc/self/exe")
        .arg(SUBCOMMAND)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (Some(mut stdin), Some(mut stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::Error::other("a child without its pipes"));
    };
    let give = async move {
        // A child that ends early says why on its own.
        let _ = stdin.write_all(bytes).await;
        drop(stdin);
    };
    let take = async move {
        let length = u64::from(stdout.read_u32().await?);
        if length > MAX_REPORT_BYTES {
            return Err(io::Error::other("a report that is no report"));
        }
        let mut report = Vec::new();
        (&mut stdout).take(length).read_to_end(&mut report).await?;
        let mut code = Vec::new();
        (&mut stdout)
            .take(MAX_CODE_BYTES + 1)
            .read_to_end(&mut code)
            .await?;
        let report: ChildReport = serde_json::from_slice(&report)?;
        Ok((report, code))
    };
    let hear = async move {
        let mut words = Vec::new();
        let _ = stderr.take(4096).read_to_end(&mut words).await;
        String::from_utf8_lossy(&words).into_owned()
    };
    let work = async {
        let ((), answer, words) = tokio::join!(give, take, hear);
        (answer, words, child.wait().await)
    };
    let Ok((answer, words, status)) = tokio::time::timeout(MAX_WALL, work).await else {
        return Ok(broken(Finding::measured(
            "compile_time",
            Unit::Time,
            milliseconds(MAX_WALL) + 1,
            milliseconds(MAX_WALL),
            SIMPLER,
        )));
    };
    let status = status?;
    match answer {
        Ok((report, code)) if status.success() => Ok(Compiled {
            code: (!code.is_empty() && report.findings.iter().all(|finding| finding.ok))
                .then_some(code),
            findings: report.findings,
        }),
        _ => Ok(broken(death(status, &words))),
    }
}

const SIMPLER: &str = "Compiling was stopped; make its functions smaller and fewer";

fn broken(finding: Finding) -> Compiled {
    Compiled {
        findings: vec![finding],
        code: None,
    }
}

/// Why a child died without a report.
fn death(status: std::process::ExitStatus, words: &str) -> Finding {
    let spent = status
        .signal()
        .is_some_and(|signal| signal == libc::SIGXCPU || signal == libc::SIGKILL);
    if spent {
        let limit = milliseconds(MAX_CPU);
        return Finding::measured("compile_time", Unit::Time, limit + 1, limit, SIMPLER);
    }
    if words.contains("memory allocation") || words.contains("Cannot allocate memory") {
        return Finding::measured(
            "compile_memory",
            Unit::Bytes,
            MAX_MEMORY_BYTES + 1,
            MAX_MEMORY_BYTES,
            SIMPLER,
        );
    }
    let line = words.lines().next().unwrap_or_default();
    Finding::judged(
        "compiles",
        Err(format!(
            "the compiler ended with {status} {}. {SIMPLER}, and please report this file as a defect of the runtime",
            line.escape_debug()
        )),
    )
}

/// The child: standard input to standard output. Runs before anything else of the program has begun: no threads, no runtime.
#[must_use]
pub fn child() -> ExitCode {
    if let Err(error) = confine() {
        let _ = writeln!(io::stderr(), "cannot set the limits: {error}");
        return ExitCode::FAILURE;
    }
    match answer() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn answer() -> io::Result<()> {
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)?;
    let mut findings = judge(&bytes);
    let mut code = Vec::new();
    if findings.iter().all(|finding| finding.ok) {
        let started = Instant::now();
        match tenant().and_then(|engine| engine.precompile_component(&bytes)) {
            Ok(compiled) => code = compiled,
            Err(error) => findings.push(Finding::judged("compiles", Err(format!("{error:#}")))),
        }
        findings.push(Finding::measured(
            "compile_time",
            Unit::Time,
            milliseconds(started.elapsed()),
            milliseconds(MAX_CPU),
            SIMPLER,
        ));
        findings.push(Finding::measured(
            "compile_memory",
            Unit::Bytes,
            peak_address_space(),
            MAX_MEMORY_BYTES,
            SIMPLER,
        ));
        findings.push(Finding::measured(
            "code_size",
            Unit::Bytes,
            code.len() as u64,
            MAX_CODE_BYTES,
            SIMPLER,
        ));
    }
    let report = serde_json::to_vec(&ChildReport { findings })?;
    let length = u32::try_from(report.len()).map_err(io::Error::other)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(&length.to_be_bytes())?;
    stdout.write_all(&report)?;
    stdout.write_all(&code)?;
    stdout.flush()
}

/// What the limit on address space is compared with.
fn peak_address_space() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmPeak:"))
        .unwrap_or_default();
    let kib = line.trim().trim_end_matches("kB").trim();
    kib.parse::<u64>().unwrap_or_default() << 10
}

/// Limits for the rest of this process's life. It writes no file, dumps no core, and has few descriptors.
fn confine() -> io::Result<()> {
    const SLACK: u64 = 5;
    limit(libc::RLIMIT_AS, MAX_MEMORY_BYTES, MAX_MEMORY_BYTES)?;
    // At the first the kernel sends SIGXCPU, at the second SIGKILL.
    limit(
        libc::RLIMIT_CPU,
        MAX_CPU.as_secs(),
        MAX_CPU.as_secs() + SLACK,
    )?;
    limit(libc::RLIMIT_CORE, 0, 0)?;
    limit(libc::RLIMIT_FSIZE, 0, 0)?;
    limit(libc::RLIMIT_NOFILE, 16, 16)
}

fn limit(what: libc::__rlimit_resource_t, soft: u64, hard: u64) -> io::Result<()> {
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    #[allow(
        unsafe_code,
        reason = "the pointer is to a local of the type that the call fills"
    )]
    let got = unsafe { libc::getrlimit(what, &raw mut now) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    // A limit that this process was given and that is lower stays.
    let hard = hard.min(now.rlim_max);
    let wanted = libc::rlimit {
        rlim_cur: soft.min(hard).min(now.rlim_cur),
        rlim_max: hard,
    };
    #[allow(
        unsafe_code,
        reason = "the pointer is to a local of the type that the call reads"
    )]
    let set = unsafe { libc::setrlimit(what, &raw const wanted) };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
