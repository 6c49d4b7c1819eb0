//! What kind of server the simulator is: its tenants' keys, its generation, and a switch for every point on which the
//! sources of the contract disagree.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{Clock, Credential, Policy, RateLimit};

/// Settings of a simulator. Start from [`Options::full`] or [`Options::free_tier`] and change what the test is about.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 asks the system for one.
    pub listen: SocketAddr,
    /// Who may call. One of issuer `auth-disabled` admits everybody.
    pub credentials: Vec<Credential>,
    /// What `whoami` reports as tenant.
    pub tenant_id: String,
    /// What `whoami` reports as deployment preset.
    pub deployment_preset: String,
    /// What `/v1/admin/version` reports.
    pub server_version: String,
    /// Capability names of `/v1/admin/version`; nothing omits the field, as servers up to 0.9.13 do. Gates the capture
    /// hints of an envelope.
    pub version_capabilities: Option<Vec<String>>,
    /// Only the twelve built-in scope types (0.10), or any (0.9).
    pub closed_scope_types: bool,
    /// Demand `context.observed_at` and `idempotency_key` (documentation) or not (measured).
    pub five_required_fields: bool,
    /// Forgetting by ids with `redact_events` releases the idempotency keys (0.10.4) or keeps them (0.9.8).
    pub forget_releases_keys: bool,
    /// Refuse `preceded_by` ids that the store has never given out.
    pub strict_preceded_by: bool,
    /// Shape of event ids.
    pub event_ids: EventIdForm,
    /// Shape of a bulk reply.
    pub bulk_reply: BulkReply,
    /// Where a bulk request says its scope.
    pub bulk_scope: BulkScope,
    /// Which `ordering` values a bulk request may carry.
    pub ordering: OrderingValues,
    /// What one bad item does to a bulk request.
    pub item_refusal: ItemRefusal,
    /// Status of a write advances to `indexed` at once, or never leaves `captured` (0.9).
    pub status_reaches_indexed: bool,
    /// Name of the id in a listed event.
    pub item_id_field: ItemIdField,
    /// Every event is listed twice (measured), or once.
    pub listed_twice: bool,
    /// Most events on one page of the listing, whatever was asked for.
    pub listing_max_page: usize,
    /// A listed event shows its source descriptor. No source documents that it does.
    pub listing_shows_source: bool,
    /// How a redacted event appears in the listing.
    pub redacted_listing: RedactedListing,
    /// Whether `scope=` of the listing means exactly that scope or everything below it.
    pub scope_filter: ScopeFilter,
    /// Print error codes in lower case, as the documentation does.
    pub lowercase_codes: bool,
    /// Call the expired token `TOKEN_EXPIRED` (documentation) instead of `EXPIRED_TOKEN` (SDK).
    pub token_expired_code: bool,
    /// `POST /v1/auth/signup` works; otherwise 503 `NOT_CONFIGURED`.
    pub signup: bool,
    /// Requests allowed; nothing means no limit and no `X-RateLimit-*` headers, which is the server's default.
    pub rate_limit: Option<RateLimit>,
    /// Added to every request.
    pub latency: Duration,
    /// Longest label that is taken. No source publishes the number; a client that measured keeps to 256.
    pub max_label_bytes: usize,
    /// Check envelopes against the JSON schema too, not only by hand.
    pub schema_check: bool,
    /// How long a key is remembered.
    pub key_ttl: Duration,
    /// The server's clock.
    pub clock: Clock,
    /// Decides event ids and faults with a probability.
    pub seed: u64,
}

impl Options {
    /// A 0.10 server with one static operator key that may do everything.
    pub fn full(key: &str) -> Self {
        Self::with(Credential::static_key(key))
    }

    /// A 0.10 server with one signed-up user: no redaction, no foreign actors.
    pub fn free_tier(key: &str, actor: &str) -> Self {
        Self::with(Credential::free_tier(key, actor))
    }

