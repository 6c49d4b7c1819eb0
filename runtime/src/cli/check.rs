//! `runtime check`: what [`crate::check`] finds, on a terminal.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::args::CheckArguments;
use super::prepare::{prepare, quiet_reporter};
use super::{escaped, say};
use crate::check::findings;
use crate::host::connector::{Finding, Severity};
use crate::run::{Circumstances, redactor_for};

pub(super) async fn check(arguments: CheckArguments) -> u8 {
    let reporter = quiet_reporter();
    let prepared = prepare(&arguments.component, &arguments.flags(), false, &reporter).await;
    let (connector, plan) = match prepared {
        Ok(prepared) => prepared,
        Err(code) => return code,
    };
    let around = Circumstances::new(reporter, redactor_for(&plan), &CancellationToken::new());
    let findings = findings(&connector, &plan, &around).await;
    show(&findings, arguments.json);
    let problems = findings
        .iter()
        .any(|finding| finding.severity == Severity::Problem);
    u8::from(problems)
}

fn show(findings: &[Finding], as_json: bool) {
    if as_json {
        say(&json!({ "findings": findings }).to_string());
        return;
    }
    for finding in findings {
        let word = match finding.severity {
            Severity::Ok => "ok",
            Severity::Notice => "notice",
            Severity::Problem => "PROBLEM",
        };
        let line = format!("{word:<8} {}: {}", finding.subject, finding.message);
        say(&escaped(&line));
        if let Some(remedy) = &finding.remedy {
            say(&escaped(&format!("{:<8} what to do: {remedy}", "")));
        }
    }
    let problems = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Problem)
        .count();
    say(&match problems {
        0 => "no problem found".to_owned(),
        1 => "1 problem found".to_owned(),
        many => format!("{many} problems found"),
    });
}
