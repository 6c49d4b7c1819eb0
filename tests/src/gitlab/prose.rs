//! Texts as people write them in GitLab.
//!
//! What breaks a mapper is in the texts: Markdown, code fences, emoji outside the basic plane, right-to-left script, carriage
//! returns, text long enough to be split, things that look like mentions, secrets or HTML.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

const SUBJECTS: &[&str] = &[
    "the retry loop",
    "pagination of the group list",
    "the login form",
    "our TLS configuration",
    "the nightly export",
    "the cache key",
    "the Kubernetes chart",
    "a race in the scheduler",
    "the billing report",
    "the search index",
    "die Übersetzung",
    "la page d'accueil",
    "検索結果の表示",
    "the onboarding guide",
    "the feature flag",
    "memory use of the worker",
];
const VERBS: &[&str] = &[
    "Fix",
    "Rework",
    "Document",
    "Remove",
    "Speed up",
    "Harden",
    "Revert",
    "Investigate",
    "Simplify",
    "Test",
    "Draft: Split",
];
const REASONS: &[&str] = &[
    "because it fails once a day in production",
    "so that on-call can sleep",
    "after the incident of last week",
    "as agreed in the design review",
    "to unblock the release",
    "since customers ask for it",
    "before the migration",
    "because the old way leaks connections",
];
const REMARKS: &[&str] = &[
    "Could we keep the old name here? Callers outside this repository use it.",
    "LGTM 👍",
    "I measured it: 3.2 s before, 0.4 s after. See the table.",
    "Why not `Option<&str>`?",
    "This breaks on Windows paths.\r\n\r\nI will push a fix.",
    "Danke, sehr schön! 🎉 @maria.alvarez kannst du auch schauen?",
    "نعم، هذا أفضل بكثير.",
    "Please rebase; the pipeline on `main` is green again.",
    "/cc @dev3 – see #12 and !7",
    "Done in 4f5e6d7c.",
    "I am not convinced. What happens when the token expires mid-walk?",
    "> What happens when the token expires mid-walk?\n\nWe stop, keep the cursor and say so.",
    "🤔",
    "```rust\nassert_eq!(cursor, None);\n```\nfails for me on 1.95.",
    "| before | after |\n|---|---|\n| 12 MB | 3 MB |",
    "<details><summary>Log</summary>\n\nerror: connection reset by peer\n\n</details>",
    "Thread resolved by accident, reopening.",
    "ping",
    "Zero\u{200b}width and combining: e\u{301}clair, 👩‍👩‍👧‍👦, 𝔘𝔫𝔦𝔠𝔬𝔡𝔢.",
];

fn pick<'a>(rng: &mut SmallRng, from: &[&'a str]) -> &'a str {
    from.choose(rng).copied().unwrap_or_default()
}

pub(crate) fn title(rng: &mut SmallRng) -> String {
    format!("{} {}", pick(rng, VERBS), pick(rng, SUBJECTS))
}

pub(crate) fn remark(rng: &mut SmallRng) -> String {
    if rng.random_ratio(1, 25) {
        return paragraphs(rng, 12);
    }
    if rng.random_ratio(1, 4) {
        format!("{} {}", pick(rng, REMARKS), sentence(rng))
    } else {
        pick(rng, REMARKS).to_owned()
    }
}

pub(crate) fn sentence(rng: &mut SmallRng) -> String {
    format!(
        "{} {} {}.",
        pick(rng, VERBS),
        pick(rng, SUBJECTS),
        pick(rng, REASONS)
    )
}

pub(crate) fn paragraphs(rng: &mut SmallRng, count: usize) -> String {
    let mut out = String::from("## What and why\n\n");
    for index in 0..count {
        for _ in 0..rng.random_range(1..4) {
            out.push_str(&sentence(rng));
            out.push(' ');
        }
        out.push_str("\n\n");
        if index % 5 == 3 {
            out.push_str("- [x] tests\n- [ ] documentation\n- [ ] changelog 📝\n\n");
        }
    }
    out
}

/// A description: missing, empty, short, or longer than a thousand characters.
pub(crate) fn description(rng: &mut SmallRng) -> Option<String> {
    match rng.random_range(0..10) {
        0 => None,
        1 => Some(String::new()),
        2..=6 => Some(sentence(rng)),
        7 => Some(paragraphs(rng, 4)),
        _ => Some(paragraphs(rng, 16)),
    }
}

/// Text of at least `bytes` bytes.
pub(crate) fn huge(rng: &mut SmallRng, bytes: usize) -> String {
    let mut out = String::with_capacity(bytes + 4096);
    while out.len() < bytes {
        out.push_str(&paragraphs(rng, 8));
        out.push_str("🦀 über-langer Text, 长文本\n\n");
    }
    out
}

pub(crate) fn commit_message(rng: &mut SmallRng) -> String {
    match rng.random_range(0..4) {
        0 => title(rng),
        1 => format!("{}\n", title(rng)),
        2 => format!("{}\n\n{}\n", title(rng), sentence(rng)),
        _ => format!(
            "{}\n\n{}\n\nChangelog: fixed\nSigned-off-by: Dev <dev@example.com>\n",
            title(rng),
            sentence(rng)
        ),
    }
}
