//! Webhooks: who is told of a change, and what becomes of the telling.
//!
//! A receiver loses data to what a webhook is not: it is not repeated when it fails, not in order, not alone (a change reaches the
//! project's hook and the group's), not sent while its hook is disabled, and it describes the record as it is when the body is built,
//! not as it was when the event happened. All of that is here, and the state of a hook is a part of the [`World`], so that the
//! management API, the deliveries and a test see the same one.
//!
//! * [`Webhook`] is one configured hook; `/api/v4/…/hooks` makes them (`routes/hooks.rs`).
//! * A mutation announces what it did (`announce`); the hooks that want to know get a place in the queue.
//! * A background task takes the queue, builds bodies (`payload`), signs them (`sign`) and sends them (`deliver`, `post`).
//! * [`WebhookFaults`] spoil deliveries; [`Sent`] is the log.

mod announce;
pub(crate) mod deliver;
mod faults;
mod payload;
mod post;
mod sign;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;

use super::clock::{DAY, Micros, SECOND};
use super::world::World;
pub use announce::{Announcement, RefChange};
pub(crate) use deliver::Errand;
pub use deliver::Storm;
pub use faults::{Forgery, WebhookFaults};
pub(crate) use sign::is_signing_token;
pub use sign::{signature, verify};

/// Deliveries kept in the log; older ones are dropped, their counts stay.
const KEPT: usize = 20_000;
/// Consecutive failures from which on a hook is disabled for a while.
const TEMPORARY_FROM: u32 = 4;
/// Consecutive failures from which on a hook is disabled for good.
const PERMANENT_FROM: u32 = 40;

/// Where a hook is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookOwner {
    /// The instance: a system hook.
    System,
    /// A group, for itself and everything below it.
    Group(u64),
    /// One project.
    Project(u64),
}

/// What a hook can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "each is GitLab's own word; Trigger::flag has the flag of each"
)]
pub enum Trigger {
    Push,
    TagPush,
    Issue,
    ConfidentialIssue,
    Note,
    ConfidentialNote,
    MergeRequest,
    Job,
    Pipeline,
    WikiPage,
    Deployment,
    FeatureFlag,
    Release,
    Milestone,
    Emoji,
    ResourceAccessToken,
    Vulnerability,
    Subgroup,
    Member,
    Project,
    RepositoryUpdate,
    /// What every system hook is told: projects, groups, users, keys. It has no flag.
    Lifecycle,
}

impl Trigger {
    /// Every trigger with a flag: the flag, GitLab's name of the scope in the log, the `X-Gitlab-Event` of project and group hooks.
    pub(crate) const ALL: &[(Self, &'static str, &'static str, &'static str)] = &[
        (Self::Push, "push_events", "push_hooks", "Push Hook"),
        (
            Self::TagPush,
            "tag_push_events",
            "tag_push_hooks",
            "Tag Push Hook",
        ),
        (Self::Issue, "issues_events", "issue_hooks", "Issue Hook"),
        (
            Self::ConfidentialIssue,
            "confidential_issues_events",
            "confidential_issue_hooks",
            "Confidential Issue Hook",
        ),
        (Self::Note, "note_events", "note_hooks", "Note Hook"),
        (
            Self::ConfidentialNote,
            "confidential_note_events",
            "confidential_note_hooks",
            "Confidential Note Hook",
        ),
        (
            Self::MergeRequest,
            "merge_requests_events",
            "merge_request_hooks",
            "Merge Request Hook",
        ),
        (Self::Job, "job_events", "job_hooks", "Job Hook"),
        (
            Self::Pipeline,
            "pipeline_events",
            "pipeline_hooks",
            "Pipeline Hook",
        ),
        (
            Self::WikiPage,
            "wiki_page_events",
            "wiki_page_hooks",
            "Wiki Page Hook",
        ),
        (
            Self::Deployment,
            "deployment_events",
            "deployment_hooks",
            "Deployment Hook",
        ),
        (
            Self::FeatureFlag,
            "feature_flag_events",
            "feature_flag_hooks",
            "Feature Flag Hook",
        ),
        (
            Self::Release,
            "releases_events",
            "release_hooks",
            "Release Hook",
        ),
        (
            Self::Milestone,
            "milestone_events",
            "milestone_hooks",
            "Milestone Hook",
        ),
        (Self::Emoji, "emoji_events", "emoji_hooks", "Emoji Hook"),
        (
            Self::ResourceAccessToken,
            "resource_access_token_events",
            "resource_access_token_hooks",
            "Resource Access Token Hook",
        ),
        (
            Self::Vulnerability,
            "vulnerability_events",
            "vulnerability_hooks",
            "Vulnerability Hook",
        ),
        (
            Self::Subgroup,
            "subgroup_events",
            "subgroup_hooks",
            "Subgroup Hook",
        ),
        (Self::Member, "member_events", "member_hooks", "Member Hook"),
        (
            Self::Project,
            "project_events",
            "project_hooks",
            "Project Hook",
        ),
        (
            Self::RepositoryUpdate,
            "repository_update_events",
            "repository_update_hooks",
            "Repository Update Hook",
        ),
    ];

    fn row(self) -> Option<&'static (Self, &'static str, &'static str, &'static str)> {
        Self::ALL.iter().find(|row| row.0 == self)
    }

