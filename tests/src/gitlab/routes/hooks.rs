//! Managing webhooks: of the instance, of a group, of a project.
//!
//! What a client trips over: a secret that is never shown again and is lost when the URL changes without it, attributes that an older
//! version ignores without a word, flags that are off unless named (but `push_events`), a test that is refused when the project has
//! nothing to show, and five tests a minute.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::{Inquiry, number};
use crate::gitlab::call::{Call, Params, Totals};
use crate::gitlab::clock::DAY;
use crate::gitlab::model::Role;
use crate::gitlab::reply::{Answer, Reply};
use crate::gitlab::webhooks::deliver::is_local;
use crate::gitlab::webhooks::{
    Announcement, Errand, HookOwner, Job, RefChange, Sent, Trigger, Webhook, is_signing_token,
};
use crate::gitlab::world::{Noteable, World};

/// Most hooks of one project.
const PROJECT_HOOKS: usize = 100;
/// Most hooks of one group.
const GROUP_HOOKS: usize = 50;
/// Most custom headers, and most URL variables, of one hook.
const CUSTOM: usize = 20;
/// Most events on one page.
const EVENTS: u64 = 20;

/// Triggers that can be tested.
const TESTABLE: &[Trigger] = &[
    Trigger::Push,
    Trigger::TagPush,
    Trigger::Issue,
    Trigger::ConfidentialIssue,
    Trigger::Note,
    Trigger::MergeRequest,
    Trigger::Job,
    Trigger::Pipeline,
    Trigger::WikiPage,
    Trigger::Release,
    Trigger::Milestone,
    Trigger::Emoji,
    Trigger::ResourceAccessToken,
];

/// The attributes of a request: a JSON object, or a form, or the query.
struct Attributes(Map<String, Value>);

impl Attributes {
    fn of(inquiry: &Inquiry<'_>) -> Result<Self, Reply> {
        let mut out = Map::new();
        let mut add_pairs = |text: &str| {
            for (name, value) in Params::parse(text).pairs() {
                out.insert(name.to_owned(), Value::String(value.to_owned()));
            }
        };
        add_pairs(inquiry.query);
        if !inquiry.is_json {
            add_pairs(&String::from_utf8_lossy(inquiry.body));
        } else if !inquiry.body.is_empty() {
            match serde_json::from_slice(inquiry.body) {
                Ok(Value::Object(fields)) => out.extend(fields),
                _ => return Err(Reply::invalid("The request body is not a JSON object")),
            }
        }
        Ok(Self(out))
    }

    /// A text; `null` and an empty text are both `Some(None)`: present, and to be cleared.
    fn text(&self, name: &str) -> Result<Option<Option<String>>, Reply> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(Value::String(text)) => {
                Ok(Some(Some(text.clone()).filter(|text| !text.is_empty())))
            }
            Some(Value::Number(number)) => Ok(Some(Some(number.to_string()))),
            Some(_) => Err(Reply::invalid(&format!("{name} is invalid"))),
        }
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, Reply> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::String(text)) => match text.as_str() {
                "" => Ok(None),
                "true" | "1" | "t" | "on" => Ok(Some(true)),
                "false" | "0" | "f" | "off" => Ok(Some(false)),
                _ => Err(Reply::invalid(&format!("{name} is invalid"))),
            },
            Some(_) => Err(Reply::invalid(&format!("{name} is invalid"))),
        }
    }

    /// A list of `{"key": …, "value": …}`.
    fn pairs(&self, name: &str) -> Result<Option<Vec<(String, String)>>, Reply> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        let pair = |item: &Value| {
            let text = |key: &str| item.get(key)?.as_str().map(str::to_owned);
            Some((text("key")?, text("value")?))
        };
        let pairs: Option<Vec<_>> = value
            .as_array()
            .and_then(|items| items.iter().map(pair).collect());
        match pairs {
            Some(pairs) if pairs.len() <= CUSTOM => Ok(Some(pairs)),
            Some(_) => Err(refuse(&format!(
                "{} must have at most {CUSTOM} items",
                name.replace('_', " ")
            ))),
            None => Err(Reply::invalid(&format!("{name} is invalid"))),
        }
    }
}

