//! What a component must be to be compiled, and the report that says so.
//!
//! Compiling is the one step that wasmtime does not bound: a component of 99 KB was measured to take 21 seconds and 2.2 GiB. The bombs are
//! easily told from real code by counting, so they are counted first. The caps are those that all real components measured keep by a wide
//! margin (Rust, C, QuickJS, SpiderMonkey, CPython: at most 271 locals, 427 KB in one function, 13,500 functions, 194,000 for locals times
//! blocks; the bomb has 6,000 locals and 36 million).

use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload, Validator, WasmFeatures};

use super::limits::Unit;

/// Raised with every change of a rule, so that what was admitted before is looked at again.
pub const RULES_VERSION: u32 = 1;

/// Size of a file. The largest real component measured, CPython, has 18.4 MB.
pub const MAX_FILE_BYTES: u64 = 32 << 20;
const MAX_FUNCTIONS: u64 = 30_000;
const MAX_LOCALS: u64 = 2_000;
const MAX_BODY_BYTES: u64 = 1 << 20;
const MAX_LOCALS_TIMES_BLOCKS: u64 = 2_000_000;
/// Lifted and lowered functions, each of which is a trampoline to compile, and instances, each of which is set up one by one.
const MAX_COMPONENT_ITEMS: u64 = 30_000;

/// One rule, applied to one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its name.
    pub rule: String,
    /// What was measured, where it is a number.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub measured: Option<u64>,
    /// The most that is allowed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub limit: Option<u64>,
    /// `bytes`, `ms` or `count`.
    pub unit: String,
    /// Whether the file keeps it.
    pub ok: bool,
    /// What was found, in words; where the rule is broken, with what to do.
    pub words: String,
}

impl Finding {
    /// A rule that compares a number with a limit. `remedy` is only said where the rule is broken.
    #[must_use]
    pub fn measured(rule: &str, unit: Unit, measured: u64, limit: u64, remedy: &str) -> Self {
        let ok = measured <= limit;
        Self {
            rule: rule.to_owned(),
            measured: Some(measured),
            limit: Some(limit),
            unit: unit_name(unit).to_owned(),
            ok,
            words: if ok { String::new() } else { remedy.to_owned() },
        }
    }

    /// A rule whose limit stopped the work: how much it would have taken nobody knows. The limit stands as what was measured.
    #[must_use]
    pub fn stopped(rule: &str, unit: Unit, limit: u64, remedy: &str) -> Self {
        Self {
            ok: false,
            words: remedy.to_owned(),
            ..Self::measured(rule, unit, limit, limit, remedy)
        }
    }

    /// A rule that is kept or broken, without a number.
    #[must_use]
    pub fn judged(rule: &str, outcome: Result<String, String>) -> Self {
        Self {
            rule: rule.to_owned(),
            measured: None,
            limit: None,
            unit: unit_name(Unit::Count).to_owned(),
            ok: outcome.is_ok(),
            words: outcome.unwrap_or_else(|words| words),
        }
    }

    /// As people read it, number with its unit.
    #[must_use]
    pub fn show(&self, amount: Option<u64>) -> String {
        let unit = match self.unit.as_str() {
            "bytes" => Unit::Bytes,
            "ms" => Unit::Time,
            _ => Unit::Count,
        };
        amount.map_or_else(|| "-".to_owned(), |amount| unit.show(amount))
    }

    /// The refusal: the rule, the measured value, the limit, and what to do.
    #[must_use]
    pub fn refusal(&self) -> String {
        match (self.measured, self.limit) {
            (Some(measured), Some(limit)) => format!(
                "the component is refused by the rule `{}`: {}{} measured, {} allowed. {}",
                self.rule,
                if measured > limit { "" } else { "more than " },
                self.show(self.measured),
                self.show(self.limit),
                self.words
            ),
            _ => format!(
                "the component is refused by the rule `{}`: {}",
                self.rule, self.words
            ),
        }
    }
}

pub(super) fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Bytes => "bytes",
        Unit::Time => "ms",
        Unit::Count => "count",
    }
}

/// Features of the sandbox's engine, for validation: WebAssembly 2 with several memories and constant expressions, no collector, threads,
/// exceptions, 64-bit memories or asynchronous components. [`super::engine::tenant`] switches off the same.
#[must_use]
pub fn features() -> WasmFeatures {
    WasmFeatures::WASM2
        | WasmFeatures::MULTI_MEMORY
        | WasmFeatures::EXTENDED_CONST
        | WasmFeatures::COMPONENT_MODEL
}

/// What is counted in a file.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    functions: u64,
    most_locals: u64,
    longest_body: u64,
    most_locals_times_blocks: u64,
    component_items: u64,
}

