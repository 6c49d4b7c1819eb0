//! The hooks of a connection, from its first turn to its last: registered, healed, told of new secrets, removed.
//!
//! What the source was told last is kept with the connection (its hook plan), so that the next turn, in whatever process, knows what is due.

use std::time::Duration;

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::{Done, Ready, Turn, is_complete};
use crate::digest::fingerprint;
use crate::host::hooks::{Hook, HookPlan, Polled, Target};
use crate::platform::connection::SecretField;
use crate::redact::Secret;
use crate::report::{Level, Outcome};
use crate::run::{Answer, Task};
use connector_store::platform::Connection;

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

/// The same plan, from before hooks are registered on: a connect that breaks off does not say which it has made.
fn with_hooks_to_come(plan: Option<&Value>) -> Value {
    let mut plan = plan.cloned().unwrap_or_else(|| without_hooks(&[]));
    plan["may_have"] = json!(true);
    plan
}

/// Whether the source may have hooks of this connection.
fn may_have_hooks(plan: Option<&Value>) -> bool {
    plan.is_some_and(|plan| {
        plan["may_have"] == json!(true)
            || plan["hooks"]
                .as_array()
                .is_some_and(|hooks| !hooks.is_empty())
    })
}

/// What hooks were registered for: whoever changes one of these wants others.
fn made_for(connection: &Connection, public_url: Option<&str>) -> String {
    let config = &connection.config;
    let parts = json!([
        config["source"]["url"],
        config["settings"],
        connection.chain.connector,
        public_url
    ]);
    fingerprint(parts.to_string().as_bytes())
}

/// Whether a plan was made for this and says that hooks tell of everything.
fn covers_all(plan: Option<&Value>, made_for: &str) -> bool {
    plan.is_some_and(|plan| {
        plan["for"].as_str() == Some(made_for)
            && HookPlan::deserialize(plan).is_ok_and(|plan| plan.covers_everything())
    })
}

/// Whether hooks are to be looked after at this time, in seconds: it has been long, or they are to be others.
fn is_due(plan: Option<&Value>, now: i64, secrets: &str, made_for: &str) -> bool {
    let Some(plan) = plan else { return true };
    let failed = plan["failed"].is_string();
    let every = if failed { AGAIN_SECONDS } else { EVERY_SECONDS };
    // A time in the future is another clock's.
    let is_old = plan["at"]
        .as_i64()
        .and_then(|at| u64::try_from(now - at).ok())
        .is_none_or(|age| age >= every);
    is_old
        || plan["for"].as_str() != Some(made_for)
        || (!failed && plan["secrets"].as_str() != Some(secrets))
}

impl Turn {
    fn made_for(&self) -> String {
        let url = self.ground.config.public_url.as_deref();
        made_for(&self.claim.connection, url)
    }

    fn target(&self, ready: &Ready, public_url: &str) -> Option<Target> {
        Some(Target {
            secret: ready.secrets.get(SecretField::WebhookSecret)?.clone(),
            signing_token: ready.secrets.get(SecretField::WebhookSigningToken)?.clone(),
            ..self.target_to_leave(public_url)
        })
    }