    /// The flag of the management API, such as `merge_requests_events`; empty for [`Self::Lifecycle`].
    #[must_use]
    pub fn flag(self) -> &'static str {
        self.row().map_or("", |row| row.1)
    }

    /// The trigger of a flag.
    #[must_use]
    pub fn of_flag(flag: &str) -> Option<Self> {
        Self::ALL.iter().find(|row| row.1 == flag).map(|row| row.0)
    }

    pub(crate) fn scope(self) -> &'static str {
        self.row().map_or("system_hooks", |row| row.2)
    }

    pub(crate) fn header(self) -> &'static str {
        self.row().map_or("System Hook", |row| row.3)
    }

    /// Whether hooks of this owner know the trigger at all: a system hook is never told of issues, notes, pipelines or releases.
    #[must_use]
    pub fn exists_for(self, owner: HookOwner) -> bool {
        match owner {
            HookOwner::System => matches!(
                self,
                Self::Push
                    | Self::TagPush
                    | Self::MergeRequest
                    | Self::RepositoryUpdate
                    | Self::Lifecycle
            ),
            HookOwner::Group(_) => !matches!(self, Self::RepositoryUpdate | Self::Lifecycle),
            HookOwner::Project(_) => !matches!(
                self,
                Self::Subgroup
                    | Self::Member
                    | Self::Project
                    | Self::RepositoryUpdate
                    | Self::Lifecycle
            ),
        }
    }
}

/// One configured hook.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Instance-wide id.
    pub id: u64,
    /// Where it is configured.
    pub owner: HookOwner,
    /// Where it sends to; `{key}` stands for a URL variable.
    pub url: String,
    /// Name, from GitLab 17.1 on.
    pub name: Option<String>,
    /// Description, from GitLab 17.1 on.
    pub description: Option<String>,
    /// The secret of `X-Gitlab-Token`.
    pub token: Option<String>,
    /// The signing token, `whsec_…`, from GitLab 19.0 on.
    pub signing_token: Option<String>,
    /// What it is told of.
    pub triggers: BTreeSet<Trigger>,
    /// Whether certificates are checked.
    pub enable_ssl_verification: bool,
    /// Which branches' pushes it is told of; empty is all.
    pub push_events_branch_filter: String,
    /// `wildcard` or `all_branches`.
    pub branch_filter_strategy: String,
    /// Replaces the body.
    pub custom_webhook_template: Option<String>,
    /// Headers added to each delivery.
    pub custom_headers: Vec<(String, String)>,
    /// Values for the `{key}`s of the URL.
    pub url_variables: Vec<(String, String)>,
    /// Creation time.
    pub created_at: Micros,
    /// Failures in a row.
    pub failures: u32,
    /// Set while it is disabled for a while.
    pub disabled_until: Option<Micros>,
}

impl Webhook {
    /// The words of the API's `alert_status`.
    #[must_use]
    pub fn alert_status(&self, now: Micros) -> &'static str {
        if self.failures >= PERMANENT_FROM {
            "disabled"
        } else if self.disabled_until.is_some_and(|until| until > now) {
            "temporarily_disabled"
        } else {
            "executable"
        }
    }

    /// Counts one result: the fourth failure in a row disables for a minute, each further one for twice as long up to a day, the
    /// fortieth for good; a success forgets them all.
    pub(crate) fn count(&mut self, success: bool, now: Micros) {
        if success {
            self.failures = 0;
            self.disabled_until = None;
            return;
        }
        self.failures = self.failures.saturating_add(1).min(PERMANENT_FROM);
        self.disabled_until = None;
        if (TEMPORARY_FROM..PERMANENT_FROM).contains(&self.failures) {
            let doublings = (self.failures - TEMPORARY_FROM).min(20);
            let pause = (60_i64 << doublings).min(DAY / SECOND);
            self.disabled_until = Some(now.plus_seconds(pause));
        }
    }

    /// The URL with its variables filled in.
    #[must_use]
    pub fn target(&self) -> String {
        let mut url = self.url.clone();
        for (key, value) in &self.url_variables {
            url = url.replace(&format!("{{{key}}}"), value);
        }
        url
    }
}

