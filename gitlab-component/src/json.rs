//! Reads JSON where it lies.
//!
//! Half of what the component computes is reading GitLab's answers, of which most is passed over. So this reader is made for that:
//!
//! * It looks for the end of a string sixteen bytes at a time (`block`); `serde_json` takes as many as an address has, which is four here.
//! * What nobody asked for is not examined: its strings and brackets are followed to its end, no more. The host has seen before that the
//!   answer is one whole JSON value (`http.expectation.json`).
//! * A field is found without comparing its name to every other (`names`), and read into its place. What is not generic is compiled once for
//!   all objects: the component is compiled at its first start.
//! * What is wrong is kept by the reader, and everything behind it is missing. [`from_str`] alone answers it, so that no place in between has
//!   to pass it on.
//!
//! What is asked for is read as `serde_json` reads it, to which the tests compare it.

mod block;
mod names;

use std::borrow::Cow;
use std::fmt;

pub(crate) use names::{Name, Names};

/// Why a text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a whole text, or each row of one, may be read as. Anything else in its place is an error.
pub(crate) trait Read: Default {
    /// Reads the next value into this one, which is new.
    fn read(&mut self, reader: &mut Reader<'_>);
}

/// What a field may be read as: it takes what it can use, and anything else counts as absent.
pub(crate) trait Field: Default {
    /// Reads the next value in place of this one.
    fn read_loosely(&mut self, reader: &mut Reader<'_>);
}

/// An object of which some fields are read.
pub(crate) trait Object: Default {
    const NAMES: &'static Names;

    /// Reads the next value into the field whose name has this place in [`Self::NAMES`].
    fn field(&mut self, place: usize, reader: &mut Reader<'_>);
}

/// Reads one value, which is the whole text.
pub(crate) fn from_str<T: Read>(text: &str) -> Result<T, Error> {
    let mut reader = Reader {
        text,
        at: 0,
        error: None,
    };
    let mut value = T::default();
    value.read(&mut reader);
    if reader.peek().is_some() {
        reader.wrong("something behind the value");
    }
    reader.error.map_or(Ok(value), Err)
}

/// An object of which nothing is asked.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AnyObject;

impl Read for AnyObject {
    fn read(&mut self, reader: &mut Reader<'_>) {
        if !reader.begins_with(b'{') {
            return reader.wrong("no object");
        }
        reader.skip();
    }
}

impl<T: Object> Read for T {
    fn read(&mut self, reader: &mut Reader<'_>) {
        if !reader.opens(b'{') {
            return reader.wrong("no object");
        }
        reader.fields(self);
    }
}

impl<T: Read> Read for Vec<T> {
    fn read(&mut self, reader: &mut Reader<'_>) {
        if !reader.opens(b'[') {
            return reader.wrong("no list");
        }
        reader.items(self, T::read);
    }
}

impl<T: Field> Field for Vec<T> {
    fn read_loosely(&mut self, reader: &mut Reader<'_>) {
        self.clear();
        if !reader.opens(b'[') {
            return reader.skip();
        }
        reader.items(self, T::read_loosely);
    }
}

impl<T: Object> Field for Option<Box<T>> {
    fn read_loosely(&mut self, reader: &mut Reader<'_>) {
        *self = None;
        if !reader.opens(b'{') {
            return reader.skip();
        }
        let mut object = Box::<T>::default();
        reader.fields(&mut *object);
        *self = Some(object);
    }
}

impl Field for Option<String> {
    fn read_loosely(&mut self, reader: &mut Reader<'_>) {
        reader.text_into(self);
    }
}

impl Field for Option<u64> {
    fn read_loosely(&mut self, reader: &mut Reader<'_>) {
        *self = reader.unsigned();
    }
}

impl Field for Option<f64> {
    fn read_loosely(&mut self, reader: &mut Reader<'_>) {
        *self = reader.float();
    }
}

impl Field for Option<bool> {
    fn read_loosely(&mut self, reader: &mut Reader<'_>) {
        *self = reader.flag();
    }
}

/// A text, and how far it has been read.
pub(crate) struct Reader<'t> {
    text: &'t str,
    at: usize,
    /// The first thing that is wrong with it.
    error: Option<Error>,
}

impl<'t> Reader<'t> {
    /// Keeps what is wrong here, and ends the text: whoever goes on reading finds nothing and comes to an end.
    #[cold]
    #[inline(never)]
    fn wrong(&mut self, what: &str) {
        if self.error.is_none() {
            self.error = Some(Error(format!("{what} at byte {}", self.at)));
        }
        self.at = self.text.len();
    }

