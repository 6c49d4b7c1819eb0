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
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::engine::tenant;
use super::limits::Unit;
use super::rules::{Finding, MAX_FILE_BYTES, judge};

/// Name of the hidden subcommand.
pub const SUBCOMMAND: &str = "compile-component";

/// What the child may use.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// Address space.
    pub memory_bytes: u64,
    /// Computing, in seconds.
    pub cpu_seconds: u64,
    /// From its start to its end, watched by the parent.
    pub wall: Duration,
}

impl Default for Allowance {
    /// CPython and SpiderMonkey were measured to take 350 MiB, SpiderMonkey 12 s on a loaded machine. The watch is three times as long as
    /// the computing, for a machine that has other work.
    fn default() -> Self {
        Self {
            memory_bytes: 2 << 30,
            cpu_seconds: 60,
            wall: Duration::from_secs(180),
        }
    }
}

impl Allowance {
    fn cpu_milliseconds(self) -> u64 {
        self.cpu_seconds.saturating_mul(1000)
    }
}

/// Functions that are compiled at the same time. Each thread takes some of the child's address space, however many cores there are.
fn threads() -> usize {
    const MOST: usize = 4;
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST))
}

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
    /// It was ended by what this machine has or does at the moment, which says nothing of the file.
    pub by_the_machine: bool,
}

/// Compiles in a child that is this program.
pub async fn compile(bytes: &[u8]) -> io::Result<Compiled> {
    // Not by its path: the file may have been replaced by a newer version while this process runs.
    compile_with(Path::new("/proc/self/exe"), bytes, Allowance::default()).await
}

/// Compiles in a child that is `program`, which must be this one.
pub async fn compile_with(
    program: &Path,
    bytes: &[u8],
    allowance: Allowance,
) -> io::Result<Compiled> {
    let mut child = Command::new(program)
        .arg(SUBCOMMAND)
        .arg(allowance.memory_bytes.to_string())
        .arg(allowance.cpu_seconds.to_string())
        .env_clear()
        .env("RAYON_NUM_THREADS", threads().to_string())
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
    let Ok((answer, words, status)) = tokio::time::timeout(allowance.wall, work).await else {
        let finding = Finding::stopped(
            "compile_time_in_all",
            Unit::Time,
            milliseconds(allowance.wall),
            "Compiling was stopped; try again when this machine has less to do, or make its functions smaller and fewer",
        );
        return Ok(broken(finding, true));
    };
    let status = status?;
    match answer {
        Ok((report, code)) if status.success() => Ok(Compiled {
            code: (!code.is_empty() && report.findings.iter().all(|finding| finding.ok))
                .then_some(code),
            findings: report.findings,
            by_the_machine: false,
        }),
        _ => {
            let killed = status.signal() == Some(libc::SIGKILL);
            Ok(broken(death(status, &words, allowance), killed))
        }
    }
}

const SIMPLER: &str = "Compiling was stopped; make its functions smaller and fewer";

fn broken(finding: Finding, by_the_machine: bool) -> Compiled {
    Compiled {
        findings: vec![finding],
        code: None,
        by_the_machine,
    }
}

/// Why a child died without a report.
fn death(status: std::process::ExitStatus, words: &str, allowance: Allowance) -> Finding {
    match status.signal() {
        Some(libc::SIGXCPU) => {
            return Finding::stopped(
                "compile_time",
                Unit::Time,
                allowance.cpu_milliseconds(),
                SIMPLER,
            );
        }
        Some(libc::SIGKILL) => {
            return Finding::judged(
                "compiles",
                Err("the system killed the compiler: this machine has too little memory free, or the program was started under limits of its own. Try again with more".into()),
            );
        }
        _ if is_want_of_memory(words) => return too_much_memory(allowance.memory_bytes),
        _ => {}
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

/// What Rust says before it gives up, and what the system says to whoever asks it.
fn is_want_of_memory(words: &str) -> bool {
    words.contains("memory allocation") || words.contains("Cannot allocate memory")
}

fn too_much_memory(allowed: u64) -> Finding {
    Finding::stopped("compile_memory", Unit::Bytes, allowed, SIMPLER)
}

/// The child: standard input to standard output. Runs before anything else of the program has begun: no threads, no runtime.
#[must_use]
pub fn child(memory_bytes: u64, cpu_seconds: u64) -> ExitCode {
    let allowance = Allowance {
        memory_bytes,
        cpu_seconds,
        ..Allowance::default()
    };
    if let Err(error) = confine(allowance) {
        let _ = writeln!(io::stderr(), "cannot set the limits: {error}");
        return ExitCode::FAILURE;
    }
    match answer(allowance) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn answer(allowance: Allowance) -> io::Result<()> {
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)?;
    let mut findings = judge(&bytes);
    let mut code = Vec::new();
    if findings.iter().all(|finding| finding.ok) {
        match tenant().and_then(|engine| engine.precompile_component(&bytes)) {
            Ok(compiled) => {
                code = compiled;
                findings.extend(measured(code.len() as u64, allowance)?);
            }
            Err(error) => {
                let words = format!("{error:#}");
                findings.push(if is_want_of_memory(&words) {
                    too_much_memory(allowance.memory_bytes)
                } else {
                    Finding::judged("compiles", Err(words))
                });
            }
        }
    }
    let report = serde_json::to_vec(&ChildReport { findings })?;
    let length = u32::try_from(report.len()).map_err(io::Error::other)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(&length.to_be_bytes())?;
    stdout.write_all(&report)?;
    stdout.write_all(&code)?;
    stdout.flush()
}

/// What compiling took, once it is done.
fn measured(code_bytes: u64, allowance: Allowance) -> io::Result<[Finding; 3]> {
    let time = milliseconds(computed()?);
    let rows = [
        (
            "compile_time",
            Unit::Time,
            time,
            allowance.cpu_milliseconds(),
        ),
        (
            "compile_memory",
            Unit::Bytes,
            peak_address_space(),
            allowance.memory_bytes,
        ),
        ("code_size", Unit::Bytes, code_bytes, MAX_CODE_BYTES),
    ];
    Ok(rows
        .map(|(rule, unit, amount, limit)| Finding::measured(rule, unit, amount, limit, SIMPLER)))
}

/// What the limit on computing is compared with. Not the time that went by: a busy machine is not the component's doing.
fn computed() -> io::Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    #[allow(
        unsafe_code,
        reason = "the pointer is to a local of the type that the call fills"
    )]
    let got = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or_default();
    Ok(Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds))
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
fn confine(allowance: Allowance) -> io::Result<()> {
    const SLACK: u64 = 5;
    limit(
        libc::RLIMIT_AS,
        allowance.memory_bytes,
        allowance.memory_bytes,
    )?;
    // At the first the kernel sends SIGXCPU, at the second SIGKILL.
    limit(
        libc::RLIMIT_CPU,
        allowance.cpu_seconds,
        allowance.cpu_seconds + SLACK,
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
