//! The hooks of one place: the instance, a group or a project.
//!
//! Ours are recognised by their name, and where a GitLab before 17.1 keeps no names, by their address. Exactly one is kept; it is
//! changed only where it differs from what it should be, and nothing else is ever touched. A `PUT` always carries the secret, because
//! GitLab forgets it when the address changes.
//!
//! A hook that GitLab has switched off loses every call until somebody makes it deliver again, which a test request does. Calls that
//! failed are sent again by request, a few at a time: GitLab allows five in a minute, and a poll finds the rest.

use serde_json::{Map, Value, json};

use crate::client::{Client, Fault, Listing, Sizing, Slice};
use crate::gitlab::{self, HookCall};
use crate::host::{Failure, Hook, HookState, Method, Target};
use crate::json::AnyObject;
use crate::sorted::sorted;
use crate::walk;

/// Calls of one hook that are sent again at once: GitLab allows five a minute. The others follow the next time.
const RESENT_AT_ONCE: usize = 4;

/// Kinds of test request that are tried on a hook that is switched off.
const TRIGGERS: usize = 3;

/// What an instance can tell.
pub(super) const SYSTEM_EVENTS: [&str; 4] = [
    "push_events",
    "tag_push_events",
    "merge_requests_events",
    "repository_update_events",
];

/// What projects and groups can tell, as far as it is wanted with some settings.
pub(super) const PROJECT_EVENTS: [&str; 9] = [
    "push_events",
    "tag_push_events",
    "merge_requests_events",
    "issues_events",
    "confidential_issues_events",
    "note_events",
    "confidential_note_events",
    "pipeline_events",
    "releases_events",
];

/// Where hooks are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Below the API, without a slash at its ends: `projects/42`, `groups/12`, nothing for the instance.
    pub(super) path: String,
    /// What a hook there covers (`group acme`).
    pub(super) subject: String,
    /// What the hook has to tell of.
    pub(super) events: Vec<&'static str>,
}

impl Place {
    fn is_instance(&self) -> bool {
        self.path.is_empty()
    }

    /// `projects/42/hooks`.
    fn hooks(&self) -> String {
        if self.is_instance() {
            "hooks".to_owned()
        } else {
            format!("{}/hooks", self.path)
        }
    }

    /// What a hook can be asked for here, apart from what nobody wants.
    fn known_events(&self) -> &'static [&'static str] {
        if self.is_instance() {
            &SYSTEM_EVENTS
        } else {
            &PROJECT_EVENTS
        }
    }
}

/// What became of a place.
pub(super) enum Kept {
    /// It has its hook.
    Hooked {
        hook: Hook,
        /// Calls may have been lost.
        missed: bool,
        /// What was wanted and this GitLab does not tell.
        untold: Vec<&'static str>,
    },
    /// It has none; GitLab's words.
    Refused { status: u16, words: String },
}

impl gitlab::Hook {
    /// What it tells of, and whether this GitLab knows of it at all.
    fn events(&self) -> [(&'static str, Option<bool>); 21] {
        [
            ("push_events", self.push_events),
            ("tag_push_events", self.tag_push_events),
            ("merge_requests_events", self.merge_requests_events),
            ("repository_update_events", self.repository_update_events),
            ("issues_events", self.issues_events),
            (
                "confidential_issues_events",
                self.confidential_issues_events,
            ),
            ("note_events", self.note_events),
            ("confidential_note_events", self.confidential_note_events),
            ("pipeline_events", self.pipeline_events),
            ("releases_events", self.releases_events),
            ("project_events", self.project_events),
            ("job_events", self.job_events),
            ("wiki_page_events", self.wiki_page_events),
            ("deployment_events", self.deployment_events),
            ("feature_flag_events", self.feature_flag_events),
            ("milestone_events", self.milestone_events),
            ("emoji_events", self.emoji_events),
            ("member_events", self.member_events),
            ("subgroup_events", self.subgroup_events),
            (
                "resource_access_token_events",
                self.resource_access_token_events,
            ),
            ("vulnerability_events", self.vulnerability_events),
        ]
    }

    fn is_on(&self, event: &str) -> Option<bool> {
        let events = self.events();
        events.iter().find(|(name, _)| *name == event)?.1
    }

    fn is_of(&self, target: &Target) -> bool {
        match self.name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => name == target.name,
            None => self.url.as_deref() == Some(target.url.as_str()),
        }
    }