    /// The fields of an object whose bracket has been passed.
    fn fields<T: Object>(&mut self, object: &mut T) {
        let mut first = true;
        while let Some(place) = self.next_of(T::NAMES, &mut first) {
            object.field(place, self);
        }
    }

    /// The items of a list whose bracket has been passed.
    #[inline(always)]
    fn items<T: Default>(&mut self, items: &mut Vec<T>, read: impl Fn(&mut T, &mut Self)) {
        let mut first = true;
        while self.goes_on(b']', &mut first) {
            items.push(T::default());
            if let Some(item) = items.last_mut() {
                read(item, self);
            }
        }
    }

    /// Passes the names and values of an object up to the value of the next field that is read, and answers the place of its name.
    #[inline(never)]
    fn next_of(&mut self, names: &Names, first: &mut bool) -> Option<usize> {
        while self.begins_name(first) {
            let start = self.at;
            let place = match self.short_string() {
                Some(name) => names.find(self.text, start, start + name.len()),
                None => self.long_name(names),
            };
            if !self.ends_name() {
                return None;
            }
            if place.is_some() {
                return place;
            }
            // What is passed over is a text more often than not, and here that takes no call.
            if self.opens(b'"') {
                self.skip_string();
            } else {
                self.skip();
            }
        }
        None
    }

    /// Passes the quotation mark of the next name of an object.
    #[inline(always)]
    fn begins_name(&mut self, first: &mut bool) -> bool {
        self.goes_on(b'}', first) && self.pass(b'"', "no name")
    }

    /// Passes the colon behind a name.
    #[inline(always)]
    fn ends_name(&mut self) -> bool {
        self.pass(b':', "no colon")
    }

    #[inline(always)]
    fn pass(&mut self, byte: u8, otherwise: &str) -> bool {
        if !self.opens(byte) {
            self.wrong(otherwise);
            return false;
        }
        true
    }

    #[inline(never)]
    fn long_name(&mut self, names: &Names) -> Option<usize> {
        let start = self.at;
        match self.string() {
            Cow::Borrowed(name) => names.find(self.text, start, start + name.len()),
            Cow::Owned(name) => names.find(&name, 0, name.len()),
        }
    }

    /// Whether something comes before the end of an object or list, which is passed.
    #[inline(always)]
    fn goes_on(&mut self, end: u8, first: &mut bool) -> bool {
        match self.peek() {
            Some(byte) if byte == end => {
                self.at += 1;
                return false;
            }
            Some(b',') if !*first => self.at += 1,
            Some(_) if *first => *first = false,
            _ => {
                self.wrong("neither a comma nor an end");
                return false;
            }
        }
        true
    }

    /// Whether the next value begins with this byte.
    pub(crate) fn begins_with(&mut self, byte: u8) -> bool {
        self.peek() == Some(byte)
    }

    /// Passes a bracket if the next value begins with it.
    fn opens(&mut self, bracket: u8) -> bool {
        let opens = self.begins_with(bracket);
        self.at += usize::from(opens);
        opens
    }

    /// A text, or a number as one.
    #[inline(never)]
    fn text_into(&mut self, text: &mut Option<String>) {
        match self.peek() {
            Some(b'"') => {
                self.at += 1;
                *text = Some(match self.short_string() {
                    Some(short) => short.to_owned(),
                    None => self.string().into_owned(),
                });
            }
            Some(b'0'..=b'9' | b'-') => *text = self.number_as_text(),
            _ => {
                *text = None;
                self.no_such_value();
            }
        }
    }

    #[cold]
    fn number_as_text(&mut self) -> Option<String> {
        Some(match self.number()? {
            Number::Unsigned(number) => number.to_string(),
            Number::Float(number) => number.to_string(),
        })
    }

