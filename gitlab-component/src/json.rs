//! Reads JSON where it lies.
//!
//! Half of what the component computes is reading GitLab's answers, of which most is passed over. So this reader differs
//! from `serde_json` in two things. It looks for the end of a string sixteen bytes at a time (`block`);
//! `serde_json` takes as many as an address has, which is four here. And what nobody asked for is not examined: its strings and brackets
//! are followed to its end, no more. The host has seen before that the answer is one whole JSON value (`http.expectation.json`).
//!
//! What is asked for is read as `serde_json` reads it, to which the tests compare it.

mod block;

use std::borrow::Cow;

use serde::de::value::{BorrowedStrDeserializer, StringDeserializer};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

/// Why a text is not what it should be.
pub(crate) type Error = serde::de::value::Error;

/// Values within values; more are in no answer, and each takes stack.
const DEPTH: u8 = 100;

/// Reads one value, which is the whole text.
pub(crate) fn from_str<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, Error> {
    let mut reader = Reader {
        text,
        at: 0,
        depth: DEPTH,
    };
    let value = T::deserialize(&mut reader)?;
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.wrong("something behind the value")),
    }
}

struct Reader<'de> {
    text: &'de str,
    at: usize,
    /// How many values may still be opened within each other.
    depth: u8,
}

impl<'de> Reader<'de> {
    #[cold]
    #[inline(never)]
    fn wrong(&self, what: &str) -> Error {
        Error::custom(format_args!("{what} at byte {}", self.at))
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

    /// Passes one byte.
    fn pass(&mut self, expected: u8) -> Result<(), Error> {
        if self.peek() == Some(expected) {
            self.at += 1;
            return Ok(());
        }
        Err(self.wrong(if expected == b':' {
            "no colon"
        } else {
            "no name"
        }))
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
    fn string(&mut self) -> Result<Cow<'de, str>, Error> {
        let start = self.at;
        let end = self.plain(start).ok_or_else(|| self.endless())?;
        if self.byte(end) == Some(b'"') {
            self.at = end + 1;
            return Ok(Cow::Borrowed(&self.text[start..end]));
        }
        self.escaped(start, end).map(Cow::Owned)
    }

    /// The same if it is plain and fits a block, as names of fields and most values do; otherwise nothing is passed.
    #[inline(always)]
    fn short_string(&mut self) -> Option<&'de str> {
        let start = self.at;
        let block = self.text.as_bytes().get(start..)?.first_chunk()?;
        let end = start + block::first_special(block)?;
        let text = (self.byte(end) == Some(b'"')).then(|| &self.text[start..end])?;
        self.at = end + 1;
        Some(text)
    }

    #[cold]
    fn endless(&self) -> Error {
        self.wrong("a string without an end")
    }

    /// The rest of a string that has something else than itself in it.
    fn escaped(&mut self, mut start: usize, mut end: usize) -> Result<String, Error> {
        let mut string = String::new();
        loop {
            string.push_str(&self.text[start..end]);
            self.at = end + 1;
            match self.byte(end) {
                Some(b'"') => return Ok(string),
                Some(b'\\') => string.push(self.escape()?),
                _ => return Err(self.wrong("a control character in a string")),
            }
            start = self.at;
            end = self.plain(start).ok_or_else(|| self.endless())?;
        }
    }

