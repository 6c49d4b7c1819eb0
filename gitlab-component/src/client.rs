//! Requests to GitLab: how many at once, what an answer means, and asking for less when it was too much.
//!
//! The host repeats what fails for a passing reason. What is left for the guest is to *classify*: a refused token ends the run,
//! a refused feature ends one stream, an answer of the wrong shape is asked for again, and a page that GitLab cannot produce in
//! time is asked for in smaller pieces. Every caller sees one [`Fault`] and no status codes.

use std::cell::Cell;
use std::fmt;

use futures_util::future::LocalBoxFuture;
use serde_json::Value;

use crate::executor::{Permits, Queue};
use crate::host::{
    Failure, Host, HttpError, Level, Method, OnTimeout, Request, Response, WriteError,
};
use crate::json;
use crate::time::Moment;

/// Requests of one run that may be under way at the same time. GitLab's limits are per minute, not per connection; this
/// bounds what the host has to keep for us.
const IN_FLIGHT: usize = 32;

/// Waits before an answer of the wrong shape is asked for again.
const SHAPE_DELAYS_MS: [u32; 4] = [0, 1_000, 5_000, 15_000];

/// Page sizes, from the largest that GitLab allows. Each divides the one before, so that a page boundary of a larger size
/// is one of every smaller size too.
const PAGE_SIZES: [u32; 4] = [100, 20, 5, 1];

/// Why something could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Ends the run.
    Stop(Failure),
    /// GitLab answered with a 3xx or 4xx that concerns this request alone.
    Refused(Refusal),
    /// The answer is too large or takes too long: ask for less.
    TooMuch(String),
    /// Not to be had in this run.
    Unavailable(String),
}

impl From<WriteError> for Fault {
    fn from(error: WriteError) -> Self {
        Self::Stop(match error {
            WriteError::Stopped(_) => Failure::Interrupted,
            WriteError::Invalid(reason) => Failure::Internal(format!(
                "the host refuses a call of the connector: {reason}"
            )),
        })
    }
}

/// An answer that is no 2xx, in GitLab's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) words: String,
    /// Where a 3xx points to.
    pub(crate) location: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // GitLab's own words usually begin with the status.
        if self.words.starts_with(&self.status.to_string()) {
            write!(formatter, "GitLab answers \"{}\"", self.words)
        } else {
            write!(
                formatter,
                "GitLab answers {} \"{}\"",
                self.status, self.words
            )
        }
    }
}

/// A list endpoint with its filters, without paging.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    /// Milliseconds to wait before it is asked for.
    delay_ms: u32,
}

impl Listing {
    pub(crate) fn new(path: String, query: &[(&str, &str)]) -> Self {
        Self {
            path,
            delay_ms: 0,
            query: query
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    /// The same list, asked for only after a while.
    pub(crate) fn after_ms(self, delay_ms: u32) -> Self {
        Self { delay_ms, ..self }
    }

    /// The same list with one more value of a filter that may have several (`iids[]`).
    pub(crate) fn and(mut self, key: &str, value: &str) -> Self {
        self.query.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The same list with one more filter, or another value for it.
    pub(crate) fn with(mut self, key: &str, value: &str) -> Self {
        self.query.retain(|(existing, _)| existing != key);
        self.query.push((key.to_owned(), value.to_owned()));
        self
    }
}

/// Some consecutive rows of a list.
#[derive(Debug)]
pub(crate) struct Slice<T> {
    pub(crate) rows: Vec<T>,
    pub(crate) page: Page,
}

/// What GitLab says about a page besides its rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page {
    /// How far the list's offset moves on; not the number of rows, because GitLab hides some after paging.
    pub(crate) size: u32,
    /// Whether GitLab says that there is more.
    pub(crate) more: bool,
    /// How many rows the whole list has, where GitLab says so.
    pub(crate) total: Option<u64>,
    /// GitLab's clock.
    pub(crate) date: Option<Moment>,
}

/// How many rows to ask for: fewer after a page was too much, more again when smaller ones go well.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Sizing {
    step: usize,
    successes: u8,
}

impl Sizing {
    /// One row at a time, to see whether there is one.
    pub(crate) fn single() -> Self {
        Self {
            step: PAGE_SIZES.len() - 1,
            successes: 0,
        }
    }

