//! Everything that could make a run fail, looked at one by one, each bad thing with what to do: for `runtime check` and for the API.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::Plan;
use crate::host::connector::{
    CallFailure, Connector, Finding, Mode, RunContext, RunKind, Severity,
};
use crate::host::imports::Access;
use crate::run::{Circumstances, connect, source_client};

/// Asks both servers and writes nothing. No secret is in what is found.
pub async fn findings(connector: &Connector, plan: &Plan, around: &Circumstances) -> Vec<Finding> {
    let mut findings = cortexdb_findings(plan, around).await;
    if let Some((words, remedy)) = plan.source.unused_proxy() {
        findings.push(finding(Severity::Notice, "proxy", words, Some(remedy)));
    }
    findings.extend(source_findings(connector, plan, around).await);
    for finding in &mut findings {
        finding.message = around.redactor.apply(&finding.message).into_owned();
    }
    findings
}

fn finding(
    severity: Severity,
    subject: &str,
    message: impl Into<String>,
    remedy: Option<&str>,
) -> Finding {
    Finding {
        severity,
        subject: subject.to_owned(),
        message: message.into(),
        remedy: remedy.map(str::to_owned),
    }
}

async fn cortexdb_findings(plan: &Plan, around: &Circumstances) -> Vec<Finding> {
    let (client, identity) = match connect(plan, around).await {
        Ok(Some(connected)) => connected,
        Ok(None) => {
            return vec![finding(
                Severity::Problem,
                "CortexDB",
                "no key",
                Some("set CORTEXDB_API_KEY or run `cortexdb init`"),
            )];
        }
        Err(error) => {
            return vec![finding(
                Severity::Problem,
                "CortexDB",
                error.to_string(),
                None,
            )];
        }
    };
    let mut findings = vec![
        finding(
            Severity::Ok,
            "CortexDB",
            format!(
                "{} as {} (tenant {})",
                client.url(),
                identity.caller,
                identity.tenant_id
            ),
            None,
        ),
        finding(
            Severity::Ok,
            "scope",
            format!("template {}", plan.template.as_str()),
            None,
        ),
    ];
    if !identity.may("forget.cascade.redact_events") {
        findings.push(finding(
            Severity::Notice,
            "CortexDB token",
            "it may not redact: when a record changes, the text of the old version stays readable beside the new one",
            Some("use a token with `forget.cascade.redact_events`"),
        ));
    }
    if !identity.lists("scope.write.on_behalf_of") {
        findings.push(finding(
            Severity::Notice,
            "CortexDB token",
            "it may not name others as the actor: authors travel as labels only",
            Some("use a token with `scope.write.on_behalf_of`, if actors matter"),
        ));
    }
    findings
}

async fn source_findings(
    connector: &Connector,
    plan: &Plan,
    around: &Circumstances,
) -> Vec<Finding> {
    let source = match source_client(connector, plan, around, around.stop.child_token()) {
        Ok(source) => source,
        Err(error) => {
            return vec![finding(
                Severity::Problem,
                "source",
                error.to_string(),
                None,
            )];
        }
    };
    let access = Access {
        source: Some(Arc::new(source)),
        writer: None,
        census: Arc::default(),
        reporter: Arc::clone(&around.reporter),
        counters: Arc::clone(&around.counters),
        redactor: around.redactor.clone(),
        limits: plan.limits,
        stop: around.stop.clone(),
    };
    let context = RunContext {
        kind: RunKind::Poll,
        settings: plan.settings.to_string(),
        since: None,
        mode: Mode::Poll,
        compared: BTreeSet::new(),
    };
    match connector.check(access, &context).await {
        Ok(findings) => findings,
        Err(failure @ CallFailure::Configuration(_)) => vec![finding(
            Severity::Problem,
            "configuration",
            failure.to_string(),
            None,
        )],
        Err(failure) => vec![finding(
            Severity::Problem,
            "source",
            failure.to_string(),
            None,
        )],
    }
}
