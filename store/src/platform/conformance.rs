//! One suite for both databases: whatever the trait promises is shown on each.
//!
//! A test is a function of a [`Subject`], which is a new and empty store; the list below makes a test of it for each database. Time is not waited for where it can be
//! moved: [`Subject::sql`] makes things older, in words that both databases understand.

mod claims;
mod deliveries;
mod host;
mod measured;
mod owners;
mod races;
mod sequences;
mod single;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool, SqlitePool};

use super::values::new_id;
use super::*;
use crate::ledger::{MOST_IDLE, PostgresStore, SqliteStore, Store};
use crate::testing::postgres::Server;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DIGEST: &str = "sha256:aaaa";
const OTHER_DIGEST: &str = "sha256:bbbb";

enum Raw {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// A store under test.
struct Subject {
    platform: Arc<dyn Platform>,
    /// The same store, as another process would have it.
    other: Arc<dyn Platform>,
    ledger: Arc<dyn Store>,
    raw: Raw,
    _folder: Option<tempfile::TempDir>,
}

impl Subject {
    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("platform.db");
        let store = SqliteStore::open(&path).await.unwrap();
        let other = SqliteStore::open(&path).await.unwrap();
        Self {
            raw: Raw::Sqlite(store.writer.clone()),
            ledger: Arc::new(store.clone()),
            platform: Arc::new(store),
            other: Arc::new(other),
            _folder: Some(folder),
        }
    }

    /// `None` where PostgreSQL is not installed.
    async fn postgres() -> Option<Self> {
        let server = tokio::task::spawn_blocking(Server::shared).await.unwrap()?;
        let url = server.database().await.unwrap();
        let store = PostgresStore::open(&url, 20, MOST_IDLE).await.unwrap();
        let other = PostgresStore::open(&url, 20, MOST_IDLE).await.unwrap();
        Some(Self {
            raw: Raw::Postgres(store.pool.clone()),
            ledger: Arc::new(store.clone()),
            platform: Arc::new(store),
            other: Arc::new(other),
            _folder: None,
        })
    }

    /// Changes what no method changes: how old something is. Returns how many rows.
    async fn sql(&self, sql: &str) -> u64 {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.raw {
            Raw::Sqlite(pool) => sqlx::query(sql)
                .execute(pool)
                .await
                .unwrap()
                .rows_affected(),
            Raw::Postgres(pool) => sqlx::query(sql)
                .execute(pool)
                .await
                .unwrap()
                .rows_affected(),
        }
    }

    /// A number that no method tells.
    async fn number(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.raw {
            Raw::Sqlite(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            Raw::Postgres(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
        }
    }

    /// As if its worker had not been heard of for its whole lease.
    async fn expire(&self, lease: Lease) {
        let id = lease.connection;
        let sql = format!("UPDATE connections SET lease_until = 1 WHERE id = {id}");
        assert_eq!(self.sql(&sql).await, 1);
    }

    async fn tenant(&self, name: &str) -> Tenant {
        let caps = Caps {
            concurrent_runs: Some(1000),
            ..Caps::default()
        };
        self.platform.create_tenant(name, &caps).await.unwrap()
    }

    async fn component(&self, digest: &str) {
        let component = component(None, digest);
        self.platform
            .put_component(&component, b"wasm")
            .await
            .unwrap();
    }

    /// A connection of this tenant that is due.
    async fn connection(&self, tenant: &Tenant, name: &str) -> Connection {
        self.component(DIGEST).await;
        let connection = connection(&tenant.id, name);
        self.platform
            .create_connection(&connection, "cli")
            .await
            .unwrap()
    }

    async fn claim(&self) -> Option<Claim> {
        self.platform.claim_due("here", MINUTE, 3).await.unwrap()
    }

    /// Ends it well; it is due again in an hour.
    async fn release(&self, claim: &Claim) {
        let release = release(Some(HOUR));
        self.platform
            .release_run(claim.lease, &claim.run, &release)
            .await
            .unwrap();
    }

    /// A tenant with one connection that has just been claimed.
    async fn claimed(&self) -> (Connection, Claim) {
        let tenant = self.tenant("acme").await;
        let connection = self.connection(&tenant, "gitlab").await;
        let claim = self.claim().await.unwrap();
        assert_eq!(claim.connection.id, connection.id);
        (connection, claim)
    }
}

fn component(tenant: Option<&str>, digest: &str) -> Component {
    Component {
        digest: digest.into(),
        tenant: tenant.map(Into::into),
        name: "gitlab".into(),
        version: "1.0.0".into(),
        world: "connector".into(),
        admitted: true,
        report: json!({"findings": []}),
        description: json!({"name": "GitLab"}),
        bytes: 0,
        created_at: String::new(),
    }
}

fn chain(digest: &str) -> Chain {
    Chain {
        connector: digest.into(),
        mappers: Vec::new(),
    }
}

fn connection(tenant: &str, name: &str) -> Connection {
    Connection {
        id: new_id(),
        tenant: tenant.into(),
        name: name.into(),
        state: ConnectionState::Active,
        state_reason: None,
        chain: chain(DIGEST),
        config: json!({"url": "https://gitlab.example"}),
        sealed: BTreeMap::from([("token".into(), "sealed".into())]),
        hook_plan: None,
        memory_bytes: 60,
        ledger: 0,
        failures: 0,
        due_at: None,
        running: false,
        waiting_deliveries: 0,
        version: 0,
        created_at: String::new(),
    }
}

fn release(due_in: Option<Duration>) -> Release {
    Release {
        outcome: "complete".into(),
        receipt: json!({"written": 3}),
        due_in,
        failures: 0,
        park: None,
    }
}

fn delivery(connection: i64, key: &str) -> NewDelivery {
    NewDelivery {
        connection,
        key: key.into(),
        headers: json!({"x-gitlab-event": "Note Hook"}),
        body: format!("body of {key}").into_bytes(),
        trace: "0".repeat(32),
    }
}

fn first(most: u32) -> Page {
    Page { after: None, most }
}

fn is_fenced<T>(result: Result<T>) -> bool {
    result.is_err_and(|error| matches!(error, PlatformError::Store(StoreError::Fenced)))
}

fn is_missing<T>(result: Result<T>) -> bool {
    result.is_err_and(|error| matches!(error, PlatformError::Missing(_)))
}

macro_rules! on_both {
    ($($module:ident: $($test:ident),+ $(,)?;)+) => {
        mod sqlite {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$module::$test(super::Subject::sqlite().await).await;
                }
            )+)+
        }
        mod postgres {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if let Some(subject) = super::Subject::postgres().await {
                        super::$module::$test(subject).await;
                    }
                }
            )+)+
        }
    };
}