    /// A number that is whole and not negative, or a text that says one.
    #[inline(never)]
    fn unsigned(&mut self) -> Option<u64> {
        match self.peek() {
            Some(b'0'..=b'9' | b'-') => match self.number() {
                Some(Number::Unsigned(number)) => Some(number),
                _ => None,
            },
            Some(b'"') => {
                self.at += 1;
                self.string().parse().ok()
            }
            _ => {
                self.no_such_value();
                None
            }
        }
    }

    #[inline(never)]
    fn float(&mut self) -> Option<f64> {
        if let Some(b'0'..=b'9' | b'-') = self.peek() {
            return self.number().map(Number::float);
        }
        self.no_such_value();
        None
    }

    #[inline(never)]
    fn flag(&mut self) -> Option<bool> {
        match self.peek() {
            Some(b't') => self.word("true").then_some(true),
            Some(b'f') => self.word("false").then_some(false),
            _ => {
                self.no_such_value();
                None
            }
        }
    }

    /// Nothing, or a value of another type.
    fn no_such_value(&mut self) {
        match self.peek() {
            Some(b'n') => {
                self.word("null");
            }
            _ => self.skip(),
        }
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    /// The next byte that is no white space. GitLab sends none, and a loop has its price (the host counts its turns).
    fn peek(&mut self) -> Option<u8> {
        match self.byte(self.at) {
            Some(b' ' | b'\n' | b'\r' | b'\t') => self.peek_behind_space(),
            other => other,
        }
    }

    #[cold]
    #[inline(never)]
    fn peek_behind_space(&mut self) -> Option<u8> {
        loop {
            match self.byte(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                other => return other,
            }
        }
    }

    /// Where the string at this place has its first quotation mark, backslash or control character.
    fn plain(&self, mut at: usize) -> Option<usize> {
        let bytes = self.text.as_bytes();
        // Most strings end in the first block. Behind it a text is passed in longer steps, because each turn of a loop has its price.
        let mut first = true;
        while let Some(block) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
            if let Some(place) = block::first_special(block) {
                return Some(at + place);
            }
            at += block::BYTES;
            if first {
                first = false;
                while let Some(blocks) = bytes.get(at..).and_then(<[u8]>::first_chunk)
                    && !block::any_special(blocks)
                {
                    at += block::LONG;
                }
            }
        }
        let rest = bytes.get(at..)?.iter();
        let before = rest.take_while(|byte| !matches!(byte, 0..b' ' | b'"' | b'\\'));
        at += before.count();
        (at < bytes.len()).then_some(at)
    }

    /// The string whose quotation mark has been passed.
    fn string(&mut self) -> Cow<'t, str> {
        let start = self.at;
        let Some(end) = self.plain(start) else {
            self.endless();
            return Cow::Borrowed("");
        };
        if self.byte(end) == Some(b'"') {
            self.at = end + 1;
            return Cow::Borrowed(&self.text[start..end]);
        }
        Cow::Owned(self.escaped(start, end))
    }

    /// The same if it is plain and fits a block, as most names of fields and values do; otherwise nothing is passed.
    #[inline(always)]
    fn short_string(&mut self) -> Option<&'t str> {
        let start = self.at;
        let block = self.text.as_bytes().get(start..)?.first_chunk()?;
        let end = start + block::first_special(block)?;
        let text = (self.byte(end) == Some(b'"')).then(|| &self.text[start..end])?;
        self.at = end + 1;
        Some(text)
    }

    #[cold]
    fn endless(&mut self) {
        self.wrong("a string without an end");
    }

    /// The rest of a string that has something else than itself in it.
    fn escaped(&mut self, mut start: usize, mut end: usize) -> String {
        let mut string = String::new();
        loop {
            string.push_str(&self.text[start..end]);
            self.at = end + 1;
            match self.byte(end) {
                Some(b'"') => return string,
                Some(b'\\') => match self.escape() {
                    Ok(character) => string.push(character),
                    Err(what) => {
                        self.wrong(what);
                        return string;
                    }
                },
                _ => {
                    self.wrong("a control character in a string");
                    return string;
                }
            }
            start = self.at;
            match self.plain(start) {
                Some(next) => end = next,
                None => {
                    self.endless();
                    return string;
                }
            }
        }
    }

