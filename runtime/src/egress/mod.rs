//! Which addresses may be dialled.
//!
//! A URL is not an address. A host name is whatever its owner's name server says at the moment of asking; a redirect, an odd spelling
//! (`http://2130706433`) or an IPv6 form around an IPv4 leads to places that the text does not show: the credentials that a cloud hands
//! out at 169.254.169.254, a database on loopback. Asking the host to fetch from there is called server-side request forgery. What
//! prevents it is to judge the address and not the name, after the last translation, and to dial what was judged and nothing else.
//!
//! * [`family`]: what an address is for, by the registries of special addresses.
//! * [`embedded`]: the IPv4 addresses that an IPv6 address carries.
//! * [`policy`]: which families a connection may reach, and the words for what it may not.
//! * [`grants`]: networks that are allowed by name.
//! * [`resolver`]: the place between DNS and the socket where it is applied.
//!
//! The trade-off is stated in decision 014: the source that a user names on the command line is the user's own business, private network
//! or not, so there only what nobody means by accident is refused; whoever runs other people's connections allows public addresses and
//! the networks that were granted.

pub mod embedded;
pub mod family;
pub mod grants;
pub mod policy;
pub mod resolver;

pub use policy::{Policy, Refusal};

#[cfg(test)]
mod tests;