    /// Whether nothing has to be changed. What this GitLab does not show cannot be wrong.
    fn is_right(&self, target: &Target, wanted: &[&str]) -> bool {
        let is_empty = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
        !target.rotated
            && self.url.as_deref() == Some(target.url.as_str())
            && self.enable_ssl_verification != Some(false)
            && self.token_present != Some(false)
            && self.signing_token_present != Some(false)
            && is_empty(&self.push_events_branch_filter)
            && is_empty(&self.custom_webhook_template)
            && self
                .events()
                .iter()
                .all(|(name, on)| *on != Some(!wanted.contains(name)))
    }

    fn is_switched_off(&self) -> bool {
        self.alert_status
            .as_deref()
            .is_some_and(|status| status.ends_with("disabled"))
    }
}

/// What a hook is to be like. `before` is the one that is there.
fn wish(place: &Place, target: &Target, before: Option<&gitlab::Hook>) -> Value {
    let mut wish = Map::new();
    wish.insert("url".to_owned(), json!(target.url));
    wish.insert("name".to_owned(), json!(target.name));
    wish.insert("token".to_owned(), json!(target.secret));
    wish.insert("signing_token".to_owned(), json!(target.signing_token));
    wish.insert("enable_ssl_verification".to_owned(), json!(true));
    for event in place.known_events() {
        wish.insert((*event).to_owned(), json!(place.events.contains(event)));
    }
    for event in &place.events {
        wish.insert((*event).to_owned(), json!(true));
    }
    if let Some(before) = before {
        for (event, on) in before.events() {
            if on == Some(true) && !place.events.contains(&event) {
                wish.insert(event.to_owned(), json!(false));
            }
        }
        let is_set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        if is_set(&before.push_events_branch_filter) {
            wish.insert("push_events_branch_filter".to_owned(), json!(""));
            wish.insert("branch_filter_strategy".to_owned(), json!("all_branches"));
        }
        if is_set(&before.custom_webhook_template) {
            wish.insert("custom_webhook_template".to_owned(), json!(""));
        }
    }
    Value::Object(wish)
}

/// The hooks of this connection at a place.
async fn ours(
    client: &Client<'_>,
    place: &Place,
    target: &Target,
) -> Result<Vec<gitlab::Hook>, Fault> {
    let listing = Listing::new(format!("/{}", place.hooks()), &[]);
    let mut ours: Vec<gitlab::Hook> = Vec::new();
    walk::listing(client, &listing, &mut |rows: Vec<gitlab::Hook>| {
        for row in rows {
            let met = ours.iter().any(|other| other.id == row.id);
            if row.id.is_some() && !met && row.is_of(target) {
                ours.push(row);
            }
        }
        Ok(())
    })
    .await?;
    Ok(ours)
}

/// A refusal as words; what ends the call stays an error.
fn refused(fault: Fault) -> Result<(u16, String), Failure> {
    match fault {
        Fault::Stop(failure) => Err(failure),
        Fault::Refused(refusal) => Ok((refusal.status, refusal.to_string())),
        Fault::TooMuch(words) | Fault::Unavailable(words) => Ok((0, words)),
    }
}

/// Sees to it that a place has exactly one hook of ours, and that it is as it should be. `resent`: the newest call of each hook that was
/// sent again before; absent where failed calls are not to be looked for.
pub(super) async fn keep(
    client: &Client<'_>,
    place: &Place,
    target: &Target,
    resent: Option<u64>,
    look: bool,
) -> Result<(Kept, Option<u64>), Failure> {
    match mend(client, place, target, resent, look).await {
        Ok(kept) => Ok(kept),
        Err(fault) => {
            let (status, words) = refused(fault)?;
            Ok((Kept::Refused { status, words }, None))
        }
    }
}

