//! What both databases answer with the same SQL. Loaded once for each of them, with the few words in which they differ (`now!`, `rows!`, `lock!` and
//! so on) from the module around it.
//!
//! One file a table or two; here is only which answers what. What may be repeated is: a database that is away for a moment is asked again.

/// Whether the lease `l` holds. No lease lasts longer than ten minutes: one that ends later was given by a clock that has jumped back since, and
/// would keep everybody out for as long as the jump was. Whoever holds it is fenced as any other that was slow, and renews it if it lives.
macro_rules! is_held {
    () => {
        concat!(
            "(l.lease_until > ",
            clock!(),
            " AND l.lease_until <= ",
            clock!(),
            " + 900)"
        )
    };
}

mod audit;
mod claims;
mod components;
mod connections;
mod cursors;
mod deliveries;
mod keys;
mod notes;
mod requests;
mod runs;
mod tenants;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use sqlx::Transaction;
use tokio::sync::watch;

use super::{Backend, Db, commit_and_wake, keep, patiently, reading, wakeups, writing};
use crate::ledger::Lease;
use crate::platform::values::{clean, milliseconds, new_id};
use crate::platform::{
    ApiKey, AuditEntry, Caps, Chain, ChainVersion, Claim, Component, Connection, ConnectionChange,
    ConnectionState, DEFAULT_COMPONENTS, Delivery, DeliveryFilter, DeliveryState, DeliveryVerdict,
    NewDelivery, Page, Platform, PlatformError, Release, Remembered, Result, Run, Tenant, Usage,
};

type Row = <Db as sqlx::Database>::Row;
type Written = Transaction<'static, Db>;

/// The operator's things have an empty owner.
fn owner(tenant: Option<&str>) -> std::borrow::Cow<'_, str> {
    clean(tenant.unwrap_or_default())
}

/// The reverse of [`owner`].
fn owned(owner: String) -> Option<String> {
    Some(owner).filter(|owner| !owner.is_empty())
}

fn most(page: &Page) -> i64 {
    i64::from(page.most)
}

/// Deletes what is older than `$1` milliseconds, at most `$2` rows at a time, so that others write in between.
async fn delete_in_steps(
    store: &Backend,
    sql: &'static str,
    older_than: Duration,
    at_once: i64,
) -> Result<u64> {
    let mut deleted = 0;
    loop {
        let mut transaction = writing(store).await?;
        let some = sqlx::query(sql)
            .bind(milliseconds(older_than))
            .bind(at_once)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        transaction.commit().await?;
        deleted += some;
        if some == 0 {
            return Ok(deleted);
        }
    }
}

/// A name or an id that is there already.
fn taken(what: &'static str) -> impl Fn(sqlx::Error) -> PlatformError {
    move |error| match error.as_database_error() {
        Some(known) if known.is_unique_violation() => PlatformError::Taken(what),
        _ => error.into(),
    }
}

#[async_trait]
impl Platform for Backend {
    async fn ping(&self) -> Result<()> {
        patiently(|| async {
            sqlx::query("SELECT 1").execute(reading(self)).await?;
            Ok(())
        })
        .await
    }

    async fn create_tenant(&self, name: &str, caps: &Caps) -> Result<Tenant> {
        tenants::create(self, name, caps).await
    }

    async fn tenant(&self, id: &str) -> Result<Tenant> {
        patiently(|| tenants::one(self, id)).await
    }

    async fn tenants(&self, page: &Page) -> Result<Vec<Tenant>> {
        patiently(|| tenants::page(self, page)).await
    }

    async fn update_tenant(
        &self,
        id: &str,
        version: i64,
        name: Option<&str>,
        caps: Option<&Caps>,
    ) -> Result<Tenant> {
        tenants::update(self, id, version, name, caps).await
    }

    async fn delete_tenant(&self, id: &str) -> Result<()> {
        tenants::delete(self, id).await
    }

    async fn create_key(&self, key: &ApiKey, expires_in: Option<Duration>) -> Result<ApiKey> {
        keys::create(self, key, expires_in).await
    }

    async fn valid_key(&self, id: &str) -> Result<Option<ApiKey>> {
        patiently(|| keys::valid(self, id)).await
    }

    async fn keys(&self, tenant: Option<&str>, page: &Page) -> Result<Vec<ApiKey>> {
        patiently(|| keys::page(self, tenant, page)).await
    }