    /// For lists that allow no more than twenty rows.
    pub(crate) fn small() -> Self {
        Self {
            step: 1,
            successes: 0,
        }
    }

    fn size(self) -> u32 {
        PAGE_SIZES[self.step]
    }

    /// A larger size at an offset that is not a multiple of it would read rows twice, so it has to wait.
    fn align(&mut self, offset: u64) {
        while !offset.is_multiple_of(u64::from(self.size())) {
            self.step += 1;
        }
    }

    fn smaller(&mut self) -> bool {
        self.successes = 0;
        let possible = self.step + 1 < PAGE_SIZES.len();
        self.step += usize::from(possible);
        possible
    }

    fn succeeded(&mut self) {
        self.successes += 1;
        if self.successes >= 5 {
            self.successes = 0;
            self.step = self.step.saturating_sub(1);
        }
    }
}

/// The way to GitLab.
pub(crate) struct Client<'h> {
    pub(crate) host: &'h dyn Host,
    queue: &'h Queue,
    permits: Permits,
    /// GitLab's clock at the first answer of this run.
    clock: Cell<Option<Moment>>,
}

impl<'h> Client<'h> {
    pub(crate) fn new(host: &'h dyn Host, queue: &'h Queue) -> Self {
        Self {
            host,
            queue,
            permits: Permits::new(IN_FLIGHT),
            clock: Cell::default(),
        }
    }

