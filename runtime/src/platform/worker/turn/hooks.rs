//! The hooks of a connection, from its first turn to its last: registered, healed, told of new secrets, removed.
//!
//! What the source was told last is kept with the connection (its hook plan), so that the next turn, in whatever process, knows what is due.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Done, Ready, Turn, is_complete};
use crate::digest::fingerprint;
use crate::host::hooks::{HookPlan, Polled, Target};
use crate::platform::connection::SecretField;
use crate::report::{Level, Outcome};
use crate::run::{Answer, Task};

/// How often hooks are looked after.
const EVERY_SECONDS: u64 = 10 * 60;
/// After that failed.
const AGAIN_SECONDS: u64 = 60;
/// Failures in a row after which a connection is woken for its hooks, each time after twice as long.
const MOST_EARLY_LOOKS: u64 = 4;
/// Attempts to remove the hooks of a connection that is being deleted.
const MOST_ATTEMPTS_TO_LEAVE: u32 = 5;

/// The plan of a connection that has none; the next look is due at once.
fn without_hooks(polled: &[Polled]) -> Value {
    json!({ "at": 0, "hooks": [], "polled": polled, "missed": false })
}

impl Turn {
    fn target(&self, ready: &Ready, public_url: &str) -> Option<Target> {
        let id = &self.claim.connection.id;
        Some(Target {
            url: format!("{public_url}/hooks/{id}"),
            name: format!("cortexdb {id}"),
            secret: ready.secrets.get(SecretField::WebhookSecret)?.clone(),
            signing_token: ready.secrets.get(SecretField::WebhookSigningToken)?.clone(),
            rotated: self.hook_mark() != Some(self.sealed_mark()),
        })
    }

    /// What tells whether the secrets of the hooks are those that the source was told.
    fn sealed_mark(&self) -> String {
        let sealed = &self.claim.connection.sealed;
        let parts = [SecretField::WebhookSecret, SecretField::WebhookSigningToken]
            .map(|field| sealed.get(field.as_str()).cloned().unwrap_or_default());
        fingerprint(parts.concat().as_bytes())
    }

    fn hook_mark(&self) -> Option<String> {
        let plan = self.claim.connection.hook_plan.as_ref()?;
        plan.get("secrets")?.as_str().map(str::to_owned)
    }

    /// Removes the hooks of a connection that is to be polled alone from now on. What could not be removed is tried again in the next turn.
    pub(super) async fn take_hooks_down(&mut self, ready: &Ready) {
        if ready.config.realtime || !self.has_hooks() {
            return;
        }
        let url = self.ground.config.public_url.as_deref();
        let Some(target) = url.and_then(|url| self.target(ready, url)) else {
            return;
        };
        let (_, ended, _) = self.run(ready, Task::Disconnect(target)).await;
        if matches!(&ended.answer, Answer::Left(hooks) if hooks.is_empty()) {
            self.keep_plan(without_hooks(&[])).await;
        }
    }

    /// The plan that was made last.
    fn plan(&self) -> Option<HookPlan> {
        let plan = self.claim.connection.hook_plan.clone()?;
        serde_json::from_value(plan).ok()
    }

    /// Whether there were hooks when they were looked after last.
    fn has_hooks(&self) -> bool {
        self.plan().is_some_and(|plan| !plan.hooks.is_empty())
    }

    /// Keeps what the next turn has to know, in whatever process.
    async fn keep_plan(&mut self, plan: Value) {
        let platform = &self.ground.platform;
        let stored = platform.set_hook_plan(self.claim.lease, &plan).await;
        if let Err(error) = stored {
            let words = "the hook plan could not be kept";
            self.line(Level::Warn, words, &error.to_string());
        }
        self.claim.connection.hook_plan = Some(plan);
    }

    /// Says once that everything is polled because no source could reach this process.
    pub(super) async fn explain_polling(&mut self, ready: &Ready) {
        if ready.config.realtime
            && self.ground.config.public_url.is_none()
            && self.claim.connection.hook_plan.is_none()
        {
            let polled = Polled {
                subject: "everything".into(),
                reason: "the worker that looked after its hooks was started without --public-url"
                    .into(),
            };
            self.keep_plan(without_hooks(&[polled])).await;
        }
    }

    pub(super) fn hooks_are_due(&self, ready: &Ready) -> bool {
        if !ready.config.realtime
            || self.ground.config.public_url.is_none()
            || ready.connector.hooks().is_none()
        {
            return false;
        }
        let plan = self.claim.connection.hook_plan.as_ref();
        let at = plan.and_then(|plan| plan.get("at")?.as_i64());
        let age = at.map(|at| chrono::Utc::now().timestamp() - at);
        let failed = self.hooks_failed();
        let every = if failed { AGAIN_SECONDS } else { EVERY_SECONDS };
        // A time in the future is another clock's.
        age.is_none_or(|age| u64::try_from(age).map_or(true, |age| age >= every))
            || (!failed && self.hook_mark() != Some(self.sealed_mark()))
    }