    async fn revoke_key(&self, tenant: Option<&str>, id: &str) -> Result<()> {
        patiently(|| keys::revoke(self, tenant, id)).await
    }

    async fn put_component(&self, component: &Component, bytes: &[u8]) -> Result<Component> {
        patiently(|| components::put(self, component, bytes)).await
    }

    async fn component(&self, tenant: Option<&str>, digest: &str) -> Result<Component> {
        patiently(|| components::one(self, tenant, digest)).await
    }

    async fn component_bytes(&self, digest: &str) -> Result<Vec<u8>> {
        patiently(|| components::bytes(self, digest)).await
    }

    async fn components(&self, tenant: Option<&str>, page: &Page) -> Result<Vec<Component>> {
        patiently(|| components::page(self, tenant, page)).await
    }

    async fn delete_component(&self, tenant: Option<&str>, digest: &str) -> Result<()> {
        components::delete(self, tenant, digest).await
    }

    async fn create_connection(&self, connection: &Connection, by: &str) -> Result<Connection> {
        connections::create(self, connection, by).await
    }

    async fn connection(&self, tenant: Option<&str>, id: &str) -> Result<Connection> {
        patiently(|| connections::one(reading(self), tenant, id)).await
    }

    async fn connections(&self, tenant: Option<&str>, page: &Page) -> Result<Vec<Connection>> {
        patiently(|| connections::page(self, tenant, page)).await
    }

    async fn update_connection(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<i64>,
        change: &ConnectionChange,
    ) -> Result<Connection> {
        connections::update(self, tenant, id, version, change).await
    }

    async fn delete_connection(&self, tenant: Option<&str>, id: &str) -> Result<()> {
        connections::delete(self, tenant, id).await
    }

    async fn forget_ledgers(&self) -> Result<()> {
        connections::forget_ledgers(self).await
    }

    async fn set_chain(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<i64>,
        chain: &Chain,
        memory_bytes: u64,
        by: &str,
    ) -> Result<ChainVersion> {
        connections::set_chain(self, tenant, id, version, chain, memory_bytes, by).await
    }

    async fn chains(&self, tenant: Option<&str>, id: &str) -> Result<Vec<ChainVersion>> {
        patiently(|| connections::chains(self, tenant, id)).await
    }

    async fn set_hook_plan(&self, lease: Lease, plan: &Value) -> Result<()> {
        patiently(|| connections::set_hook_plan(self, lease, plan)).await
    }

    async fn sealed(&self, page: &Page) -> Result<Vec<(String, String, String, String)>> {
        patiently(|| connections::sealed(self, page)).await
    }

    async fn reseal(&self, id: &str, field: &str, was: &str, now: &str) -> Result<bool> {
        connections::reseal(self, id, field, was, now).await
    }

    async fn claim_due(
        &self,
        worker: &str,
        ttl: Duration,
        park_after: u32,
    ) -> Result<Option<Claim>> {
        let wanted = claims::Wanted::Anything;
        patiently(|| claims::claim(self, wanted, worker, ttl, park_after)).await
    }

    async fn claim_deliveries(
        &self,
        worker: &str,
        ttl: Duration,
        park_after: u32,
    ) -> Result<Option<Claim>> {
        let wanted = claims::Wanted::Deliveries;
        patiently(|| claims::claim(self, wanted, worker, ttl, park_after)).await
    }

    async fn deliveries_wait(&self, tenant: &str, longer_than: Duration) -> Result<bool> {
        patiently(|| claims::deliveries_wait(self, tenant, longer_than)).await
    }

    async fn count_run(&self, lease: Lease, run: &str, usage: &Usage) -> Result<()> {
        patiently(|| runs::count(self, lease, run, usage)).await
    }

    async fn release_run(&self, lease: Lease, run: &str, release: &Release) -> Result<()> {
        patiently(|| claims::release(self, lease, run, release)).await
    }

    async fn next_due_in(&self) -> Result<Option<Duration>> {
        patiently(|| claims::next_due_in(self)).await
    }

    async fn sweep_runs(&self) -> Result<u64> {
        patiently(|| claims::sweep(self)).await
    }

    async fn trim_runs(&self, older_than: Duration) -> Result<u64> {
        patiently(|| runs::trim(self, older_than)).await
    }