    /// This work with its requests after those of work with a lower rank; see [`Permits`].
    pub(crate) fn ranked<'a, T: 'a>(
        &'a self,
        rank: usize,
        work: LocalBoxFuture<'a, T>,
    ) -> LocalBoxFuture<'a, T> {
        self.permits.ranked(rank, work)
    }

    /// GitLab's clock at the first answer of this run.
    pub(crate) fn clock(&self) -> Option<Moment> {
        self.clock.get()
    }

    /// One `GET`. `path` is below `/api/v4`.
    async fn get(
        &self,
        path: &str,
        query: Vec<(String, String)>,
        on_timeout: OnTimeout,
        delay_ms: u32,
    ) -> Result<Response, Fault> {
        let request = Request {
            method: Method::Get,
            path: format!("/api/v4{path}"),
            query,
            body: None,
            on_timeout,
            delay_ms,
        };
        accept(self.perform(&request).await?)
    }

    /// One request that changes something, and what GitLab says afterwards; nothing where it says nothing that can be read. The host
    /// repeats none of these. What is refused is refused for this request alone, a scope of the token that is too small too.
    pub(crate) async fn change<T: json::Read>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Option<T>, Fault> {
        let request = Request {
            method,
            path: format!("/api/v4{path}"),
            query: Vec::new(),
            body: body.map(Value::to_string),
            on_timeout: OnTimeout::Report,
            delay_ms: 0,
        };
        let response = self.perform(&request).await?;
        match response.status {
            200..300 => Ok(json::from_str(&response.body).ok()),
            403 => Err(Fault::Refused(refusal(&response))),
            _ => accept(response).map(|_| None),
        }
    }

    async fn perform(&self, request: &Request) -> Result<Response, Fault> {
        let outcome = {
            let _permit = self.permits.acquire().await;
            let ticket = self.host.submit(request);
            self.queue.completion(ticket).await
        };
        match outcome {
            Ok(response) => {
                if self.clock.get().is_none() {
                    self.clock.set(date(&response));
                }
                Ok(response)
            }
            Err(HttpError::Interrupted) => Err(Fault::Stop(Failure::Interrupted)),
            Err(HttpError::Denied(reason)) => Err(Fault::Stop(Failure::Internal(format!(
                "the host does not allow a request for {}: {reason}",
                request.path
            )))),
            Err(HttpError::TimedOut(reason)) => Err(Fault::TooMuch(reason)),
            Err(HttpError::TooLarge(limit)) => Err(Fault::TooMuch(format!(
                "the answer to {} is larger than {limit} bytes",
                request.path
            ))),
            Err(HttpError::Unavailable(reason)) => Err(Fault::Unavailable(reason)),
        }
    }

    /// One request whose body is what `parse` can read; answers the rest of the response. JSON of another shape is taken for a
    /// passing fault (a proxy's page, a server in the middle of an upgrade) and asked for again a few times.
    ///
    /// Boxed and not generic, like [`Self::page`], so that the state machine exists once and not once for each type of row.
    fn fetch<'a>(
        &'a self,
        path: &'a str,
        query: &'a [(String, String)],
        on_timeout: OnTimeout,
        first_delay_ms: u32,
        parse: &'a mut Parse<'_>,
    ) -> LocalBoxFuture<'a, Result<Response, Fault>> {
        Box::pin(async move {
            let mut problem = String::new();
            for delay_ms in SHAPE_DELAYS_MS {
                let delay_ms = delay_ms.max(first_delay_ms);
                let response = self.get(path, query.to_vec(), on_timeout, delay_ms).await?;
                match parse(&response.body) {
                    Ok(()) => {
                        return Ok(Response {
                            body: String::new(),
                            ..response
                        });
                    }
                    Err(error) => problem = error.to_string(),
                }
                let fields = [("path", path), ("problem", &problem)];
                self.host.log(
                    Level::Debug,
                    "GitLab's answer has an unexpected shape",
                    &fields,
                );
            }
            Err(Fault::Unavailable(format!(
                "GitLab's answer to /api/v4{path} is not what its API promises: {problem}"
            )))
        })
    }

    /// A single object.
    pub(crate) fn object<T: json::Read>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> impl Future<Output = Result<T, Fault>> {
        self.object_after(path, query, 0)
    }

    /// A single object, asked for only after a while.
    pub(crate) async fn object_after<T: json::Read>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        delay_ms: u32,
    ) -> Result<T, Fault> {
        let query = Listing::new(String::new(), query).query;
        let mut object = None;
        let result = {
            let mut parse = into(&mut object);
            self.fetch(path, &query, OnTimeout::Retry, delay_ms, &mut parse)
                .await
        };
        match (result, object) {
            (Ok(_), Some(object)) => Ok(object),
            (Ok(_), None) => Err(Fault::Unavailable(format!(
                "GitLab's answer to /api/v4{path} is empty"
            ))),
            (Err(Fault::TooMuch(reason)), _) => Err(Fault::Unavailable(reason)),
            (Err(fault), _) => Err(fault),
        }
    }

    /// The rows of a list from `offset` on: as many as GitLab manages to answer in one go.
    pub(crate) async fn slice<T: json::Read>(
        &self,
        listing: &Listing,
        offset: u64,
        sizing: &mut Sizing,
    ) -> Result<Slice<T>, Fault> {
        let mut rows: Option<Vec<T>> = None;
        let (head, size) = self
            .page(listing, offset, sizing, &mut into(&mut rows))
            .await?;
        let rows = rows.unwrap_or_default();
        let page = Page {
            size,
            more: has_more(&head, rows.len(), size),
            total: head
                .header("x-total")
                .and_then(|total| total.trim().parse().ok()),
            date: date(&head),
        };
        Ok(Slice { rows, page })
    }

    /// One page at `offset`, of the largest size that goes well; answers its headers and its size.
    fn page<'a>(
        &'a self,
        listing: &'a Listing,
        offset: u64,
        sizing: &'a mut Sizing,
        parse: &'a mut Parse<'_>,
    ) -> LocalBoxFuture<'a, Result<(Response, u32), Fault>> {
        Box::pin(async move {
            sizing.align(offset);
            let mut on_timeout = OnTimeout::Report;
            loop {
                let size = sizing.size();
                let mut query = listing.query.clone();
                query.push(("per_page".to_owned(), size.to_string()));
                let page = offset / u64::from(size) + 1;
                if page > 1 {
                    query.push(("page".to_owned(), page.to_string()));
                }
                match self
                    .fetch(&listing.path, &query, on_timeout, listing.delay_ms, parse)
                    .await
                {
                    Ok(head) => {
                        sizing.succeeded();
                        return Ok((head, size));
                    }
                    Err(Fault::TooMuch(reason)) => {
                        let fields = [
                            ("path", listing.path.as_str()),
                            ("per_page", &size.to_string()),
                            ("reason", &reason),
                        ];
                        self.host.log(
                            Level::Info,
                            "a page is too much for GitLab, asking for a smaller one",
                            &fields,
                        );
                        if !sizing.smaller() {
                            // A single row that takes too long may still come; one that is too large never will.
                            if on_timeout == OnTimeout::Retry {
                                return Err(Fault::Unavailable(reason));
                            }
                            on_timeout = OnTimeout::Retry;
                        }
                    }
                    Err(fault) => return Err(fault),
                }
            }
        })
    }

    /// All rows of a list that pages by `Link` alone (`pagination=keyset`) and is sorted by id, page by page through `each`, which answers
    /// the highest id of a page. Where a proxy has removed the header, a full page is followed by what is behind that id: stopping would
    /// lose records.
    pub(crate) async fn keyset<T: json::Read>(
        &self,
        listing: &Listing,
        mut each: impl FnMut(Vec<T>) -> Option<u64>,
    ) -> Result<(), Fault> {
        let mut listing = listing.clone();
        let mut sizing = Sizing::default();
        loop {
            let query = listing
                .clone()
                .with("per_page", &sizing.size().to_string())
                .query;
            let mut rows = None;
            let head = match self
                .fetch(
                    &listing.path,
                    &query,
                    OnTimeout::Report,
                    listing.delay_ms,
                    &mut into(&mut rows),
                )
                .await
            {
                Ok(head) => head,
                Err(Fault::TooMuch(reason)) if !sizing.smaller() => {
                    return Err(Fault::Unavailable(reason));
                }
                Err(Fault::TooMuch(_)) => continue,
                Err(fault) => return Err(fault),
            };
            let rows: Vec<T> = rows.unwrap_or_default();
            let is_full = rows.len() == sizing.size() as usize;
            let last = each(rows);
            let next = match head.header("link") {
                Some(link) => next_query(link),
                None if is_full => {
                    let last = last.ok_or_else(|| {
                        Fault::Unavailable(format!(
                            "GitLab's list /api/v4{} does not say how it goes on (a `Link` header)",
                            listing.path
                        ))
                    })?;
                    Some(listing.clone().with("id_after", &last.to_string()).query)
                }
                None => None,
            };
            let Some(next) = next else {
                return Ok(());
            };
            if next == listing.query || next == query {
                return Err(Fault::Unavailable(format!(
                    "GitLab's list /api/v4{} points to itself as its next page",
                    listing.path
                )));
            }
            listing.query = next;
        }
    }
}