    /// After which time hooks want to be looked after at the latest: soon, where that has just failed, and no longer where it fails for good.
    pub(super) fn hooks_due_in(&self) -> Duration {
        let failures = self.hook_failures();
        if self.realtime
            && self.ground.config.public_url.is_some()
            && (1..=MOST_EARLY_LOOKS).contains(&failures)
        {
            Duration::from_secs(AGAIN_SECONDS << (failures - 1))
        } else {
            Duration::MAX
        }
    }

    /// How often in a row looking after hooks has failed.
    fn hook_failures(&self) -> u64 {
        let plan = self.claim.connection.hook_plan.as_ref();
        let failures = plan.and_then(|plan| plan.get("failures")?.as_u64());
        failures.unwrap_or_default()
    }

    fn hooks_failed(&self) -> bool {
        let plan = self.claim.connection.hook_plan.as_ref();
        plan.is_some_and(|plan| plan.get("failed").is_some_and(Value::is_string))
    }

    /// Registers and mends. Whether a sync is to follow.
    pub(super) async fn look_after_hooks(&mut self, ready: &Ready) -> bool {
        let Some(target) = self
            .ground
            .config
            .public_url
            .as_deref()
            .and_then(|url| self.target(ready, url))
        else {
            return false;
        };
        let (done, ended, _) = self.run(ready, Task::Connect(target)).await;
        // The source knows the secrets only if it has answered.
        let (plan, told) = match ended.answer {
            Answer::Plan(plan) => (plan, Some(self.sealed_mark())),
            _ if done.outcome == Outcome::Interrupted => return false,
            // Everything is polled until the next time.
            _ => {
                let polled = Polled {
                    subject: "everything".into(),
                    reason: done.reason.clone().unwrap_or_default(),
                };
                // What there was may still be there, and has to be removed at the end.
                let plan = HookPlan {
                    hooks: self.plan().map_or_else(Vec::new, |plan| plan.hooks),
                    polled: vec![polled],
                    missed: false,
                };
                (plan, self.hook_mark())
            }
        };
        let missed = plan.missed;
        let kept = json!({
            "at": chrono::Utc::now().timestamp(),
            "secrets": told,
            "failed": (!is_complete(done.outcome)).then_some(&done.reason),
            "failures": if is_complete(done.outcome) { 0 } else { self.hook_failures() + 1 },
            "hooks": plan.hooks,
            "polled": plan.polled,
            "missed": missed,
        });
        self.keep_plan(kept).await;
        missed
    }

    /// Whether hooks tell of everything, so that polling may be seldom.
    pub(super) fn hooks_cover_all(&self) -> bool {
        self.realtime && self.plan().is_some_and(|plan| plan.covers_everything())
    }

    /// Removes the hooks of a connection that was deleted, and then all that is known of it.
    pub(super) async fn leave(mut self) {
        let connection = self.claim.connection.clone();
        let mut left = None;
        let mut interrupted = false;
        // A connect that was cut off may have registered hooks without having said so.
        let may_have_hooks = self.has_hooks()
            || connection.config.get("realtime").and_then(Value::as_bool) == Some(true);
        let url = self.ground.config.public_url.clone();
        if url.is_none() && self.has_hooks() {
            left = Some("this process has no --public-url".to_owned());
        }
        if may_have_hooks && let Some(url) = url {
            match self.ready().await {
                Ok(ready) => {
                    if let Some(target) = self.target(&ready, &url) {
                        let (done, ended, _) = self.run(&ready, Task::Disconnect(target)).await;
                        interrupted = done.outcome == Outcome::Interrupted;
                        left = match ended.answer {
                            Answer::Left(hooks) if hooks.is_empty() => None,
                            Answer::Left(hooks) => Some(json!(hooks).to_string()),
                            _ => Some(done.reason.unwrap_or_else(|| "interrupted".into())),
                        };
                    }
                }
                Err((outcome, reason)) => {
                    interrupted = outcome == Outcome::Interrupted;
                    left = Some(reason);
                }
            }
        }
        // This process ends, which says nothing of the hooks: the next one has this attempt again.
        if interrupted && left.is_some() {
            let done = Done::without_a_run(Outcome::Interrupted, left);
            return self.release(done).await;
        }
        let attempt = connection.failures + 1;
        if let Some(reason) = &left {
            self.line(
                Level::Warn,
                "hooks of a deleted connection could not be removed",
                reason,
            );
            if attempt < MOST_ATTEMPTS_TO_LEAVE {
                let done = Done {
                    synced: true,
                    ..Done::without_a_run(Outcome::Failed, left)
                };
                return self.release(done).await;
            }
        }
        let deleted = self
            .ground
            .platform
            .delete_connection(Some(&connection.tenant), &connection.id)
            .await;
        let detail = json!({ "hooks_left": left });
        if deleted.is_ok() {
            let by = "worker";
            let _ = self
                .ground
                .platform
                .audit(
                    Some(&connection.tenant),
                    by,
                    "connection.deleted",
                    &connection.id,
                    &detail,
                )
                .await;
        }
    }
}
