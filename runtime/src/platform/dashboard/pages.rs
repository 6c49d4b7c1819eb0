//! What the pages show, gathered from the store.

use askama::Template;
use serde_json::Value;

use super::session::Session;
use crate::platform::Ground;
use crate::platform::api::components::AdmittedComponent;
use crate::platform::api::problem::Problem;
use crate::platform::api::{ConnectionView, DeliveryView, RunView, TenantView, UsageView};
use crate::platform::keys::{Scope, allows};
use connector_store::platform::{ChainVersion, DeliveryFilter, Page};
use std::time::Duration;

/// Rows of each table of a connection's page.
const ROWS: u32 = 20;
/// Connections and tenants of the overview.
const MOST: u32 = 200;
/// What usage is summed over.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What every page has.
pub(super) struct Frame {
    csrf: String,
    /// Who has logged in, in words.
    who: String,
}

impl Frame {
    fn new(session: &Session) -> Self {
        let key = &session.caller.key;
        let role = if key.tenant.is_some() {
            "tenant"
        } else {
            "operator"
        };
        Self {
            csrf: session.csrf.clone(),
            who: format!("{} ({role})", key.name),
        }
    }
}

/// A problem.
#[derive(Template)]
#[template(path = "dashboard/nothing.html")]
pub(super) struct Nothing {
    pub(super) title: String,
    pub(super) detail: String,
}

/// The login.
#[derive(Template)]
#[template(path = "dashboard/login.html")]
pub(super) struct Login {
    pub(super) failed: bool,
}

pub(super) struct Row {
    connection: ConnectionView,
    last_run: Option<RunView>,
    dead_letters: u64,
}

/// Tenants, and the connections of one or of all.
#[derive(Template)]
#[template(path = "dashboard/overview.html")]
pub(super) struct Overview {
    frame: Frame,
    tenants: Vec<(TenantView, UsageView)>,
    rows: Vec<Row>,
}

fn first_page(most: u32) -> Page {
    Page { after: None, most }
}

async fn dead_letters(ground: &Ground, ledger: i64) -> Result<u64, Problem> {
    Ok(ground.ledger.count_letters(ledger).await?)
}

pub(super) async fn overview(
    ground: &Ground,
    session: Session,
    tenant: Option<&str>,
) -> Result<Overview, Problem> {
    session.caller.need(Scope::Read)?;
    let whose = session.caller.whose(tenant)?;
    let platform = ground.platform.as_ref();
    let tenants = match whose {
        Some(id) => vec![platform.tenant(id).await?],
        None => platform.tenants(&first_page(MOST)).await?,
    };
    let mut with_usage = Vec::with_capacity(tenants.len());
    for tenant in tenants {
        let usage = platform.usage(&tenant.id, DAY).await?;
        with_usage.push((tenant.into(), usage.into()));
    }
    let mut rows = Vec::new();
    for row in platform.connections(whose, &first_page(MOST)).await? {
        let last = platform.runs(&row.id, &first_page(1)).await?;
        rows.push(Row {
            dead_letters: dead_letters(ground, row.ledger).await?,
            last_run: last.into_iter().next().map(RunView::from),
            connection: ConnectionView::new(ground, row),
        });
    }
    Ok(Overview {
        frame: Frame::new(&session),
        tenants: with_usage,
        rows,
    })
}

/// One connection.
#[derive(Template)]
#[template(path = "dashboard/connection.html")]
pub(super) struct OneConnection {
    frame: Frame,
    connection: ConnectionView,
    config: String,
    may_write: bool,
    may_replay: bool,
    runs: Vec<RunView>,
    deliveries: Vec<DeliveryView>,
    /// Source id, reason, last seen.
    letters: Vec<(String, String, String)>,
    dead_letters: u64,
    chains: Vec<ChainVersion>,
    /// What is hooked: subject, state, words.
    hooked: Vec<(String, String, String)>,
    /// What is polled, and why.
    polled: Vec<(String, String)>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub(super) async fn connection(
    ground: &Ground,
    session: Session,
    id: &str,
) -> Result<OneConnection, Problem> {
    session.caller.need(Scope::Read)?;
    let platform = ground.platform.as_ref();
    let tenant = session.caller.tenant();
    let row = platform.connection(tenant, id).await?;
    let page = first_page(ROWS);
    let all = DeliveryFilter::default();
    let kept = ground.ledger.list_letters(row.ledger, None, ROWS).await?;
    let count = dead_letters(ground, row.ledger).await?;
    let plan = row.hook_plan.clone().unwrap_or_default();
    let list = |name: &str| plan[name].as_array().cloned().unwrap_or_default();
    let scopes = &session.caller.key.scopes;
    Ok(OneConnection {
        may_write: allows(scopes, Scope::Write),
        may_replay: allows(scopes, Scope::Deliveries),
        frame: Frame::new(&session),
        runs: platform
            .runs(id, &page)
            .await?
            .into_iter()
            .map(RunView::from)
            .collect(),
        deliveries: platform
            .deliveries(row.ledger, &all, &page)
            .await?
            .into_iter()
            .map(DeliveryView::from)
            .collect(),
        letters: kept
            .into_iter()
            .map(|one| (one.letter.source_id, one.letter.reason, one.last_seen))
            .collect(),
        dead_letters: count,
        chains: platform.chains(tenant, id).await?,
        hooked: list("hooks")
            .iter()
            .map(|hook| {
                (
                    text(&hook["subject"]),
                    text(&hook["state"]),
                    text(&hook["message"]),
                )
            })
            .collect(),
        polled: list("polled")
            .iter()
            .map(|one| (text(&one["subject"]), text(&one["reason"])))
            .collect(),
        config: serde_json::to_string_pretty(&row.config).unwrap_or_default(),
        connection: ConnectionView::new(ground, row),
    })
}

/// What may be used.
#[derive(Template)]
#[template(path = "dashboard/components.html")]
pub(super) struct ComponentList {
    frame: Frame,
    components: Vec<(AdmittedComponent, String)>,
}

pub(super) async fn components(
    ground: &Ground,
    session: Session,
) -> Result<ComponentList, Problem> {
    session.caller.need(Scope::Read)?;
    let tenant = session.caller.tenant();
    let rows = ground
        .platform
        .components(tenant, &first_page(MOST))
        .await?;
    Ok(ComponentList {
        frame: Frame::new(&session),
        components: rows
            .into_iter()
            .map(|row| {
                let report = serde_json::to_string_pretty(&row.report).unwrap_or_default();
                (row.into(), report)
            })
            .collect(),
    })
}