    /// The character whose backslash has been passed.
    fn escape(&mut self) -> Result<char, Error> {
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
                        return Err(self.wrong("half of a character"));
                    }
                    code = 0x1_0000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                }
                char::from_u32(code).ok_or_else(|| self.wrong("half of a character"))?
            }
            _ => return Err(self.wrong("an unknown escape")),
        })
    }

    fn code_unit(&mut self) -> Result<u32, Error> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let value = digits.and_then(|digits| {
            digits.iter().try_fold(0, |value, digit| {
                Some(value << 4 | char::from(*digit).to_digit(16)?)
            })
        });
        self.at += 4;
        value.ok_or_else(|| self.wrong("no four digits"))
    }

    /// Passes a value that nobody asked for.
    fn skip(&mut self) -> Result<(), Error> {
        let mut open = 0_usize;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    self.skip_string()?;
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
                    let rest = self.text.as_bytes()[self.at..].iter();
                    let word = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'E' | b'+' | b'-' | b'.');
                    self.at += rest.take_while(word).count();
                }
                _ => return Err(self.wrong("no value")),
            }
            if open == 0 {
                return Ok(());
            }
        }
    }

    fn skip_string(&mut self) -> Result<(), Error> {
        loop {
            let end = self.plain(self.at).ok_or_else(|| self.endless())?;
            self.at = end + 1;
            match self.byte(end) {
                Some(b'"') => return Ok(()),
                Some(b'\\') => self.at += 1,
                _ => return Err(self.wrong("a control character in a string")),
            }
        }
    }

    fn word(&mut self, word: &str) -> Result<(), Error> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.wrong("no value"));
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<Number, Error> {
        let start = self.at;
        let negative = self.byte(self.at) == Some(b'-');
        self.at += usize::from(negative);
        let whole = self.at;
        // Nineteen digits are always a `u64`, so only what comes behind them is checked: a checked multiplication is a call in the sandbox.
        let mut value = 0_u64;
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
            return Err(self.wrong("no number"));
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
        match value.filter(|_| integer) {
            Some(value) if !negative => return Ok(Number::Unsigned(value)),
            Some(value) if value > 0 => {
                if let Some(value) = 0_i64.checked_sub_unsigned(value) {
                    return Ok(Number::Signed(value));
                }
            }
            _ => {}
        }
        let float = self.text[start..self.at].parse::<f64>();
        match float {
            Ok(float) if float.is_finite() => Ok(Number::Float(float)),
            _ => Err(self.wrong("a number out of range")),
        }
    }

    fn some_digits(&mut self) -> Result<(), Error> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.byte(self.at) {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.wrong("no digit"));
        }
        Ok(())
    }

    /// The next value, or the beginning of it.
    ///
    /// Not inlined, like [`Inside::goes_on`] and [`Inside::key`]: each type that is read would have a copy of its own, and the component is compiled at
    /// its first start.
    #[inline(never)]
    fn start(&mut self) -> Result<Start<'de>, Error> {
        Ok(match self.peek() {
            Some(b'"') => {
                self.at += 1;
                Start::Text(match self.short_string() {
                    Some(text) => Cow::Borrowed(text),
                    None => self.string()?,
                })
            }
            Some(b'0'..=b'9' | b'-') => Start::Number(self.number()?),
            Some(b'n') => {
                self.word("null")?;
                Start::Null
            }
            Some(b't') => {
                self.word("true")?;
                Start::Flag(true)
            }
            Some(b'f') => {
                self.word("false")?;
                Start::Flag(false)
            }
            Some(bracket @ (b'{' | b'[')) => {
                self.enter()?;
                Start::Inside(bracket)
            }
            _ => return Err(self.wrong("no value")),
        })
    }

    /// Goes into an object or a list, whose bracket is passed.
    fn enter(&mut self) -> Result<(), Error> {
        self.at += 1;
        self.depth = self
            .depth
            .checked_sub(1)
            .ok_or_else(|| self.wrong("too many values within each other"))?;
        Ok(())
    }
}

/// What a value begins with; of what is not an object or a list that is all.
enum Start<'de> {
    Text(Cow<'de, str>),
    Number(Number),
    Flag(bool),
    Null,
    /// Its bracket has been passed.
    Inside(u8),
}