    /// The character whose backslash has been passed.
    fn escape(&mut self) -> Result<char, &'static str> {
        let kind = self.byte(self.at);
        self.at += 1;
        Ok(match kind {
            Some(same @ (b'"' | b'\\' | b'/')) => char::from(same),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let mut code = self.code_unit()?;
                if let (0xd800..0xdc00, Some(b"\\u")) = (
                    code,
                    self.text
                        .as_bytes()
                        .get(self.at..)
                        .and_then(|rest| rest.first_chunk()),
                ) {
                    self.at += 2;
                    let low = self.code_unit()?;
                    if !(0xdc00..0xe000).contains(&low) {
                        return Err("half of a character");
                    }
                    code = 0x1_0000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                }
                char::from_u32(code).ok_or("half of a character")?
            }
            _ => return Err("an unknown escape"),
        })
    }

    fn code_unit(&mut self) -> Result<u32, &'static str> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let value = digits.and_then(|digits| {
            digits.iter().try_fold(0, |value, digit| {
                Some(value << 4 | char::from(*digit).to_digit(16)?)
            })
        });
        self.at += 4;
        value.ok_or("no four digits")
    }

    /// Passes a value that nobody asked for.
    #[inline(never)]
    fn skip(&mut self) {
        let mut open = 0_usize;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    self.skip_string();
                }
                Some(b'{' | b'[') => {
                    self.at += 1;
                    open += 1;
                    continue;
                }
                Some(b'}' | b']') if open > 0 => {
                    self.at += 1;
                    open -= 1;
                }
                Some(b',' | b':') if open > 0 => {
                    self.at += 1;
                    continue;
                }
                Some(b'0'..=b'9' | b'-' | b't' | b'f' | b'n') => {
                    self.pass_word();
                }
                _ => return self.wrong("no value"),
            }
            if open == 0 {
                return;
            }
        }
    }

    /// Passes a number, `true`, `false` or `null` up to what comes behind it.
    fn pass_word(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        let end = rest.first_chunk().and_then(block::first_end);
        let is_end = |byte: &u8| matches!(byte, 0..=b' ' | b',' | b']' | b'}');
        self.at += end
            .or_else(|| rest.iter().position(is_end))
            .unwrap_or(rest.len());
    }

    /// Passes a string whose quotation mark has been passed.
    #[inline(always)]
    fn skip_string(&mut self) {
        if self.short_string().is_none() {
            self.skip_long_string();
        }
    }

    #[inline(never)]
    fn skip_long_string(&mut self) {
        loop {
            let Some(end) = self.plain(self.at) else {
                return self.endless();
            };
            self.at = end + 1;
            match self.byte(end) {
                Some(b'"') => return,
                Some(b'\\') => self.at += 1,
                _ => return self.wrong("a control character in a string"),
            }
        }
    }

    fn word(&mut self, word: &str) -> bool {
        let is_there = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        if is_there {
            self.at += word.len();
        } else {
            self.wrong("no value");
        }
        is_there
    }

    fn number(&mut self) -> Option<Number> {
        match self.some_number() {
            Ok(number) => Some(number),
            Err(what) => {
                self.wrong(what);
                None
            }
        }
    }

    fn some_number(&mut self) -> Result<Number, &'static str> {
        let start = self.at;
        let negative = self.byte(self.at) == Some(b'-');
        self.at += usize::from(negative);
        let whole = self.at;
        let rest = self.text.as_bytes().get(whole..);
        let eight = rest.and_then(<[u8]>::first_chunk);
        let (mut value, digits) = eight.map_or((0, 0), first_digits);
        self.at += digits;
        // Nineteen digits are always a `u64`, so only what comes behind them is checked: a checked multiplication is a call in the sandbox.
        while let Some(digit @ b'0'..=b'9') = self.byte(self.at)
            && self.at < whole + 19
        {
            value = value * 10 + u64::from(digit - b'0');
            self.at += 1;
        }
        let mut value = Some(value);
        while let Some(digit @ b'0'..=b'9') = self.byte(self.at) {
            value =
                value.and_then(|value| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')));
            self.at += 1;
        }
        let zero_first = self.byte(whole) == Some(b'0') && self.at > whole + 1;
        if self.at == whole || zero_first {
            return Err("no number");
        }
        let mut integer = true;
        if self.byte(self.at) == Some(b'.') {
            integer = false;
            self.at += 1;
            self.some_digits()?;
        }
        if let Some(b'e' | b'E') = self.byte(self.at) {
            integer = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte(self.at) {
                self.at += 1;
            }
            self.some_digits()?;
        }
        if let Some(value) = value
            && integer
            && !negative
        {
            return Ok(Number::Unsigned(value));
        }
        let float = self.text[start..self.at].parse::<f64>();
        match float {
            Ok(float) if float.is_finite() => Ok(Number::Float(float)),
            _ => Err("a number out of range"),
        }
    }

    fn some_digits(&mut self) -> Result<(), &'static str> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.byte(self.at) {
            self.at += 1;
        }
        if self.at == start {
            return Err("no digit");
        }
        Ok(())
    }
}

