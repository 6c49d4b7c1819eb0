//! How a connection is made: to the server itself, through a proxy that passes on what it cannot read, or to a proxy that reads each
//! request.

use std::error::Error;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_platform_verifier::Verifier;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::egress::resolver::CheckedResolver;

/// A connection over which nothing was heard for so long is asked whether it still stands, so often, and then given up: firewalls drop
/// connections without a word.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 3;
/// What was sent has to be acknowledged within this time.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

type BoxError = Box<dyn Error + Send + Sync>;
type Plain = HttpsConnector<HttpConnector<CheckedResolver>>;

/// Makes connections to one server. It is copied with each request, and what it holds only with each connection.
#[derive(Clone)]
pub(super) struct Connector {
    road: Arc<Road>,
    is_https: bool,
    within: Duration,
}

enum Road {
    Straight(Plain),
    /// HTTPS: TLS begins behind the proxy, at the server.
    Tunnel(HttpsConnector<Tunnel<Plain>>),
    /// Plain HTTP: the proxy is told the whole URL.
    Forward(Uri, Plain),
}

impl Connector {
    /// `certificates` are trusted beside the system's.
    pub(super) fn new(
        resolver: CheckedResolver,
        is_https: bool,
        proxy: Option<&Intercept>,
        certificates: Vec<CertificateDer<'static>>,
        within: Duration,
    ) -> Result<Self, String> {
        let scheme = proxy.and_then(|proxy| proxy.uri().scheme_str());
        if let Some(other) = scheme.filter(|scheme| !matches!(*scheme, "http" | "https")) {
            return Err(format!(
                "the proxy that the environment names is reached by {other}, and only http and https are supported. Name another in HTTPS_PROXY, or set NO_PROXY for this server"
            ));
        }
        // Loading the system's roots takes longer than a whole request on a local network.
        let tls = if is_https || scheme == Some("https") || !certificates.is_empty() {
            trusting(certificates)?
        } else {
            trusting_nobody()?
        };
        let tcp = tcp(resolver, within);
        let mut to_the_server = tls.clone();
        to_the_server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let road = match proxy {
            None => Road::Straight((tcp, to_the_server).into()),
            Some(proxy) if is_https => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), (tcp, tls).into());
                if let Some(authorization) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(authorization.clone());
                }
                Road::Tunnel((tunnel, to_the_server).into())
            }
            Some(proxy) => Road::Forward(proxy.uri().clone(), (tcp, tls).into()),
        };
        Ok(Self {
            road: Arc::new(road),
            is_https,
            within,
        })
    }

    /// Whether a proxy reads each request.
    pub(super) fn is_forwarded(&self) -> bool {
        matches!(*self.road, Road::Forward(..))
    }
}

fn tcp(resolver: CheckedResolver, within: Duration) -> HttpConnector<CheckedResolver> {
    let mut tcp = HttpConnector::new_with_resolver(resolver);
    // TLS is somebody else's matter.
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    // For each of the addresses of a name; the whole is limited below.
    tcp.set_connect_timeout(Some(within));
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    tcp
}

fn tls() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
}

/// TLS with whom the system trusts, and these.
fn trusting(certificates: Vec<CertificateDer<'static>>) -> Result<ClientConfig, String> {
    let missing = |error: rustls::Error| {
        format!(
            "no HTTPS client: {error}. Install the system's CA certificates (Debian: ca-certificates), or name a file with --ca-file"
        )
    };
    let tls = tls().map_err(missing)?;
    let verifier = Verifier::new_with_extra_roots(certificates, Arc::clone(tls.crypto_provider()));
    let verifier = verifier.map_err(missing)?;
    Ok(tls
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// TLS that nobody will use.
fn trusting_nobody() -> Result<ClientConfig, String> {
    Ok(tls()
        .map_err(|error| error.to_string())?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}

pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = std::fs::read(path)
        .map_err(|error| format!("cannot read the CA file {}: {error}", path.display()))?;
    let certificates = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let certificates = certificates
        .map_err(|error| format!("{} holds no PEM certificates: {error}", path.display()))?;
    if certificates.is_empty() {
        return Err(format!(
            "{} holds no PEM certificates (`-----BEGIN CERTIFICATE-----`)",
            path.display()
        ));
    }
    Ok(certificates)
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        // The road was chosen for the other: a proxy would read what is meant to be sealed.
        if (server.scheme_str() == Some("https")) != self.is_https {
            let words = "a URL of another scheme than the server's";
            return Box::pin(async move { Err(io::Error::other(words).into()) });
        }
        let (road, within) = (Arc::clone(&self.road), self.within);
        Box::pin(async move {
            let connecting = async {
                Ok(match &*road {
                    Road::Straight(plain) => {
                        Stream::to_the_server(connection(plain, server).await?.into())
                    }
                    Road::Tunnel(tunnel) => {
                        Stream::to_the_server(connection(tunnel, server).await?)
                    }
                    Road::Forward(proxy, plain) => Stream {
                        is_forwarded: true,
                        ..Stream::to_the_server(connection(plain, proxy.clone()).await?.into())
                    },
                })
            };
            match tokio::time::timeout(within, connecting).await {
                Ok(made) => made,
                Err(_) => {
                    let words = format!("nobody answered within {within:?}");
                    Err(io::Error::new(io::ErrorKind::TimedOut, words).into())
                }
            }
        })
    }
}

async fn connection<C: Service<Uri> + Clone>(
    connector: &C,
    to: Uri,
) -> Result<C::Response, C::Error> {
    let mut connector = connector.clone();
    std::future::poll_fn(|context| connector.poll_ready(context)).await?;
    connector.call(to).await
}

/// A connection.
pub(super) struct Stream {
    io: MaybeHttpsStream<MaybeHttpsStream<TokioIo<TcpStream>>>,
    is_forwarded: bool,
}

impl Stream {
    fn to_the_server(io: MaybeHttpsStream<MaybeHttpsStream<TokioIo<TcpStream>>>) -> Self {
        Self {
            io,
            is_forwarded: false,
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.is_forwarded)
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}
