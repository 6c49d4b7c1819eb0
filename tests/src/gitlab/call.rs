//! One request, understood: its parameters with GitLab's validation, and the page it asks for.
//!
//! `Link` is built from the *declared* parameters, defaults and route captures included, on the host that the instance believes
//! to have. A client that follows it to the letter sends its token to that host; a client that rebuilds the query from it must
//! cope with parameters that it never sent.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};

use super::access::Viewer;
use super::clock::Micros;
use super::reply::Reply;
use super::world::World;

const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Encodes one query value or path segment.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, COMPONENT).to_string()
}

/// Decodes one query value or path segment.
pub(crate) fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The query, decoded, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = query
            .split('&')
            .filter(|part| !part.is_empty())
            .map(|part| {
                let (name, value) = part.split_once('=').unwrap_or((part, ""));
                (
                    decode(&name.replace('+', " ")),
                    decode(&value.replace('+', " ")),
                )
            });
        Self(pairs.collect())
    }

    /// Every parameter, in order.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The last value of a parameter; an empty one counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().rev().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// All values of a list parameter such as `iids[]`, or the parts of its comma form.
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        let bracketed = format!("{name}[]");
        self.0
            .iter()
            .filter(|(key, _)| key == name || *key == bracketed)
            .flat_map(|(_, value)| value.split(','))
            .filter(|value| !value.is_empty())
            .collect()
    }

    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool, Reply> {
        match self.get(name) {
            None => Ok(default),
            // What GitLab's framework (Grape, through dry-types) takes; Python clients send `True`.
            Some(
                "1" | "on" | "On" | "ON" | "t" | "true" | "True" | "TRUE" | "T" | "y" | "yes"
                | "Yes" | "YES" | "Y",
            ) => Ok(true),
            Some(
                "0" | "off" | "Off" | "OFF" | "f" | "false" | "False" | "FALSE" | "F" | "n" | "no"
                | "No" | "NO" | "N",
            ) => Ok(false),
            Some(_) => Err(Reply::invalid(&format!("{name} is invalid"))),
        }
    }

    pub(crate) fn time(&self, name: &str) -> Result<Option<Micros>, Reply> {
        match self.get(name) {
            None => Ok(None),
            Some(text) => match Micros::parse(text) {
                Some(time) => Ok(Some(time)),
                None => Err(Reply::invalid(&format!("{name} is invalid"))),
            },
        }
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Reply> {
        match self.get(name) {
            None => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| Reply::invalid(&format!("{name} is invalid"))),
        }
    }

    /// One of the allowed words.
    pub(crate) fn word(
        &self,
        name: &str,
        allowed: &[&'static str],
        default: &'static str,
    ) -> Result<&'static str, Reply> {
        match self.get(name) {
            None => Ok(default),
            Some(text) => match allowed.iter().find(|word| **word == text) {
                Some(word) => Ok(word),
                None => Err(Reply::invalid(&format!(
                    "{name} does not have a valid value"
                ))),
            },
        }
    }

    /// An inclusive window `<name>_after` … `<name>_before`.
    pub(crate) fn window(&self, name: &str) -> Result<Window, Reply> {
        let after = self.time(&format!("{name}_after"))?;
        Ok(Window {
            after,
            before: self.time(&format!("{name}_before"))?,
        })
    }

    /// `sort=desc`?
    pub(crate) fn descending(&self, default: &'static str) -> Result<bool, Reply> {
        Ok(self.word("sort", &["asc", "desc"], default)? == "desc")
    }
}

/// A time window with both ends included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) after: Option<Micros>,
    pub(crate) before: Option<Micros>,
}

impl Window {
    pub(crate) fn holds(self, time: Micros) -> bool {
        self.after.is_none_or(|after| time >= after)
            && self.before.is_none_or(|before| time <= before)
    }

    pub(crate) fn is_open(self) -> bool {
        self.after.is_none() && self.before.is_none()
    }
}

/// A request with its viewer.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) params: Params,
    pub(crate) viewer: Viewer,
    /// The path as it was sent, with the relative root.
    pub(crate) raw_path: String,
    /// Origin of `Link` and `Location`, such as `http://gitlab.internal:8080`.
    pub(crate) link_origin: String,
    /// `/gitlab`, or nothing.
    pub(crate) root: String,
    /// The query as it was sent.
    pub(crate) raw_query: String,
    /// Differs from request to request: the order of what has no order.
    pub(crate) shuffle: u64,
}

/// The parameters that appear in `Link`.
pub(crate) type Declared = Vec<(String, String)>;

/// Whether the number of records is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Totals {
    /// By a count in the database.
    Counted,
    /// Not at all: a full page promises a next one.
    Unknown,
}

/// One page and its headers.
pub(crate) struct Paged<T> {
    pub(crate) items: Vec<T>,
    pub(crate) headers: Vec<(String, String)>,
}

