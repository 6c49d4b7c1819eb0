//! A mapper that masks secrets and e-mail addresses in whatever is remembered: text, labels and attributes.
//!
//! | module | concern |
//! |---|---|
//! | [`masking`] | what a secret looks like |
//! | `face` | the generated bindings; wasm only |

#[cfg(target_arch = "wasm32")]
mod face;
pub mod masking;
