//! Sockets for calls: who may hold one, and for how long.
//!
//! axum's own server waits for ever for a request that never comes to its end. This one gives a connection a time for its head, closes
//! what is idle, takes no more than so many at a time, and at the end lets what is being answered be answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Connections at the same time; more wait in the system's queue.
const CONNECTIONS: usize = 1024;
/// For the head of a request, and between two requests of one connection.
const HEAD: Duration = Duration::from_secs(10);
/// The longest head.
const HEAD_BYTES: usize = 64 << 10;
/// What is being answered may go on for so long after the end was asked for.
const GRACE: Duration = Duration::from_secs(10);
/// After the system would not give us a connection (no file handles): others must be closed first.
const PAUSE: Duration = Duration::from_millis(100);

/// Binds an address. The error says what to do.
pub async fn bind(address: &str) -> Result<(TcpListener, SocketAddr), String> {
    let failed = |error: std::io::Error| {
        format!(
            "cannot listen on {address}: {error}. Write an address of this machine and a free port, such as 127.0.0.1:8080"
        )
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener, local))
}

/// Answers until `stop`; ends when everything that was begun is answered.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let Ok(place) = place else { break };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let stop = stop.clone();
        tokio::spawn(async move {
            let _place = place;
            let mut connection = std::pin::pin!(
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD)
                    .max_buf_size(HEAD_BYTES)
                    .serve_connection(TokioIo::new(stream), service)
            );
            tokio::select! {
                _ = connection.as_mut() => return,
                () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            let _ = tokio::time::timeout(GRACE, connection).await;
        });
    }
    drop(listener);
    // Every place is free again when the last connection is closed.
    let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(GRACE, places.acquire_many(all)).await;
}