    fn wakeups(&self) -> watch::Receiver<u64> {
        wakeups(self)
    }

    async fn runs(&self, connection: &str, page: &Page) -> Result<Vec<Run>> {
        patiently(|| runs::page(self, connection, page)).await
    }

    async fn run(&self, connection: &str, id: &str) -> Result<Run> {
        patiently(|| runs::one(self, connection, id)).await
    }

    async fn usage(&self, tenant: &str, within: Duration) -> Result<Usage> {
        patiently(|| runs::usage(self, tenant, within)).await
    }

    async fn cursors(&self, connection: i64) -> Result<BTreeMap<String, String>> {
        patiently(|| cursors::all(self, connection)).await
    }

    async fn move_cursors(
        &self,
        lease: Lease,
        changes: &[(String, Option<String>)],
        run: Option<(&str, &Usage)>,
    ) -> Result<()> {
        patiently(|| cursors::change(self, lease, changes, run)).await
    }

    async fn receive(&self, deliveries: &[NewDelivery]) -> Result<Vec<(String, bool)>> {
        // Made once: a page whose commit broke off is tried again, and knows its own.
        let ids: Vec<String> = deliveries.iter().map(|_| new_id()).collect();
        patiently(|| deliveries::receive(self, deliveries, &ids)).await
    }

    async fn waiting(
        &self,
        connection: i64,
        most: u32,
        most_bytes: u64,
    ) -> Result<Vec<(Delivery, Vec<u8>)>> {
        patiently(|| deliveries::waiting(self, connection, most, most_bytes)).await
    }

    async fn settle_deliveries(
        &self,
        lease: Lease,
        verdicts: &[DeliveryVerdict],
        retry_in: Duration,
    ) -> Result<()> {
        patiently(|| deliveries::settle(self, lease, verdicts, retry_in)).await
    }

    async fn deliveries(
        &self,
        connection: i64,
        filter: &DeliveryFilter,
        page: &Page,
    ) -> Result<Vec<Delivery>> {
        patiently(|| deliveries::page(self, connection, filter, page)).await
    }

    async fn delivery(&self, connection: i64, id: &str) -> Result<(Delivery, Vec<u8>)> {
        patiently(|| deliveries::one(self, connection, id)).await
    }

    async fn replay(
        &self,
        connection: i64,
        id: Option<&str>,
        filter: &DeliveryFilter,
    ) -> Result<u64> {
        patiently(|| deliveries::replay(self, connection, id, filter)).await
    }

    async fn trim_deliveries(&self, older_than: Duration) -> Result<u64> {
        patiently(|| deliveries::trim(self, older_than)).await
    }

    async fn audit(
        &self,
        tenant: Option<&str>,
        by: &str,
        action: &str,
        subject: &str,
        detail: &Value,
    ) -> Result<()> {
        audit::add(self, tenant, by, action, subject, detail).await
    }

    async fn audits(&self, tenant: Option<&str>, page: &Page) -> Result<Vec<AuditEntry>> {
        patiently(|| audit::page(self, tenant, page)).await
    }

    async fn remember_request(
        &self,
        scope: &str,
        key: &str,
        digest: &str,
    ) -> Result<Option<Remembered>> {
        requests::remember(self, scope, key, digest).await
    }

    async fn answer_request(
        &self,
        scope: &str,
        key: &str,
        status: u16,
        body: &Value,
    ) -> Result<()> {
        patiently(|| requests::answer(self, scope, key, status, body)).await
    }

    async fn forget_request(&self, scope: &str, key: &str) -> Result<()> {
        patiently(|| requests::forget(self, scope, key)).await
    }

    async fn note(&self, name: &str) -> Result<Option<String>> {
        patiently(|| notes::one(self, name)).await
    }

    async fn set_note(&self, name: &str, value: &str, replace: bool) -> Result<String> {
        patiently(|| notes::set(self, name, value, replace)).await
    }

    async fn change_note(&self, name: &str, was: Option<&str>, value: &str) -> Result<bool> {
        notes::change(self, name, was, value).await
    }

    async fn set_held_note(&self, lease: Lease, name: &str, value: &str) -> Result<()> {
        patiently(|| notes::set_held(self, lease, name, value)).await
    }
}
