//! Labels as they are sent, and what is read back from them.
//!
//! CortexDB's filter splits on commas, counts labels and bounds their length. What a component hands over is made to fit here, and nothing
//! of it is lost in silence.
//!
//! Source: "CortexDB v1 HTTP API"; the limits are its.

use std::borrow::Cow;
use std::ops::Range;

use crate::digest::{hex, sha256_of_parts};

const MAX_LABEL_BYTES: usize = 256;
const MAX_LABELS: usize = 64;
/// What the host adds: source id, digest, generation, system, instance, fragment.
const HOST_LABELS: usize = 6;
/// Hex digits that keep shortened source ids distinct.
const ID_DIGEST_DIGITS: usize = 16;

/// The labels of one record, without those of the host: each distinct, none empty, at most 58 of at most 256 bytes. They are one text, a
/// comma behind each: thousands of records wait to be written at a time, and texts of their own would take more room than the rest of a record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Box<str>);

impl Labels {
    /// Labels and attributes (`name=value`) as they are sent: commas encoded, control characters gone, long ones cut with a digest that
    /// keeps them distinct, and those that there is no room for counted in the last one.
    #[must_use]
    pub fn new(labels: &[String], attributes: &[(String, String)]) -> Self {
        let of_attributes = attributes
            .iter()
            .map(|(name, value)| name.len() + 1 + value.len());
        let lengths = labels.iter().map(String::len).chain(of_attributes);
        let bytes = lengths.map(|length| length + 1).sum();
        let mut list = List::with_room_for(labels.len() + attributes.len(), bytes);
        for label in labels {
            list.add(label);
        }
        let mut attribute = String::new();
        for (name, value) in attributes {
            attribute.clear();
            attribute.extend([name, "=", value]);
            list.add(&attribute);
        }
        list.finish()
    }

    /// Each label, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split_terminator(',')
    }
}

/// [`Labels`] as they are put down.
struct List {
    text: String,
    /// Where each of them stands. Those of other lengths need not be looked at, of which a hostile component may have millions.
    places: Vec<Range<usize>>,
    omitted: usize,
}

impl List {
    const ROOM: usize = MAX_LABELS - HOST_LABELS;

    fn with_room_for(labels: usize, bytes: usize) -> Self {
        Self {
            text: String::with_capacity(bytes),
            places: Vec::with_capacity(labels.min(Self::ROOM)),
            omitted: 0,
        }
    }

    fn add(&mut self, label: &str) {
        let label = encode_label(label);
        if label.is_empty() || self.has(&label) {
            return;
        }
        if self.places.len() < Self::ROOM {
            self.push(&label);
        } else {
            self.omitted += 1;
        }
    }

    fn has(&self, label: &str) -> bool {
        let mut places = self.places.iter();
        places.any(|place| place.len() == label.len() && self.text[place.clone()] == *label)
    }

    fn push(&mut self, label: &str) {
        let start = self.text.len();
        self.text.push_str(label);
        self.places.push(start..self.text.len());
        self.text.push(',');
    }

    fn finish(mut self) -> Labels {
        if self.omitted > 0
            && let Some(last) = self.places.pop()
        {
            self.text.truncate(last.start);
            self.push(&format!("labels_left_out={}", self.omitted + 1));
        }
        Labels(self.text.into_boxed_str())
    }
}

/// What [`encode_label`] made of commas, undone. A label that was cut stays cut.
pub(crate) fn decode_label(label: &str) -> String {
    label.replace("%2C", ",").replace("%25", "%")
}

fn encode_label(label: &str) -> Cow<'_, str> {
    let trimmed = label.trim();
    let encoded = if is_plain(trimmed) {
        Cow::Borrowed(trimmed)
    } else {
        Cow::Owned(without_commas(trimmed))
    };
    if encoded.len() <= MAX_LABEL_BYTES {
        return encoded;
    }
    let digest = hex(&sha256_of_parts([encoded.as_bytes()]), 8);
    Cow::Owned(with_digest(encoded.into_owned(), &digest))
}

/// Whether [`without_commas`] would change nothing. Characters beyond ASCII are looked at there.
fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'%'))
}

fn without_commas(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            ',' => encoded.push_str("%2C"),
            '%' => encoded.push_str("%25"),
            c if c.is_control() => encoded.push(' '),
            c => encoded.push(c),
        }
    }
    encoded
}

/// `text~digest`, the text cut where it is too long for a label.
fn with_digest(mut text: String, digest: &str) -> String {
    let mut end = text.len().min(MAX_LABEL_BYTES - 1 - digest.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push('~');
    text.push_str(digest);
    text
}

/// The label that carries a source id: the id itself. Where it has a comma, which CortexDB's filter splits on, or is longer than a
/// label can be, it is encoded and cut, and ends in a digest of the whole id. `source.source_id` always has it whole.
#[must_use]
pub fn id_label(source_id: &str) -> Cow<'_, str> {
    if source_id.len() <= MAX_LABEL_BYTES && !source_id.contains(',') {
        return Cow::Borrowed(source_id);
    }
    Cow::Owned(with_digest(
        without_commas(source_id),
        &id_digest(source_id),
    ))
}