/// One event for one hook, waiting to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) hook: u64,
    pub(crate) trigger: Trigger,
    pub(crate) what: Arc<Announcement>,
    /// `Idempotency-Key` and `webhook-id`; the same when it is sent again.
    pub(crate) key: String,
    /// A test of the hook: built as tests are, and sent even by a disabled hook.
    pub(crate) test: bool,
    /// The body of an earlier delivery, to be sent again.
    pub(crate) again: Option<String>,
    pub(crate) queued: Instant,
}

/// One delivery, as it was sent and answered.
#[derive(Clone, Debug, Serialize)]
pub struct Sent {
    /// Rising from 1; the `id` of the event in the API.
    pub id: u64,
    /// Hook.
    pub hook: u64,
    /// What it was told of.
    pub trigger: Trigger,
    /// Where it went.
    pub url: String,
    /// Simulated time of sending.
    pub at: Micros,
    /// Headers that were sent. Secrets are left out.
    pub request_headers: Vec<(String, String)>,
    /// The body that was sent, before a fault cut it.
    pub request_data: String,
    /// Status of the answer; absent if there was none.
    pub status: Option<u16>,
    /// Headers of the answer.
    pub response_headers: Vec<(String, String)>,
    /// The first 8 KiB of the answer's body, or why there was none.
    pub response_body: String,
    /// From sending to the answer.
    pub latency_ms: u64,
    /// From the change of the world to the answer.
    pub since_event_ms: u64,
    /// `Idempotency-Key`.
    pub key: String,
    /// What was forged about it; absent for a true delivery.
    pub forged: Option<Forgery>,
}

impl Sent {
    /// Whether GitLab counts it as delivered: 2xx and 3xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status
            .is_some_and(|status| (200..400).contains(&status))
    }
}

/// What became of the events so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WebhookCounts {
    /// Events that had a hook.
    pub events: u64,
    /// Deliveries sent and answered with 2xx or 3xx; forged ones are not counted.
    pub delivered: u64,
    /// Deliveries that failed.
    pub failed: u64,
    /// Forged deliveries.
    pub forged: u64,
    /// Events lost to a fault.
    pub dropped: u64,
    /// Events lost because the hook was disabled or gone, the record was gone, GitLab was silent, or a limit was reached.
    pub lost: u64,
}

/// All hooks of an instance, their queue and their log.
#[derive(Clone, Debug)]
pub(crate) struct Webhooks {
    pub(crate) hooks: std::collections::BTreeMap<u64, Webhook>,
    pub(crate) queue: VecDeque<Job>,
    pub(crate) log: VecDeque<Sent>,
    pub(crate) counts: WebhookCounts,
    pub(crate) faults: WebhookFaults,
    pub(crate) rng: SmallRng,
    /// Jobs taken from the queue and not settled yet.
    pub(crate) in_flight: usize,
    pub(crate) wake: Arc<Notify>,
    /// What the request that is being answered has to wait for.
    pub(crate) errand: Option<Errand>,
    next_hook: u64,
    next_sent: u64,
    next_key: u64,
    /// When a user last tested or sent again, by what and where.
    asked: HashMap<(u64, &'static str, HookOwner), Vec<Micros>>,
    /// Deliveries of the present minute by top group.
    minute: HashMap<u64, (i64, u64)>,
}

impl Default for Webhooks {
    fn default() -> Self {
        Self {
            hooks: Default::default(),
            queue: VecDeque::new(),
            log: VecDeque::new(),
            counts: WebhookCounts::default(),
            faults: WebhookFaults::default(),
            rng: SmallRng::seed_from_u64(0),
            in_flight: 0,
            wake: Arc::new(Notify::new()),
            errand: None,
            next_hook: 0,
            next_sent: 0,
            next_key: 0,
            asked: HashMap::new(),
            minute: HashMap::new(),
        }
    }
}

impl Webhooks {
    pub(crate) fn next_hook(&mut self) -> u64 {
        self.next_hook += 1;
        self.next_hook
    }

    pub(crate) fn next_sent(&mut self) -> u64 {
        self.next_sent += 1;
        self.next_sent
    }

    /// A fresh name in the form of a UUID.
    pub(crate) fn uuid(&mut self, seed: u64) -> String {
        self.next_key += 1;
        let hex = super::world::digest40(&format!("webhook {seed} {}", self.next_key));
        format!(
            "{}-{}-4{}-a{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[13..16],
            &hex[17..20],
            &hex[20..32]
        )
    }

