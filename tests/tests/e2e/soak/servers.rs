//! What the two servers of the soak do wrong, drawn from the seed.

use rand::Rng as _;
use rand::rngs::SmallRng;
use simulators::cortex::{Fault as CortexFault, FaultRule, Route};
use simulators::gitlab::{Fault, Rule};

/// A fault of GitLab. No 404 for a single record: that is how GitLab says that it was deleted, and it would be believed.
pub fn gitlab_fault(random: &mut SmallRng) -> Rule {
    let faults = [
        Fault::ServerError,
        Fault::BadGateway,
        Fault::Html,
        Fault::BrokenJson,
        Fault::WrongShape,
        Fault::Truncated { keep: 40 },
        Fault::Reset,
        Fault::Timeout,
        Fault::Latency { ms: 80 },
        Fault::RateLimited {
            retry_after: Some(1),
        },
        Fault::TooManyRequests {
            retry_after: Some(1),
        },
        Fault::Revoked,
        Fault::InsufficientScope,
    ];
    let paths = [
        "/merge_requests",
        "/discussions",
        "/issues",
        "/pipelines",
        "/commits",
        "/releases",
        "",
    ];
    let fault = faults[random.random_range(0..faults.len())].clone();
    Rule::new(paths[random.random_range(0..paths.len())], fault)
        .after(random.random_range(0..12))
        .with_probability(random.random_range(0.05..0.5))
        .times(random.random_range(1..6))
}

/// A fault of CortexDB.
pub fn cortex_fault(random: &mut SmallRng) -> FaultRule {
    let faults = [
        CortexFault::unavailable(),
        CortexFault::rate_limited(1),
        CortexFault::wait_timeout(),
        CortexFault::expired_token(),
        CortexFault::CloseBeforeWrite,
        CortexFault::CloseAfterWrite,
        CortexFault::TruncatedBody,
        CortexFault::ReceiptWithoutEventId,
        CortexFault::ShortResults { missing: 2 },
        CortexFault::Html {
            status: 502,
            after_write: true,
        },
    ];
    let routes = [
        Route::Bulk,
        Route::Bulk,
        Route::Bulk,
        Route::Forget,
        Route::Status,
        Route::Events,
    ];
    let fault = faults[random.random_range(0..faults.len())].clone();
    FaultRule::on(routes[random.random_range(0..routes.len())], fault)
        .after(random.random_range(0..4))
        .probability(random.random_range(0.1..0.7))
        .times(random.random_range(1..5))
}
