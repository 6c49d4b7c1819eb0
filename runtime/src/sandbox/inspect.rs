//! Reads a component's outermost imports and exports without compiling it.
//!
//! A component may import this package's interfaces and nothing else. The check comes first because it is cheap (milliseconds, no
//! compiler involved) and because what cannot be linked must not be compiled: compiling is the expensive and the dangerous part.

use crate::host::wasi::PACKAGES as WASI_PACKAGES;
use wasmparser::{ComponentExternalKind, ComponentTypeRef, Encoding, Parser, Payload};

/// The only package whose interfaces a component may import.
pub const PACKAGE: &str = "cortexdb:connector/";

/// Interfaces of each world, without version.
const CONNECTOR_EXPORT: &str = "cortexdb:connector/source";
const HOOKS_EXPORT: &str = "cortexdb:connector/hooks";
const MAPPER_EXPORT: &str = "cortexdb:connector/transform";
const CONNECTOR_IMPORTS: [&str; 5] = [
    "cortexdb:connector/types",
    "cortexdb:connector/http",
    "cortexdb:connector/state",
    "cortexdb:connector/writer",
    "cortexdb:connector/log",
];
const MAPPER_IMPORTS: [&str; 2] = ["cortexdb:connector/types", "cortexdb:connector/log"];

/// Which world a component belongs to, by what it exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum World {
    /// Reads a source.
    Connector,
    /// Rewrites experiences.
    Mapper,
}

impl World {
    /// As in the WIT.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connector => "connector",
            Self::Mapper => "mapper",
        }
    }

    /// A mapper may import what the empty WASI context answers: its toolchain may leave it no choice, and there is nothing behind it.
    fn allows(self, interface: &str) -> bool {
        self.allowed_imports().contains(&interface)
            || (self == Self::Mapper
                && WASI_PACKAGES
                    .iter()
                    .any(|package| interface.starts_with(package)))
    }

    fn allowed_imports(self) -> &'static [&'static str] {
        match self {
            Self::Connector => &CONNECTOR_IMPORTS,
            Self::Mapper => &MAPPER_IMPORTS,
        }
    }
}

/// What a file is, from its bytes alone.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Inspection {
    /// The world, or `None` when it exports neither.
    pub world: Option<World>,
    /// Names of imported interfaces, with version.
    pub imports: Vec<String>,
    /// Names of exported interfaces, with version.
    pub exports: Vec<String>,
    /// Imports that its world does not have. Empty for a component that may run.
    pub refused_imports: Vec<String>,
    /// Size of the file.
    pub bytes: usize,
    /// `sha256:` and 64 hex digits.
    pub digest: String,
}

/// Why a file is no component of ours.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Not WebAssembly, or damaged.
    #[error("not a readable WebAssembly file: {0}. Is it complete?")]
    Malformed(String),
    /// A core module.
    #[error(
        "this is a core WebAssembly module, not a component. Build it with `wasm-component-ld` as linker (see .cargo/config.toml of gitlab-component) or wrap it with `wasm-tools component new`"
    )]
    CoreModule,
    /// It exports neither world's interface.
    #[error(
        "the component exports neither `{CONNECTOR_EXPORT}` (a connector) nor `{MAPPER_EXPORT}` (a mapper); it exports {exports}"
    )]
    NoWorld {
        /// What it does export.
        exports: String,
    },
    /// It wants something that it may not have.
    #[error(
        "the component is refused by the rule `imports`: it imports {imports}, which a {world} may not have. It may import {allowed} and nothing else; build it without WASI (target wasm32-unknown-unknown)"
    )]
    Imports {
        /// Its world.
        world: &'static str,
        /// What it imports.
        imports: String,
        /// What it may import.
        allowed: String,
    },
}

