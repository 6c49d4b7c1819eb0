//! The CortexDB simulator as a program.
//!
//! Prints one line with its address on standard output and serves until it is killed. Tests in other languages, and
//! people, script it through `/_sim/` (see `simulators::cortex`).

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use simulators::cortex::{
    BulkReply, BulkScope, Credential, EventIdForm, ItemIdField, ItemRefusal, Options,
    OrderingValues, RateLimit, RedactedListing, ScopeFilter, Server,
};

/// A CortexDB v1 server that remembers everything and can be told to misbehave.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen; port 0 asks the system for one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The accepted bearer token.
    #[arg(long, default_value = "sim-key")]
    key: String,
    /// Subject of the token. A static key accepts any actor and uses this one when none is named.
    #[arg(long, default_value = "user:local")]
    actor: String,
    /// What the token may do.
    #[arg(long, value_enum, default_value_t = Preset::Full)]
    preset: Preset,
    /// Where the token comes from. `free` tokens are always signed.
    #[arg(long, value_enum, default_value_t = TokenKind::Static)]
    token: TokenKind,
    /// What whoami reports as tenant.
    #[arg(long, default_value = "tenant_sim")]
    tenant: String,
    /// Delay of every request, in milliseconds.
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// Requests a minute and actor; no limit without it.
    #[arg(long)]
    rate_limit: Option<u32>,
    /// Requests at once; 20 or the rate limit, whichever is less, without it.
    #[arg(long, requires = "rate_limit")]
    burst: Option<u32>,
    /// Take any scope type, as servers before 0.10 do.
    #[arg(long)]
    any_scope_type: bool,
    /// Keep idempotency keys when their events are forgotten, as 0.9.8 does.
    #[arg(long)]
    forget_keeps_keys: bool,
    /// Refuse `preceded_by` ids that were never given out.
    #[arg(long)]
    strict_preceded_by: bool,
    /// Demand `context.observed_at` and `idempotency_key`.
    #[arg(long)]
    five_required_fields: bool,
    /// Capability names of `/v1/admin/version`, separated by commas.
    #[arg(long, value_delimiter = ',')]
    version_capabilities: Option<Vec<String>>,
    /// Shape of event ids.
    #[arg(long, value_enum, default_value_t = EventIdForm::Uuid)]
    event_ids: EventIdForm,
    /// Shape of a bulk reply.
    #[arg(long, value_enum, default_value_t = BulkReply::Results)]
    bulk_reply: BulkReply,
    /// Where a bulk request says its scope.
    #[arg(long, value_enum, default_value_t = BulkScope::PerItem)]
    bulk_scope: BulkScope,
    /// Which ordering values are taken.
    #[arg(long, value_enum, default_value_t = OrderingValues::Either)]
    ordering: OrderingValues,
    /// What one bad item does to a bulk request.
    #[arg(long, value_enum, default_value_t = ItemRefusal::Partial)]
    item_refusal: ItemRefusal,
    /// Name of the id in a listed event.
    #[arg(long, value_enum, default_value_t = ItemIdField::EventId)]
    item_id: ItemIdField,
    /// How a redacted event is listed.
    #[arg(long, value_enum, default_value_t = RedactedListing::Blanked)]
    redacted_listing: RedactedListing,
    /// What `scope=` of the listing means.
    #[arg(long, value_enum, default_value_t = ScopeFilter::Exact)]
    scope_filter: ScopeFilter,
    /// Print error codes in lower case.
    #[arg(long)]
    lowercase_codes: bool,
    /// Check envelopes by hand only: faster, for large runs.
    #[arg(long)]
    no_schema_check: bool,
    /// Decides event ids and faults with a probability.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Preset {
    /// Everything.
    Full,
    /// What an anonymous signup gets: no redaction, no foreign actors.
    Free,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum TokenKind {
    /// An operator key.
    Static,
    /// A signed token: the actor header is required.
    Signed,
    /// No authentication.
    Disabled,
}

impl Arguments {
    fn credential(&self) -> Credential {
        match (self.preset, self.token) {
            (Preset::Free, _) => Credential::free_tier(&self.key, &self.actor),
            (Preset::Full, TokenKind::Static) => Credential {
                actor: self.actor.clone(),
                ..Credential::static_key(&self.key)
            },
            (Preset::Full, TokenKind::Signed) => Credential::signed(&self.key, &self.actor),
            (Preset::Full, TokenKind::Disabled) => Credential {
                actor: self.actor.clone(),
                ..Credential::auth_disabled()
            },
        }
    }

    fn into_options(self) -> Options {
        let mut options = Options::with(self.credential());
        options.listen = self.listen;
        options.tenant_id = self.tenant;
        options.latency = Duration::from_millis(self.latency_ms);
        options.rate_limit = self.rate_limit.map(|per_minute| {
            let limit = RateLimit::per_minute(per_minute);
            RateLimit {
                burst: self.burst.unwrap_or(limit.burst),
                ..limit
            }
        });
        options.closed_scope_types = !self.any_scope_type;
        options.forget_releases_keys = !self.forget_keeps_keys;
        options.strict_preceded_by = self.strict_preceded_by;
        options.five_required_fields = self.five_required_fields;
        if self.version_capabilities.is_some() {
            options.version_capabilities = self.version_capabilities;
        }
        options.event_ids = self.event_ids;
        options.bulk_reply = self.bulk_reply;
        options.bulk_scope = self.bulk_scope;
        options.ordering = self.ordering;
        options.item_refusal = self.item_refusal;
        options.item_id_field = self.item_id;
        options.redacted_listing = self.redacted_listing;
        options.scope_filter = self.scope_filter;
        options.lowercase_codes = self.lowercase_codes;
        options.schema_check = !self.no_schema_check;
        options.seed = self.seed;
        options
    }
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let server = Server::start(Arguments::parse().into_options()).await?;
    {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "cortex-sim listening on {}", server.url())?;
        stdout.flush()?;
    }
    server.run().await;
    Ok(())
}
