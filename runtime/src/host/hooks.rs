//! What is said between the host and a connector about webhooks, held to the contract in both directions.
//!
//! A connector names headers, and headers may carry credentials: those that do are never handed over, and a connector that asks for
//! one is refused when it is loaded. What it answers ends in a database, in a dashboard and on terminals: counted, cut and cleaned here.

use http::HeaderName;
use serde::{Deserialize, Serialize};

use super::bindings::exports::cortexdb::connector::hooks as wit;
use super::guest_text::{MAX_NAME_BYTES, MAX_WORDS_BYTES};

/// Deliveries that a connector is given at a time.
pub const BATCH_DELIVERIES: u32 = 100;
/// Their bodies together; a larger one comes alone.
pub const BATCH_BYTES: u64 = 8 << 20;

const MAX_PROOFS: usize = 8;
const MAX_HEADERS: usize = 32;
const MAX_HEADER_NAME_BYTES: usize = 64;
/// The hooks of one plan, and the lines about what is polled, each as JSON: a plan is kept with its connection, and comes with each list of
/// connections and with each look at a dashboard.
const MAX_LISTED_BYTES: usize = 128 << 10;
/// Of that, for the line that says how many others there are.
const LAST_LINE_BYTES: usize = 256;
/// Kinds of events of one hook.
const MAX_EVENTS: usize = 64;

/// Headers that carry credentials, whoever the source is.
const CREDENTIALS: [&str; 6] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "webhook-signature",
];

/// How a call proves that it comes from the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// Signed as in Standard Webhooks.
    StandardWebhooks,
    /// The shared secret in this header, its name in lower case.
    Header(String),
}

/// What a connector says of the webhooks of its source, checked. Names of headers are in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HooksDescription {
    /// In the order in which they are tried.
    pub proofs: Vec<Proof>,
    /// Headers that name a call.
    pub id_headers: Vec<String>,
    /// Headers that the connector is given.
    pub headers: Vec<String>,
}

impl HooksDescription {
    /// Holds what was said to the contract. The error says what does not fit.
    pub(super) fn read(said: wit::HooksDescription) -> Result<Self, String> {
        if said.proofs.is_empty() || said.proofs.len() > MAX_PROOFS {
            return Err(format!(
                "it names {} ways to prove a call; 1 to {MAX_PROOFS} are possible",
                said.proofs.len()
            ));
        }
        for (what, names) in [
            ("headers that name a call", &said.id_headers),
            ("headers to be given", &said.headers),
        ] {
            if names.len() > MAX_HEADERS {
                return Err(format!(
                    "it names {} {what}; at most {MAX_HEADERS}",
                    names.len()
                ));
            }
        }
        let proofs = said
            .proofs
            .into_iter()
            .map(|proof| match proof {
                wit::Proof::StandardWebhooks => Ok(Proof::StandardWebhooks),
                wit::Proof::Header(name) => header_name(&name).map(Proof::Header),
            })
            .collect::<Result<Vec<_>, String>>()?;
        let public = |names: Vec<String>| {
            names
                .iter()
                .map(|name| {
                    let name = header_name(name)?;
                    let secret = CREDENTIALS.contains(&name.as_str())
                        || proofs.contains(&Proof::Header(name.clone()));
                    if secret {
                        return Err(format!(
                            "the header `{name}` carries credentials, which a connector never gets"
                        ));
                    }
                    Ok(name)
                })
                .collect::<Result<Vec<_>, String>>()
        };
        Ok(Self {
            id_headers: public(said.id_headers)?,
            headers: public(said.headers)?,
            proofs,
        })
    }
}

fn header_name(name: &str) -> Result<String, String> {
    let lower = name.to_ascii_lowercase();
    if lower.len() > MAX_HEADER_NAME_BYTES || HeaderName::from_bytes(lower.as_bytes()).is_err() {
        let shown: String = name.chars().take(MAX_HEADER_NAME_BYTES).collect();
        return Err(format!(
            "`{}` is not the name of a header of up to {MAX_HEADER_NAME_BYTES} bytes",
            shown.escape_debug()
        ));
    }
    Ok(lower)
}

/// A verified call of the source's, as the connector gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What names the call.
    pub id: String,
    /// RFC 3339.
    pub received_at: String,
    /// Those of [`HooksDescription::headers`] that were present.
    pub headers: Vec<(String, String)>,
    /// As received; what is not UTF-8 is replaced.
    pub body: String,
}

impl Delivery {
    pub(super) fn to_wit(&self) -> wit::Delivery {
        wit::Delivery {
            id: self.id.clone(),
            received_at: self.received_at.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
        }
    }
}

/// What a connector says about one delivery. Words are printable and bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// What it points at was read.
    Handled,
    /// Nothing that is wanted; why.
    Ignored(String),
    /// To be left to a sync; why.
    Poll(String),
}