/// What a model's validation answers.
fn refuse(why: &str) -> Reply {
    Reply::json(422, &json!({ "error": why }))
}

fn is_url(url: &str) -> bool {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        !rest.is_empty()
            && !rest.starts_with(['/', '?', '#', ':'])
            && !url.contains(char::is_whitespace)
    })
}

/// Whether the owner's hooks may be managed by this request.
fn authorise(world: &World, call: &Call, owner: HookOwner) -> Result<(), Reply> {
    if call.viewer.0.is_none() {
        return Err(Reply::unauthorized());
    }
    match owner {
        HookOwner::System if world.is_admin(call.viewer) => Ok(()),
        HookOwner::Group(_) if !world.knobs.premium => Err(Reply::no_route()),
        HookOwner::Group(id) if world.group_role(call.viewer, id) >= Some(Role::Owner) => Ok(()),
        HookOwner::Project(id)
            if world.projects.get(&id).is_some_and(|project| {
                world.role(call.viewer, project) >= Some(Role::Maintainer)
            }) =>
        {
            Ok(())
        }
        _ => Err(Reply::forbidden()),
    }
}

fn find(world: &World, owner: HookOwner, id: &str) -> Result<Webhook, Reply> {
    let id = number(id, "hook_id")?;
    let hook = world.webhooks.hooks.get(&id);
    hook.filter(|hook| hook.owner == owner)
        .cloned()
        .ok_or_else(Reply::missing)
}

/// Applies the attributes to a hook; `fresh` is one that is being created.
fn apply(world: &World, hook: &mut Webhook, given: &Attributes, fresh: bool) -> Result<(), Reply> {
    let before = hook.url.clone();
    match given.text("url")? {
        Some(Some(url)) => hook.url = url,
        Some(None) => return Err(Reply::invalid("url is empty")),
        None if fresh => return Err(Reply::invalid("url is missing")),
        None => {}
    }
    let blocked =
        !world.knobs.local_hook_targets && hook.owner != HookOwner::System && is_local(&hook.url);
    if !is_url(&hook.url) || blocked {
        return Err(refuse("Invalid url given"));
    }
    for &(trigger, flag, _, _) in Trigger::ALL {
        if !trigger.exists_for(hook.owner) {
            continue;
        }
        match given.flag(flag)? {
            Some(true) => {
                hook.triggers.insert(trigger);
            }
            Some(false) => {
                hook.triggers.remove(&trigger);
            }
            None => {}
        }
    }
    if let Some(flag) = given.flag("enable_ssl_verification")? {
        hook.enable_ssl_verification = flag;
    }
    if let Some(filter) = given.text("push_events_branch_filter")? {
        hook.push_events_branch_filter = filter.unwrap_or_default();
    }
    if let Some(Some(strategy)) = given.text("branch_filter_strategy")? {
        match strategy.as_str() {
            "wildcard" | "all_branches" => hook.branch_filter_strategy = strategy,
            // GitLab knows regular expressions, too; the simulator says that it does not.
            "regex" => return Err(refuse("Invalid branch filter given")),
            _ => {
                return Err(Reply::invalid(
                    "branch_filter_strategy does not have a valid value",
                ));
            }
        }
    }
    if world.is_at_least(17, 1) {
        if let Some(name) = given.text("name")? {
            if name.as_ref().is_some_and(|name| name.chars().count() > 255) {
                return Err(refuse("Name is too long (maximum is 255 characters)"));
            }
            hook.name = name;
        }
        if let Some(text) = given.text("description")? {
            if text
                .as_ref()
                .is_some_and(|text| text.chars().count() > 2048)
            {
                return Err(refuse(
                    "Description is too long (maximum is 2048 characters)",
                ));
            }
            hook.description = text;
        }
    }
    if world.is_at_least(16, 10)
        && let Some(template) = given.text("custom_webhook_template")?
    {
        if template
            .as_ref()
            .is_some_and(|text| text.chars().count() > 4096)
        {
            return Err(refuse(
                "Custom webhook template is too long (maximum is 4096 characters)",
            ));
        }
        hook.custom_webhook_template = template;
    }
    // A new address must not learn the old one's secrets.
    if !fresh && hook.url != before {
        hook.token = None;
        hook.custom_headers.clear();
        hook.url_variables.clear();
    }
    if let Some(token) = given.text("token")? {
        if token.as_ref().is_some_and(|token| token.contains('\n')) {
            return Err(refuse("Token is invalid"));
        }
        hook.token = token;
    }
    if world.is_at_least(19, 0)
        && let Some(token) = given.text("signing_token")?
    {
        if token.as_ref().is_some_and(|token| !is_signing_token(token)) {
            return Err(refuse("Signing token is invalid"));
        }
        hook.signing_token = token;
    }
    if let Some(pairs) = given.pairs("url_variables")? {
        hook.url_variables = pairs;
    }
    if world.is_at_least(16, 11)
        && let Some(pairs) = given.pairs("custom_headers")?
    {
        hook.custom_headers = pairs;
    }
    Ok(())
}

