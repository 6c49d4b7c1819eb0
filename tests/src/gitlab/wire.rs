//! HTTP/1.1 by hand.
//!
//! A web framework is built to send correct answers. The faults that break clients are the incorrect ones: a body that ends
//! before its `Content-Length`, a connection reset before the first byte, a body that drips. Two hundred lines over a socket
//! give control over every byte.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::OwnedReadHalf;

use super::reply::Reply;

/// Longest request head or body accepted.
const LIMIT: usize = 8 << 20;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn keeps_alive(&self) -> bool {
        !self
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

async fn line(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(LIMIT).unwrap_or(u64::MAX);
    if (&mut *reader)
        .take(limit)
        .read_until(b'\n', &mut bytes)
        .await?
        == 0
    {
        return Ok(None);
    }
    if bytes.pop() != Some(b'\n') {
        return Err(bad("a line without an end"));
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| bad("a head that is not UTF-8"))
}

/// Reads one request; `None` at the end of the connection.
pub(crate) async fn read(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Request>> {
    let Some(first) = line(reader).await? else {
        return Ok(None);
    };
    let mut parts = first.split(' ');
    let (Some(method), Some(target)) = (parts.next(), parts.next()) else {
        return Err(bad("no request line"));
    };
    // An absolute form is what a proxy would get; only its path matters here.
    let target = match target.split_once("://") {
        Some((_, rest)) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"),
        None => target,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    loop {
        let header = line(reader)
            .await?
            .ok_or_else(|| bad("the head ended early"))?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| bad("a header without a colon"))?;
        request
            .headers
            .push((name.to_ascii_lowercase(), value.trim().to_owned()));
        if request.headers.len() > 200 {
            return Err(bad("too many headers"));
        }
    }
    if request
        .header("transfer-encoding")
        .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    {
        read_chunks(reader, &mut request.body).await?;
    } else if let Some(length) = request.header("content-length") {
        let length: usize = length.parse().map_err(|_| bad("a wrong content-length"))?;
        if length > LIMIT {
            return Err(bad("a body too large"));
        }
        request.body.resize(length, 0);
        reader.read_exact(&mut request.body).await?;
    }
    Ok(Some(request))
}

async fn read_chunks(reader: &mut BufReader<OwnedReadHalf>, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let size = line(reader)
            .await?
            .ok_or_else(|| bad("a chunk is missing"))?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| bad("a wrong chunk size"))?;
        if body.len() + size > LIMIT {
            return Err(bad("a body too large"));
        }
        let start = body.len();
        body.resize(start + size, 0);
        reader.read_exact(&mut body[start..]).await?;
        line(reader).await?;
        if size == 0 {
            return Ok(());
        }
    }
}

/// How an answer is put on the wire.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delivery {
    /// Send only so many bytes of the body as it is on the wire, under the full `Content-Length` or without the last chunks, and close.
    pub(crate) keep: Option<usize>,
    /// Close without sending anything, with a reset.
    pub(crate) reset: bool,
    /// Wait before the first byte.
    pub(crate) wait: Duration,
    /// Send the body in pieces of this many bytes, with a pause after each.
    pub(crate) drip: Option<(usize, Duration)>,
    /// Send the body in chunks, without a `Content-Length`.
    pub(crate) chunked: bool,
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Unknown",
    }
}

/// As nginx sends what it compresses: chunks of what fits one of its buffers, and an empty one.
fn in_chunks(body: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(body.len() + 64);
    for chunk in body.chunks(8192) {
        framed.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        framed.extend_from_slice(chunk);
        framed.extend_from_slice(b"\r\n");
    }
    framed.extend_from_slice(b"0\r\n\r\n");
    framed
}

/// Writes an answer; returns whether the connection may be used again.
pub(crate) async fn write<W: AsyncWriteExt + Unpin>(
    writer: &mut W,
    reply: &Reply,
    head_only: bool,
    close: bool,
    delivery: Delivery,
) -> io::Result<bool> {
    let mut head = format!("HTTP/1.1 {} {}\r\n", reply.status, reason(reply.status));
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {}\r\n", value.replace(['\r', '\n'], " ")));
    }
    let close = close || delivery.keep.is_some();
    head.push_str(&format!("content-type: {}\r\n", reply.content_type));
    let body = if delivery.chunked {
        head.push_str("transfer-encoding: chunked\r\n");
        Cow::Owned(in_chunks(&reply.body))
    } else {
        head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
        Cow::Borrowed(&reply.body[..])
    };
    head.push_str(if close {
        "connection: close\r\n\r\n"
    } else {
        "connection: keep-alive\r\n\r\n"
    });
    let body = if head_only {
        &[][..]
    } else {
        &body[..delivery.keep.unwrap_or(usize::MAX).min(body.len())]
    };
    match delivery.drip {
        None => {
            let mut all = head.into_bytes();
            all.extend_from_slice(body);
            writer.write_all(&all).await?;
        }
        Some((size, pause)) => {
            writer.write_all(head.as_bytes()).await?;
            for piece in body.chunks(size.max(1)) {
                writer.write_all(piece).await?;
                writer.flush().await?;
                tokio::time::sleep(pause).await;
            }
        }
    }
    writer.flush().await?;
    Ok(!close)
}
