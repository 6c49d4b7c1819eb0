//! Webhooks: what GitLab's calls mean, and which ones it is asked to make.
//!
//! A call is a hint that something changed. [`handle_delivery`] finds out which record it points at, reads that record as `sync` would,
//! and writes it as `sync` would. [`connect`] makes GitLab call: it registers the hooks that this token may register, mends
//! them, and says what no hook will tell of.
//!
//! | module | concern |
//! |---|---|
//! | `payload` | from a body to the record that it points at; pure |
//! | `deliveries` | reads what a batch points at |
//! | `plan` | which hooks are wanted where, and what remains to be polled |
//! | `registry` | one place that has hooks: lists, makes, changes, revives and removes them |

mod deliveries;
pub(crate) mod payload;
mod plan;
mod registry;

use std::cell::{Cell, RefCell};

use crate::client::Client;
use crate::executor::{self, Queue};
use crate::host::{
    Delivery, Failure, HooksDescription, Host, Mode, Plan, Polled, Proof, RunContext, Target,
    Verdict,
};
use crate::settings::Settings;
use crate::streams::Session;

/// The header that announces what a call is about.
const EVENT_HEADER: &str = "x-gitlab-event";

/// What the host must know about GitLab's calls. `x-gitlab-event-uuid` names no call: all calls that follow from one share it.
pub const DESCRIPTION: HooksDescription = HooksDescription {
    proofs: &[Proof::StandardWebhooks, Proof::Header("x-gitlab-token")],
    id_headers: &["webhook-id", "idempotency-key"],
    headers: &[EVENT_HEADER, "x-gitlab-instance"],
};

/// Reads what the deliveries point at. One verdict for each, in the same order.
///
/// # Errors
/// See [`Failure`]. All of them are to come again.
pub fn handle_delivery(
    host: &dyn Host,
    context: &RunContext,
    batch: &[Delivery],
) -> Result<Vec<Verdict>, Failure> {
    let settings = Settings::parse(&context.settings).map_err(Failure::Configuration)?;
    let now = crate::now(context)?;
    let queue = Queue::default();
    let client = Client::new(host, &queue);
    let session = Session {
        client: &client,
        settings: &settings,
        now: &now,
        mode: Mode::Poll,
        since: None,
        compared: &context.compared,
        many: false,
        waiting: Cell::default(),
        failed: RefCell::default(),
    };
    executor::block_on(&queue, || host.next(), deliveries::handle(&session, batch))
}

/// Registers the hooks that this connection needs and this token may register, mends what is there and says what remains to be polled.
///
/// # Errors
/// Where the selection cannot be read or GitLab refuses the token. A hook that cannot be made is no error.
pub fn connect(host: &dyn Host, context: &RunContext, target: &Target) -> Result<Plan, Failure> {
    let settings = Settings::parse(&context.settings).map_err(Failure::Configuration)?;
    let now = crate::now(context)?;
    let queue = Queue::default();
    let client = Client::new(host, &queue);
    executor::block_on(
        &queue,
        || host.next(),
        plan::connect(&client, &settings, target, now.moment),
    )
}

/// Removes every hook of this connection; answers what could not be removed.
///
/// # Errors
/// Where GitLab refuses the token.
pub fn disconnect(
    host: &dyn Host,
    context: &RunContext,
    target: &Target,
) -> Result<Vec<Polled>, Failure> {
    let settings = Settings::parse(&context.settings).map_err(Failure::Configuration)?;
    let queue = Queue::default();
    let client = Client::new(host, &queue);
    executor::block_on(
        &queue,
        || host.next(),
        plan::disconnect(&client, &settings, target),
    )
}