async fn mend(
    client: &Client<'_>,
    place: &Place,
    target: &Target,
    resent: Option<u64>,
    look: bool,
) -> Result<(Kept, Option<u64>), Fault> {
    let mut ours = ours(client, place, target).await?;
    let best = ours
        .iter()
        .position(|hook| hook.is_right(target, &place.events))
        .unwrap_or_default();
    let before = (!ours.is_empty()).then(|| ours.swap_remove(best));
    let mut done = Vec::new();
    let mut missed = false;
    let hook = match before {
        None => {
            let wish = wish(place, target, None);
            let path = format!("/{}", place.hooks());
            let made: Option<gitlab::Hook> =
                client.change(Method::Post, &path, Some(&wish)).await?;
            done.push("created".to_owned());
            missed = true;
            made.unwrap_or_default()
        }
        Some(hook) if hook.is_right(target, &place.events) => hook,
        Some(hook) => {
            let wish = wish(place, target, Some(&hook));
            let path = path_of(place, &hook);
            let changed: Option<gitlab::Hook> =
                client.change(Method::Put, &path, Some(&wish)).await?;
            done.push("changed".to_owned());
            // What went to another address or with another secret was not taken, and what was switched off was not sent.
            missed |= target.rotated
                || hook.url.as_deref() != Some(target.url.as_str())
                || place
                    .events
                    .iter()
                    .any(|event| hook.is_on(event) == Some(false));
            changed
                .filter(|changed| changed.id.is_some())
                .unwrap_or(hook)
        }
    };
    for surplus in &ours {
        let path = path_of(place, surplus);
        match client
            .change::<AnyObject>(Method::Delete, &path, None)
            .await
        {
            Ok(_) => done.push("removed one too many".to_owned()),
            Err(fault @ Fault::Stop(_)) => return Err(fault),
            Err(fault) => done.push(format!("one too many stays: {}", words(fault))),
        }
    }
    let mut state = HookState::Active;
    let mut done_up_to = resent;
    if hook.is_switched_off() {
        missed = true;
        match revive(client, place, &hook).await? {
            None => done.push("revived".to_owned()),
            Some(why) => {
                state = HookState::Disabled;
                let until = hook
                    .disabled_until
                    .as_deref()
                    .unwrap_or("somebody tests it");
                done.push(format!(
                    "switched off by GitLab until {until}, and not to be revived: {why}"
                ));
            }
        }
    }
    if look && !place.is_instance() && done.iter().all(|done| done != "created") {
        let failed = resend(client, place, &hook, resent).await?;
        done_up_to = failed.done_up_to.or(resent);
        missed |= failed.some;
        if failed.sent > 0 {
            done.push(format!("resent {}", failed.sent));
        }
        if failed.last && state == HookState::Active {
            state = HookState::Failing;
            done.push("its last call failed".to_owned());
        }
    }
    let shown = hook.id.is_some();
    let untold = place.events.iter().filter(|event| {
        // Only what GitLab shows for hooks of this kind at all.
        shown && PROJECT_EVENTS.contains(event) && hook.is_on(event) != Some(true)
    });
    let untold: Vec<&'static str> = untold.copied().collect();
    let told = place.events.iter().filter(|event| !untold.contains(event));
    let hook = Hook {
        id: path_of(place, &hook).trim_start_matches('/').to_owned(),
        subject: place.subject.clone(),
        state,
        events: told.map(|event| (*event).to_owned()).collect(),
        message: (!done.is_empty()).then(|| done.join("; ")),
    };
    Ok((
        Kept::Hooked {
            hook,
            missed,
            untold,
        },
        done_up_to,
    ))
}

fn words(fault: Fault) -> String {
    refused(fault).map_or_else(|_| "the run was stopped".to_owned(), |(_, words)| words)
}

fn path_of(place: &Place, hook: &gitlab::Hook) -> String {
    match hook.id {
        Some(id) => format!("/{}/{id}", place.hooks()),
        None => format!("/{}", place.hooks()),
    }
}