fn create(world: &mut World, owner: HookOwner, given: &Attributes) -> Answer {
    let mut hook = Webhook {
        id: 0,
        owner,
        url: String::new(),
        name: None,
        description: None,
        token: None,
        signing_token: None,
        triggers: [match owner {
            HookOwner::System => Trigger::RepositoryUpdate,
            HookOwner::Group(_) | HookOwner::Project(_) => Trigger::Push,
        }]
        .into(),
        enable_ssl_verification: true,
        push_events_branch_filter: String::new(),
        branch_filter_strategy: "wildcard".to_owned(),
        custom_webhook_template: None,
        custom_headers: Vec::new(),
        url_variables: Vec::new(),
        created_at: world.now(),
        failures: 0,
        disabled_until: None,
    };
    apply(world, &mut hook, given, true)?;
    let (limit, what) = match owner {
        HookOwner::System => (usize::MAX, ""),
        HookOwner::Group(_) => (GROUP_HOOKS, "group hooks"),
        HookOwner::Project(_) => (PROJECT_HOOKS, "project hooks"),
    };
    if world.webhooks.of(owner).count() >= limit {
        return Err(refuse(&format!(
            "Maximum number of {what} ({limit}) exceeded"
        )));
    }
    hook.id = world.webhooks.next_hook();
    let body = world.webhook_json(&hook);
    world.webhooks.hooks.insert(hook.id, hook);
    Ok(Reply::json(201, &body))
}

fn update(world: &mut World, owner: HookOwner, id: &str, given: &Attributes) -> Answer {
    let mut hook = find(world, owner, id)?;
    apply(world, &mut hook, given, false)?;
    let body = world.webhook_json(&hook);
    world.webhooks.hooks.insert(hook.id, hook);
    Ok(Reply::ok(&body))
}

fn list(world: &World, call: &Call, owner: HookOwner) -> Answer {
    let hooks: Vec<&Webhook> = world.webhooks.of(owner).collect();
    let paged = call.offset(world, hooks, &call.declared(&[], &[]), Totals::Counted)?;
    Ok(paged.reply(|hook| Some(world.webhook_json(hook))))
}

