//! Simulators of the two servers that the runtime talks to.
//!
//! They implement the contracts of GitLab's REST API v4 and of CortexDB's v1 API, with their faults and traps, not what our
//! client happens to need: a bug in the product that they cannot show is two bugs. Both are deterministic from a seed and
//! can be driven as a library (in tests) or as a program (`gitlab-sim`, `cortex-sim`), through the same switches.

pub mod corpus;
pub mod cortex;
pub mod gitlab;
