//! Component files of tenants: admitted when they come in, and handed to the host as private files.
//!
//! The database has the bytes; the host loads from paths. So each component that is used here gets a file under its digest in the data
//! folder, which is checked against the digest whenever it is handed out: a file that somebody changed is written again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::private_file;
use crate::digest::fingerprint;
use crate::host::connector::{Connector, Description, LoadError};
use crate::host::imports::Access;
use crate::host::mapper::Mapper;
use crate::report::{Event, Reporter};
use crate::sandbox::admission::{ComponentFile, Report};
use crate::sandbox::engine::LiveEngine;
use crate::sandbox::limits::Limits;
use crate::source::client::Authentication;
use connector_store::platform::{Component, Platform, PlatformError};

/// Files that are admitted at the same time; each may compile.
const ADMISSIONS_AT_ONCE: usize = 2;

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// It may not be used.
    #[error("{words}")]
    Refused {
        /// The rule, what was measured, what to do.
        words: String,
        /// All rules that were applied.
        report: Value,
    },
    /// The data folder.
    #[error("cannot keep a component in {path}: {reason}")]
    File {
        /// Where.
        path: String,
        /// Why.
        reason: std::io::Error,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] PlatformError),
    /// What was stored of its description is not readable by this version.
    #[error("the description of {0} cannot be read by this version; upload the component again")]
    Description(String),
}

/// See the [module](self).
#[derive(Debug)]
pub struct Components {
    folder: PathBuf,
    admissions: Semaphore,
}

struct Silent;

impl Reporter for Silent {
    fn event(&self, _: &Event) {}
}

impl Components {
    /// Files below the data folder.
    #[must_use]
    pub fn new(data: &Path) -> Self {
        Self {
            folder: data.join("components"),
            admissions: Semaphore::new(ADMISSIONS_AT_ONCE),
        }
    }

