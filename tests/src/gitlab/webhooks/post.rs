//! One POST over a socket of its own.
//!
//! By hand for the same reason as the server: a body that ends before its `Content-Length` is a delivery that a client library
//! cannot send. A receiver behind TLS is out of reach, and the log says so.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How much of an answer is read: enough for its head and the 8 KiB that GitLab keeps of its body.
const READ: usize = 256 << 10;
/// How much of a body is kept.
const BODY: usize = 8 << 10;
/// How many headers are kept.
const HEADERS: usize = 50;

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

/// The parts of an `http` URL that a request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// For the `Host` header, with the port if the URL has one.
    pub(super) host: String,
    /// For the connection.
    connect: String,
    path: String,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(format!("the simulator sends over http only, not to {url}"));
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let host = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        let bare = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
        let connect = if bare.contains(':') {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        Ok(Self {
            host: host.to_owned(),
            connect,
            path,
        })
    }
}

/// Status, headers, and where the body starts.
type Head = (u16, Vec<(String, String)>, usize);

fn parse(bytes: &[u8]) -> Option<Head> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    Some((status, headers, end + 4))
}

/// Whether all of an answer is there; without a length it ends with the connection.
fn is_whole(bytes: &[u8]) -> bool {
    let Some((status, headers, start)) = parse(bytes) else {
        return false;
    };
    let find = |name: &str| {
        headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    };
    let body = &bytes[start..];
    if matches!(status, 204 | 304) {
        return true;
    }
    match find("content-length").and_then(|text| text.parse::<usize>().ok()) {
        Some(length) => body.len() >= length,
        None => find("transfer-encoding").is_some() && body.ends_with(b"0\r\n\r\n"),
    }
}

async fn exchange(address: &Address, request: &[u8]) -> io::Result<Outcome> {
    let mut stream = TcpStream::connect(&address.connect).await?;
    stream.set_nodelay(true)?;
    // A receiver may answer and close before it has read everything; its answer counts.
    let written = stream.write_all(request).await;
    let mut bytes = Vec::new();
    let mut piece = [0; 8192];
    while bytes.len() < READ && !is_whole(&bytes) {
        match stream.read(&mut piece).await {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) if parse(&bytes).is_none() => return Err(error),
            Err(_) => break,
        }
    }
    let Some((status, mut headers, start)) = parse(&bytes) else {
        written?;
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the receiver closed the connection without an answer",
        ));
    };
    headers.truncate(HEADERS);
    let end = bytes.len().min(start + BODY);
    Ok(Outcome {
        status,
        headers,
        body: String::from_utf8_lossy(&bytes[start..end]).into_owned(),
    })
}

/// Sends a body and waits for the answer. With `keep` only so many bytes are sent, under the full `Content-Length`, and the
/// sending side is closed.
pub(super) async fn post(
    url: &str,
    headers: &[(String, String)],
    body: &[u8],
    keep: Option<usize>,
    timeout: Duration,
) -> Result<Outcome, String> {
    let address = Address::parse(url)?;
    let mut head = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\n",
        address.path, address.host
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {}\r\n", value.replace(['\r', '\n'], " ")));
    }
    head.push_str(&format!(
        "Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    ));
    let mut request = head.into_bytes();
    request.extend_from_slice(&body[..keep.unwrap_or(usize::MAX).min(body.len())]);
    let sent = async {
        if keep.is_some_and(|keep| keep < body.len()) {
            break_off(&address, &request).await
        } else {
            exchange(&address, &request).await
        }
    };
    match tokio::time::timeout(timeout, sent).await {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(error)) => Err(format!("{}: {error}", address.connect)),
        Err(_) => Err("Net::ReadTimeout".to_owned()),
    }
}

async fn break_off(address: &Address, request: &[u8]) -> io::Result<Outcome> {
    let mut stream = TcpStream::connect(&address.connect).await?;
    stream.write_all(request).await?;
    stream.shutdown().await?;
    let mut rest = Vec::new();
    let _ = stream.take(1024).read_to_end(&mut rest).await;
    Err(io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "the delivery broke off in its body",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_for_the_connection_and_the_request() {
        let parts = |url: &str| {
            let found = Address::parse(url).expect("http");
            (found.host, found.connect, found.path)
        };
        let three = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(
            parts("http://127.0.0.1:8080/a/b?c=d#e"),
            three("127.0.0.1:8080", "127.0.0.1:8080", "/a/b?c=d")
        );
        assert_eq!(
            parts("http://user:pass@hooks.test"),
            three("hooks.test", "hooks.test:80", "/")
        );
        assert_eq!(parts("http://[::1]/x"), three("[::1]", "[::1]:80", "/x"));
        assert_eq!(
            parts("http://hooks.test?x=y"),
            three("hooks.test", "hooks.test:80", "/?x=y")
        );
        assert!(Address::parse("https://hooks.test/").is_err());
    }
}