/// Has GitLab send a test, which switches a hook on again where it is answered; why it is still off.
async fn revive(
    client: &Client<'_>,
    place: &Place,
    hook: &gitlab::Hook,
) -> Result<Option<String>, Fault> {
    let path = path_of(place, hook);
    let mut why = String::new();
    let others = place.events.iter().filter(|event| **event != "push_events");
    // A test needs something to tell of: a project without commits has no push, one without issues no issue.
    for trigger in std::iter::once(&"push_events").chain(others).take(TRIGGERS) {
        let test = format!("{path}/test/{trigger}");
        match client.change::<AnyObject>(Method::Post, &test, None).await {
            Ok(_) => {
                let now: Result<gitlab::Hook, Fault> = client.object(&path, &[]).await;
                return match now {
                    Ok(now) if now.is_switched_off() => {
                        Ok(Some("its test was sent, and it is still off".to_owned()))
                    }
                    Err(fault @ Fault::Stop(_)) => Err(fault),
                    _ => Ok(None),
                };
            }
            Err(Fault::Refused(refusal)) if matches!(refusal.status, 400 | 422) => {
                why = refusal.to_string();
            }
            Err(fault @ Fault::Stop(_)) => return Err(fault),
            Err(fault) => return Ok(Some(words(fault))),
        }
    }
    Ok(Some(why))
}

/// What is known of the calls that failed.
#[derive(Default)]
struct Failed {
    some: bool,
    /// The last one of all.
    last: bool,
    sent: usize,
    /// The last one that was sent again, or will never be.
    done_up_to: Option<u64>,
}

/// Has GitLab send again what failed since the last time. A GitLab that keeps no list of calls has none.
async fn resend(
    client: &Client<'_>,
    place: &Place,
    hook: &gitlab::Hook,
    since: Option<u64>,
) -> Result<Failed, Fault> {
    let path = path_of(place, hook);
    let listing = Listing::new(format!("{path}/events"), &[]);
    let mut sizing = Sizing::small();
    let calls: Slice<HookCall> = match client.slice(&listing, 0, &mut sizing).await {
        Ok(calls) => calls,
        Err(fault @ Fault::Stop(_)) => return Err(fault),
        Err(_) => return Ok(Failed::default()),
    };
    let calls = calls.rows.into_iter().filter_map(|call| {
        let status = call.response_status?;
        Some((
            call.id?,
            !status.starts_with('2') && !status.starts_with('3'),
        ))
    });
    let calls: Vec<(u64, bool)> = sorted(calls);
    let mut failed = Failed {
        last: calls.last().is_some_and(|(_, failed)| *failed),
        ..Failed::default()
    };
    let unsent: Vec<u64> = calls
        .into_iter()
        .filter(|(id, failed)| *failed && since.is_none_or(|since| *id > since))
        .map(|(id, _)| id)
        .collect();
    failed.some = !unsent.is_empty();
    for id in unsent.into_iter().take(RESENT_AT_ONCE) {
        let again = format!("{path}/events/{id}/resend");
        match client.change::<AnyObject>(Method::Post, &again, None).await {
            Ok(_) => failed.sent += 1,
            Err(fault @ Fault::Stop(_)) => return Err(fault),
            // It is too old, its hook was made anew, or it failed again: the poll has it.
            Err(Fault::Refused(refusal)) if refusal.status != 429 => {}
            // Too many in a minute, or GitLab is in trouble.
            Err(_) => break,
        }
        failed.done_up_to = Some(id);
    }
    Ok(failed)
}

/// Removes every hook of ours at a place; GitLab's words where that fails.
pub(super) async fn clear(
    client: &Client<'_>,
    place: &Place,
    target: &Target,
) -> Result<Option<(u16, String)>, Failure> {
    let ours = match ours(client, place, target).await {
        Ok(ours) => ours,
        Err(fault) => return refused(fault).map(Some),
    };
    for hook in &ours {
        let path = path_of(place, hook);
        match client
            .change::<AnyObject>(Method::Delete, &path, None)
            .await
        {
            Ok(_) => {}
            Err(Fault::Refused(refusal)) if refusal.status == 404 => {}
            Err(fault) => return refused(fault).map(Some),
        }
    }
    Ok(None)
}