    /// Looks at a file as `runtime inspect` does: rules, compiler, and what it says of itself.
    pub async fn admit(
        &self,
        tenant: Option<&str>,
        bytes: &[u8],
        limits: Limits,
    ) -> Result<Component, ComponentError> {
        let _permit = self.admissions.acquire().await;
        let digest = fingerprint(bytes);
        let path = self.keep(&digest, bytes)?;
        let access = || Access::nothing_but_the_log(limits, Arc::new(Silent));
        let mut report = Report::default();
        let described = match Connector::load(&path, access(), &mut report).await {
            Ok(connector) => Ok(("connector", to_json(&connector.description))),
            Err(LoadError::NotAConnector) => {
                report = Report::default();
                match LiveEngine::tenant() {
                    Ok(engine) => {
                        let file = ComponentFile::from(&path);
                        Mapper::without_settings(&engine, file, access(), &mut report)
                            .await
                            .map(|mapper| ("mapper", json!(mapper.description)))
                    }
                    Err(error) => Err(LoadError::Invalid(format!("{error:#}"))),
                }
            }
            Err(error) => Err(error),
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match described {
            Ok((world, description)) => Ok(Component {
                digest,
                tenant: tenant.map(str::to_owned),
                name: text(&description["name"]),
                version: text(&description["version"]),
                world: world.to_owned(),
                admitted: true,
                report: report_json(&report, None),
                description,
                bytes: bytes.len() as u64,
                created_at: String::new(),
            }),
            Err(error) => {
                let _ = std::fs::remove_file(&path);
                // The path is ours and says nothing to who sent the bytes.
                let words = error
                    .to_string()
                    .replace(&path.display().to_string(), "the component");
                Err(ComponentError::Refused {
                    report: report_json(&report, Some(&words)),
                    words,
                })
            }
        }
    }

    /// The file of a component that this platform has.
    pub async fn file(
        &self,
        platform: &dyn Platform,
        digest: &str,
    ) -> Result<PathBuf, ComponentError> {
        let path = self.path(digest);
        if std::fs::read(&path).is_ok_and(|bytes| fingerprint(&bytes) == digest) {
            return Ok(path);
        }
        let bytes = platform.component_bytes(digest).await?;
        self.keep(digest, &bytes)
    }

    fn path(&self, digest: &str) -> PathBuf {
        let name: String = digest
            .trim_start_matches("sha256:")
            .chars()
            .filter(char::is_ascii_hexdigit)
            .collect();
        self.folder.join(format!("{name}.wasm"))
    }

    fn keep(&self, digest: &str, bytes: &[u8]) -> Result<PathBuf, ComponentError> {
        let path = self.path(digest);
        private_file::folder(&self.folder)
            .and_then(|()| private_file::replace_bytes(&path, bytes))
            .map_err(|reason| ComponentError::File {
                path: path.display().to_string(),
                reason,
            })?;
        Ok(path)
    }
}

/// The report of `runtime inspect --json`, as far as it is about admission.
fn report_json(report: &Report, refusal: Option<&str>) -> Value {
    let inspection = report.inspection.as_ref();
    json!({
        "world": inspection.and_then(|inspection| inspection.world),
        "imports": inspection.map(|inspection| &inspection.imports),
        "exports": inspection.map(|inspection| &inspection.exports),
        "refused_imports": inspection.map(|inspection| &inspection.refused_imports),
        "admission": report.findings,
        "refusal": refusal,
    })
}

/// What a connector says of itself, as it is stored.
fn to_json(description: &Description) -> Value {
    let authentication: Vec<String> = description
        .authentication
        .iter()
        .map(|one| match one {
            Authentication::Header(name) => format!("header {name}"),
            Authentication::Bearer => "bearer".to_owned(),
            Authentication::Anonymous => "anonymous".to_owned(),
        })
        .collect();
    json!({
        "name": description.name,
        "version": description.version,
        "summary": description.summary,
        "event_types": description.event_types,
        "settings_schema": description.settings_schema,
        "default_url": description.default_url,
        "authentication": authentication,
        "permissions": description.permissions,
        "scope_variables": description.scope_variables,
        "default_scope_template": description.default_scope_template,
    })
}

/// What a stored connector said of itself when it was admitted.
pub fn description_of(component: &Component) -> Result<Description, ComponentError> {
    let unreadable = || ComponentError::Description(component.digest.clone());
    let said = &component.description;
    let text = |name: &str| {
        said[name]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(unreadable)
    };
    let list = |name: &str| -> Result<Vec<String>, ComponentError> {
        serde_json::from_value(said[name].clone()).map_err(|_| unreadable())
    };
    let authentication: Option<Vec<Authentication>> = list("authentication")?
        .iter()
        .map(|one| match one.split_once(' ') {
            Some(("header", name)) => Some(Authentication::Header(name.parse().ok()?)),
            None if one == "bearer" => Some(Authentication::Bearer),
            None if one == "anonymous" => Some(Authentication::Anonymous),
            _ => None,
        })
        .collect();
    Ok(Description {
        name: text("name")?,
        version: text("version")?,
        summary: text("summary")?,
        event_types: list("event_types")?,
        settings_schema: said["settings_schema"].clone(),
        default_url: said["default_url"].as_str().map(str::to_owned),
        authentication: authentication.ok_or_else(unreadable)?,
        permissions: serde_json::from_value(said["permissions"].clone())
            .map_err(|_| unreadable())?,
        scope_variables: list("scope_variables")?,
        default_scope_template: text("default_scope_template")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_read_back_as_it_was_stored() {
        let description = Description {
            name: "feed".into(),
            version: "1".into(),
            summary: "Reads a feed.".into(),
            event_types: vec!["entry".into()],
            settings_schema: json!({"type": "object"}),
            default_url: None,
            authentication: vec![
                Authentication::Header("private-token".parse().unwrap()),
                Authentication::Anonymous,
            ],
            permissions: vec![("read".into(), "reading".into())],
            scope_variables: vec!["feed".into()],
            default_scope_template: "org:<org>".into(),
        };
        let component = Component {
            digest: "sha256:00".into(),
            tenant: None,
            name: "feed".into(),
            version: "1".into(),
            world: "connector".into(),
            admitted: true,
            report: Value::Null,
            description: to_json(&description),
            bytes: 0,
            created_at: String::new(),
        };
        let read = description_of(&component).unwrap();
        assert_eq!(format!("{read:?}"), format!("{description:?}"));
        let damaged = Component {
            description: json!({"name": "feed"}),
            ..component
        };
        assert!(description_of(&damaged).is_err());
    }

    #[tokio::test]
    async fn what_is_no_component_is_refused_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let components = Components::new(folder.path());
        let error = components
            .admit(None, b"no wasm", Limits::default())
            .await
            .unwrap_err();
        let ComponentError::Refused { words, report } = error else {
            panic!("{error}")
        };
        assert!(
            !words.contains(&folder.path().display().to_string()),
            "{words}"
        );
        assert_eq!(report["refusal"], words);
        let left = std::fs::read_dir(folder.path().join("components")).unwrap();
        assert_eq!(left.count(), 0);
    }
}
