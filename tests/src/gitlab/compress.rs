//! Compressed answers.
//!
//! GitLab's own nginx compresses JSON from 250 bytes on, at level 2, for every client that says it takes that (`gzip_*` in the configuration that its package
//! writes), and sends it in chunks, because it does not know the length when it begins.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::reply::Reply;
use super::wire::{Delivery, Request};

const SHORTEST: usize = 250;
const LEVEL: u32 = 2;

/// Compresses the answer if the client takes it and it is worth it.
pub(crate) fn apply(request: &Request, reply: &mut Reply, delivery: &mut Delivery) {
    if reply.body.len() < SHORTEST || !is_taken(request.header("accept-encoding")) {
        return;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(LEVEL));
    let written = encoder.write_all(&reply.body);
    if let (Ok(()), Ok(body)) = (written, encoder.finish()) {
        reply.body = body;
        for (name, value) in [("content-encoding", "gzip"), ("vary", "Accept-Encoding")] {
            reply.headers.push((name.to_owned(), value.to_owned()));
        }
        delivery.chunked = true;
    }
}

fn is_taken(accepted: Option<&str>) -> bool {
    accepted.is_some_and(|accepted| {
        accepted.split(',').any(|coding| {
            let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
            name.trim().eq_ignore_ascii_case("gzip") && weight.trim() != "q=0"
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_takes_gzip_gets_it() {
        for (accepted, taken) in [
            (None, false),
            (Some(""), false),
            (Some("br, gzip"), true),
            (Some("GZIP;q=0.5"), true),
            (Some("gzip;q=0, identity"), false),
        ] {
            assert_eq!(is_taken(accepted), taken, "{accepted:?}");
        }
    }
}