on_both! {
    owners:
        a_tenant_is_changed_by_who_has_seen_its_latest_version,
        a_tenant_goes_when_its_connections_are_gone_and_takes_its_keys_and_components,
        a_key_is_valid_until_it_expires_or_is_revoked,
        lists_come_in_pages_behind_the_last_id,
        a_component_is_the_tenants_own_or_the_operators,
        a_component_stays_while_a_chain_uses_it,
        a_connection_needs_a_tenant_with_room_and_components_that_exist,
        a_tenant_stores_as_many_components_as_it_may,
        what_an_owner_changes_raises_the_version_and_what_a_run_changes_does_not,
        a_connection_that_leaves_does_not_come_back,
        chains_are_kept_and_the_newest_is_current,
        sealed_fields_are_replaced_one_by_one_and_only_where_they_are_what_they_were,
        a_deleted_connection_leaves_nothing_but_its_numbers,
        a_forgotten_ledger_leaves_what_cortexdb_cannot_tell;
    claims:
        what_is_due_is_claimed_once_and_again_when_it_is_due_again,
        deliveries_are_claimed_alone_and_what_is_due_stays_due,
        deliveries_that_find_their_tenant_at_its_cap_are_told_of,
        a_lost_lease_can_be_claimed_and_every_write_of_its_holder_is_refused,
        a_lease_that_ran_out_is_taken_over_within_its_time,
        schedules_that_were_missed_become_one_run,
        paused_and_parked_connections_wait_and_leaving_ones_do_not,
        a_connection_that_kills_its_workers_is_parked_with_a_reason,
        a_run_that_ends_by_itself_lets_go_of_the_claims,
        a_failure_parks_and_holds_back_deliveries_until_the_next_try,
        a_wish_for_a_run_is_not_lost_by_the_run_that_is_going_on,
        a_run_that_ends_badly_undoes_nothing_that_its_owner_did_meanwhile,
        tenants_take_turns_and_a_tenant_at_its_cap_lets_others_by,
        what_is_due_next_is_known,
        a_tenant_that_has_computed_enough_waits,
        a_lease_of_a_clock_that_jumped_back_keeps_nobody_out,
        runs_begin_when_there_is_memory_for_all_that_they_may_take,
        runs_of_workers_that_were_superseded_are_swept,
        runs_are_listed_summed_and_trimmed,
        whoever_waits_is_woken;
    deliveries:
        a_key_is_stored_once_in_one_page_or_in_two,
        a_delivery_for_nobody_is_answered_with_nothing,
        a_delivery_wakes_its_connection_and_is_handled_once,
        a_delivery_is_tried_again_when_its_time_has_come,
        what_waits_comes_oldest_first_within_the_bounds,
        deliveries_are_listed_and_replayed_by_state_and_time,
        what_is_replayed_is_told_from_what_has_just_come,
        settled_deliveries_are_trimmed_after_a_week_at_the_earliest,
        large_bodies_come_out_as_they_went_in;
    host:
        cursors_move_together_with_the_count_of_the_run,
        cursors_keep_every_character,
        changes_are_logged_newest_first,
        a_request_is_remembered_for_a_day,
        a_note_is_replaced_only_where_that_is_wanted,
        a_note_is_changed_by_who_has_read_its_latest_value,
        no_text_is_refused_for_its_characters;
    races:
        two_claimants_never_get_the_same,
        the_cap_is_exact_and_all_tenants_are_served_with_thirty_two_claimants,
        the_same_delivery_received_at_once_is_stored_once,
        no_delivery_is_forgotten_while_others_are_settled,
        one_of_two_changes_at_once_is_refused,
        no_change_of_a_note_is_lost_to_another_at_the_same_time;
}