/// The number that eight bytes begin with, and of how many digits; all of them side by side.
fn first_digits(bytes: &[u8; 8]) -> (u64, usize) {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let digits = u64::from_le_bytes(*bytes) ^ (ONES * u64::from(b'0'));
    // The highest bit of what is above nine. A carry spoils what is behind the first of them only.
    let others = (digits | digits.wrapping_add(ONES * (0x80 - 10))) & (ONES << 7);
    let count = others.trailing_zeros() / 8;
    // Zeros before the digits instead of something else behind them. Then pairs, fours and all are put together.
    let digits = digits.checked_shl(64 - 8 * count).unwrap_or(0);
    let pairs = (digits * 10 + (digits >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    let number = (fours * 10_000 + (fours >> 32)) & 0xffff_ffff;
    (number, count as usize)
}

enum Number {
    Unsigned(u64),
    Float(f64),
}

impl Number {
    #[expect(
        clippy::cast_precision_loss,
        reason = "durations are far below 2^52 seconds"
    )]
    fn float(self) -> f64 {
        match self {
            Self::Unsigned(number) => number as f64,
            Self::Float(number) => number,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;
    use crate::gitlab::{
        Commit, Discussion, Issue, MergeRequest, Pipeline, Project, Release,
        tests::{Expected, any_json},
    };

    /// Any value, read with the parts that all others are read with.
    #[derive(Default)]
    struct Whole(Value);

    impl Read for Whole {
        fn read(&mut self, reader: &mut Reader<'_>) {
            self.0 = match reader.peek() {
                Some(b'"') => {
                    let mut text = None;
                    reader.text_into(&mut text);
                    text.map(Value::from)
                }
                Some(b'0'..=b'9' | b'-') => reader.number().map(|number| match number {
                    Number::Unsigned(number) => Value::from(number),
                    Number::Float(number) => Value::from(number),
                }),
                Some(b'[') => {
                    let mut items = Vec::<Self>::new();
                    items.read(reader);
                    Some(items.into_iter().map(|item| item.0).collect())
                }
                Some(b'{') => {
                    reader.opens(b'{');
                    let (mut fields, mut first) = (Map::new(), true);
                    while reader.begins_name(&mut first) {
                        let name = reader.string().into_owned();
                        if reader.ends_name() {
                            let mut value = Self::default();
                            value.read(reader);
                            fields.insert(name, value.0);
                        }
                    }
                    Some(Value::Object(fields))
                }
                _ => reader.flag().map(Value::from),
            }
            .unwrap_or_default();
        }
    }

    fn read(text: &str) -> Option<Value> {
        from_str::<Whole>(text).ok().map(|whole| whole.0)
    }

    fn expected(text: &str) -> Option<Value> {
        serde_json::from_str(text)
            .ok()
            .map(without_integers_below_zero)
    }

    /// No field that is read is one.
    fn without_integers_below_zero(value: Value) -> Value {
        match value {
            Value::Number(number) if !number.is_u64() => Value::from(number.as_f64()),
            Value::Array(items) => items.into_iter().map(without_integers_below_zero).collect(),
            Value::Object(fields) => {
                let fields = fields.into_iter();
                fields
                    .map(|(name, value)| (name, without_integers_below_zero(value)))
                    .collect()
            }
            other => other,
        }
    }

    /// A list of something that is passed over, and a number.
    #[derive(Debug, Default, PartialEq)]
    struct Passed(Option<u64>);

    impl Read for Passed {
        fn read(&mut self, reader: &mut Reader<'_>) {
            reader.opens(b'[');
            reader.skip();
            reader.goes_on(b']', &mut false);
            self.0 = reader.unsigned();
            reader.goes_on(b']', &mut false);
        }
    }

    fn pass(text: &str) -> Result<Option<u64>, Error> {
        from_str::<Passed>(text).map(|passed| passed.0)
    }

    #[test]
    fn a_text_is_read_as_serde_json_reads_it() {
        for text in [
            "",
            " ",
            "null",
            " true ",
            "false",
            "nul",
            "truee",
            "0",
            "-0",
            "00",
            "01",
            "-",
            "-1",
            "1.5",
            "1.",
            ".5",
            "1e3",
            "1E+3",
            "1e",
            "1e400",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775808",
            "-9223372036854775809",
            "+1",
            "[]",
            "[ ]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[1,2]",
            "[",
            "]",
            "[[]",
            "{}",
            "{ }",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\" : 1 , \"b\":[{}]}",
            "{\"a\":1 \"b\":2}",
            "{\"a\":1}}",
            "1 1",
            "\"",
            "\"a",
            "\"a\"",
            "\"\\",
            "\"\\\"",
            "\"\\\"\"",
            r#""\b\f\n\r\t\/\\""#,
            r#""\x""#,
            r#""\u0041""#,
            r#""\u00""#,
            r#""\u00zz""#,
            r#""\ud83d\ude00""#,
            r#""\ud83d""#,
            r#""\ud83dA""#,
            r#""\ude00""#,
            r#""\ud83d\u0041""#,
            "\"\u{1}\"",
            "\"tab\tin it\"",
            "\"é\\n中😀\"",
            r#"{"\u0061":1}"#,
            "\"exactly8\"",
            "\"0123456789abcdef\\n0123456789abcdef\"",
            "\u{feff}1",
        ] {
            assert_eq!(read(text), expected(text), "{text}");
        }
    }

    #[test]
    fn what_nobody_asked_for_is_passed_up_to_its_end() {
        for text in [
            "null",
            "-1.5e-3",
            "\"a\\\"b\\\\\"",
            "[[1, {\"a\": \"]\"}], \"}\"]",
            "{\"a\": {\"b\": [\"\\\\\"]}}",
        ] {
            let list = format!("[{text}, 7]");
            assert_eq!(pass(&list), Ok(Some(7)), "{text}");
        }
        for text in ["", "[", "\"a", "[\"a]", "{\"a\": ", "\"\\\"", "]", ",", "?"] {
            assert!(pass(&format!("[{text}, 7]")).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_passed_over_may_have_any_number_of_values_within_each_other() {
        let nested = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(pass(&format!("[{nested}, 7]")), Ok(Some(7)));
        let row =
            format!(r#"{{"id": {nested}, "iid": 7, "author": [{nested}], "labels": {nested}}}"#);
        assert_eq!(from_str::<Issue>(&row).map(|row| row.iid), Ok(Some(7)));
    }

    #[test]
    fn what_is_wrong_is_said_once_with_its_place() {
        let error = |text: &str| {
            from_str::<Vec<Issue>>(text)
                .expect_err("refused")
                .to_string()
        };
        assert_eq!(
            error(r#"[{"id": 1}, {"id" 2}, {"iid" 3}]"#),
            "no colon at byte 18"
        );
        assert_eq!(error(r#"[{"id": 1}, null]"#), "no object at byte 12");
        assert_eq!(error("{}"), "no list at byte 0");
        assert_eq!(error("[{}] x"), "something behind the value at byte 5");
        assert_eq!(
            error(r#"[{"title": "a"#),
            "a string without an end at byte 12"
        );
        assert_eq!(
            error(r#"[{"title": "\x"}]"#),
            "an unknown escape at byte 14"
        );
    }

    #[test]
    fn the_last_of_two_fields_with_one_name_counts() {
        let row = r#"{"title": "a", "title": null, "id": 1, "id": 2, "labels": ["a"], "labels": ["b"],
                      "author": {"id": 1}, "author": {"username": "ada"}}"#;
        let row = from_str::<Issue>(row).expect("read");
        assert_eq!((row.title, row.id, row.labels.len()), (None, Some(2), 1));
        assert_eq!(row.author.and_then(|author| author.id), None);
    }

    /// With numbers that `serde_json` reads to the last bit, which it promises for few of them.
    fn exact(value: Value) -> Value {
        match value {
            Value::Number(number) if number.is_f64() => {
                let float = number.as_f64().unwrap_or_default();
                Value::from((float % 1e6 * 100.0).round() / 100.0)
            }
            Value::Array(items) => items.into_iter().map(exact).collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(key, value)| (key, exact(value)))
                .collect(),
            other => other,
        }
    }

    #[test]
    fn a_number_of_any_length_is_read_with_whatever_comes_behind_it() {
        for digits in 1..=22 {
            let number = &"9081726354908172635490"[..digits];
            for behind in [
                "",
                " ",
                "  \n  \n  \n  ",
                ".5",
                ".25e1",
                "e2",
                "0",
                "00000000",
            ] {
                // `serde_json` does not read all of these to the last bit.
                let text = format!("{number}{behind}");
                let whole = text.trim().parse().map(Value::from as fn(u64) -> Value);
                let value =
                    whole.or_else(|_| text.trim().parse().map(Value::from as fn(f64) -> Value));
                let value = value.expect("a number");
                assert_eq!(read(&text).as_ref(), Some(&value), "{text}");
                let list = format!("[{text},  {text}]");
                assert_eq!(read(&list), Some(Value::from(vec![value; 2])), "{list}");
            }
        }
        for byte in 0..128_u8 {
            for digits in 0..9 {
                let text = format!(
                    "{}{}",
                    &"12345678"[..digits.min(8)],
                    char::from(byte).to_string().repeat(9 - digits)
                );
                assert_eq!(read(&text).is_some(), expected(&text).is_some(), "{text:?}");
            }
        }
    }

    fn read_as<T: Read + Expected + PartialEq + fmt::Debug>(
        text: &str,
        value: &Value,
    ) -> Result<(), TestCaseError> {
        let expected = value.is_object().then(|| T::expected(value));
        prop_assert_eq!(from_str::<T>(text).ok(), expected);
        Ok(())
    }

    proptest! {
        #[test]
        fn every_value_is_read_as_serde_json_reads_it(value in any_json().prop_map(exact), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.expect("written");
            prop_assert_eq!(read(&text), expected(&text));
            let value = serde_json::from_str(&text).expect("JSON");
            read_as::<MergeRequest>(&text, &value)?;
            read_as::<Issue>(&text, &value)?;
            read_as::<Discussion>(&text, &value)?;
            read_as::<Commit>(&text, &value)?;
            read_as::<Pipeline>(&text, &value)?;
            read_as::<Release>(&text, &value)?;
            read_as::<Project>(&text, &value)?;
        }

        #[test]
        fn a_damaged_text_is_refused_where_serde_json_refuses_it(value in any_json(), place in any::<prop::sample::Index>(), byte in 0_u8..128) {
            let mut text = serde_json::to_vec(&value).expect("written");
            let place = place.index(text.len());
            text[place] = byte;
            if let Ok(text) = std::str::from_utf8(&text) {
                prop_assert_eq!(read(text).is_some(), expected(text).is_some(), "{}", text);
            }
        }

        #[test]
        fn a_text_of_which_nothing_is_asked_ends_where_it_ends(value in any_json()) {
            let text = serde_json::to_string(&value).expect("written");
            prop_assert_eq!(pass(&format!("[{text}, 7]")), Ok(Some(7)));
        }
    }
}