impl<T> Paged<T> {
    /// Renders what is left after the visibility filter of `render`.
    pub(crate) fn reply(self, render: impl FnMut(T) -> Option<Value>) -> Reply {
        let items: Vec<Value> = self.items.into_iter().filter_map(render).collect();
        Reply {
            headers: self.headers,
            ..Reply::ok(&Value::Array(items))
        }
    }
}

impl Call {
    /// Declared parameters: captures, then names with their defaults; a name without default appears only if it was sent.
    pub(crate) fn declared(&self, captures: &[(&str, &str)], names: &[(&str, &str)]) -> Declared {
        let mut out: Declared = captures
            .iter()
            .map(|&(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        for &(name, default) in names {
            if let Some(list) = name.strip_suffix("[]") {
                out.extend(
                    self.params
                        .list(list)
                        .into_iter()
                        .map(|value| (name.to_owned(), value.to_owned())),
                );
            } else {
                let value = self.params.get(name).unwrap_or(default);
                if !value.is_empty() {
                    out.push((name.to_owned(), value.to_owned()));
                }
            }
        }
        out
    }

    fn per_page(&self) -> Result<usize, Reply> {
        match self.params.get("per_page") {
            None => Ok(20),
            Some(text) => match text.parse::<i64>() {
                Err(_) => Err(Reply::invalid("per_page is invalid")),
                Ok(number) if number < 1 => Err(Reply::invalid("per_page has a value not allowed")),
                Ok(number) => Ok(usize::try_from(number).unwrap_or(usize::MAX).min(100)),
            },
        }
    }

    fn page(&self) -> Result<usize, Reply> {
        match self.params.get("page") {
            None => Ok(1),
            Some(text) => match text.parse::<i64>() {
                Err(_) => Err(Reply::invalid("page is invalid")),
                Ok(number) if number < 1 => Err(Reply::invalid("page does not have a valid value")),
                Ok(number) => Ok(usize::try_from(number).unwrap_or(usize::MAX)),
            },
        }
    }

    /// `page` times `per_page`, for the plan limit.
    pub(crate) fn depth(&self) -> Result<usize, Reply> {
        Ok(self.page()?.saturating_mul(self.per_page()?))
    }

    fn link(&self, declared: &Declared, more: &[(&str, String)], relation: &str) -> String {
        let mut all: Vec<(String, String)> = declared.clone();
        all.extend(
            more.iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone())),
        );
        all.sort();
        let query: Vec<String> = all
            .iter()
            .map(|(k, v)| format!("{}={}", encode(k), encode(v)))
            .collect();
        format!(
            "<{}{}?{}>; rel=\"{relation}\"",
            self.link_origin,
            self.raw_path,
            query.join("&")
        )
    }

    /// Cuts an offset page and writes its headers.
    pub(crate) fn offset<T>(
        &self,
        world: &World,
        items: Vec<T>,
        declared: &Declared,
        totals: Totals,
    ) -> Result<Paged<T>, Reply> {
        let (page, per_page) = (self.page()?, self.per_page()?);
        let count = items.len();
        let start = (page - 1).saturating_mul(per_page);
        let items: Vec<T> = items.into_iter().skip(start).take(per_page).collect();
        let pages = count.div_ceil(per_page).max(1);
        let has_next = match totals {
            Totals::Counted => page < pages,
            Totals::Unknown => items.len() == per_page,
        };
        let show_totals = totals == Totals::Counted && count <= world.knobs.total_limit;

        let mut headers = Vec::new();
        let mut add = |name: &str, value: String| headers.push((name.to_owned(), value));
        let at = |page: usize| {
            vec![
                ("page", page.to_string()),
                ("per_page", per_page.to_string()),
            ]
        };
        let mut links = Vec::new();
        if page > 1 {
            links.push(self.link(declared, &at(page - 1), "prev"));
        }
        if has_next {
            links.push(self.link(declared, &at(page + 1), "next"));
        }
        links.push(self.link(declared, &at(1), "first"));
        if show_totals {
            links.push(self.link(declared, &at(pages), "last"));
        }
        add("link", links.join(", "));
        add(
            "x-next-page",
            if has_next {
                (page + 1).to_string()
            } else {
                String::new()
            },
        );
        add("x-page", page.to_string());
        add("x-per-page", per_page.to_string());
        add(
            "x-prev-page",
            if page > 1 {
                (page - 1).to_string()
            } else {
                String::new()
            },
        );
        if show_totals {
            add("x-total", count.to_string());
            add("x-total-pages", pages.to_string());
        }
        Ok(Paged { items, headers })
    }

    /// Cuts a keyset page of `GET /projects`: the link is there on every non-empty page, so a walk ends with an empty one.
    pub(crate) fn keyset_by_id<T>(
        &self,
        items: Vec<T>,
        id: impl Fn(&T) -> u64,
        descending: bool,
        declared: &Declared,
    ) -> Result<Paged<T>, Reply> {
        let per_page = self.per_page()?;
        let items: Vec<T> = items.into_iter().take(per_page).collect();
        let mut headers = Vec::new();
        if let Some(last) = items.last() {
            let name = if descending { "id_before" } else { "id_after" };
            let mut declared = declared.clone();
            declared.retain(|(key, _)| key != name);
            let more = [
                (name, id(last).to_string()),
                ("per_page", per_page.to_string()),
            ];
            headers.push(("link".to_owned(), self.link(&declared, &more, "next")));
        }
        Ok(Paged { items, headers })
    }