fn count(bytes: &[u8]) -> Result<Counts, wasmparser::BinaryReaderError> {
    let mut counts = Counts::default();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::CodeSectionEntry(body) => {
                counts.functions += 1;
                let range = body.range();
                let length = (range.end - range.start) as u64;
                counts.longest_body = counts.longest_body.max(length);
                let mut locals = 0_u64;
                for group in body.get_locals_reader()? {
                    locals = locals.saturating_add(u64::from(group?.0));
                }
                let mut blocks = 0_u64;
                let mut operators = body.get_operators_reader()?;
                while !operators.eof() {
                    use wasmparser::Operator::{Block, If, Loop};
                    if matches!(operators.read()?, Block { .. } | Loop { .. } | If { .. }) {
                        blocks += 1;
                    }
                }
                counts.most_locals = counts.most_locals.max(locals);
                counts.most_locals_times_blocks = counts
                    .most_locals_times_blocks
                    .max(locals.saturating_mul(blocks));
            }
            Payload::ComponentCanonicalSection(section) => {
                counts.component_items += u64::from(section.count());
            }
            Payload::InstanceSection(section) => {
                counts.component_items += u64::from(section.count());
            }
            Payload::ComponentInstanceSection(section) => {
                counts.component_items += u64::from(section.count());
            }
            _ => {}
        }
    }
    Ok(counts)
}

/// Applies the rules that need no compiler. Stops at the first that is broken: what follows may be expensive for such a file.
#[must_use]
pub fn judge(bytes: &[u8]) -> Vec<Finding> {
    let counts = match count(bytes) {
        Ok(counts) => counts,
        Err(error) => {
            return vec![Finding::judged(
                "readable",
                Err(format!(
                    "{error}. The file is damaged, or uses a feature that is switched off; build it again"
                )),
            )];
        }
    };
    let measured = [
        (
            "functions",
            Unit::Count,
            counts.functions,
            MAX_FUNCTIONS,
            "Leave out what is not needed, or split the component",
        ),
        (
            "function_locals",
            Unit::Count,
            counts.most_locals,
            MAX_LOCALS,
            "One function has too many local variables; split it, or build with optimisation",
        ),
        (
            "function_bytes",
            Unit::Bytes,
            counts.longest_body,
            MAX_BODY_BYTES,
            "One function is too long; split it, or put the table it builds into data",
        ),
        (
            "function_locals_times_blocks",
            Unit::Count,
            counts.most_locals_times_blocks,
            MAX_LOCALS_TIMES_BLOCKS,
            "Compiling one function would take minutes; split it, or build with optimisation",
        ),
        (
            "component_items",
            Unit::Count,
            counts.component_items,
            MAX_COMPONENT_ITEMS,
            "The component lifts, lowers or instantiates too much; use fewer parts",
        ),
    ];
    let mut findings = Vec::new();
    for (rule, unit, amount, limit, remedy) in measured {
        let finding = Finding::measured(rule, unit, amount, limit, remedy);
        let broken = !finding.ok;
        findings.push(finding);
        if broken {
            return findings;
        }
    }
    let valid = Validator::new_with_features(features())
        .validate_all(bytes)
        .map(|_| "WebAssembly 2, several memories; no collector, threads, exceptions, 64-bit memory, async".to_owned())
        .map_err(|error| {
            format!("{error}. Build it for WebAssembly 2 and the component model without async")
        });
    findings.push(Finding::judged("valid", valid));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A core module with one function of these locals and loops.
    fn module(locals: u32, loops: usize) -> Vec<u8> {
        fn leb(mut number: u64) -> Vec<u8> {
            let mut bytes = Vec::new();
            loop {
                let low = u8::try_from(number & 0x7f).unwrap();
                number >>= 7;
                if number == 0 {
                    bytes.push(low);
                    return bytes;
                }
                bytes.push(low | 0x80);
            }
        }
        fn section(id: u8, content: Vec<u8>) -> Vec<u8> {
            [vec![id], leb(content.len() as u64), content].concat()
        }
        let body = [
            vec![1],
            leb(u64::from(locals)),
            vec![0x7f],
            [0x03, 0x40].repeat(loops),
            [0x0b].repeat(loops),
            vec![0x0b],
        ]
        .concat();
        let body = [leb(body.len() as u64), body].concat();
        [
            b"\0asm\x01\0\0\0".to_vec(),
            section(1, vec![1, 0x60, 0, 0]),
            section(3, vec![1, 0]),
            section(10, [vec![1], body].concat()),
        ]
        .concat()
    }

    fn broken(findings: &[Finding]) -> Option<&str> {
        findings
            .iter()
            .find(|finding| !finding.ok)
            .map(|finding| finding.rule.as_str())
    }

    #[test]
    fn ordinary_code_keeps_every_rule() {
        assert_eq!(broken(&judge(&module(200, 200))), None);
    }

    #[test]
    fn a_compile_bomb_is_counted_and_not_compiled() {
        assert_eq!(broken(&judge(&module(6000, 6000))), Some("function_locals"));
        assert_eq!(
            broken(&judge(&module(1900, 1900))),
            Some("function_locals_times_blocks")
        );
        assert_eq!(broken(&judge(&module(1, 600_000))), Some("function_bytes"));
    }

    #[test]
    fn a_refusal_names_rule_value_limit_and_remedy() {
        let findings = judge(&module(6000, 1));
        let words = findings.last().unwrap().refusal();
        for part in [
            "`function_locals`",
            "6000 measured",
            "2000 allowed",
            "split it",
        ] {
            assert!(words.contains(part), "{part}: {words}");
        }
    }

    #[test]
    fn a_cut_file_is_damaged_not_a_panic() {
        let whole = module(3, 3);
        for end in 0..whole.len() {
            let _ = judge(&whole[..end]);
        }
        assert_eq!(broken(&judge(&whole[..whole.len() - 3])), Some("readable"));
    }
}