    pub(crate) fn of(&self, owner: HookOwner) -> impl Iterator<Item = &Webhook> {
        self.hooks.values().filter(move |hook| hook.owner == owner)
    }

    /// Five a minute for each user and place; refuses the sixth.
    pub(crate) fn admit(
        &mut self,
        user: u64,
        what: &'static str,
        owner: HookOwner,
        now: Micros,
    ) -> bool {
        let times = self.asked.entry((user, what, owner)).or_default();
        times.retain(|at| now.0 - at.0 < 60 * SECOND);
        let admitted = times.len() < 5;
        if admitted {
            times.push(now);
        }
        admitted
    }

    /// Whether one more delivery fits into this minute of a top group.
    pub(crate) fn fits(&mut self, top: u64, limit: Option<u64>, now: Micros) -> bool {
        let Some(limit) = limit else { return true };
        let this = now.unix().div_euclid(60);
        let (minute, count) = self.minute.entry(top).or_insert((this, 0));
        if *minute != this {
            (*minute, *count) = (this, 0);
        }
        *count += 1;
        *count <= limit
    }

    pub(crate) fn remember(&mut self, sent: Sent) {
        match (&sent.forged, sent.is_success()) {
            (Some(_), _) => self.counts.forged += 1,
            (None, true) => self.counts.delivered += 1,
            (None, false) => self.counts.failed += 1,
        }
        if self.log.len() == KEPT {
            self.log.pop_front();
        }
        self.log.push_back(sent);
    }

    /// Whether nothing is waiting and nothing is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.in_flight == 0
    }
}

impl World {
    /// The configured hooks, oldest first.
    #[must_use]
    pub fn webhooks(&self) -> Vec<Webhook> {
        self.webhooks.hooks.values().cloned().collect()
    }

    /// The deliveries so far, oldest first; at most the last twenty thousand.
    #[must_use]
    pub fn deliveries(&self) -> Vec<Sent> {
        self.webhooks.log.iter().cloned().collect()
    }

    /// What became of the events so far.
    #[must_use]
    pub fn webhook_counts(&self) -> WebhookCounts {
        self.webhooks.counts
    }

    /// Sets what goes wrong with deliveries from now on; the default heals them.
    pub fn set_webhook_faults(&mut self, faults: WebhookFaults) {
        self.webhooks.rng = SmallRng::seed_from_u64(faults.seed);
        self.webhooks.faults = faults;
    }

    /// Whether the instance is of at least this version.
    #[must_use]
    pub fn is_at_least(&self, major: u64, minor: u64) -> bool {
        let mut parts = self
            .knobs
            .version
            .split(['.', '-'])
            .map(|part| part.parse::<u64>().unwrap_or(0));
        let have = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        have >= (major, minor)
    }

    /// The hook as the management API shows it.
    pub(crate) fn webhook_json(&self, hook: &Webhook) -> Value {
        let now = self.now();
        let names = |list: &[(String, String)]| -> Value {
            list.iter()
                .map(|(key, _)| serde_json::json!({ "key": key }))
                .collect()
        };
        let status = if self.knobs.auto_disabling {
            hook.alert_status(now)
        } else {
            "executable"
        };
        let mut out = serde_json::json!({
            "id": hook.id,
            "url": hook.url,
            "created_at": hook.created_at.rest(),
            "enable_ssl_verification": hook.enable_ssl_verification,
            "alert_status": status,
            "disabled_until": hook.disabled_until.filter(|_| status != "executable").map(Micros::rest),
            "push_events_branch_filter": hook.push_events_branch_filter,
            "branch_filter_strategy": hook.branch_filter_strategy,
            "custom_webhook_template": hook.custom_webhook_template,
            "url_variables": names(&hook.url_variables),
            "custom_headers": names(&hook.custom_headers),
        });
        match hook.owner {
            HookOwner::System => {}
            HookOwner::Group(id) => out["group_id"] = id.into(),
            HookOwner::Project(id) => out["project_id"] = id.into(),
        }
        for &(trigger, flag, _, _) in Trigger::ALL {
            if trigger.exists_for(hook.owner) || trigger == Trigger::RepositoryUpdate {
                out[flag] = hook.triggers.contains(&trigger).into();
            }
        }
        if self.is_at_least(17, 1) {
            out["name"] = serde_json::json!(hook.name);
            out["description"] = serde_json::json!(hook.description);
        }
        if self.is_at_least(19, 0) {
            out["token_present"] = hook.token.is_some().into();
            out["signing_token_present"] = hook.signing_token.is_some().into();
        }
        out
    }
}
