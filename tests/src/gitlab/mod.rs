//! The GitLab simulator.
//!
//! An instance of GitLab 18 in memory, served over HTTP with the behaviours that break incremental readers: timestamps cut to
//! milliseconds, ties ordered against the sort, comments that do not touch their parents, pages filtered after they were cut,
//! cached list entries, `Link` headers on another host, missing totals, moved projects, two kinds of rate limits, and any fault
//! that a script asks for.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use simulators::gitlab::{Options, Selection, Server, Size, TOKEN, World};
//!
//! let server = Server::start(World::generate(1, &Size::tiny()), Options::default()).await?;
//! // … run a connector against `server.url()` with `TOKEN`, then compare what it stored:
//! let groups = server.world().top_groups();
//! let expected = server.world().expected(&Selection::groups(&groups, TOKEN));
//! # Ok(()) }
//! ```
//!
//! * [`World`] is the state; [`World::generate`] makes one from a seed and a [`Size`], its methods change it by GitLab's rules, and
//!   [`World::expected`] is the oracle of what a correct connector has stored.
//! * [`Server`] serves a world; [`Rule`]s spoil its answers, [`Server::on_request`] changes the world while a client pages, and
//!   [`Server::requests`] tells what was asked.
//! * [`Webhook`]s call receivers whenever a mutation announces something; [`WebhookFaults`] spoil the calls.
//! * [`Knobs`] switch single behaviours of GitLab.

mod access;
mod call;
mod clock;
mod command;
mod compress;
mod control;
mod expected;
mod faults;
mod generate;
mod graph;
mod least;
mod log;
mod model;
mod mutate;
mod mutate_project;
mod prose;
mod random;
mod render;
mod reply;
mod routes;
mod server;
mod size;
mod throttle;
mod webhooks;
mod wire;
mod world;

#[cfg(test)]
mod tests;

pub use access::{Token, TokenKind, Viewer};
pub use clock::{Clock, DAY, Micros, SECOND};
pub use command::COMMANDS;
pub use expected::{EventType, Expected, Selection, source_id};
pub use faults::{Fault, Rule};
pub use generate::{
    ADMIN_TOKEN, API_TOKEN, EPOCH, EXPIRED_TOKEN, GUEST_TOKEN, NARROW_TOKEN, OAUTH_TOKEN,
    OWNER_TOKEN, REPORTER_TOKEN, REVOKED_TOKEN, STRANGER_TOKEN, TOKEN,
};
pub use graph::{Revision, Walk};
pub use log::{Counter, Entry};
pub use model::{
    Commit, Discussion, Event, Feature, Group, Issue, LastIid, MergeRequest, MergeState, Milestone,
    Note, NoteKind, Pipeline, Position, Project, Release, Repository, Role, Threads, User,
    Visibility,
};
pub use mutate::{Done, Mutation, Refused};
pub use server::{Options, Server};
pub use size::Size;
pub use throttle::{EndpointLimit, RateLimitHeaders};
pub use webhooks::{
    Announcement, Forgery, HookOwner, RefChange, Sent, Storm, Trigger, Webhook, WebhookCounts,
    WebhookFaults, signature, verify,
};
pub use world::{Knobs, Noteable, Target, World};
