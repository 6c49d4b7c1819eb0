//! Which addresses a connection may reach, and the words for what it may not.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use url::{Host, Url};

use super::embedded::{Form, embedded};
use super::family::{Family, family_of};
use super::grants::Grant;

/// Decides over addresses; one for each server of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    UsersWord { named: Option<IpAddr> },
    PublicAnd { grants: Vec<Grant> },
}

impl Policy {
    /// The user's own word: who starts `runtime run` and names a server in a private network or on this machine can reach it without
    /// our help. Refused is only what nobody means ([`Family::only_by_name`]), unless `base` names exactly that address.
    #[must_use]
    pub fn users_word(base: &Url) -> Self {
        Self(Kind::UsersWord {
            named: literal(base),
        })
    }

    /// Public addresses, and these networks: for connections that others configure, and for users who want it so.
    #[must_use]
    pub fn public_and(grants: Vec<Grant>) -> Self {
        Self(Kind::PublicAnd { grants })
    }

    /// A proxy looks names up by itself, behind every check of ours; so its variables count only on the user's own word.
    #[must_use]
    pub fn allows_proxies(&self) -> bool {
        matches!(self.0, Kind::UsersWord { .. })
    }

    /// Whether everything that is not public has to be granted.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        matches!(self.0, Kind::PublicAnd { .. })
    }

    /// Judges a URL before it is asked for. The HTTP client hands names to the resolver and dials addresses as they stand, so addresses
    /// are judged here, in the form that the URL parser gave them: `http://0x7f.1` and `http://2130706433.` are 127.0.0.1 by now.
    pub fn check_url(&self, url: &Url) -> Result<(), Refusal> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refusal::Scheme(url.scheme().to_owned()));
        }
        match literal(url) {
            Some(address) => self.check(address, &address.to_string()),
            None => Ok(()),
        }
    }

    /// Judges an address that is about to be dialled for this host.
    pub fn check(&self, address: IpAddr, host: &str) -> Result<(), Refusal> {
        if matches!(self.0, Kind::UsersWord { named } if named == Some(address)) {
            return Ok(());
        }
        let refused = readings(address)
            .into_iter()
            .filter_map(|reading| Some((family_of(reading.address)?, reading)))
            .find(|(family, reading)| !self.permits(*family, reading.address));
        match refused {
            None => Ok(()),
            Some((family, reading)) => Err(Refusal::Address(Box::new(RefusedAddress {
                host: host.to_owned(),
                address,
                reading,
                family,
                strict: self.is_strict(),
            }))),
        }
    }

    fn permits(&self, family: Family, address: IpAddr) -> bool {
        match &self.0 {
            Kind::UsersWord { .. } => !family.only_by_name(),
            Kind::PublicAnd { grants } => grants.iter().any(|grant| {
                if family.only_by_name() {
                    grant.names(address)
                } else {
                    grant.holds(address)
                }
            }),
        }
    }
}

/// The address that a URL names itself; `None` where it has a name.
fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

/// An address as it stands, or as what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// What is judged.
    pub address: IpAddr,
    /// Carried in this form; `None` for the address as it stands.
    pub form: Option<Form>,
}

/// Worst first, so that the words of a refusal name what matters: the metadata service, not the tunnel that leads to it.
fn readings(address: IpAddr) -> Vec<Reading> {
    let carried: Vec<_> = match address {
        IpAddr::V4(_) => vec![],
        IpAddr::V6(six) => embedded(six),
    };
    let mut readings: Vec<Reading> = carried
        .into_iter()
        .map(|(form, four)| Reading {
            address: four.into(),
            form: Some(form),
        })
        .collect();
    readings.push(Reading {
        address,
        form: None,
    });
    readings.sort_by_key(|reading| !family_of(reading.address).is_some_and(Family::only_by_name));
    readings
}

/// Why something is not dialled. Its words say what, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither http nor https.
    #[error("only http and https are dialled, not `{0}`")]
    Scheme(String),
    /// The address.
    #[error(transparent)]
    Address(Box<RefusedAddress>),
}

/// An address that is not dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct RefusedAddress {
    /// As it was asked for.
    pub host: String,
    /// What it led to.
    pub address: IpAddr,
    /// What was wrong with it: itself, or what it carries.
    pub reading: Reading,
    /// The family of that.
    pub family: Family,
    /// Whether grants were asked, or the user's word was not enough.
    pub strict: bool,
}

impl fmt::Display for RefusedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let judged = self.reading.address;
        let named = self.host != self.address.to_string();
        if named {
            write!(f, "{} leads to {}", self.host, self.address)?;
        } else {
            write!(f, "{}", self.address)?;
        }
        match (self.reading.form, named) {
            (Some(form), true) => write!(f, ", which holds {judged} ({}), ", form.name())?,
            (Some(form), false) => write!(f, " holds {judged} ({}), ", form.name())?,
            (None, true) => f.write_str(", ")?,
            (None, false) => f.write_str(" is ")?,
        }
        write!(f, "{}; it is not dialled. ", self.family.words())?;
        let host = match self.address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => bracketed(address),
        };
        match (self.strict, self.family.only_by_name()) {
            (false, _) => write!(
                f,
                "If you mean it, write the address itself into the URL ({host})"
            ),
            (true, true) => write!(
                f,
                "If you mean it, add this one address, `{judged}`, to `allowed_networks`; a network around it is not enough"
            ),
            (true, false) => write!(
                f,
                "If you mean it, add `{judged}`, or the network that it is in, to `allowed_networks`"
            ),
        }
    }
}

fn bracketed(address: Ipv6Addr) -> String {
    format!("[{address}]")
}
