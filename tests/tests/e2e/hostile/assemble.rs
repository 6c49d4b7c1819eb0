//! From a guest's text to a component.
//!
//! A guest is the fields of one core module; what it does not define itself (a memory, an allocator, `describe`) is put beside it from
//! `guests/parts`, so that a file holds its behaviour and nothing else. wit-component makes a component of it against the real `wit/`. A file
//! that begins with `(component` is one already.

use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Parts in the order in which they stand in the module, and what a guest defines that has its own.
const PARTS: [(&str, &str); 9] = [
    ("imports", "(func $submit"),
    ("memory", "(memory $memory"),
    ("realloc", "(func $realloc"),
    ("describe", "(func $describe"),
    ("check", "(func $check"),
    ("sync", "(func $sync"),
    ("behave", "(func $behave"),
    ("after_sync", "(func $after_sync"),
    ("write_one", "(func $write_one"),
];

const EXPORTS: &str = r#"
(export "memory" (memory $memory))
(export "cabi_realloc" (func $realloc))
(export "cortexdb:connector/source@0.1.0#describe" (func $describe))
(export "cortexdb:connector/source@0.1.0#check" (func $check))
(export "cortexdb:connector/source@0.1.0#sync" (func $sync))
(export "cabi_post_cortexdb:connector/source@0.1.0#sync" (func $after_sync))
"#;

/// A world that also has a resource, for guests that make handles.
const WITH_HANDLES: &str = "package test:guest;
interface handles { resource handle; }
world with-handles { include cortexdb:connector/connector@0.1.0; export handles; }";

/// The bytes of the component that this text describes.
pub fn assemble(root: &Path, text: &str) -> Vec<u8> {
    let text = repeat(text);
    if text.lines().any(|line| line.starts_with("(component")) {
        return wat::parse_str(&text).unwrap();
    }
    let (mut imports, mut parts) = (String::new(), String::new());
    for (name, definition) in PARTS {
        if text.contains(definition) {
            continue;
        }
        let part =
            std::fs::read_to_string(root.join("guests/parts").join(name).with_extension("wat"));
        let into = if name == "imports" {
            &mut imports
        } else {
            &mut parts
        };
        into.push_str(&part.unwrap());
    }
    let (own_imports, fields): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with("(import"));
    let module = format!(
        "(module $guest {imports}{}\n{}\n{parts}{EXPORTS})",
        own_imports.join("\n"),
        fields.join("\n")
    );
    let mut module = wat::parse_str(&module).unwrap_or_else(|error| panic!("{error}"));
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(root.join("../wit")).unwrap();
    let world = if text.contains("[resource-new]") {
        let own = resolve.push_str("handles.wit", WITH_HANDLES).unwrap();
        resolve.select_world(&[own], Some("with-handles")).unwrap()
    } else {
        resolve.select_world(&[package], Some("connector")).unwrap()
    };
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
    let mut component = ComponentEncoder::default()
        .module(&module)
        .unwrap()
        .encode()
        .unwrap_or_else(|error| panic!("{error:?}"));
    let more = text
        .lines()
        .find_map(|line| line.strip_prefix(";; core instances:"));
    if let Some(count) = more {
        add_core_instances(&mut component, count.trim().parse().unwrap());
    }
    component
}

/// Puts an empty core module behind the others, and makes so many instances of it. What stands before keeps its indices.
fn add_core_instances(component: &mut Vec<u8>, count: u32) {
    const MODULE: u8 = 1;
    const INSTANCES: u8 = 2;
    let before = wasmparser::Parser::new(0)
        .parse_all(component)
        .filter(|payload| matches!(payload, Ok(wasmparser::Payload::ModuleSection { .. })))
        .count();
    // Instantiate, which module, no arguments.
    let instance = [&[0][..], &leb(u32::try_from(before).unwrap()), &[0]].concat();
    let instances = [leb(count), instance.repeat(count as usize)].concat();
    for (id, content) in [
        (MODULE, b"\0asm\x01\0\0\0".to_vec()),
        (INSTANCES, instances),
    ] {
        component.push(id);
        component.extend(leb(u32::try_from(content.len()).unwrap()));
        component.extend(content);
    }
}

/// A number as WebAssembly writes it.
fn leb(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// `{{6000:text}}` is the text, six thousand times: bombs are long.
fn repeat(text: &str) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (inner, after) = after.split_once("}}").unwrap();
        let (times, what) = inner.split_once(':').unwrap();
        expanded.push_str(before);
        expanded.push_str(&what.repeat(times.parse().unwrap()));
        rest = after;
    }
    expanded + rest
}