/// Sets or removes one URL variable or custom header.
fn set_pair(
    world: &mut World,
    owner: HookOwner,
    (id, kind, key): (&str, &str, &str),
    value: Option<String>,
) -> Answer {
    let mut hook = find(world, owner, id)?;
    let list = if kind == "url_variables" {
        &mut hook.url_variables
    } else {
        &mut hook.custom_headers
    };
    let there = list.iter().any(|(name, _)| name == key);
    list.retain(|(name, _)| name != key);
    match value {
        Some(_) if list.len() >= CUSTOM => {
            return Err(refuse(&format!("no more than {CUSTOM} {kind}")));
        }
        Some(value) => list.push((key.to_owned(), value)),
        None if !there => return Err(Reply::missing()),
        None => {}
    }
    world.webhooks.hooks.insert(hook.id, hook);
    Ok(Reply::text(204, "application/json", ""))
}

// ---- tests and the log ------------------------------------------------------------------------------------------

/// What a test of a trigger shows, or why there is nothing to show.
fn sample(world: &World, owner: HookOwner, trigger: Trigger) -> Result<Announcement, &'static str> {
    let project = match owner {
        HookOwner::Project(id) => world.projects.get(&id),
        HookOwner::Group(id) => world
            .group_projects(id, true, false)
            .into_iter()
            .find(|project| !project.repository.is_empty()),
        HookOwner::System => None,
    };
    let project = project.ok_or("Ensure the group has a project with commits.")?;
    let (id, action) = (project.id, "update".to_owned());
    let changes = json!({});
    let notes = |confidential: bool| {
        let requests = project.merge_requests.values().map(|found| {
            let note = found
                .threads
                .notes()
                .find(|note| !note.system && !note.internal);
            (Noteable::MergeRequest, found.iid, false, note)
        });
        let issues = project.issues.values().map(|found| {
            let note = found
                .threads
                .notes()
                .find(|note| !note.system && !note.internal);
            (Noteable::Issue, found.iid, found.confidential, note)
        });
        requests.chain(issues).find_map(|(on, iid, hidden, note)| {
            Some((on, iid, note.filter(|_| hidden == confidential)?.id))
        })
    };
    let push = |reference: String, to: &String, from_parent: bool| Announcement::Push {
        project: id,
        change: RefChange {
            reference,
            before: project
                .repository
                .commits
                .get(to)
                .filter(|_| from_parent)
                .and_then(|commit| commit.parents.first().cloned()),
            after: Some(to.clone()),
        },
    };
    match trigger {
        Trigger::Push => project
            .repository
            .default_head()
            .map(|head| {
                let branch = format!("refs/heads/{}", project.repository.default_branch);
                push(branch, head, true)
            })
            .ok_or("Ensure the project has at least one commit."),
        Trigger::TagPush => project
            .repository
            .tags
            .iter()
            .next()
            .map(|(tag, sha)| push(format!("refs/tags/{tag}"), sha, false))
            .ok_or("Ensure the project has tags."),
        Trigger::Issue | Trigger::ConfidentialIssue => project
            .issues
            .keys()
            .next()
            .map(|&iid| Announcement::Issue {
                project: id,
                iid,
                action,
                changes,
            })
            .ok_or("Ensure the project has issues."),
        Trigger::MergeRequest => project
            .merge_requests
            .keys()
            .next()
            .map(|&iid| Announcement::MergeRequest {
                project: id,
                iid,
                action,
                changes,
                oldrev: None,
            })
            .ok_or("Ensure the project has merge requests."),
        Trigger::Note => notes(false)
            .map(|(on, iid, note)| Announcement::Note {
                project: id,
                on,
                iid,
                note,
                action,
            })
            .ok_or("Ensure the project has notes."),
        Trigger::Pipeline => project
            .pipelines
            .keys()
            .last()
            .map(|&pipeline| Announcement::Pipeline {
                project: id,
                id: pipeline,
            })
            .ok_or("Ensure the project has CI pipelines."),
        Trigger::Release => project
            .releases
            .keys()
            .next()
            .map(|tag| Announcement::Release {
                project: id,
                tag: tag.clone(),
                action,
            })
            .ok_or("Ensure the project has releases."),
        Trigger::Job => Err("Ensure the project has CI jobs."),
        Trigger::WikiPage => Err("Ensure the wiki is enabled and has pages."),
        _ => Err("Ensure the project has something to test this with."),
    }
}

