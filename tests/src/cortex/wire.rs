//! Connections that can be cut.
//!
//! The fault that matters most is the connection that dies after the write was applied. An HTTP library always sends
//! *some* reply, so the cut happens below it: every accepted socket carries a switch that the handler can throw.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Write everything.
const PASS: i64 = -1;
/// Write nothing any more.
const CUT: i64 = 0;

/// The switch of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Switch(Arc<AtomicI64>);

impl Switch {
    /// Drops the connection instead of the reply.
    pub(crate) fn cut(&self) {
        self.0.store(CUT, Ordering::SeqCst);
    }

    /// Lets the head of the reply and so many bytes of its body pass, then drops the connection.
    pub(crate) fn truncate(&self, body_bytes: usize) {
        self.0.store(
            i64::try_from(body_bytes).unwrap_or(i64::MAX).max(1),
            Ordering::SeqCst,
        );
    }
}

impl Connected<IncomingStream<'_, Wire>> for Switch {
    fn connect_info(stream: IncomingStream<'_, Wire>) -> Self {
        stream.io().switch.clone()
    }
}

/// A listener whose connections have a switch.
pub(crate) struct Wire {
    pub(crate) inner: TcpListener,
    pub(crate) accepted: Arc<AtomicU64>,
}

impl Listener for Wire {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.inner.accept().await {
                Ok((inner, address)) => {
                    self.accepted.fetch_add(1, Ordering::Relaxed);
                    let _ = inner.set_nodelay(true);
                    let switch = Switch(Arc::new(AtomicI64::new(PASS)));
                    return (Stream { inner, switch }, address);
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// One connection.
pub(crate) struct Stream {
    inner: TcpStream,
    switch: Switch,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mode = self.switch.0.load(Ordering::SeqCst);
        let allowed = match usize::try_from(mode) {
            Err(_) => return Pin::new(&mut self.inner).poll_write(context, bytes),
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            Ok(body) => {
                let head = bytes.windows(4).position(|window| window == b"\r\n\r\n");
                head.map_or(0, |at| at + 4)
                    .saturating_add(body)
                    .min(bytes.len())
            }
        };
        let written = Pin::new(&mut self.inner).poll_write(context, &bytes[..allowed]);
        if written.is_ready() {
            self.switch.cut();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