    /// Cuts a keyset page with an opaque cursor. `key` gives the position of an item: its sort value and its id.
    pub(crate) fn keyset<T>(
        &self,
        items: Vec<T>,
        key: impl Fn(&T) -> (String, u64),
        order_by: &str,
        declared: &Declared,
    ) -> Result<Paged<T>, Reply> {
        let per_page = self.per_page()?;
        let start = match self.params.get("cursor") {
            None => 0,
            Some(text) => {
                let Some(position) = decode_cursor(text) else {
                    return Err(Reply::message(
                        400,
                        "400 Bad request - The provided cursor is invalid",
                    ));
                };
                // A keyset predicate: the first item strictly after the position in the list's own order.
                items
                    .iter()
                    .position(|item| {
                        let (value, id) = key(item);
                        let after = |ascending: bool| {
                            if value == position.value {
                                id < position.id
                            } else {
                                (value > position.value) == ascending
                            }
                        };
                        after(position.ascending)
                    })
                    .unwrap_or(items.len())
            }
        };
        let ascending = self.params.get("sort") == Some("asc");
        let left = items.len() - start;
        let items: Vec<T> = items.into_iter().skip(start).take(per_page).collect();
        let mut headers = Vec::new();
        let cursor_of = |item: &T| {
            let (value, id) = key(item);
            encode_cursor(
                &Position {
                    value,
                    id,
                    ascending,
                },
                order_by,
            )
        };
        if let Some(last) = items.last().filter(|_| left > per_page) {
            let cursor = cursor_of(last);
            let mut declared = declared.clone();
            declared.retain(|(name, _)| name != "cursor");
            let more = [
                ("cursor", cursor.clone()),
                ("per_page", per_page.to_string()),
            ];
            headers.push(("link".to_owned(), self.link(&declared, &more, "next")));
            headers.push(("x-next-cursor".to_owned(), cursor));
        } else {
            headers.push(("x-next-cursor".to_owned(), String::new()));
        }
        let previous = items
            .first()
            .filter(|_| start > 0)
            .map(cursor_of)
            .unwrap_or_default();
        headers.push(("x-prev-cursor".to_owned(), previous));
        Ok(Paged { items, headers })
    }

    /// A number that orders ties differently in every request.
    pub(crate) fn noise(&self, world: &World, id: u64) -> u64 {
        if world.knobs.shuffle_ties {
            (id ^ self.shuffle.rotate_left(17))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
        } else {
            id
        }
    }
}

struct Position {
    value: String,
    id: u64,
    ascending: bool,
}

fn encode_cursor(position: &Position, order_by: &str) -> String {
    let direction = if position.ascending { "asc" } else { "desc" };
    let text = json!({ order_by: position.value, "id": position.id.to_string(), "_kd": "n", "_o": order_by, "_d": direction });
    base64_encode(text.to_string().as_bytes())
}

fn decode_cursor(text: &str) -> Option<Position> {
    let value: Value = serde_json::from_slice(&base64_decode(text)?).ok()?;
    let order_by = value.get("_o")?.as_str()?;
    Some(Position {
        value: value.get(order_by)?.as_str()?.to_owned(),
        id: value.get("id")?.as_str()?.parse().ok()?,
        ascending: value.get("_d")?.as_str()? == "asc",
    })
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn base64_encode(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let word = at(0) << 16 | at(1) << 8 | at(2);
        for index in 0..4 {
            if index <= chunk.len() {
                let six = usize::try_from(word >> (18 - 6 * index) & 63).unwrap_or(0);
                out.push(char::from(ALPHABET[six]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut word, mut bits) = (0_u32, 0_u32);
    for byte in text.bytes().filter(|&byte| byte != b'=') {
        let six = ALPHABET.iter().position(|&known| known == byte)?;
        word = (word << 6 | u32::try_from(six).ok()?) & 0xff_ffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(word >> bits & 255).ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_survive_the_round_trip() {
        for text in ["", "a", "ab", "abc", "{\"updated_at\":\"2026\"}"] {
            assert_eq!(
                base64_decode(&base64_encode(text.as_bytes())).expect("decodes"),
                text.as_bytes()
            );
        }
        assert!(decode_cursor("!!").is_none());
    }

    #[test]
    fn plus_is_a_space_so_an_unencoded_offset_breaks_a_time() {
        let params = Params::parse("updated_after=2026-01-01T00:00:00.000+02:00");
        assert!(params.time("updated_after").is_err());
        let params = Params::parse("updated_after=2026-01-01T00:00:00.000%2B02:00");
        assert!(params.time("updated_after").expect("valid").is_some());
    }
}