fn date(response: &Response) -> Option<Moment> {
    response.header("date").and_then(Moment::parse_http_date)
}

/// Reads a body.
type Parse<'p> = dyn FnMut(&str) -> Result<(), json::Error> + 'p;

/// Reads a body as a `T` and keeps it in `slot`.
fn into<T: json::Read>(slot: &mut Option<T>) -> impl FnMut(&str) -> Result<(), json::Error> {
    |body| {
        *slot = Some(json::from_str(body)?);
        Ok(())
    }
}

/// Sorts answers into good ones, refused credentials, and other refusals.
fn accept(response: Response) -> Result<Response, Fault> {
    if (200..300).contains(&response.status) {
        return Ok(response);
    }
    let refusal = refusal(&response);
    let code = serde_json::from_str::<Value>(&response.body).ok();
    let code = code
        .as_ref()
        .and_then(|body| body.get("error"))
        .and_then(Value::as_str)
        .unwrap_or_default();
    match (response.status, code) {
        (401, _) => Err(Fault::Stop(Failure::Standing(explain_unauthorized(
            &refusal,
        )))),
        (403, "insufficient_scope") => Err(Fault::Stop(Failure::Standing(format!(
            "{refusal}. The token's scopes are too small: create one with the scope read_api."
        )))),
        _ => Err(Fault::Refused(refusal)),
    }
}

