//! A platform to try: simulators, a database of one kind or the other, any number of `runtime serve`, and a caller of its API.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use connector_store::testing::postgres::Server as Postgres;
use serde_json::{Value, json};
use simulators::cortex;
use simulators::gitlab::{self, World};
use sqlx::Connection as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::compiled;
use crate::hooks::free_address;
use crate::setup::{KEY, Setup, dist};

/// A lease that a test can wait for.
pub const LEASE: Duration = Duration::from_secs(2);
/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
}

/// Makes two tests of one: on SQLite and on PostgreSQL.
macro_rules! on_both_databases {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            #[tokio::test(flavor = "multi_thread")]
            async fn on_sqlite() {
                super::$name($crate::platform::house::Kind::Sqlite).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn on_postgresql() {
                super::$name($crate::platform::house::Kind::Postgres).await;
            }
        }
    )+};
}
pub(crate) use on_both_databases;

/// One `runtime serve`.
pub struct Process {
    pub child: Child,
    pub url: String,
}

impl Process {
    pub fn signal(&self, signal: &str) {
        let id = self.child.id().expect("it ended").to_string();
        let status = std::process::Command::new("kill")
            .args([signal, &id])
            .status();
        assert!(status.unwrap().success());
    }

    /// As a power failure does.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// As an operator does; the exit code.
    pub async fn terminate(mut self) -> i32 {
        self.signal("-TERM");
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended
            .expect("it does not end")
            .unwrap()
            .code()
            .unwrap_or(-1)
    }
}

/// Everything that a platform needs.
pub struct House {
    pub setup: Setup,
    database: Option<String>,
    /// Of all processes.
    pub data: PathBuf,
    /// Variables of processes that are started from now on.
    pub variables: Vec<(String, String)>,
    key: String,
    client: reqwest::Client,
}

impl House {
    /// `None` where this database is not installed; see [`Postgres::shared`].
    pub async fn new(kind: Kind, world: World, latency: Duration) -> Option<Self> {
        let postgres = match kind {
            Kind::Sqlite => None,
            Kind::Postgres => Some(Postgres::shared()?),
        };
        let database = match postgres {
            Some(postgres) => Some(postgres.database().await.unwrap()),
            None => None,
        };
        Some(Self::with(database, world, latency).await)
    }

    /// With a database server that the test may stop.
    pub async fn on(postgres: &'static Postgres, world: World, latency: Duration) -> Self {
        let database = postgres.database().await.unwrap();
        Self::with(Some(database), world, latency).await
    }

    async fn with(database: Option<String>, world: World, latency: Duration) -> Self {
        let options = gitlab::Options {
            latency,
            ..gitlab::Options::default()
        };
        let setup = Setup::with(world, options, cortex::Options::full(KEY)).await;
        let config = "lease = \"2s\"\n[tenants]\nsource_networks = [\"127.0.0.1\"]\ncortexdb_networks = [\"127.0.0.1\"]\n";
        std::fs::write(setup.home.path().join("serve.toml"), config).unwrap();
        Self {
            data: setup.home.path().join("data"),
            variables: Vec::new(),
            setup,
            database,
            key: String::new(),
            client: reqwest::Client::new(),
        }
    }

    /// Starts a `runtime serve` and waits until it listens.
    pub async fn serve(&mut self, arguments: &[&str]) -> Process {
        self.serve_at("127.0.0.1:0", arguments).await
    }

    /// One that the simulated GitLab can call.
    pub async fn serve_publicly(&mut self, arguments: &[&str]) -> Process {
        let address = free_address().to_string();
        let url = format!("http://{address}");
        let mut all = vec!["--public-url", &url];
        all.extend(arguments);
        self.serve_at(&address, &all).await
    }

