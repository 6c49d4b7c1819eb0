//! The HTTP clients of a run: TLS roots, a private CA, proxies, timeouts, what may be dialled; decided once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::egress::Policy;
use crate::egress::resolver::{CheckedResolver, Lookup, SystemLookup};

/// Builds a client for one server. Redirects are never followed by the client itself: whoever calls decides.
///
/// Names are resolved to what `policy` allows, and that is what is dialled. An address in place of a name never comes to the resolver:
/// the one in `base` is judged here, and whoever goes to another URL (a redirect) judges it with [`Policy::check_url`].
///
/// `ca_file` adds the certificates of a private CA to the system's. Where a machine has no system roots, plain HTTP still works and
/// HTTPS says what is missing.
pub fn build(
    base: &url::Url,
    ca_file: Option<&Path>,
    connect: Duration,
    policy: &Arc<Policy>,
) -> Result<reqwest::Client, String> {
    build_with(base, ca_file, connect, policy, Arc::new(SystemLookup))
}

/// The same with another way to look names up.
pub(crate) fn build_with(
    base: &url::Url,
    ca_file: Option<&Path>,
    connect: Duration,
    policy: &Arc<Policy>,
    lookup: Arc<dyn Lookup>,
) -> Result<reqwest::Client, String> {
    policy
        .check_url(base)
        .map_err(|refusal| refusal.to_string())?;
    let resolver = Arc::new(CheckedResolver::new(Arc::clone(policy), lookup));
    let builder = || {
        let builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(connect)
            .tcp_nodelay(true)
            .dns_resolver(Arc::clone(&resolver))
            .pool_max_idle_per_host(64);
        // A proxy stands between this machine and others, never between it and itself; and it looks names up where no policy of ours is
        // asked.
        if is_loopback(base) || !policy.allows_proxies() {
            builder.no_proxy()
        } else {
            builder
        }
    };
    let extra = ca_file
        .map(read_certificates)
        .transpose()?
        .unwrap_or_default();
    if base.scheme() == "http" && extra.is_empty() {
        // Loading the system's roots takes longer than a whole request on a local network.
        return builder()
            .tls_certs_only([])
            .build()
            .map_err(|error| error.to_string());
    }
    builder().tls_certs_merge(extra).build().map_err(|error| {
        format!("no HTTPS client: {error}. Install the system's CA certificates (Debian: ca-certificates), or name a file with --ca-file")
    })
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn read_certificates(path: &Path) -> Result<Vec<reqwest::Certificate>, String> {
    let bytes = std::fs::read(path)
        .map_err(|error| format!("cannot read the CA file {}: {error}", path.display()))?;
    let certificates = reqwest::Certificate::from_pem_bundle(&bytes)
        .map_err(|error| format!("{} holds no PEM certificates: {error}", path.display()))?;
    if certificates.is_empty() {
        return Err(format!(
            "{} holds no PEM certificates (`-----BEGIN CERTIFICATE-----`)",
            path.display()
        ));
    }
    Ok(certificates)
}
