//! What a mapper may make of a record, and what stays the host's.
//!
//! A mapper may change content, labels, attributes, author, predecessors and thread; it may drop a record, and split it into parts. Identity
//! is the host's: what comes back under another source id, with another event type, modality or time, is refused, so that a mapper can
//! neither overwrite another record nor forge a key. A part has the record's id with `~` and a name, and a place of its own may be chosen
//! below the record's scope and nowhere else.

use crate::cortexdb::envelope::{Mapped, PART_OF, RawRecord};

/// Parts that one record may have.
const MAX_PARTS: usize = 1000;
const MAX_PART_NAME_BYTES: usize = 64;
/// The attribute by which a mapper chooses a place below the scope of the record. It is not sent.
pub const SCOPE_BELOW: &str = "scope-below";
const MAX_SEGMENTS_BELOW: usize = 4;
const MAX_KIND_BYTES: usize = 32;
const MAX_ID_BYTES: usize = 64;

/// Holds what came back for one record to the rules; `root` is the record of the source, which `given` is or is a part of.
pub(super) fn check(
    root: &str,
    given: &RawRecord,
    came_back: Vec<RawRecord>,
) -> Result<Vec<RawRecord>, String> {
    check_number(came_back.len())?;
    let mut made: Vec<RawRecord> = Vec::with_capacity(came_back.len());
    for mut one in came_back {
        let id = &given.source_id;
        if one.source_id != *id {
            let name = one.source_id.strip_prefix(id.as_str());
            let name = name.and_then(|rest| rest.strip_prefix('~'));
            if !name.is_some_and(is_part_name) {
                return Err(format!(
                    "it gave `{}` the source id `{}`; an experience keeps its id, or is a part of it named `{id}~name` with up to {MAX_PART_NAME_BYTES} of A-Z, a-z, 0-9, `.`, `_` and `-`",
                    id.escape_debug(),
                    shown(&one.source_id)
                ));
            }
        } else if made.iter().any(|other| other.source_id == *id) {
            let number = made.len() + 1;
            one.source_id = format!("{id}~{number}");
        }
        if made.iter().any(|other| other.source_id == one.source_id) {
            return Err(format!(
                "it made two parts with the id `{}`",
                shown(&one.source_id)
            ));
        }
        let kept = [
            ("event-type", one.event_type == given.event_type),
            ("modality", one.modality == given.modality),
            ("observed-at", one.observed_at == given.observed_at),
            ("recorded-at", one.recorded_at == given.recorded_at),
        ];
        if let Some((name, _)) = kept.iter().find(|(_, same)| !same) {
            return Err(format!("it changed `{name}`, which is the host's"));
        }
        one.mapped = Mapped {
            scope_below: scope_below(&mut one.attributes)?
                .or_else(|| given.mapped.scope_below.clone()),
            part_of: None,
            root: given.mapped.root.clone(),
        };
        one.attributes.retain(|(name, _)| name != PART_OF);
        if one.source_id != root {
            one.attributes.push((PART_OF.to_owned(), root.to_owned()));
            one.mapped.part_of = Some(root.to_owned());
        }
        made.push(one);
    }
    Ok(made)
}

/// Holds the number of what was made of one record of the source, by all mappers so far, to what there may be.
pub(super) fn check_number(made: usize) -> Result<(), String> {
    if made > MAX_PARTS {
        return Err(format!(
            "it made {made} experiences of one; at most {MAX_PARTS}, those of other mappers of the chain included"
        ));
    }
    Ok(())
}

/// Holds what was made of one page so far to what may be held at a time. Alone, a record that is refused by this may well pass.
pub(super) fn check_size(made: usize, most: usize) -> Result<(), String> {
    if made > most {
        return Err(format!(
            "what it made of this page takes more than {} MiB; let it make fewer or smaller parts",
            most >> 20
        ));
    }
    Ok(())
}

