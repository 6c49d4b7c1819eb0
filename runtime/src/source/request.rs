//! What a component may ask for, checked before it touches the network.

use std::time::Duration;

use bytes::Bytes;

/// Longest path.
const MAX_PATH_BYTES: usize = 4096;
/// Longest query, encoded.
const MAX_QUERY_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 32;
const MAX_DELAY: Duration = Duration::from_secs(60);

/// Headers that decide where a request goes or whose it is; they are the host's.
const HOST_HEADERS: [&str; 16] = [
    "authorization",
    "private-token",
    "job-token",
    "deploy-token",
    "proxy-authorization",
    "host",
    "cookie",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "forwarded",
    "accept-encoding",
];

/// An HTTP method that a component may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "HTTP's own names")]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
}

/// A request of a component.
#[derive(Debug, Clone)]
pub struct SourceRequest {
    /// What to do.
    pub method: Method,
    /// Below the base URL, percent-encoded.
    pub path: String,
    /// Not encoded.
    pub query: Vec<(String, String)>,
    /// Extra headers.
    pub headers: Vec<(String, String)>,
    /// Body, if any.
    pub body: Option<Bytes>,
    /// A 2xx answer must be JSON.
    pub expect_json: bool,
    /// Report a timeout at the first time.
    pub report_timeout: bool,
    /// Wait before the first attempt.
    pub delay: Duration,
}

impl SourceRequest {
    /// Checks the request and completes it against the base URL. The error says what is not allowed.
    pub fn url(&self, base: &url::Url) -> Result<url::Url, String> {
        check_path(&self.path)?;
        if self.headers.len() > MAX_HEADERS {
            return Err(format!(
                "{} headers; at most {MAX_HEADERS}",
                self.headers.len()
            ));
        }
        for (name, value) in &self.headers {
            let name = name.to_ascii_lowercase();
            if HOST_HEADERS.contains(&name.as_str())
                || name.starts_with("proxy-")
                || name.starts_with("x-forwarded")
                || name.starts_with("sec-")
            {
                return Err(format!(
                    "the header `{}` is the host's",
                    name.escape_debug()
                ));
            }
            if http::HeaderName::from_bytes(name.as_bytes()).is_err()
                || http::HeaderValue::from_str(value).is_err()
            {
                return Err(format!("the header `{}` is malformed", name.escape_debug()));
            }
        }
        if self.delay > MAX_DELAY {
            return Err(format!(
                "a delay of {} s; at most {}",
                self.delay.as_secs(),
                MAX_DELAY.as_secs()
            ));
        }
        let root = base.path().trim_end_matches('/');
        let mut url = base.clone();
        url.set_path(&format!("{root}{}", self.path));
        url.set_query(None);
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        if url
            .query()
            .is_some_and(|query| query.len() > MAX_QUERY_BYTES)
        {
            return Err(format!("the query is over {MAX_QUERY_BYTES} bytes"));
        }
        // The parser may have rewritten the path (`.`, `..` in some spelling): what leaves must be what was checked.
        let same_place =
            url.origin() == base.origin() && url.path() == format!("{root}{}", self.path);
        if !same_place {
            return Err(format!(
                "the path `{}` does not stay where it is",
                self.path.escape_debug()
            ));
        }
        Ok(url)
    }
}

fn check_path(path: &str) -> Result<(), String> {
    let shown = || {
        path.chars()
            .take(200)
            .collect::<String>()
            .escape_debug()
            .to_string()
    };
    if path.len() > MAX_PATH_BYTES {
        return Err(format!(
            "a path of {} bytes; at most {MAX_PATH_BYTES}",
            path.len()
        ));
    }
    if !path.starts_with('/') || path.starts_with("//") {
        return Err(format!("the path `{}` must begin with one `/`", shown()));
    }
    if let Some(byte) = path.bytes().find(|byte| !is_path_byte(*byte)) {
        return Err(format!(
            "the path `{}` has `{}`; percent-encode it",
            shown(),
            char::from(byte).escape_debug()
        ));
    }
    let decoded_dots = path.to_ascii_lowercase().replace("%2e", ".");
    if decoded_dots
        .split('/')
        .any(|part| part == "." || part == "..")
        || path.contains("//")
    {
        return Err(format!(
            "the path `{}` has an empty or dot segment",
            shown()
        ));
    }
    Ok(())
}

fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-_.~%!$&'()*+,;=:@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str) -> SourceRequest {
        SourceRequest {
            method: Method::Get,
            path: path.into(),
            query: vec![],
            headers: vec![],
            body: None,
            expect_json: true,
            report_timeout: false,
            delay: Duration::ZERO,
        }
    }

    fn base(text: &str) -> url::Url {
        url::Url::parse(text).unwrap()
    }

    #[test]
    fn a_path_is_put_below_a_base_url_with_a_folder() {
        let mut request = request("/api/v4/projects/acme%2Fwidget");
        request.query = vec![("updated_after".into(), "2026-01-01T00:00:00+01:00".into())];
        let url = request.url(&base("https://example.com/gitlab/")).unwrap();
        assert_eq!(
            url.as_str(),
            "https://example.com/gitlab/api/v4/projects/acme%2Fwidget?updated_after=2026-01-01T00%3A00%3A00%2B01%3A00"
        );
    }

    #[test]
    fn no_path_leaves_the_base_url() {
        for path in [
            "",
            "api",
            "//evil.example/x",
            "/a/../b",
            "/a/%2e%2E/b",
            "/a/./b",
            "/a//b",
            "/a?x=1",
            "/a#x",
            "/a\\b",
            "/a b",
            "/\u{e4}",
            "/a\r\nHost: x",
            "http://evil.example/",
        ] {
            assert!(
                request(path).url(&base("https://example.com")).is_err(),
                "accepted {path:?}"
            );
        }
    }

    #[test]
    fn the_hosts_headers_cannot_be_set() {
        for name in [
            "Authorization",
            "PRIVATE-TOKEN",
            "Host",
            "Cookie",
            "X-Forwarded-For",
            "Proxy-Connection",
            "a b",
            "x\r\ny",
        ] {
            let mut request = request("/a");
            request.headers = vec![(name.into(), "v".into())];
            assert!(
                request.url(&base("https://example.com")).is_err(),
                "accepted {name:?}"
            );
        }
    }
}
