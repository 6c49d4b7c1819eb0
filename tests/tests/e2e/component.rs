//! The built component may reach the host's interfaces and nothing else.

use wasmparser::{ComponentTypeRef, Parser, Payload};

use crate::setup::dist;

/// The outermost imports of a component, types left out.
fn imports(bytes: &[u8]) -> Vec<String> {
    let mut depth = 0_usize;
    let mut names = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.unwrap() {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    let import = import.unwrap();
                    if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                        names.push(import.name.name.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    names
}

#[test]
fn the_gitlab_component_imports_the_connector_package_and_nothing_else() {
    let bytes = std::fs::read(dist("gitlab.wasm")).unwrap();
    let names = imports(&bytes);
    assert!(
        names
            .iter()
            .any(|name| name.starts_with("cortexdb:connector/http@")),
        "{names:?}"
    );
    let foreign: Vec<_> = names
        .iter()
        .filter(|name| !name.starts_with("cortexdb:connector/"))
        .collect();
    assert!(foreign.is_empty(), "foreign imports: {foreign:?}");
}

#[test]
fn the_gitlab_component_is_smaller_than_a_mebibyte() {
    let size = std::fs::metadata(dist("gitlab.wasm")).unwrap().len();
    assert!(size < 1 << 20, "{size} bytes");
}