fn is_part_name(name: &str) -> bool {
    (1..=MAX_PART_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn scope_below(attributes: &mut Vec<(String, String)>) -> Result<Option<String>, String> {
    let Some(place) = attributes.iter().position(|(name, _)| name == SCOPE_BELOW) else {
        return Ok(None);
    };
    let (_, value) = attributes.remove(place);
    if attributes.iter().any(|(name, _)| name == SCOPE_BELOW) {
        return Err(format!("it gave two attributes `{SCOPE_BELOW}`"));
    }
    let segments: Vec<&str> = value.split('/').collect();
    if segments.len() <= MAX_SEGMENTS_BELOW && segments.iter().all(|one| is_segment(one)) {
        return Ok(Some(value));
    }
    Err(format!(
        "its attribute `{SCOPE_BELOW}` = `{}` is not a place below the scope: write one to {MAX_SEGMENTS_BELOW} segments `type:id` with a slash between, such as `team:security`",
        shown(&value)
    ))
}

fn is_segment(segment: &str) -> bool {
    let Some((kind, id)) = segment.split_once(':') else {
        return false;
    };
    (1..=MAX_KIND_BYTES).contains(&kind.len())
        && kind.starts_with(|c: char| c.is_ascii_lowercase())
        && kind
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
        && (1..=MAX_ID_BYTES).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn shown(text: &str) -> String {
    text.chars()
        .take(80)
        .collect::<String>()
        .escape_debug()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cortexdb::envelope::{Modality, Record, Thread};

    fn record(source_id: &str) -> RawRecord {
        RawRecord {
            source_id: source_id.into(),
            event_type: "release".into(),
            modality: Modality::Document,
            content: "text".into(),
            observed_at: "2026-11-22T10:00:00Z".into(),
            recorded_at: None,
            author: None,
            labels: vec![],
            attributes: vec![],
            preceded_by: vec![],
            thread: None,
            mapped: Mapped::default(),
        }
    }

    const ID: &str = "gl:release:42/v1";

    fn ids(made: &[RawRecord]) -> Vec<&str> {
        made.iter().map(|one| one.source_id.as_str()).collect()
    }

    #[test]
    fn parts_are_named_by_the_mapper_or_numbered_by_the_host() {
        let named = [format!("{ID}~added"), format!("{ID}~fixed.1")].map(|id| record(&id));
        let made = check(ID, &record(ID), named.to_vec()).unwrap();
        assert_eq!(ids(&made), [format!("{ID}~added"), format!("{ID}~fixed.1")]);
        assert_eq!(made[0].mapped.part_of.as_deref(), Some(ID));
        let same = vec![record(ID), record(ID), record(ID)];
        let made = check(ID, &record(ID), same).unwrap();
        assert_eq!(
            ids(&made),
            [ID.to_owned(), format!("{ID}~2"), format!("{ID}~3")]
        );
        assert_eq!(made[0].mapped.part_of, None);
        assert_eq!(made[1].attributes, [(PART_OF.to_owned(), ID.to_owned())]);
    }

    #[test]
    fn an_id_of_another_record_is_refused() {
        for id in [
            "gl:release:42/v2",
            "gl:release:42/v1~",
            "gl:release:42/v1~a b",
            "gl:release:42/v1~a~b",
            "",
        ] {
            assert!(check(ID, &record(ID), vec![record(id)]).is_err(), "{id}");
        }
        let twice = vec![record(&format!("{ID}~a")), record(&format!("{ID}~a"))];
        assert!(
            check(ID, &record(ID), twice)
                .unwrap_err()
                .contains("two parts")
        );
        assert!(check(ID, &record(ID), vec![record(ID); 1001]).is_err());
    }

    #[test]
    fn what_is_the_hosts_may_not_be_changed() {
        let changes: [fn(&mut RawRecord); 4] = [
            |one| one.event_type = "note".into(),
            |one| one.modality = Modality::Observation,
            |one| one.observed_at = "2030-01-01T00:00:00Z".into(),
            |one| one.recorded_at = Some("2030-01-01T00:00:00Z".into()),
        ];
        for change in changes {
            let mut changed = record(ID);
            change(&mut changed);
            assert!(
                check(ID, &record(ID), vec![changed])
                    .unwrap_err()
                    .contains("the host's")
            );
        }
    }

    #[test]
    fn what_several_mappers_make_of_a_record_and_of_a_page_is_bounded_together() {
        assert_eq!(check_number(MAX_PARTS), Ok(()));
        let words = check_number(MAX_PARTS + 1).unwrap_err();
        assert!(
            words.contains("1001") && words.contains("at most 1000"),
            "{words}"
        );
        assert_eq!(check_size(128 << 20, 128 << 20), Ok(()));
        let words = check_size((128 << 20) + 1, 128 << 20).unwrap_err();
        assert!(words.contains("128 MiB"), "{words}");
    }

    #[test]
    fn the_root_of_its_thread_is_kept_whatever_a_mapper_makes_of_the_thread() {
        let mut given = record(ID);
        given.mapped.root = Some("gl:issue:42/1".into());
        let mut other = record(&format!("{ID}~other"));
        other.thread = Some(Thread {
            root: "gl:issue:42/2".into(),
            turn: 1,
        });
        for one in check(ID, &given, vec![record(ID), other]).unwrap() {
            let id = one.source_id.clone();
            let checked = Record::check(one).unwrap();
            assert_eq!(checked.root(), "gl:issue:42/1", "{id}");
        }
    }

    #[test]
    fn a_place_can_only_lie_below_the_records_own() {
        let with = |value: &str| {
            let mut one = record(ID);
            one.attributes.push((SCOPE_BELOW.into(), value.into()));
            check(ID, &record(ID), vec![one])
        };
        let made = with("team:security/level:high").unwrap();
        assert_eq!(
            made[0].mapped.scope_below.as_deref(),
            Some("team:security/level:high")
        );
        assert!(made[0].attributes.is_empty());
        for value in [
            "",
            "..",
            "/org:other",
            "org:other/",
            "org:",
            ":x",
            "team:a b",
            "a:b/c:d/e:f/g:h/i:j",
            "team:{x}",
        ] {
            assert!(with(value).is_err(), "{value}");
        }
    }
}
