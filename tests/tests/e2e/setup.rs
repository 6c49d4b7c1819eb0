//! A home directory, two servers, and a way to run the program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use simulators::cortex;
use simulators::gitlab::{self, EventType, Expected, Micros, Selection, Size, TOKEN, World};
use sqlx::Connection as _;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::compiled;
use crate::secrets;

/// The key of the simulated CortexDB. Long enough to be looked for in every output.
pub const KEY: &str = "cortex-key-0123456789abcdef";
/// No test waits longer for a run to end.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The folder that `make build` fills.
pub fn dist(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../dist")
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: run `make build` first",
        path.display()
    );
    path
}

/// One user's world.
pub struct Setup {
    pub home: TempDir,
    pub gitlab: gitlab::Server,
    pub cortex: cortex::Server,
    pub variables: BTreeMap<String, String>,
}

/// What a run left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Whatever a run says, it shows no secret.
    #[track_caller]
    pub fn new(code: i32, stdout: &[u8], stderr: &[u8]) -> Self {
        let [stdout, stderr] =
            [stdout, stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        secrets::assert_none_in(&stdout);
        secrets::assert_none_in(&stderr);
        Self {
            code,
            stdout,
            stderr,
        }
    }

    /// The JSON events of `--json`.
    pub fn events(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| {
                serde_json::from_str(line)
                    .unwrap_or_else(|error| panic!("not JSON ({error}): {line}"))
            })
            .collect()
    }

    /// The receipt of `--json`.
    pub fn receipt(&self) -> Value {
        let events = self.events();
        let receipt = events
            .into_iter()
            .rfind(|event| event["event"] == "receipt");
        receipt.unwrap_or_else(|| panic!("no receipt in\n{}\n{}", self.stdout, self.stderr))
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "stdout:\n{}\nstderr:\n{}",
            self.stdout, self.stderr
        );
        self
    }
}

impl Setup {
    /// A small GitLab of several projects, a CortexDB that permits everything, an initialised home.
    pub async fn tiny(seed: u64) -> Self {
        Self::with(
            World::generate(seed, &Size::tiny()),
            gitlab::Options::default(),
            cortex::Options::full(KEY),
        )
        .await
    }