enum Number {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.start()? {
            Start::Text(Cow::Borrowed(text)) => visitor.visit_borrowed_str(text),
            Start::Text(Cow::Owned(text)) => visitor.visit_string(text),
            Start::Number(Number::Unsigned(number)) => visitor.visit_u64(number),
            Start::Number(Number::Signed(number)) => visitor.visit_i64(number),
            Start::Number(Number::Float(number)) => visitor.visit_f64(number),
            Start::Null => visitor.visit_unit(),
            Start::Flag(flag) => visitor.visit_bool(flag),
            Start::Inside(bracket) => {
                let mut inside = Inside {
                    reader: self,
                    first: true,
                    ended: false,
                };
                let (value, end) = if bracket == b'{' {
                    (visitor.visit_map(&mut inside)?, b'}')
                } else {
                    (visitor.visit_seq(&mut inside)?, b']')
                };
                // Who knows how many there are does not ask for one more.
                if !inside.ended && inside.goes_on(end)? {
                    return Err(self.wrong("more than was expected"));
                }
                self.depth += 1;
                Ok(value)
            }
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.skip()?;
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.peek() == Some(b'n') {
            self.word("null")?;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier
    }
}

/// An object or a list, whose bracket has been passed.
struct Inside<'r, 'de> {
    reader: &'r mut Reader<'de>,
    first: bool,
    ended: bool,
}

impl<'de> Inside<'_, 'de> {
    /// Whether something comes before the end, which is passed.
    #[inline(never)]
    fn goes_on(&mut self, end: u8) -> Result<bool, Error> {
        self.goes_on_here(end)
    }

    /// The same without a call, for [`Inside::key`], which is asked as often as everything else together.
    #[inline(always)]
    fn goes_on_here(&mut self, end: u8) -> Result<bool, Error> {
        match self.reader.peek() {
            Some(byte) if byte == end => {
                self.reader.at += 1;
                self.ended = true;
                Ok(false)
            }
            Some(b',') if !self.first => {
                self.reader.at += 1;
                Ok(true)
            }
            Some(_) if self.first => {
                self.first = false;
                Ok(true)
            }
            _ => Err(self.reader.wrong("neither a comma nor an end")),
        }
    }

    /// The name of the next field, up to its value.
    #[inline(never)]
    fn key(&mut self) -> Result<Option<Cow<'de, str>>, Error> {
        if !self.goes_on_here(b'}')? {
            return Ok(None);
        }
        self.reader.pass(b'"')?;
        let key = match self.reader.short_string() {
            Some(key) => Cow::Borrowed(key),
            None => self.reader.string()?,
        };
        self.reader.pass(b':')?;
        Ok(Some(key))
    }
}

impl<'de> MapAccess<'de> for &mut Inside<'_, 'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        match self.key()? {
            None => return Ok(None),
            Some(Cow::Borrowed(key)) => seed.deserialize(BorrowedStrDeserializer::new(key)),
            Some(Cow::Owned(key)) => seed.deserialize(StringDeserializer::new(key)),
        }
        .map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(&mut *self.reader)
    }
}

impl<'de> SeqAccess<'de> for &mut Inside<'_, 'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        if !self.goes_on(b']')? {
            return Ok(None);
        }
        seed.deserialize(&mut *self.reader).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;
    use serde_json::Value;

    use super::*;
    use crate::gitlab::{Discussion, Issue, tests::any_json};

    fn read(text: &str) -> Option<Value> {
        from_str(text).ok()
    }

    fn expected(text: &str) -> Option<Value> {
        serde_json::from_str(text).ok()
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
            let (_, seven): (IgnoredAny, u64) = from_str(&list).expect(text);
            assert_eq!(seven, 7, "{text}");
        }
        for text in ["", "[", "\"a", "[\"a]", "{\"a\": ", "\"\\\"", "]", ",", "?"] {
            assert!(from_str::<IgnoredAny>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn values_within_values_have_a_limit_and_what_is_passed_over_has_none() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(read(&nested(100)).is_some());
        assert!(read(&nested(101)).is_none());
        assert!(from_str::<IgnoredAny>(&nested(100_000)).is_ok());
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

    proptest! {
        #[test]
        fn every_value_is_read_as_serde_json_reads_it(value in any_json().prop_map(exact), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.expect("written");
            prop_assert_eq!(read(&text), expected(&text));
            if value.is_object() {
                prop_assert_eq!(from_str::<Issue>(&text).ok(), serde_json::from_str::<Issue>(&text).ok());
                prop_assert_eq!(from_str::<Discussion>(&text).ok(), serde_json::from_str::<Discussion>(&text).ok());
            }
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
            prop_assert!(from_str::<IgnoredAny>(&text).is_ok());
        }
    }
}