    async fn serve_at(&mut self, address: &str, arguments: &[&str]) -> Process {
        let mut command = Command::new(dist("runtime"));
        command
            .args(["serve", "--config", "serve.toml", "--data"])
            .arg(&self.data)
            .args(["--listen", address])
            .args(arguments)
            .env_clear()
            .env("HOME", self.setup.home.path())
            .env("XDG_CACHE_HOME", compiled::cache())
            .envs(self.variables.iter().cloned())
            .current_dir(self.setup.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let log = self.setup.home.path().join("serve.log");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log);
        command.stderr(log.unwrap());
        if let Some(database) = &self.database {
            command.env("RUNTIME_DATABASE", database);
        }
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        let line = line.expect("it does not listen").unwrap();
        let line = line.unwrap_or_else(|| panic!("it ended:\n{}", self.log()));
        let url = line.strip_prefix("listening on ").expect(&line).to_owned();
        // Whoever closes this end would end the process with its next line.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        if self.key.is_empty() {
            let key = std::fs::read_to_string(self.data.join("admin-key")).unwrap();
            self.key = key.trim().to_owned();
        }
        Process { child, url }
    }

    /// `runtime admin` at the same database: its exit code and what it said.
    pub async fn admin(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new(dist("runtime"));
        command
            .args(["admin", "--config", "serve.toml", "--data"])
            .arg(&self.data)
            .args(arguments)
            .env_clear()
            .env("HOME", self.setup.home.path())
            .env("XDG_CACHE_HOME", compiled::cache())
            .current_dir(self.setup.home.path())
            .stdin(Stdio::null());
        if let Some(database) = &self.database {
            command.env("RUNTIME_DATABASE", database);
        }
        let output = command.output().await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    /// What all processes logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.setup.home.path().join("serve.log")).unwrap_or_default()
    }

    /// One call of the API, as the operator.
    pub async fn api(
        &self,
        process: &Process,
        method: &str,
        path: &str,
        body: Value,
    ) -> (u16, Value) {
        let method = method.parse().unwrap();
        let mut request = self
            .client
            .request(method, format!("{}/api/v1{path}", process.url))
            .bearer_auth(&self.key);
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    /// A number of `/metrics`; zero where there is none of that name.
    pub async fn metric(&self, process: &Process, name: &str) -> usize {
        let url = format!("{}/metrics", process.url);
        let text = self.client.get(url).send().await.unwrap();
        let text = text.text().await.unwrap();
        let number = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
        text.lines().find_map(number).unwrap_or(0)
    }

    /// A call that must succeed.
    pub async fn call(&self, process: &Process, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.api(process, method, path, body).await;
        assert!(
            status < 300,
            "{method} {path}: {status} {answer:#}\n{}",
            self.log()
        );
        answer
    }

    pub async fn tenant(&self, process: &Process, name: &str, caps: Value) -> String {
        let tenant = self
            .call(
                process,
                "POST",
                "/tenants",
                json!({"name": name, "caps": caps}),
            )
            .await;
        tenant["id"].as_str().unwrap().to_owned()
    }

    /// Uploads a component for all tenants; its digest.
    pub async fn upload(&self, process: &Process, name: &str) -> String {
        let answer = self
            .client
            .post(format!("{}/api/v1/components", process.url))
            .bearer_auth(&self.key)
            .header("content-type", "application/wasm")
            .body(std::fs::read(dist(name)).unwrap())
            .send()
            .await
            .unwrap();
        let status = answer.status().as_u16();
        let component: Value = answer.json().await.unwrap();
        assert!(status < 300, "{status} {component:#}");
        component["digest"].as_str().unwrap().to_owned()
    }

    /// A connection to be; `change` is merged into its configuration.
    pub fn wanted(&self, connector: &str, name: &str, change: Value) -> Value {
        let mut config = json!({
            "source": {"url": self.setup.variables["GITLAB_URL"], "allowed_networks": ["127.0.0.1"]},
            "cortexdb": {
                "url": self.setup.variables["CORTEXDB_URL"],
                "scope_template": "org:acme/source:gitlab/project:{project_path}",
            },
            "run": {"interval": "1h"},
        });
        merge(&mut config, change);
        json!({
            "name": name,
            "chain": {"connector": connector},
            "config": config,
            "secrets": {"source_token": gitlab::TOKEN, "cortexdb_api_key": KEY},
        })
    }

    pub async fn connect(&self, process: &Process, tenant: &str, wanted: Value) -> String {
        let path = format!("/connections?tenant={tenant}");
        let connection = self.call(process, "POST", &path, wanted).await;
        connection["id"].as_str().unwrap().to_owned()
    }

    pub async fn connection(&self, process: &Process, id: &str) -> Value {
        self.call(process, "GET", &format!("/connections/{id}"), Value::Null)
            .await
    }

    /// Changes a connection, whatever its version is.
    pub async fn patch(&self, process: &Process, id: &str, change: Value) {
        let (status, answer) = self.try_to_patch(process, id, change).await;
        assert!(status < 300, "{status} {answer}");
    }

    /// The same, which may be refused.
    pub async fn try_to_patch(&self, process: &Process, id: &str, change: Value) -> (u16, String) {
        let answer = self
            .client
            .patch(format!("{}/api/v1/connections/{id}", process.url))
            .bearer_auth(&self.key)
            .header("if-match", "*")
            .json(&change)
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Runs of a connection, newest first.
    pub async fn runs(&self, process: &Process, id: &str) -> Vec<Value> {
        let path = format!("/connections/{id}/runs?limit=200");
        let answer = self.call(process, "GET", &path, Value::Null).await;
        answer["items"].as_array().expect("items").clone()
    }

    /// A tenant with a connection to the simulated GitLab; its id. `change` is merged into its configuration.
    pub async fn connected(&self, process: &Process, change: Value) -> String {
        let tenant = self.tenant(process, "acme", json!({})).await;
        let connector = self.upload(process, "gitlab.wasm").await;
        let wanted = self.wanted(&connector, "gitlab", change);
        self.connect(process, &tenant, wanted).await
    }

    /// Waits until a run of this connection ended like that.
    pub async fn wait_for_run(&self, process: &Process, id: &str, outcome: &str) -> Value {
        self.wait(&format!("{outcome} of {id}"), async || {
            let runs = self.runs(process, id).await;
            runs.into_iter().find(|run| run["outcome"] == outcome)
        })
        .await
    }

    /// Asks again and again.
    pub async fn wait<T>(&self, what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{what} does not come\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether no process holds a lock of the database that it would not give back.
    pub async fn can_be_written(&self) -> bool {
        if self.database.is_some() {
            return true;
        }
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(self.data.join("platform.db"))
            .busy_timeout(Duration::from_millis(200));
        let mut connection = sqlx::SqliteConnection::connect_with(&options)
            .await
            .unwrap();
        let begun = sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut connection)
            .await;
        connection.close().await.unwrap();
        begun.is_ok()
    }

    /// Experiences that CortexDB holds.
    pub fn written(&self) -> usize {
        self.setup.cortex.stats().events
    }
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (name, value) in change {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}
