//! What a connection was made for: a connector, a source, a CortexDB and a tenant there.
//!
//! Its cursors say how far that source was read, and its ledger what that CortexDB holds. Anywhere else both are wrong: what they say is
//! there would never be written, and what another source has under the same number would replace it. `runtime run` keeps such connections
//! apart by their names; here a connection has an id that outlives every change, so it is held to what it was when it first reached both
//! servers. As long as it remembers nothing, an address that was wrong can be corrected.

use serde::{Deserialize, Serialize};

use crate::config::Plan;
use crate::cortexdb::identity::Identity;
use crate::host::connector::Description;
use crate::ledger::{Lease, Store};
use connector_store::platform::{Connection, Platform, PlatformError};

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeFor {
    connector: String,
    source: String,
    cortexdb: String,
    /// Of CortexDB; `None`: nobody has asked it yet.
    tenant: Option<String>,
}

impl std::fmt::Display for MadeFor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} -> {}", self.connector, self.source, self.cortexdb)?;
        match &self.tenant {
            Some(tenant) => write!(f, " (its tenant {tenant})"),
            None => Ok(()),
        }
    }
}

impl MadeFor {
    /// What a run with this plan would be for.
    #[must_use]
    pub fn of(description: &Description, plan: &Plan, identity: Option<&Identity>) -> Self {
        Self {
            connector: description.name.clone(),
            source: plan.source.canonical_url(),
            cortexdb: plan.cortex.url.clone(),
            tenant: identity.map(|identity| identity.tenant_id.clone()),
        }
    }

    /// What is another one now, as the field that says so, and the words.
    #[must_use]
    pub fn differs_from(&self, now: &Self) -> Option<(&'static str, String)> {
        let same_tenant =
            self.tenant.is_none() || now.tenant.is_none() || self.tenant == now.tenant;
        let differences = [
            (self.connector == now.connector, "chain.connector"),
            (self.source == now.source, "config.source.url"),
            (self.cortexdb == now.cortexdb, "config.cortexdb.url"),
            (same_tenant, "secrets.cortexdb_api_key"),
        ];
        let (_, field) = differences.into_iter().find(|(same, _)| !same)?;
        let words = format!(
            "the connection was made for {self} and would now be for {now}; what it remembers is of the former, and would be wrong of the latter: set it back, and create another connection for the latter"
        );
        Some((field, words))
    }
}

fn note(connection: &str) -> String {
    format!("made_for.{connection}")
}

async fn noted(
    platform: &dyn Platform,
    connection: &str,
) -> Result<Option<MadeFor>, PlatformError> {
    let text = platform.note(&note(connection)).await?;
    Ok(text
        .as_deref()
        .map(serde_json::from_str::<MadeFor>)
        .transpose()?)
}

/// Whether anything was written that is true of one CortexDB alone. Cursors are no sign of it: where hooks are is kept among them.
async fn remembers_cortexdb(ledger: &dyn Store, row: i64) -> Result<bool, PlatformError> {
    let streams = ledger.streams(row).await?;
    Ok(streams.iter().any(|stream| stream.complete_at.is_some())
        || ledger.count_letters(row).await? > 0
        || !ledger.held_by_stream(row).await?.is_empty())
}

/// The note, without what nothing is remembered of.
async fn held_to(
    noted: MadeFor,
    now: &MadeFor,
    platform: &dyn Platform,
    ledger: &dyn Store,
    row: i64,
) -> Result<Option<MadeFor>, PlatformError> {
    if remembers_cortexdb(ledger, row).await? {
        return Ok(Some(noted));
    }
    if platform.cursors(row).await?.is_empty() {
        return Ok(None);
    }
    Ok(Some(MadeFor {
        cortexdb: now.cortexdb.clone(),
        tenant: now.tenant.clone(),
        ..noted
    }))
}

/// What this connection was made for, as far as it is held to that; `now` is what it would be made for.
pub async fn made_for(
    platform: &dyn Platform,
    ledger: &dyn Store,
    connection: &Connection,
    now: &MadeFor,
) -> Result<Option<MadeFor>, PlatformError> {
    let Some(noted) = noted(platform, &connection.id).await? else {
        return Ok(None);
    };
    held_to(noted, now, platform, ledger, connection.ledger).await
}

/// Holds the connection to this, for whoever has its lease, before anything is read or written. `Some`: it was made for something else, in words.
pub async fn hold_to(
    platform: &dyn Platform,
    ledger: &dyn Store,
    lease: Lease,
    connection: &str,
    now: &MadeFor,
) -> Result<Option<String>, PlatformError> {
    let noted = noted(platform, connection).await?;
    if noted.as_ref() == Some(now) {
        return Ok(None);
    }
    if let Some(noted) = noted
        && let Some(held) = held_to(noted, now, platform, ledger, lease.connection).await?
        && let Some((_, words)) = held.differs_from(now)
    {
        return Ok(Some(words));
    }
    let text = serde_json::to_string(now)?;
    platform
        .set_held_note(lease, &note(connection), &text)
        .await?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_for(connector: &str, source: &str, cortexdb: &str, tenant: Option<&str>) -> MadeFor {
        MadeFor {
            connector: connector.into(),
            source: source.into(),
            cortexdb: cortexdb.into(),
            tenant: tenant.map(Into::into),
        }
    }

    #[test]
    fn another_connector_source_server_or_tenant_is_another_connection() {
        let was = made_for("gitlab", "https://a", "https://c", Some("t"));
        for (now, field) in [
            (was.clone(), None),
            (made_for("gitlab", "https://a", "https://c", None), None),
            (
                made_for("feed", "https://a", "https://c", Some("t")),
                Some("chain.connector"),
            ),
            (
                made_for("gitlab", "https://b", "https://c", Some("t")),
                Some("config.source.url"),
            ),
            (
                made_for("gitlab", "https://a", "https://d", Some("t")),
                Some("config.cortexdb.url"),
            ),
            (
                made_for("gitlab", "https://a", "https://c", Some("u")),
                Some("secrets.cortexdb_api_key"),
            ),
        ] {
            let found = was.differs_from(&now);
            assert_eq!(found.as_ref().map(|(field, _)| *field), field, "{now}");
        }
    }
}