    /// A 0.10 server that admits one credential.
    pub fn with(credential: Credential) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            credentials: vec![credential],
            tenant_id: "tenant_sim".to_owned(),
            deployment_preset: "standard".to_owned(),
            server_version: "0.10.4".to_owned(),
            version_capabilities: Some(
                ["blob_text_decode_v1", "matched_fragments_v1"]
                    .map(str::to_owned)
                    .to_vec(),
            ),
            closed_scope_types: true,
            five_required_fields: false,
            forget_releases_keys: true,
            strict_preceded_by: false,
            event_ids: EventIdForm::Uuid,
            bulk_reply: BulkReply::Results,
            bulk_scope: BulkScope::PerItem,
            ordering: OrderingValues::Either,
            item_refusal: ItemRefusal::Partial,
            status_reaches_indexed: true,
            item_id_field: ItemIdField::EventId,
            listed_twice: true,
            listing_max_page: 500,
            listing_shows_source: false,
            redacted_listing: RedactedListing::Blanked,
            scope_filter: ScopeFilter::Exact,
            lowercase_codes: false,
            token_expired_code: false,
            signup: true,
            rate_limit: None,
            latency: Duration::ZERO,
            max_label_bytes: 256,
            schema_check: true,
            key_ttl: Duration::from_secs(24 * 60 * 60),
            clock: Clock::system(),
            seed: 1,
        }
    }

    pub(crate) fn policy(&self) -> Policy {
        let listed = |name: &str| {
            self.version_capabilities
                .as_ref()
                .is_some_and(|list| list.iter().any(|c| c == name))
        };
        Policy {
            closed_scope_types: self.closed_scope_types,
            capture_language: listed("capture_language_v1"),
            refers_to: listed("refers_to_v1"),
            five_required_fields: self.five_required_fields,
            max_label_bytes: self.max_label_bytes,
        }
    }
}

/// Shape of event ids. Both are opaque to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EventIdForm {
    /// `evt_` and a UUID, as 0.10 servers return.
    Uuid,
    /// `evt_` and a ULID, as the documentation prints.
    Ulid,
}

/// Shape of a bulk reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BulkReply {
    /// `accepted` and one entry of `results[]` for each item (measured).
    Results,
    /// `batch_id`, `accepted`, `lifecycle_stream` and no ids (documentation).
    BatchOnly,
}

/// Where a bulk request says its scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BulkScope {
    /// In each item; a scope on top is an unknown field.
    PerItem,
    /// On top, and items must not have one (documentation).
    TopLevel,
    /// Either; the item's own scope wins.
    Either,
}

/// Which `ordering` values a bulk request may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OrderingValues {
    /// `strict_temporal`, `batch_throughput` (documentation).
    Documentation,
    /// `independent`, `strict_temporal` (CLI).
    Cli,
    /// All three.
    Either,
}

/// What one bad item does to a bulk request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemRefusal {
    /// The rest is written: 207 with `failures[]`.
    Partial,
    /// The rest is written: the usual status with `partial: true` and `failures[]`.
    PartialFlag,
    /// The rest is written: 207 with `failures[]`, and neither these nor `results[]` say which item is meant.
    PartialUnnamed,
    /// Nothing is written; the error names the index.
    WholeNamed,
    /// Nothing is written, and the error does not say which item.
    WholeUnnamed,
}

/// Name of the id in a listed event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ItemIdField {
    /// `event_id` (documentation).
    EventId,
    /// `id` (measured).
    Id,
}

/// How a redacted event appears in the listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RedactedListing {
    /// Not at all.
    Omitted,
    /// With its id, without content and labels, so no label finds it.
    Blanked,
    /// With its id and labels, without content: a tombstone that a rebuild from labels must not take for a record.
    KeepsLabels,
}

/// What `scope=` of the listing means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScopeFilter {
    /// Exactly this scope.
    Exact,
    /// This scope and everything below it.
    Subtree,
}
