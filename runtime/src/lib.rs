//! The connector runtime: a wasmtime host for components that read a source and write it to CortexDB.
//!
//! # The idea
//!
//! A *connector* (a WebAssembly component, `gitlab.wasm` is the first) decides what to read and what it means. The host decides what may
//! happen: which address is dialled, whose token is added, what is written, when a cursor moves and when to stop. Nothing that a
//! component does, by mistake or on purpose, can lose data, leak a secret or reach another host.
//!
//! # Vocabulary
//!
//! | word | meaning |
//! |---|---|
//! | source | the outside system being read, such as a GitLab with a token |
//! | connection | one configured connector: source, selection, scope template |
//! | run | one execution of a connection |
//! | stream | one kind of record of one project (`42/merge_requests`), with its own cursor |
//! | cursor | where a stream continues |
//! | experience | CortexDB's unit of writing; the envelope is its wire form |
//! | source id | stable identity of a record: `gl:<event_type>:<project_id>/<id>` |
//! | ledger | for each source id: digest, generation, event ids, status |
//! | dead letter | a record refused for good, kept with its reason |
//!
//! # The way of a record
//!
//! ```text
//! component ── http.submit/next ──► source      asks the source: token, retries, rate limit
//!     │
//!     ├── writer.write ───────────► writer      compares with the ledger, freezes, sends, forgets what is replaced
//!     │                               ├──► ledger    SQLite: what CortexDB holds, what is on its way
//!     │                               └──► cortexdb  envelopes, bulk writes, a fate for every item
//!     └── state.set ──────────────► cursors     a JSON file of the user's, moved only behind acknowledged records
//! ```
//!
//! A source may also call: [`hooks`] takes such calls, and what they point at is read in a run of its own.
//!
//! [`run`] puts the parts together for one run, [`config`] decides with which settings, [`census`] what is missing or gone,
//! [`cli`] is the program around it. [`sandbox`] and
//! [`host`] hold the component; [`egress`] says which addresses may be dialled; [`report`] is how the run tells the world what it does.
//!
//! # Not here
//!
//! No clock, random numbers, files or sockets for components; no queue, lock manager or replication of our own (SQLite is the store); no
//! knowledge of GitLab anywhere outside the component.

pub mod census;
pub mod check;
pub mod cli;
pub mod config;
pub mod cortexdb;
pub mod cursors;
pub mod digest;
pub mod egress;
pub mod hooks;
pub mod host;
pub mod http_client;
pub mod lost_receipts;
pub mod mappers;
pub mod memory;
mod pass;
pub mod patience;
pub mod platform;
pub mod rebuild;
pub mod recorded;
pub mod redact;
pub mod report;
pub mod run;
pub mod sandbox;
pub mod scope;
pub mod source;
pub mod writer;

/// See [`connector_store`].
pub use connector_store::ledger;