fn refusal(response: &Response) -> Refusal {
    Refusal {
        status: response.status,
        words: words(&response.body, response.status),
        location: response.header("location").map(str::to_owned),
    }
}

fn explain_unauthorized(refusal: &Refusal) -> String {
    let words = refusal.words.to_ascii_lowercase();
    let remedy = if words.contains("revoked") {
        "The token was revoked: create a new one with the scope read_api."
    } else if words.contains("expired") {
        "The token has expired: create a new one with the scope read_api, or rotate it."
    } else {
        "The token is missing, mistyped, or belongs to a blocked user: check it, or create a new one with the scope read_api."
    };
    format!("{refusal}. {remedy}")
}

/// What GitLab says in an error body, whichever of its many shapes it has.
fn words(body: &str, status: u16) -> String {
    fn flatten(value: &Value) -> Option<String> {
        match value {
            Value::String(text) => Some(text.clone()),
            Value::Array(items) => Some(
                items
                    .iter()
                    .filter_map(flatten)
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
            Value::Object(fields) => Some(
                fields
                    .iter()
                    .filter_map(|(key, value)| {
                        let text = flatten(value)?;
                        Some(if key == "error" || key == "base" {
                            text
                        } else {
                            format!("{key} {text}")
                        })
                    })
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
            _ => None,
        }
    }
    let said = match serde_json::from_str::<Value>(body) {
        Ok(json) => ["message", "error_description", "error"]
            .iter()
            .find_map(|key| json.get(key).and_then(flatten))
            .unwrap_or_default(),
        Err(_) if body.contains('<') => String::new(),
        Err(_) => body.to_owned(),
    };
    let said: String = said
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(300)
        .collect();
    if said.is_empty() {
        format!("{status} without an explanation")
    } else {
        said
    }
}

/// Whether there is a next page. A short page says nothing: GitLab hides rows after paging. Where every paging header is
/// missing (a proxy has removed them) a full page counts as a sign of more, because stopping would lose records. More rows than
/// were asked for come from something that does not page at all.
fn has_more(head: &Response, rows: usize, size: u32) -> bool {
    let link = head.header("link");
    let next_page = head.header("x-next-page");
    if link.is_none() && next_page.is_none() {
        return rows == size as usize;
    }
    next_page.is_some_and(|page| !page.trim().is_empty())
        || link.is_some_and(|link| next_link(link).is_some())
}

/// The address with `rel="next"` in a `Link` header.
fn next_link(link: &str) -> Option<&str> {
    let mut rest = link;
    while let Some(start) = rest.find('<') {
        let (url, parameters) = rest[start + 1..].split_once('>')?;
        let parameters_end = parameters.find('<').unwrap_or(parameters.len());
        let mut of_this_url = parameters[..parameters_end].split([';', ',']);
        if of_this_url.any(leads_to_next) {
            return Some(url);
        }
        rest = &parameters[parameters_end..];
    }
    None
}

fn leads_to_next(parameter: &str) -> bool {
    parameter.split_once('=').is_some_and(|(name, value)| {
        name.trim().eq_ignore_ascii_case("rel")
            && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
    })
}

/// The query of the next page, decoded. Only the query: scheme and host of a `Link` are those that GitLab believes to have,
/// which behind a proxy are others.
fn next_query(link: &str) -> Option<Vec<(String, String)>> {
    let (_, query) = next_link(link)?.split_once('?')?;
    let pairs = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(key), percent_decode(value))
        });
    Some(pairs.collect())
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = |digit: u8| {
            char::from(digit)
                .to_digit(16)
                .and_then(|value| u8::try_from(value).ok())
        };
        rest = after;
        match (byte, after) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high * 16 + low);
                    rest = after;
                }
                _ => bytes.push(b'%'),
            },
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Response {
        let headers = headers
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Response {
            status,
            headers,
            body: body.to_owned(),
        }
    }

    #[test]
    fn every_shape_of_error_body_yields_words() {
        for (body, said) in [
            (
                r#"{"message":"404 Project Not Found"}"#,
                "404 Project Not Found",
            ),
            (
                r#"{"message":{"error":"Request timed out"}}"#,
                "Request timed out",
            ),
            (
                r#"{"message":{"name":["has already been taken"]}}"#,
                "name has already been taken",
            ),
            (r#"{"message":["a","b"]}"#, "a, b"),
            (
                r#"{"error":"invalid_token","error_description":"Token was revoked."}"#,
                "Token was revoked.",
            ),
            (r#"{"error":"404 Not Found"}"#, "404 Not Found"),
            ("Retry later\n", "Retry later"),
            (
                "<html><body>Bad gateway</body></html>",
                "404 without an explanation",
            ),
            ("", "404 without an explanation"),
            ("7", "404 without an explanation"),
        ] {
            assert_eq!(words(body, 404), said, "{body}");
        }
    }

    #[test]
    fn refused_credentials_end_the_run_and_say_what_to_do() {
        for (status, body, expected) in [
            (
                401,
                r#"{"message":"401 Unauthorized"}"#,
                ["401 Unauthorized", "check it"],
            ),
            (
                401,
                r#"{"error":"invalid_token","error_description":"Token was revoked. You have to re-authorize from the user."}"#,
                ["Token was revoked", "create a new one"],
            ),
            (
                401,
                r#"{"error":"invalid_token","error_description":"Token is expired. You can either do re-authorization or token refresh."}"#,
                ["Token is expired", "has expired"],
            ),
            (
                403,
                r#"{"error":"insufficient_scope","error_description":"The request requires higher privileges than provided by the access token.","scope":"api read_api"}"#,
                ["higher privileges", "read_api"],
            ),
        ] {
            match accept(response(status, &[], body)) {
                Err(Fault::Stop(Failure::Standing(words))) => {
                    assert!(expected.iter().all(|word| words.contains(word)), "{words}");
                }
                other => panic!("{body}: {other:?}"),
            }
        }
        assert!(matches!(
            accept(response(403, &[], r#"{"message":"403 Forbidden"}"#)),
            Err(Fault::Refused(_))
        ));
    }

    #[test]
    fn a_page_is_the_last_one_only_when_gitlab_says_so() {
        let more =
            |headers: &[(&str, &str)], rows| has_more(&response(200, headers, ""), rows, 100);
        assert!(
            more(&[("x-page", "1"), ("x-next-page", "2")], 3),
            "a short page in the middle"
        );
        assert!(
            !more(&[("x-page", "1"), ("x-next-page", "")], 100),
            "a full page at the end"
        );
        assert!(more(
            &[(
                "link",
                "<http://a/b?page=1>; rel=\"first\", <http://a/b?page=2>; rel=\"next\""
            )],
            0
        ));
        assert!(!more(
            &[(
                "link",
                "<http://a/b?page=1>; rel=\"first\", <http://a/b?page=9>; rel=\"last\""
            )],
            100
        ));
        assert!(more(&[], 100), "without any header a full page is followed");
        assert!(!more(&[], 99));
    }

    #[test]
    fn only_the_query_of_a_link_is_followed() {
        let link = "<http://internal:8080/api/v4/projects?id_after=5&membership=true&cursor=a%2Bb%3D+c>; rel=\"next\"";
        let expected = [
            ("id_after", "5"),
            ("membership", "true"),
            ("cursor", "a+b= c"),
        ];
        let expected = expected
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec();
        assert_eq!(next_query(link), Some(expected));
        assert_eq!(next_query("<http://a/b?page=1>; rel=\"prev\""), None);
        assert_eq!(next_query("garbage"), None);
    }

    #[test]
    fn page_sizes_shrink_when_it_is_too_much_and_grow_again_when_it_goes_well() {
        let mut sizing = Sizing::default();
        assert!(sizing.smaller() && sizing.smaller() && sizing.smaller() && !sizing.smaller());
        assert_eq!(sizing.size(), 1);
        for _ in 0..15 {
            sizing.succeeded();
        }
        assert_eq!(sizing.size(), 100);
        sizing.align(140);
        assert_eq!(sizing.size(), 20);
    }
}