    /// Hooks are found by address and name: whoever removes them needs no secret, which may be gone by then.
    fn target_to_leave(&self, public_url: &str) -> Target {
        let id = &self.claim.connection.id;
        Target {
            url: format!("{public_url}/hooks/{id}"),
            name: format!("cortexdb {id}"),
            secret: Secret::new(""),
            signing_token: Secret::new(""),
            rotated: self.hook_mark() != Some(self.sealed_mark()),
        }
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
        if ready.config.realtime || !self.may_have_hooks() {
            return;
        }
        let Some(url) = self.ground.config.public_url.as_deref() else {
            return;
        };
        let target = self.target_to_leave(url);
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

    fn may_have_hooks(&self) -> bool {
        may_have_hooks(self.claim.connection.hook_plan.as_ref())
    }

    /// Keeps what the next turn has to know, in whatever process. Whether it is kept.
    async fn keep_plan(&mut self, plan: Value) -> bool {
        let platform = &self.ground.platform;
        let stored = platform.set_hook_plan(self.claim.lease, &plan).await;
        self.claim.connection.hook_plan = Some(plan);
        if let Err(error) = &stored {
            let words = "the hook plan could not be kept";
            self.line(Level::Warn, words, &error.to_string());
        }
        stored.is_ok()
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
        is_due(
            self.claim.connection.hook_plan.as_ref(),
            chrono::Utc::now().timestamp(),
            &self.sealed_mark(),
            &self.made_for(),
        )
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
        if !self.may_have_hooks() {
            let plan = with_hooks_to_come(self.claim.connection.hook_plan.as_ref());
            // Nobody would remove them.
            if !self.keep_plan(plan).await {
                return false;
            }
        }
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
                // What there was may still be there, and has to be removed at the end. An earlier version kept plans of any size.
                let hooks = self.plan().map_or_else(Vec::new, |plan| plan.hooks);
                let plan = HookPlan {
                    hooks: Hook::listed(&hooks, Clone::clone),
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
            "for": self.made_for(),
            "may_have": true,
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
        let plan = self.claim.connection.hook_plan.as_ref();
        self.realtime && covers_all(plan, &self.made_for())
    }

    /// Removes the hooks of a connection that was deleted, and then all that is known of it.
    pub(super) async fn leave(mut self) {
        let connection = self.claim.connection.clone();
        let mut left = None;
        let (mut interrupted, mut is_of_the_platform) = (false, false);
        // Plans of earlier versions do not tell of a connect that was cut off.
        let may_have_hooks = self.may_have_hooks()
            || connection.config.get("realtime").and_then(Value::as_bool) == Some(true);
        let url = self.ground.config.public_url.clone();
        if url.is_none() && self.may_have_hooks() {
            left = Some("this process has no --public-url".to_owned());
        }
        if may_have_hooks && let Some(url) = url {
            match self.ready().await {
                Ok(ready) => {
                    let target = self.target_to_leave(&url);
                    let (done, ended, _) = self.run(&ready, Task::Disconnect(target)).await;
                    interrupted = done.outcome == Outcome::Interrupted;
                    left = match ended.answer {
                        Answer::Left(hooks) if hooks.is_empty() => None,
                        Answer::Left(hooks) => Some(json!(hooks).to_string()),
                        _ => Some(done.reason.unwrap_or_else(|| "interrupted".into())),
                    };
                }
                Err((outcome, reason)) => {
                    interrupted = outcome == Outcome::Interrupted;
                    is_of_the_platform = outcome == Outcome::Failed;
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
            if attempt < MOST_ATTEMPTS_TO_LEAVE || is_of_the_platform {
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

#[cfg(test)]
mod tests {
    use super::*;
    use connector_store::platform::{Chain, ConnectionState};

    fn connection(config: Value, connector: &str) -> Connection {
        Connection {
            id: "c".into(),
            tenant: "t".into(),
            name: "c".into(),
            state: ConnectionState::Active,
            state_reason: None,
            chain: Chain {
                connector: connector.into(),
                mappers: Vec::new(),
            },
            config,
            sealed: std::collections::BTreeMap::new(),
            hook_plan: None,
            memory_bytes: 0,
            ledger: 1,
            failures: 0,
            due_at: None,
            running: false,
            waiting_deliveries: 0,
            version: 1,
            created_at: String::new(),
        }
    }

    fn mark(config: Value) -> String {
        made_for(&connection(config, "sha256:1"), Some("https://a.example"))
    }

    fn plan(made_for: &str) -> Value {
        json!({
            "at": 1000, "secrets": "s", "for": made_for, "failed": null, "missed": false, "polled": [],
            "hooks": [{"id": "h", "subject": "p", "state": "active", "events": []}],
        })
    }

    #[test]
    fn hooks_that_were_made_for_something_else_are_due_and_cover_nothing() {
        let config =
            json!({"source": {"url": "https://s.example"}, "settings": {"projects": ["a"]}});
        let now = mark(config.clone());
        let current = plan(&now);
        assert!(!is_due(Some(&current), 1001, "s", &now));
        assert!(covers_all(Some(&current), &now));
        let mut others = vec![
            made_for(
                &connection(config.clone(), "sha256:2"),
                Some("https://a.example"),
            ),
            made_for(
                &connection(config.clone(), "sha256:1"),
                Some("https://b.example"),
            ),
        ];
        for (place, value) in [
            ("/settings/projects", json!(["a", "b"])),
            ("/source/url", json!("https://other.example")),
        ] {
            let mut changed = config.clone();
            *changed.pointer_mut(place).unwrap() = value;
            others.push(mark(changed));
        }
        for other in others {
            assert!(is_due(Some(&current), 1001, "s", &other));
            assert!(!covers_all(Some(&current), &other));
        }
        // What has nothing to do with hooks changes nothing.
        let mut slower = config;
        slower["run"] = json!({"interval": "1h"});
        assert_eq!(mark(slower), now);
        // One of a version that did not say what it was made for.
        let mut old = plan(&now);
        old.as_object_mut().unwrap().remove("for");
        assert!(is_due(Some(&old), 1001, "s", &now) && !covers_all(Some(&old), &now));
    }

    #[test]
    fn hooks_of_a_connect_that_broke_off_are_known_until_they_are_gone() {
        assert!(!may_have_hooks(None));
        assert!(!may_have_hooks(Some(&without_hooks(&[]))));
        for before in [None, Some(&without_hooks(&[]))] {
            let begun = with_hooks_to_come(before);
            assert!(may_have_hooks(Some(&begun)));
            // It is shown as before, and is as due as before.
            assert_eq!(begun["hooks"], json!([]));
            assert!(is_due(Some(&begun), 1001, "s", "f"));
        }
        let mut old = plan("f");
        assert!(may_have_hooks(Some(&old)), "an earlier version's");
        old["hooks"] = json!([]);
        assert!(!may_have_hooks(Some(&old)));
    }

    #[test]
    fn hooks_are_due_in_time_and_sooner_after_a_failure_or_for_new_secrets() {
        let mut plan = plan("f");
        let due = |plan: &Value, now, secrets| is_due(Some(plan), now, secrets, "f");
        assert!(is_due(None, 0, "s", "f"));
        assert!(!due(&plan, 1599, "s") && due(&plan, 1600, "s"));
        assert!(due(&plan, 999, "s"), "the clock was another");
        assert!(due(&plan, 1001, "new"));
        plan["failed"] = json!("refused");
        assert!(!due(&plan, 1059, "new") && due(&plan, 1060, "s"));
    }
}
