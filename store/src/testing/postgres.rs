//! A PostgreSQL server of a test process: its own data directory, port and end.
//!
//! A shared server would keep what a test left behind, and could not be stopped in the middle of one. `initdb` and a start take about a
//! second, so each test process begins one server ([`Server::shared`]) and each test gets a database of its own; a test that
//! restarts the server begins another.
//!
//! The server must not outlive the test process, however that ends. Nothing runs in a process that is killed, so a shell waits for the
//! end of a pipe that only the test process holds open; then it stops the server and removes its folder.

use std::io::{Error, Result, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use sqlx::Connection as _;

/// More than any test opens: several processes with a pool each.
const MOST_CONNECTIONS: u32 = 300;
/// Of the only user, for connections over TCP.
const PASSWORD: &str = "not-to-be-shown";

/// A running server; it ends with this value, or with the process.
#[derive(Debug)]
pub struct Server {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    /// PostgreSQL refuses to run as root.
    user: Option<(u32, u32)>,
    databases: AtomicU32,
    guard: Mutex<Option<Child>>,
}

impl Server {
    /// The server of this process. `None`, with a message, where PostgreSQL is not installed; a panic where `CI` is set, because a
    /// check that skips what it is there for is none.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Server>> = OnceLock::new();
        SHARED
            .get_or_init(|| match Self::begin(true) {
                Ok(server) => server,
                Err(error) => panic!("PostgreSQL is installed and does not start: {error}"),
            })
            .as_ref()
    }

    /// Begins a server. `fsync`: whether it waits for the disk, which only measurements and long soaks may do without. `None` as in [`Self::shared`].
    pub fn begin(fsync: bool) -> Result<Option<Self>> {
        let Some(programs) = programs() else {
            assert!(
                std::env::var_os("CI").is_none(),
                "PostgreSQL is not installed, and CI is set: `apt-get install postgresql`, or set PG_BIN to the folder of initdb"
            );
            eprintln!(
                "\n!!! SKIPPED: PostgreSQL is not installed, so nothing was tested on it. `apt-get install postgresql`, or set PG_BIN to the folder of initdb.\n"
            );
            return Ok(None);
        };
        let user = unprivileged()?;
        let folder = tempfile::Builder::new()
            .prefix("connector-pg-")
            // Short: the path of a socket has at most 107 bytes.
            .tempdir_in("/tmp")?
            .keep();
        if let Some((user, group)) = user {
            chown(&folder, Some(user), Some(group))?;
        }
        let mut server = Self {
            programs,
            folder,
            port: 0,
            user,
            databases: AtomicU32::new(0),
            guard: Mutex::new(None),
        };
        server.create()?;
        *lock(&server.guard) = Some(server.guarded()?);
        // Another process may take the port before the server does.
        for _ in 0..5 {
            server.port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            server.configure(fsync)?;
            if server.start().is_ok() {
                return Ok(Some(server));
            }
        }
        let log = std::fs::read_to_string(server.folder.join("log")).unwrap_or_default();
        Err(Error::other(format!("the server does not start:\n{log}")))
    }

    /// Of the database that every server has, over its socket.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The same of some database over TCP, with a password.
    pub fn url_over_tcp(&self, database: &str) -> String {
        format!(
            "postgres://postgres:{PASSWORD}@127.0.0.1:{}/{database}",
            self.port
        )
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn url_of(&self, database: &str) -> String {
        format!(
            "postgres://postgres@localhost:{}/{database}?host={}",
            self.port,
            self.folder.display()
        )
    }

    /// The address of a new and empty database.
    pub async fn database(&self) -> std::result::Result<String, sqlx::Error> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = sqlx::PgConnection::connect(&self.url()).await?;
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await?;
        connection.close().await?;
        Ok(self.url_of(&name))
    }

    /// Kills all its processes, as a crash does, and starts it again.
    pub fn restart_immediate(&self) -> Result<()> {
        self.control(&["restart", "-m", "immediate", "-w", "-t", "60"])
    }

    /// Stops it; who is connected is told so.
    pub fn stop(&self) -> Result<()> {
        self.control(&["stop", "-m", "fast", "-w", "-t", "60"])
    }

    /// Starts it after [`Self::stop`], on the same port.
    pub fn start(&self) -> Result<()> {
        self.control(&["start", "-w", "-t", "60"])
    }

    fn create(&self) -> Result<()> {
        let password = self.folder.join("password");
        let mut file = std::fs::File::create(&password)?;
        file.write_all(PASSWORD.as_bytes())?;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        let mut create = self.command("initdb");
        create
            .arg("--pgdata")
            .arg(self.folder.join("data"))
            .arg("--pwfile")
            .arg(&password)
            .args(["--username=postgres", "--encoding=UTF8", "--no-sync"])
            .args(["--auth-local=trust", "--auth-host=scram-sha-256"]);
        // Words in the order of a dictionary, as on most servers: a store that leaves the order to its database fails.
        if self.major()? >= 15 {
            create.args(["--locale=C", "--locale-provider=icu", "--icu-locale=en-US"]);
        }
        run(&mut create)
    }

    fn major(&self) -> Result<u32> {
        let answer = self.command("initdb").arg("--version").output()?;
        let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
        let number = answer.split_whitespace().find_map(|word| {
            let digits = word.split(|one: char| !one.is_ascii_digit()).next()?;
            digits.parse().ok()
        });
        number.ok_or_else(|| Error::other(format!("initdb says it is {answer:?}")))
    }

    fn configure(&self, fsync: bool) -> Result<()> {
        let settings = format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nmax_connections = {MOST_CONNECTIONS}\nfsync = {}\n",
            self.port,
            self.folder.display(),
            if fsync { "on" } else { "off" }
        );
        // Read after the file that initdb wrote.
        std::fs::write(self.folder.join("data/postgresql.auto.conf"), settings)
    }

    fn control(&self, what: &[&str]) -> Result<()> {
        let mut control = self.command("pg_ctl");
        control
            .arg("--pgdata")
            .arg(self.folder.join("data"))
            .arg("--log")
            .arg(self.folder.join("log"))
            .arg("--silent")
            .args(what);
        run(&mut control)
    }

    /// Waits for the end of this process, or of this value.
    fn guarded(&self) -> Result<Child> {
        self.command("sh")
            .args([
                "-c",
                "read -r _; \"$1/pg_ctl\" --pgdata \"$2/data\" stop -m immediate -w; rm -rf \"$2\"",
                "guard",
            ])
            .args([&self.programs, &self.folder])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What a terminal sends to the tests is not for it.
            .process_group(0)
            .spawn()
    }

    fn command(&self, program: &str) -> Command {
        let path = if program == "sh" {
            "sh".into()
        } else {
            self.programs.join(program)
        };
        let mut command = Command::new(path);
        command.current_dir(&self.folder).env("LC_ALL", "C");
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut guard) = lock(&self.guard).take() {
            drop(guard.stdin.take());
            // Nobody could be told of a failure.
            let _ = guard.wait();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The output goes nowhere: the server inherits it, and whoever reads it would wait for the server's end.
fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::other(format!("{command:?}: {status}")))
    }
}

