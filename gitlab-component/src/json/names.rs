//! The names of an object's fields, found by one look at a table.
//!
//! GitLab says some sixty things about a merge request, of which twenty are read. Here the first sixteen bytes of a name are two numbers,
//! which are multiplied into a place of a table, and what stands there is the only name that it can be. The multiplier is found when the
//! component is built, so that no two names of an object share a place.

/// Places of a table. With the 31 names of the largest object one multiplier in forty will do.
const PLACES: usize = 128;
/// What is not a place in the list of names.
const NONE: u8 = u8::MAX;

/// Bytes of the beginning of a name.
const BEGINNING: usize = 16;

/// What is left of the two halves of a beginning that is so long.
const MASKS: [(u64, u64); BEGINNING + 1] = {
    let mut masks = [(u64::MAX, u64::MAX); BEGINNING + 1];
    let mut length = 0;
    while length < BEGINNING {
        masks[length] = if length < 8 {
            ((1 << (8 * length)) - 1, 0)
        } else {
            (u64::MAX, (1 << (8 * (length - 8))) - 1)
        };
        length += 1;
    }
    masks
};

/// A name, and its beginning as two numbers.
pub(crate) struct Name {
    low: u64,
    high: u64,
    text: &'static str,
}

/// The names of an object's fields.
pub(crate) struct Names {
    names: &'static [Name],
    table: [u8; PLACES],
    multiplier: u64,
}

/// The beginning of a name of this length that has these bytes and others behind it.
const fn halves(bytes: &[u8; BEGINNING], length: usize) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, ref high @ ..] = *bytes;
    let length = if length < BEGINNING {
        length
    } else {
        BEGINNING
    };
    let (low_mask, high_mask) = MASKS[length];
    (
        u64::from_le_bytes([a, b, c, d, e, f, g, h]) & low_mask,
        u64::from_le_bytes(*high) & high_mask,
    )
}

/// The same of a name that may have nothing behind it.
const fn halves_alone(name: &[u8]) -> (u64, u64) {
    let mut bytes = [0; BEGINNING];
    let mut at = 0;
    while at < name.len() && at < BEGINNING {
        bytes[at] = name[at];
        at += 1;
    }
    halves(&bytes, name.len())
}

const fn place((low, high): (u64, u64), length: usize, multiplier: u64) -> usize {
    let mixed = low ^ high.rotate_left(23) ^ (length as u64).rotate_left(57);
    let place = mixed.wrapping_mul(multiplier) >> (u64::BITS - PLACES.trailing_zeros());
    #[expect(
        clippy::cast_possible_truncation,
        reason = "as many bits are left as the table has places"
    )]
    (place as usize)
}

impl Name {
    /// Names in the order in which they will be known.
    pub(crate) const fn list<const N: usize>(texts: [&'static str; N]) -> [Self; N] {
        let mut names = [const {
            Self {
                low: 0,
                high: 0,
                text: "",
            }
        }; N];
        let mut at = 0;
        while at < N {
            let (low, high) = halves_alone(texts[at].as_bytes());
            names[at] = Self {
                low,
                high,
                text: texts[at],
            };
            at += 1;
        }
        names
    }
}

impl Names {
    /// Fewer than 255 names, no two alike in length and their first sixteen bytes. Others do not compile.
    pub(crate) const fn new(names: &'static [Name]) -> Self {
        let mut multiplier = 0x9e37_79b9_7f4a_7c15_u64;
        let mut tries = 0;
        while tries < 2000 {
            if let Some(table) = Self::arrange(names, multiplier) {
                return Self {
                    names,
                    table,
                    multiplier,
                };
            }
            multiplier = multiplier.wrapping_mul(0x5851_f42d_4c95_7f2d) | 1;
            tries += 1;
        }
        panic!("two names have the same length and beginning, or there are too many of them")
    }

    /// The table with this multiplier, unless two names would share a place.
    const fn arrange(names: &[Name], multiplier: u64) -> Option<[u8; PLACES]> {
        let mut table = [NONE; PLACES];
        let mut at = 0;
        while at < names.len() {
            let name = &names[at];
            let place = place((name.low, name.high), name.text.len(), multiplier);
            if table[place] != NONE {
                return None;
            }
            #[expect(clippy::cast_possible_truncation, reason = "there are fewer than 255")]
            (table[place] = at as u8);
            at += 1;
        }
        Some(table)
    }

    /// Where in the list the name stands that `text` has from `start` to `end`.
    #[inline(always)]
    pub(super) fn find(&self, text: &str, start: usize, end: usize) -> Option<usize> {
        let beginning = text.as_bytes().get(start..)?.first_chunk();
        let name = &text[start..end];
        self.find_by(
            match beginning {
                Some(beginning) => halves(beginning, name.len()),
                None => halves_alone(name.as_bytes()),
            },
            name,
        )
    }

    #[inline(always)]
    fn find_by(&self, halves: (u64, u64), name: &str) -> Option<usize> {
        let found = usize::from(self.table[place(halves, name.len(), self.multiplier)]);
        let known = self.names.get(found)?;
        let is_the_same = (known.low, known.high) == halves
            && known.text.len() == name.len()
            && (name.len() <= BEGINNING || known.text == name);
        is_the_same.then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXTS: [&str; 12] = [
        "",
        "a",
        "id",
        "iid",
        "a\0",
        "exactly8",
        "exactly_sixteen_",
        "exactly_sixteen_1",
        "exactly_sixteen_22",
        "exactly_sixteen_and_more",
        "user_notes_count",
        "é",
    ];
    const NAMES: Names = Names::new(&const { Name::list(TEXTS) });

    fn expected(name: &str) -> Option<usize> {
        TEXTS.iter().position(|other| *other == name)
    }

    #[test]
    fn each_name_is_found_and_nothing_that_resembles_it() {
        for name in TEXTS {
            for other in [
                name.to_owned(),
                format!("{name}\0"),
                format!("{name}s"),
                name.to_uppercase(),
                name.chars().skip(1).collect(),
            ] {
                assert_eq!(NAMES.find(&other, 0, other.len()), expected(&other));
                let within = format!("{{\"{other}\": 1, \"more\": 2}}");
                assert_eq!(NAMES.find(&within, 2, 2 + other.len()), expected(&other));
            }
        }
    }

    proptest! {
        #[test]
        fn a_name_is_found_if_it_is_one(
            name in prop_oneof![prop::sample::select(TEXTS.to_vec()).prop_map(str::to_owned), "[aid\\x00]{0,3}", "\\PC{0,20}"],
            before in "\\PC{0,3}",
            behind in "\\PC{0,20}",
        ) {
            let text = format!("{before}{name}{behind}");
            let (start, end) = (before.len(), before.len() + name.len());
            prop_assert_eq!(NAMES.find(&text, start, end), expected(&name));
        }
    }
}