    pub async fn with(
        world: World,
        gitlab_options: gitlab::Options,
        cortex_options: cortex::Options,
    ) -> Self {
        let gitlab = gitlab::Server::start(world, gitlab_options).await.unwrap();
        let cortex = cortex::Server::start(cortex_options).await.unwrap();
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".cortexdb")).unwrap();
        let variables = [
            ("GITLAB_URL", gitlab.url()),
            ("GITLAB_TOKEN", TOKEN.to_owned()),
            ("CORTEXDB_URL", cortex.url()),
        ];
        let setup = Self {
            variables: variables
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            home,
            gitlab,
            cortex,
        };
        setup.initialise(&json!({"token": KEY, "user_id": "user:local", "scope": "org:acme/user:local", "tier": "free"}));
        setup
    }

    /// Writes `~/.cortexdb/state.json` as `cortexdb init` does.
    pub fn initialise(&self, state: &Value) {
        std::fs::write(self.cortexdb_folder().join("state.json"), state.to_string()).unwrap();
    }

    pub fn cortexdb_folder(&self) -> PathBuf {
        self.home.path().join(".cortexdb")
    }

    /// Changes the ledger behind the program's back.
    pub async fn change_ledger(&self, sql: &'static str) {
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(self.cortexdb_folder().join("connectors.db"))
            .busy_timeout(Duration::from_secs(10));
        let mut ledger = sqlx::SqliteConnection::connect_with(&options)
            .await
            .unwrap();
        sqlx::query(sql).execute(&mut ledger).await.unwrap();
        ledger.close().await.unwrap();
    }

    pub fn state_file(&self) -> PathBuf {
        self.cortexdb_folder().join("connectors-state.json")
    }

    /// The cursors as the file shows them, by stream.
    pub fn cursors(&self) -> BTreeMap<String, Value> {
        let text = std::fs::read_to_string(self.state_file()).unwrap_or_else(|_| "{}".into());
        let file: Value = serde_json::from_str(&text).unwrap();
        let connections = file["connections"].as_object().cloned().unwrap_or_default();
        connections
            .values()
            .flat_map(|connection| {
                connection["streams"]
                    .as_object()
                    .cloned()
                    .unwrap_or_default()
            })
            .collect()
    }

    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Nothing was compiled before, and what its runs compile is kept below `home`.
    pub fn compiles_itself(&mut self) -> &mut Self {
        let cache = self.home.path().join(".cache");
        self.set("XDG_CACHE_HOME", cache.to_str().unwrap())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(dist("runtime"));
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.home.path())
            .env("XDG_CACHE_HOME", compiled::cache())
            .envs(&self.variables)
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// `runtime <arguments>`.
    pub async fn runtime(&self, arguments: &[&str]) -> Ran {
        let output = tokio::time::timeout(TIMEOUT, self.command(arguments).output())
            .await
            .unwrap_or_else(|_| panic!("`runtime {}` did not end", arguments.join(" ")))
            .unwrap();
        secrets::assert_none_below(self.home.path());
        ran(&output)
    }

    /// Starts `runtime <arguments>` and lets it go on.
    pub fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    /// `runtime run dist/gitlab.wasm --json <arguments>`.
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        let component = dist("gitlab.wasm");
        let mut all = vec!["run", component.to_str().unwrap(), "--json"];
        all.extend(arguments);
        self.runtime(&all).await
    }

    /// Starts `runtime run` and lets it go on.
    pub fn start(&self, arguments: &[&str]) -> Child {
        let component = dist("gitlab.wasm");
        let mut all = vec!["run", component.to_str().unwrap(), "--json"];
        all.extend(arguments);
        self.command(&all).spawn().unwrap()
    }

    /// Every project that the token is a member of.
    pub fn membership(&self) -> Selection {
        let world = self.gitlab.world();
        let viewer = world.viewer(TOKEN);
        let projects: Vec<u64> = world
            .projects
            .iter()
            .map(|(id, project)| (*id, project))
            .filter(|(_, project)| world.role(viewer, project).is_some())
            .map(|(id, _)| id)
            .collect();
        drop(world);
        Selection::projects(&projects, TOKEN)
    }

    /// Compares what CortexDB holds with what GitLab shows: nothing missing, nothing else, nothing twice, texts whole, threads right.
    #[track_caller]
    pub fn assert_complete(&self, selection: &Selection) {
        let expected: BTreeMap<String, Expected> = self
            .gitlab
            .world()
            .expected(selection)
            .into_iter()
            .map(|record| (record.source_id.clone(), record))
            .collect();
        let stored = self.stored();
        let missing: Vec<_> = expected
            .keys()
            .filter(|id| !stored.contains_key(*id))
            .collect();
        let surplus: Vec<_> = stored
            .keys()
            .filter(|id| !expected.contains_key(*id) && !self.runs_again(id))
            .collect();
        assert!(
            missing.is_empty() && surplus.is_empty(),
            "missing: {missing:?}\nsurplus: {surplus:?}"
        );
        for (id, record) in &expected {
            self.assert_faithful(record, &stored[id]);
        }
        assert_eq!(
            self.cortex.cortex().invariant_violations(),
            Vec::<String>::new()
        );
    }

    /// What GitLab shows is stored, in whatever version. A poll owes that; what is gone waits for the reconcile pass.
    #[track_caller]
    pub fn assert_nothing_is_missing(&self, selection: &Selection) {
        let expected = self.gitlab.world().expected(selection);
        let stored = self.stored();
        let missing: Vec<_> = expected
            .iter()
            .map(|record| &record.source_id)
            .filter(|id| !stored.contains_key(*id))
            .collect();
        assert!(missing.is_empty(), "missing: {missing:?}");
    }

    /// No cursor is durable ahead of a record that is not: whatever lies before a saved cursor is stored.
    #[track_caller]
    pub fn assert_no_cursor_is_ahead(&self) {
        // A file that was spoilt holds no cursor.
        let text = std::fs::read(self.state_file()).unwrap_or_default();
        if serde_json::from_slice::<Value>(&text).is_err() {
            return;
        }
        let cursors = self.cursors();
        let stored = self.stored();
        let selection = self.membership();
        let world = self.gitlab.world();
        let behind: Vec<String> = world
            .expected(&selection)
            .into_iter()
            .filter(|record| is_behind(&world, &cursors, record))
            .map(|record| record.source_id)
            .filter(|id| !stored.contains_key(id))
            .collect();
        drop(world);
        assert!(
            behind.is_empty(),
            "behind a saved cursor and not stored: {behind:?}
{cursors:?}"
        );
    }

    /// A pipeline that was finished and is running again: how it ended before is history and stays.
    fn runs_again(&self, source_id: &str) -> bool {
        let id = source_id.strip_prefix("gl:pipeline:");
        let Some((project, id)) = id.and_then(|id| id.split_once('/')) else {
            return false;
        };
        let (Ok(project), Ok(id)) = (project.parse::<u64>(), id.parse::<u64>()) else {
            return false;
        };
        let world = self.gitlab.world();
        world
            .projects
            .get(&project)
            .and_then(|project| project.pipelines.get(&id))
            .is_some_and(|pipeline| !pipeline.is_terminal())
    }

    fn assert_faithful(&self, record: &Expected, versions: &[Value]) {
        let id = &record.source_id;
        let latest = versions.last().unwrap();
        let text: String = latest["content"]["text"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        for part in [&record.title, &record.text].into_iter().flatten() {
            assert!(
                text.contains(part.trim_end()),
                "{id}: the text lost {part:?}\nstored: {text:?}"
            );
        }
        let labels: Vec<&str> = latest["context"]["labels"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert!(
            labels.contains(&id.as_str()),
            "{id} is no label: {labels:?}"
        );
        assert_eq!(
            labels.contains(&"confidential"),
            record.confidential,
            "{id}: {labels:?}"
        );
        if let Some(state) = &record.state {
            let known = labels.contains(&format!("state={state}").as_str())
                || labels.contains(&format!("status={state}").as_str());
            assert!(known, "{id} is {state}: {labels:?}");
        }
        if let Some(before) = &record.preceded_by {
            let before_id = latest["context"]["preceded_by"][0]
                .as_str()
                .unwrap_or_else(|| panic!("{id} is not linked to {before}"));
            let before_event = self.cortex.cortex().event(before_id).unwrap();
            assert_eq!(
                before_event.envelope()["source"]["source_id"],
                **before,
                "{id} is linked to another record"
            );
        }
    }

    /// Live envelopes by source id, oldest first.
    pub fn stored(&self) -> BTreeMap<String, Vec<Value>> {
        let mut stored: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for event in self.cortex.cortex().live_events() {
            let envelope = event.envelope();
            let id = envelope["source"]["source_id"].as_str().unwrap().to_owned();
            stored.entry(id).or_default().push(envelope);
        }
        stored
    }

    /// The live text of a record, its fragments put together.
    pub fn text_of(&self, source_id: &str) -> Option<String> {
        let versions = self.stored().remove(source_id)?;
        Some(
            versions
                .iter()
                .map(|version| version["content"]["text"].as_str().unwrap())
                .collect(),
        )
    }
}

/// Whatever the runs of a test did, they kept no secret, sent none to CortexDB as a record, and put none into an address.
impl Drop for Setup {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        secrets::assert_none_below(self.home.path());
        for event in self.cortex.cortex().events() {
            secrets::assert_none_in(event.envelope_json());
        }
        for request in self.gitlab.requests() {
            secrets::assert_none_in(&request.path);
            secrets::assert_none_in(&request.query);
        }
    }
}