/// The folder with `initdb` and `pg_ctl`: the one that `PG_BIN` names, Debian's newest, or one of the search path.
fn programs() -> Option<PathBuf> {
    let complete = |folder: &PathBuf| {
        ["initdb", "pg_ctl", "postgres"]
            .iter()
            .all(|program| folder.join(program).exists())
    };
    if let Some(folder) = std::env::var_os("PG_BIN") {
        return Some(PathBuf::from(folder)).filter(complete);
    }
    let mut debian: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, folder)| complete(folder))
        .collect();
    debian.sort();
    if let Some((_, folder)) = debian.pop() {
        return Some(folder);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter_map(|folder| {
            // A link leads to the folder where the others are.
            let program = std::fs::canonicalize(folder.join("initdb")).ok()?;
            program.parent().map(Path::to_path_buf)
        })
        .find(complete)
}

/// Whom to run as, where we are root.
fn unprivileged() -> Result<Option<(u32, u32)>> {
    if id("-u", None)? != Some(0) {
        return Ok(None);
    }
    for user in ["postgres", "nobody"] {
        if let (Some(user), Some(group)) = (id("-u", Some(user))?, id("-g", Some(user))?) {
            return Ok(Some((user, group)));
        }
    }
    Err(Error::other(
        "PostgreSQL does not run as root, and there is neither a user postgres nor nobody",
    ))
}

fn id(what: &str, of: Option<&str>) -> Result<Option<u32>> {
    let answer = Command::new("id").arg(what).args(of).output()?;
    Ok(String::from_utf8_lossy(&answer.stdout).trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_ends_and_leaves_nothing_behind() {
        let Some(server) = Server::begin(true).unwrap() else {
            return;
        };
        let folder = server.folder.clone();
        let url = server.database().await.unwrap();
        sqlx::PgConnection::connect(&url).await.unwrap();
        drop(server);
        assert!(!folder.exists());
        assert!(sqlx::PgConnection::connect(&url).await.is_err());
    }
}