impl Verdict {
    pub(super) fn read(said: wit::Verdict, clean: impl Fn(&str) -> String) -> Self {
        match said {
            wit::Verdict::Handled => Self::Handled,
            wit::Verdict::Ignored(words) => Self::Ignored(clean(&words)),
            wit::Verdict::Poll(words) => Self::Poll(clean(&words)),
        }
    }
}

/// Where the source is to call.
#[derive(Clone)]
pub struct Target {
    /// The address.
    pub url: String,
    /// Recognises the hooks of this connection.
    pub name: String,
    /// For sources that send a shared secret along.
    pub secret: crate::redact::Secret,
    /// For sources that sign.
    pub signing_token: crate::redact::Secret,
    /// Whether one of the two is new.
    pub rotated: bool,
}

impl Target {
    pub(super) fn to_wit(&self) -> wit::Target {
        wit::Target {
            url: self.url.clone(),
            name: self.name.clone(),
            secret: self.secret.reveal().to_owned(),
            signing_token: self.signing_token.reveal().to_owned(),
            rotated: self.rotated,
        }
    }
}

/// How a hook of the source stands, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookState {
    /// It works.
    Active,
    /// The source has switched it off.
    Disabled,
    /// It is on, and calls of it fail.
    Failing,
}

/// One hook of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in the WIT")]
pub struct Hook {
    pub id: String,
    pub subject: String,
    pub state: HookState,
    pub events: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
}

impl Hook {
    /// As many as may be kept. What stands for the others is as bad as the worst of them: whether hooks tell of everything is asked of those
    /// that are kept.
    pub(crate) fn listed<T>(said: &[T], read: impl Fn(&T) -> Self) -> Vec<Self> {
        let mut hooks = first_lines(said, &read);
        let others = said.get(hooks.len()..).unwrap_or_default();
        if let Some(state) = others.iter().map(|one| read(one).state).max() {
            hooks.push(Self {
                id: String::new(),
                subject: format!("{} more, not shown", others.len()),
                state,
                events: Vec::new(),
                message: None,
            });
        }
        hooks
    }
}

/// What no hook tells of, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in the WIT")]
pub struct Polled {
    pub subject: String,
    pub reason: String,
}

impl Polled {
    pub(super) fn read(said: &[wit::Polled], clean: impl Fn(&str, usize) -> String) -> Vec<Self> {
        let mut lines = first_lines(said, |polled| Self {
            subject: clean(&polled.subject, MAX_NAME_BYTES),
            reason: clean(&polled.reason, MAX_WORDS_BYTES),
        });
        let others = said.len() - lines.len();
        if others > 0 {
            lines.push(Self {
                subject: format!("{others} more, not shown"),
                reason: format!("a list may have {} KiB", MAX_LISTED_BYTES >> 10),
            });
        }
        lines
    }
}

/// As many as may be kept; where these are not all, one more line has room.
fn first_lines<T, L: Serialize>(said: &[T], read: impl Fn(&T) -> L) -> Vec<L> {
    let (mut lines, mut bytes, mut with_a_last) = (Vec::new(), 0, 0);
    for one in said {
        let line = read(one);
        // And a comma.
        bytes += serde_json::to_string(&line).map_or(MAX_LISTED_BYTES, |json| json.len() + 1);
        if bytes > MAX_LISTED_BYTES {
            lines.truncate(with_a_last);
            break;
        }
        lines.push(line);
        if bytes <= MAX_LISTED_BYTES - LAST_LINE_BYTES {
            with_a_last = lines.len();
        }
    }
    lines
}

/// What is told by hooks, and what is not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HookPlan {
    /// The hooks.
    pub hooks: Vec<Hook>,
    /// What no hook tells of.
    pub polled: Vec<Polled>,
    /// Calls may have been lost: a sync is to follow.
    pub missed: bool,
}

impl HookPlan {
    pub(super) fn read(said: &wit::Plan, clean: impl Fn(&str, usize) -> String) -> Self {
        let hooks = Hook::listed(&said.hooks, |hook| Hook {
            id: clean(&hook.id, MAX_NAME_BYTES),
            subject: clean(&hook.subject, MAX_NAME_BYTES),
            state: match hook.state {
                wit::HookState::Active => HookState::Active,
                wit::HookState::Disabled => HookState::Disabled,
                wit::HookState::Failing => HookState::Failing,
            },
            events: hook
                .events
                .iter()
                .take(MAX_EVENTS)
                .map(|event| clean(event, MAX_NAME_BYTES))
                .collect(),
            message: hook
                .message
                .as_deref()
                .map(|words| clean(words, MAX_WORDS_BYTES)),
        });
        Self {
            hooks,
            polled: Polled::read(&said.polled, &clean),
            missed: said.missed,
        }
    }