/// Whether a saved cursor says that this record was read.
fn is_behind(world: &World, cursors: &BTreeMap<String, Value>, record: &Expected) -> bool {
    let project = &world.projects[&record.project_id];
    let cursor = |stream: &str| cursors.get(&format!("{}/{stream}", project.id));
    let reached = |stream: &str, key: &str, at: Option<Micros>| {
        let position = cursor(stream).and_then(|cursor| cursor[key].as_str());
        let position = position.and_then(Micros::parse);
        position.zip(at).is_some_and(|(position, at)| at < position)
    };
    let before = |stream: &str, at: Option<Micros>| reached(stream, "updated_after", at);
    let parent = |source_id: &str| {
        let iid = source_id
            .rsplit('/')
            .next()
            .unwrap()
            .parse::<u64>()
            .unwrap();
        if source_id.starts_with("gl:issue:") {
            ("issues", project.issues[&iid].updated_at)
        } else {
            ("merge_requests", project.merge_requests[&iid].updated_at)
        }
    };
    match record.event_type {
        EventType::MergeRequest | EventType::Issue => {
            let (stream, updated) = parent(&record.source_id);
            before(stream, Some(updated))
        }
        EventType::Note => {
            let (stream, updated) = parent(record.parent.as_ref().unwrap());
            before(stream, Some(updated)) && before(stream, Some(record.created_at))
        }
        EventType::Pipeline => {
            let pipeline = &project.pipelines[&record.id.parse::<u64>().unwrap()];
            // Child pipelines are walked by themselves, behind the others.
            let key = if pipeline.source == "parent_pipeline" {
                "child_updated_after"
            } else {
                "updated_after"
            };
            reached("pipelines", key, pipeline.updated_at)
        }
        EventType::Release => before("releases", Some(project.releases[&record.id].updated_at)),
        EventType::Commit => {
            let Some(cursor) = cursor("commits").filter(|cursor| cursor["page"].is_null()) else {
                return false;
            };
            let head = cursor["head"].as_str().unwrap_or_default().to_owned();
            project
                .repository
                .reachable(&[head])
                .contains(record.id.as_str())
        }
    }
}

#[track_caller]
pub fn ran(output: &Output) -> Ran {
    Ran::new(
        output.status.code().unwrap_or(-1),
        &output.stdout,
        &output.stderr,
    )
}
