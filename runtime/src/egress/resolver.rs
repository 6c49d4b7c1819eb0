//! The place between DNS and the socket.
//!
//! Looking a name up, judging the answer, and then giving the *name* to the HTTP client would ask twice, and the second answer may be
//! another one (DNS rebinding). This resolver is the client's own: what it answers is what is dialled, so there is no second question.
//!
//! Of several answers those that may not be reached are left out, and the rest is dialled; with none left the name is refused. Refusing at
//! the first bad one would be as safe, because only judged addresses are dialled either way, but would lose machines in home and office networks that
//! announce a link-local address beside their real one.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;
use url::{Host, Url};

use super::policy::{Policy, Refusal};

/// Longest wait of [`look_ahead`]; the run itself is more patient.
const LOOK_AHEAD: Duration = Duration::from_secs(5);

/// Asks for the addresses of a name.
pub trait Lookup: Send + Sync {
    /// All of them. The port is of no meaning.
    fn addresses(&self, name: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// The machine's own way: `/etc/hosts`, DNS, and whatever else it is configured with.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn addresses(&self, name: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
    }
}

/// Looks names up and answers what may be dialled.
#[derive(Clone)]
pub struct CheckedResolver {
    policy: Arc<Policy>,
    lookup: Arc<dyn Lookup>,
}

impl CheckedResolver {
    /// A resolver that answers what this policy allows of what `lookup` finds.
    #[must_use]
    pub fn new(policy: Arc<Policy>, lookup: Arc<dyn Lookup>) -> Self {
        Self { policy, lookup }
    }
}

impl Service<Name> for CheckedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (policy, lookup) = (Arc::clone(&self.policy), Arc::clone(&self.lookup));
        Box::pin(async move {
            let found = lookup.addresses(name.as_str().to_owned()).await?;
            Ok(allowed(&policy, name.as_str(), found)?.into_iter())
        })
    }
}

/// The addresses that may be dialled; the first refusal if there were answers and none may.
fn allowed(
    policy: &Policy,
    name: &str,
    found: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, Refusal> {
    let mut refusal = None;
    let mut allowed = Vec::new();
    for address in found {
        match policy.check(address.ip(), name) {
            Ok(()) => allowed.push(address),
            Err(refused) => refusal = refusal.or(Some(refused)),
        }
    }
    match refusal {
        Some(refusal) if allowed.is_empty() => Err(refusal),
        _ => Ok(allowed),
    }
}

/// Says before a run begins that its server is out of reach, where that is already certain. Nothing depends on it: every connection is
/// judged again when it is made. On the user's own word names are not looked up here, because a proxy may stand in between that knows
/// other names than we do.
pub async fn look_ahead(policy: &Policy, url: &Url) -> Result<(), Refusal> {
    policy.check_url(url)?;
    let Some(Host::Domain(name)) = url.host() else {
        return Ok(());
    };
    if !policy.is_strict() {
        return Ok(());
    }
    let lookup = tokio::time::timeout(LOOK_AHEAD, SystemLookup.addresses(name.to_owned()));
    match lookup.await {
        Ok(Ok(found)) => allowed(policy, name, found).map(|_| ()),
        // That it cannot be found is for the run to say, which also tries again.
        _ => Ok(()),
    }
}