fn job(world: &mut World, hook: u64, trigger: Trigger, what: Announcement) -> Job {
    let seed = world.seed;
    Job {
        hook,
        trigger,
        what: Arc::new(what),
        key: world.webhooks.uuid(seed),
        test: true,
        again: None,
        queued: Instant::now(),
    }
}

fn admit(
    world: &mut World,
    call: &Call,
    what: &'static str,
    owner: HookOwner,
) -> Result<(), Reply> {
    let now = world.now();
    if world
        .webhooks
        .admit(call.viewer.0.unwrap_or(0), what, owner, now)
    {
        Ok(())
    } else {
        Err(Reply::too_many_requests(Some(60)))
    }
}

/// Leaves the delivery to be made before the request is answered; this answer is never seen.
fn after(world: &mut World, errand: Errand) -> Answer {
    world.webhooks.errand = Some(errand);
    Ok(Reply::message(201, "201 Created"))
}

fn test(world: &mut World, call: &Call, owner: HookOwner, id: &str, trigger: &str) -> Answer {
    let hook = find(world, owner, id)?;
    let Some(trigger) = Trigger::of_flag(trigger).filter(|found| TESTABLE.contains(found)) else {
        return Err(Reply::invalid("trigger does not have a valid value"));
    };
    admit(world, call, "test", owner)?;
    let what = sample(world, owner, trigger).map_err(|why| Reply::message(422, why))?;
    let job = job(world, hook.id, trigger, what);
    after(world, Errand::Test(job))
}

fn test_system(world: &mut World, id: &str) -> Answer {
    let hook = find(world, HookOwner::System, id)?;
    let body = json!({
        "event_name": "project_create",
        "name": "Ruby",
        "path": "ruby",
        "project_id": 1,
        "owner_name": "Someone",
        "owner_email": "example@gitlabhq.com",
    });
    let what = Announcement::Body {
        trigger: Trigger::Lifecycle,
        project: None,
        group: None,
        body: body.clone(),
    };
    let job = job(world, hook.id, Trigger::Lifecycle, what);
    after(world, Errand::SystemTest(job, body))
}

fn has_status(sent: &Sent, wanted: &str) -> bool {
    let status = sent.status.unwrap_or(0);
    match wanted {
        "successful" => (200..300).contains(&status),
        "client_failure" => (400..500).contains(&status),
        "server_failure" => (500..600).contains(&status),
        number => number.parse() == Ok(status),
    }
}

fn event_json(sent: &Sent) -> Value {
    let object = |headers: &[(String, String)]| -> Map<String, Value> {
        headers
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect()
    };
    let seconds = std::time::Duration::from_millis(sent.latency_ms).as_secs_f64();
    json!({
        "id": sent.id,
        "url": sent.url,
        "trigger": sent.trigger.scope(),
        "request_headers": object(&sent.request_headers),
        "request_data": serde_json::from_str::<Value>(&sent.request_data).unwrap_or(Value::Null),
        "response_headers": object(&sent.response_headers),
        "response_body": sent.response_body,
        "execution_duration": seconds,
        "response_status": sent.status.map_or_else(|| "internal error".to_owned(), |status| status.to_string()),
    })
}