fn id_digest(source_id: &str) -> String {
    hex(&sha256_of_parts([source_id.as_bytes()]), ID_DIGEST_DIGITS)
}

/// The source id that [`id_label`] made a label of; `None` where it was cut, because what was cut off is nowhere in it.
pub(crate) fn id_of_label(label: &str) -> Option<Cow<'_, str>> {
    let is_digest = |text: &&str| {
        text.len() == ID_DIGEST_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let Some((encoded, digest)) = label
        .rsplit_once('~')
        .filter(|(_, digest)| is_digest(digest))
    else {
        return Some(Cow::Borrowed(label));
    };
    let decoded = decode_label(encoded);
    if id_digest(&decoded) == digest {
        return Some(Cow::Owned(decoded));
    }
    // A character has up to three encoded bytes, or four of its own: a cut label is at most that much shorter than a full one.
    let may_be_cut = label.len() + 4 > MAX_LABEL_BYTES;
    (!may_be_cut).then_some(Cow::Borrowed(label))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(labels: &[&str], attributes: &[(&str, &str)]) -> Vec<String> {
        let labels: Vec<String> = labels.iter().copied().map(str::to_owned).collect();
        let attributes: Vec<(String, String)> = attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let labels = Labels::new(&labels, &attributes);
        labels.iter().map(str::to_owned).collect()
    }

    #[test]
    fn commas_in_labels_are_encoded_because_the_filter_splits_on_them() {
        let labels = labels(&["label:needs,comma"], &[("state", "opened")]);
        assert_eq!(labels, ["label:needs%2Ccomma", "state=opened"]);
        assert_eq!(decode_label(&encode_label("50%, or %2C")), "50%, or %2C");
    }

    #[test]
    fn blank_labels_and_those_that_were_there_are_left_out() {
        assert_eq!(labels(&[], &[]), [""; 0]);
        assert_eq!(
            labels(&["", " ", "a=b", "a"], &[("a", "b"), ("", "")]),
            ["a=b", "a", "="]
        );
    }

    #[test]
    fn more_labels_than_fit_are_counted_not_lost_in_silence() {
        let many: Vec<String> = (0..200).map(|n| format!("label:{n}")).collect();
        let all = Labels::new(&many[..58], &[]);
        assert_eq!(all.iter().collect::<Vec<_>>(), many[..58]);
        let labels = Labels::new(&many, &[]);
        let labels: Vec<&str> = labels.iter().collect();
        assert_eq!(labels.len(), 58);
        assert_eq!(labels[..57], many[..57]);
        assert_eq!(labels[57], "labels_left_out=143");
    }

    #[test]
    fn a_source_id_is_its_own_label_unless_it_is_long_or_has_a_comma() {
        for short in [
            "gl:issue:42/1",
            "gl:release:42/100%25",
            "gl:release:42/v1~rc",
        ] {
            assert_eq!(id_label(short), short);
            assert_eq!(id_of_label(short).as_deref(), Some(short));
        }
        let comma = "gl:release:42/a,b%2C";
        let label = id_label(comma);
        assert!(label.starts_with("gl:release:42/a%2Cb%252C~"), "{label}");
        assert_eq!(id_of_label(&label).as_deref(), Some(comma));
        let long = format!("gl:release:42/{}", "版".repeat(400));
        let label = id_label(&long);
        assert!(label.len() <= MAX_LABEL_BYTES && label.len() + 4 > MAX_LABEL_BYTES);
        assert_eq!(id_of_label(&label), None);
        assert_ne!(label, id_label(&format!("{long}1")));
    }

    proptest! {
        #[test]
        fn whatever_is_handed_over_keeps_the_rules_and_its_order(
            labels in prop::collection::vec("[a-c,%\u{0}ß ]{0,3}|x{250,260}[yz]{1,9}", 0..90),
            attributes in prop::collection::vec(("[a-c]{0,2}", "[a-c,]{0,2}"), 0..20),
        ) {
            let named = attributes.iter().map(|(name, value)| format!("{name}={value}"));
            let mut expected: Vec<String> = Vec::new();
            let mut left_out = 1;
            for label in labels.iter().cloned().chain(named) {
                let label = encode_label(&label).into_owned();
                if label.is_empty() || expected.contains(&label) {
                    continue;
                }
                if expected.len() < 58 {
                    expected.push(label);
                } else {
                    left_out += 1;
                }
            }
            if left_out > 1 {
                expected[57] = format!("labels_left_out={left_out}");
            }
            let made = Labels::new(&labels, &attributes);
            let made: Vec<&str> = made.iter().collect();
            prop_assert_eq!(&made, &expected);
            let keeps_the_rules = |label: &&str| {
                (1..=MAX_LABEL_BYTES).contains(&label.len()) && !label.contains(|c: char| c == ',' || c.is_control())
            };
            prop_assert!(made.iter().all(keeps_the_rules));
        }
    }
}