/// Reads a file's imports and exports.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, InspectError> {
    let malformed =
        |error: wasmparser::BinaryReaderError| InspectError::Malformed(error.to_string());
    let mut imports = Vec::new();
    let mut bare_imports = Vec::new();
    let mut exports = Vec::new();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::Version { encoding, .. } => {
                depth += 1;
                if depth == 1 && encoding == Encoding::Module {
                    return Err(InspectError::CoreModule);
                }
            }
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    let import = import.map_err(malformed)?;
                    match import.ty {
                        ComponentTypeRef::Instance(_) => imports.push(import.name.name.to_owned()),
                        // A `use` at world level shows up as a type: it gives the component nothing to call.
                        ComponentTypeRef::Type(_) => {}
                        _ => bare_imports.push(import.name.name.to_owned()),
                    }
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    let export = export.map_err(malformed)?;
                    if export.kind == ComponentExternalKind::Instance {
                        exports.push(export.name.name.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    let has = |interface: &str| {
        exports
            .iter()
            .any(|name| without_version(name) == interface)
    };
    let world = if has(CONNECTOR_EXPORT) {
        Some(World::Connector)
    } else if has(MAPPER_EXPORT) {
        Some(World::Mapper)
    } else {
        None
    };
    let refused_imports = imports
        .iter()
        .filter(|name| !world.is_some_and(|world| world.allows(without_version(name))))
        .chain(&bare_imports)
        .cloned()
        .collect();
    imports.extend(bare_imports);
    Ok(Inspection {
        world,
        imports,
        exports,
        refused_imports,
        bytes: bytes.len(),
        digest: crate::digest::fingerprint(bytes),
    })
}

impl Inspection {
    /// Whether it understands the webhooks of its source.
    #[must_use]
    pub fn has_hooks(&self) -> bool {
        self.exports
            .iter()
            .any(|name| without_version(name) == HOOKS_EXPORT)
    }

    /// The world, if the component may run at all.
    pub fn admit(&self) -> Result<World, InspectError> {
        let Some(world) = self.world else {
            return Err(InspectError::NoWorld {
                exports: listed(&self.exports),
            });
        };
        if self.refused_imports.is_empty() {
            return Ok(world);
        }
        Err(InspectError::Imports {
            world: world.as_str(),
            imports: listed(&self.refused_imports),
            allowed: listed(
                &world
                    .allowed_imports()
                    .iter()
                    .map(|name| (*name).to_owned())
                    .collect::<Vec<_>>(),
            ),
        })
    }
}

/// Imports and exports that are shown, each cut to as many bytes: a file may have tens of thousands with names of 100,000 bytes, and what is
/// shown is also stored with the component, and comes with each list of them.
const MAX_SHOWN: usize = 256;

/// Names as they are shown. Whoever decides looks at the whole ones.
#[must_use]
pub fn shown(names: &[String]) -> Vec<String> {
    let cut = |name: &String| {
        if name.len() <= MAX_SHOWN {
            return name.clone();
        }
        format!("{}…", &name[..name.floor_char_boundary(MAX_SHOWN)])
    };
    let mut shown: Vec<String> = names.iter().take(MAX_SHOWN).map(cut).collect();
    if names.len() > MAX_SHOWN {
        shown.push(format!("and {} more", names.len() - MAX_SHOWN));
    }
    shown
}

fn without_version(name: &str) -> &str {
    name.split_once('@')
        .map_or(name, |(interface, _)| interface)
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "nothing".to_owned();
    }
    shown(names)
        .iter()
        .map(|name| format!("`{}`", name.escape_debug()))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty component, in bytes: magic, version 13, layer 1.
    const EMPTY_COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";

    #[test]
    fn text_is_not_webassembly() {
        assert!(matches!(
            inspect(b"#!/bin/sh\n"),
            Err(InspectError::Malformed(_))
        ));
        assert!(matches!(
            inspect(b""),
            Err(InspectError::Malformed(_)) | Ok(Inspection { world: None, .. })
        ));
    }

    #[test]
    fn a_core_module_is_told_how_to_become_a_component() {
        assert!(matches!(
            inspect(b"\0asm\x01\0\0\0"),
            Err(InspectError::CoreModule)
        ));
    }

    #[test]
    fn a_component_without_a_world_says_what_is_missing() {
        let error = inspect(&EMPTY_COMPONENT)
            .unwrap()
            .admit()
            .unwrap_err()
            .to_string();
        assert!(error.contains("cortexdb:connector/source"), "{error}");
    }

    #[test]
    fn names_without_end_are_shown_cut_and_decide_as_they_are() {
        let long = format!("{CONNECTOR_EXPORT}@0.1.0-{}", "ö".repeat(50_000));
        let mut names = vec![long; 1000];
        let shown = shown(&names);
        assert_eq!(shown.len(), 257);
        assert_eq!(shown[256], "and 744 more");
        assert!(shown[0].len() <= 256 + "…".len() && shown[0].starts_with(CONNECTOR_EXPORT));
        names.push(HOOKS_EXPORT.to_owned());
        let inspection = Inspection {
            world: None,
            imports: vec![],
            exports: names,
            refused_imports: vec![],
            bytes: 0,
            digest: String::new(),
        };
        assert!(inspection.has_hooks());
        let words = inspection.admit().unwrap_err().to_string();
        assert!(words.len() < 100_000 && words.contains("and 745 more"));
        assert_eq!(super::shown(&["a".to_owned()]), ["a"]);
    }
}