/// True deliveries of the last seven days, newest first.
fn events(world: &World, call: &Call, owner: HookOwner, id: &str) -> Answer {
    let hook = find(world, owner, id)?;
    if call
        .params
        .number("per_page")?
        .is_some_and(|size| size > EVENTS)
    {
        return Err(Reply::invalid("per_page does not have a valid value"));
    }
    let wanted = call.params.list("status");
    let valid = |word: &&&str| {
        matches!(**word, "successful" | "client_failure" | "server_failure")
            || word
                .parse::<u16>()
                .is_ok_and(|status| (100..600).contains(&status))
    };
    if wanted.iter().filter(valid).count() < wanted.len() {
        return Err(Reply::invalid("status does not have a valid value"));
    }
    let since = world.now().0 - 7 * DAY;
    let found: Vec<&Sent> = world
        .webhooks
        .log
        .iter()
        .rev()
        .filter(|sent| sent.hook == hook.id && sent.forged.is_none() && sent.at.0 >= since)
        .filter(|sent| wanted.is_empty() || wanted.iter().any(|word| has_status(sent, word)))
        .collect();
    let paged = call.offset(world, found, &call.declared(&[], &[]), Totals::Unknown)?;
    Ok(paged.reply(|sent| Some(event_json(sent))))
}

fn resend(world: &mut World, call: &Call, owner: HookOwner, id: &str, event: &str) -> Answer {
    let hook = find(world, owner, id)?;
    let event = number(event, "hook_log_id")?;
    let found = world
        .webhooks
        .log
        .iter()
        .find(|sent| sent.id == event && sent.hook == hook.id && sent.forged.is_none());
    let Some(sent) = found.cloned() else {
        return Err(Reply::missing());
    };
    admit(world, call, "resend", owner)?;
    if sent.url != hook.target() {
        return Err(Reply::message(422, "The hook URL has changed"));
    }
    let what = Announcement::Body {
        trigger: sent.trigger,
        project: None,
        group: None,
        body: Value::Null,
    };
    let mut job = job(world, hook.id, sent.trigger, what);
    job.key = sent.key;
    job.again = Some(sent.request_data);
    after(world, Errand::Resend(job))
}

/// Answers a request about hooks; `rest` is what follows `hooks` in the path.
pub(super) fn route(
    world: &mut World,
    call: &Call,
    inquiry: &Inquiry<'_>,
    owner: HookOwner,
    rest: &[&str],
) -> Answer {
    let reading = matches!(inquiry.method, "GET" | "HEAD");
    authorise(world, call, owner)?;
    let given = Attributes::of(inquiry)?;
    let method = if reading { "GET" } else { inquiry.method };
    match (method, rest) {
        ("GET", []) => list(world, call, owner),
        ("POST", []) => create(world, owner, &given),
        ("GET", [id]) => {
            let hook = find(world, owner, id)?;
            Ok(Reply::ok(&world.webhook_json(&hook)))
        }
        ("PUT", [id]) => update(world, owner, id, &given),
        ("DELETE", [id]) => {
            let hook = find(world, owner, id)?;
            world.webhooks.hooks.remove(&hook.id);
            Ok(Reply::text(204, "application/json", ""))
        }
        ("POST", [id]) if owner == HookOwner::System => test_system(world, id),
        ("PUT", &[id, kind @ ("url_variables" | "custom_headers"), key]) => {
            match given.text("value")? {
                Some(Some(value)) => set_pair(world, owner, (id, kind, key), Some(value)),
                _ => Err(Reply::invalid("value is missing")),
            }
        }
        ("DELETE", &[id, kind @ ("url_variables" | "custom_headers"), key]) => {
            set_pair(world, owner, (id, kind, key), None)
        }
        // Tests over the API came with 16.11; system hooks have neither these nor a log.
        ("POST", [id, "test", trigger])
            if owner != HookOwner::System && world.is_at_least(16, 11) =>
        {
            test(world, call, owner, id, trigger)
        }
        ("GET", [id, "events"]) if owner != HookOwner::System => events(world, call, owner, id),
        ("POST", [id, "events", event, "resend"]) if owner != HookOwner::System => {
            resend(world, call, owner, id, event)
        }
        (_, [] | [_]) => Err(Reply::method_not_allowed()),
        _ => Err(Reply::no_route()),
    }
}