    /// Whether every hook works and nothing is left to be polled.
    #[must_use]
    pub fn covers_everything(&self) -> bool {
        !self.hooks.is_empty()
            && self.polled.is_empty()
            && self
                .hooks
                .iter()
                .all(|hook| hook.state == HookState::Active)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(proofs: Vec<wit::Proof>, ids: &[&str], headers: &[&str]) -> wit::HooksDescription {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        wit::HooksDescription {
            proofs,
            id_headers: owned(ids),
            headers: owned(headers),
        }
    }

    #[test]
    fn names_of_headers_are_compared_in_lower_case() {
        let proofs = vec![
            wit::Proof::StandardWebhooks,
            wit::Proof::Header("X-Gitlab-Token".into()),
        ];
        let read = said(proofs, &["Idempotency-Key"], &["X-Gitlab-Event"]);
        let read = HooksDescription::read(read).unwrap();
        assert_eq!(read.proofs[1], Proof::Header("x-gitlab-token".into()));
        assert_eq!(read.id_headers, ["idempotency-key"]);
        assert_eq!(read.headers, ["x-gitlab-event"]);
    }

    #[test]
    fn a_connector_that_asks_for_credentials_is_refused() {
        for header in [
            "Authorization",
            "cookie",
            "X-Gitlab-Token",
            "webhook-signature",
        ] {
            let proofs = || vec![wit::Proof::Header("x-gitlab-token".into())];
            for said in [
                said(proofs(), &[], &[header]),
                said(proofs(), &[header], &[]),
            ] {
                let error = HooksDescription::read(said).unwrap_err();
                assert!(error.contains("carries credentials"), "{header}: {error}");
            }
        }
    }

    #[test]
    fn a_description_beyond_its_bounds_is_refused() {
        let proof = || vec![wit::Proof::StandardWebhooks];
        let many = vec!["x-a"; 33];
        let long = "x".repeat(65);
        for said in [
            said(vec![], &[], &[]),
            said(vec![wit::Proof::StandardWebhooks; 9], &[], &[]),
            said(vec![wit::Proof::Header("a b".into())], &[], &[]),
            said(proof(), &many, &[]),
            said(proof(), &[], &many),
            said(proof(), &[&long], &[]),
            said(proof(), &[], &["x\r\ny"]),
            said(proof(), &[], &[""]),
        ] {
            assert!(HooksDescription::read(said.clone()).is_err(), "{said:?}");
        }
    }

    #[test]
    fn only_working_hooks_with_nothing_left_to_poll_cover_everything() {
        let hook = |state| Hook {
            id: "hooks/1".into(),
            subject: "group acme".into(),
            state,
            events: vec![],
            message: None,
        };
        let mut plan = HookPlan {
            hooks: vec![hook(HookState::Active)],
            ..HookPlan::default()
        };
        assert!(plan.covers_everything());
        plan.hooks.push(hook(HookState::Failing));
        assert!(!plan.covers_everything());
        plan.hooks.pop();
        plan.polled.push(Polled {
            subject: "pipelines".into(),
            reason: "no permission".into(),
        });
        assert!(!plan.covers_everything());
        assert!(!HookPlan::default().covers_everything());
    }

    fn said_hook(number: usize, state: wit::HookState) -> wit::Hook {
        wit::Hook {
            id: format!("hooks/{number}"),
            subject: format!("project acme/{number}"),
            state,
            events: vec!["\n".repeat(600); 100],
            message: Some("\"".repeat(20_000)),
        }
    }

    fn kept(hooks: Vec<wit::Hook>, polled: Vec<wit::Polled>) -> HookPlan {
        let missed = false;
        let plan = wit::Plan {
            hooks,
            polled,
            missed,
        };
        HookPlan::read(&plan, |words, most| words.chars().take(most).collect())
    }

    #[test]
    fn a_plan_has_room_for_so_many_bytes_and_says_how_many_lines_it_leaves_out() {
        let hooks = (0..200).map(|number| said_hook(number, wit::HookState::Active));
        let polled = (0..20_000).map(|number| wit::Polled {
            subject: format!("project {number}"),
            reason: "no permission".into(),
        });
        let plan = kept(hooks.collect(), polled.collect());
        assert!(serde_json::to_string(&plan).unwrap().len() < 2 * MAX_LISTED_BYTES + 100);
        let (hook, polled) = (plan.hooks.last().unwrap(), plan.polled.last().unwrap());
        assert_eq!(
            hook.subject,
            format!("{} more, not shown", 201 - plan.hooks.len())
        );
        assert_eq!(
            polled.subject,
            format!("{} more, not shown", 20_001 - plan.polled.len())
        );
        assert!(plan.hooks.len() > 1 && plan.polled.len() > 1000);
        // What was kept once is kept as it is.
        assert_eq!(Hook::listed(&plan.hooks, Clone::clone), plan.hooks);
    }

    #[test]
    fn whether_hooks_tell_of_everything_is_the_same_when_some_are_left_out() {
        let many = || (0..200).map(|number| said_hook(number, wit::HookState::Active));
        let last = said_hook(200, wit::HookState::Failing);
        assert!(kept(many().collect(), Vec::new()).covers_everything());
        let failing = kept(many().chain([last]).collect(), Vec::new());
        assert!(!failing.covers_everything());
        assert_eq!(failing.hooks.last().unwrap().state, HookState::Failing);
    }
}
