//! What the replicas share in one Secret, and what it needs next: a pure decision over its content and the time. How
//! the Secret is read and written lives in the parent.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;

use super::issue::{Anchor, Authority, CertificateError, Leaf};

/// A new authority signs only when everybody has had so long to learn of it, and an old one is trusted for so long
/// after it signed last. Each replica looks once a minute.
pub const SETTLING: Duration = Duration::from_secs(3600);

const AUTHORITY: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const LEAF: &str = "tls.crt";
const LEAF_KEY: &str = "tls.key";
const SUCCESSOR: &str = "next-ca.crt";
const SUCCESSOR_KEY: &str = "next-ca.key";
const PREDECESSOR: &str = "previous-ca.crt";

/// The Secret's `data`.
pub type Data = BTreeMap<String, ByteString>;

/// What the Secret holds, read.
#[derive(Debug)]
pub struct Stored {
    /// Who signs.
    pub authority: Result<Authority, CertificateError>,
    /// What is served.
    pub leaf: Result<Leaf, CertificateError>,
    /// Who will sign, and is trusted already. One that cannot be read is none.
    pub successor: Option<Authority>,
    /// Who signed before and is trusted still. One that cannot be read is none.
    pub predecessor: Option<Anchor>,
    /// The data that cannot be read as what it should be, or that nobody knows.
    litter: bool,
}

/// What the Secret needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// Everything anew, for this reason.
    Everything(&'static str),
    /// Another server certificate, for this reason.
    Leaf(&'static str),
    /// An authority that will follow.
    Successor,
    /// The one that was to follow signs from now on.
    Promotion(&'static str),
    /// What is out of date goes.
    Sweep,
}

impl Need {
    /// Stable word for the log and the metrics.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Everything(reason) | Self::Leaf(reason) | Self::Promotion(reason) => reason,
            Self::Successor => "authority_due",
            Self::Sweep => "sweep",
        }
    }
}

impl Stored {
    /// Reads a Secret's data; what is damaged is said in the fields.
    pub fn read(data: &Data) -> Self {
        let get = |key: &str| data.get(key).map(|bytes| bytes.0.as_slice());
        let pair = |certificate: &'static str, key: &'static str| {
            let certificate = get(certificate).ok_or(CertificateError::Missing(certificate))?;
            Ok::<_, CertificateError>((certificate, get(key).ok_or(CertificateError::Missing(key))?))
        };
        let authority = pair(AUTHORITY, AUTHORITY_KEY).and_then(|(c, k)| Authority::read(c, k));
        let leaf = pair(LEAF, LEAF_KEY).and_then(|(c, k)| Leaf::read(c, k));
        let successor = pair(SUCCESSOR, SUCCESSOR_KEY).and_then(|(c, k)| Authority::read(c, k)).ok();
        let predecessor = get(PREDECESSOR).and_then(|pem| Anchor::read(pem).ok());
        let mut stored = Self { authority, leaf, successor, predecessor, litter: false };
        stored.litter = data.keys().ne(stored.data().keys());
        stored
    }

    /// All new.
    ///
    /// # Errors
    /// No certificate could be made.
    pub fn make(names: &[String], now: SystemTime) -> Result<Self, CertificateError> {
        let authority = Authority::make(now)?;
        let leaf = authority.sign(names, now)?;
        Ok(Self {
            authority: Ok(authority),
            leaf: Ok(leaf),
            successor: None,
            predecessor: None,
            litter: false,
        })
    }

    /// The Secret's data.
    pub fn data(&self) -> Data {
        let mut data = Data::new();
        let mut put = |key: &str, text: String| {
            data.insert(key.to_owned(), ByteString(text.into_bytes()));
        };
        if let Ok(authority) = &self.authority {
            put(AUTHORITY, authority.anchor.pem.clone());
            put(AUTHORITY_KEY, authority.key_pem());
        }
        if let Ok(leaf) = &self.leaf {
            put(LEAF, leaf.pem.clone());
            put(LEAF_KEY, leaf.key_pem.clone());
        }
        if let Some(successor) = &self.successor {
            put(SUCCESSOR, successor.anchor.pem.clone());
            put(SUCCESSOR_KEY, successor.key_pem());
        }
        if let Some(predecessor) = &self.predecessor {
            put(PREDECESSOR, predecessor.pem.clone());
        }
        data
    }

    /// Whom API servers have to trust: who signs, who will and who did.
    pub fn anchors(&self) -> Vec<Anchor> {
        let authority = self.authority.as_ref().ok().map(|a| a.anchor.clone());
        let successor = self.successor.as_ref().map(|a| a.anchor.clone());
        authority.into_iter().chain(successor).chain(self.predecessor.clone()).collect()
    }

    /// What it needs at `now`, for a server with `names`. `trusted` says whether API servers are known to trust all of
    /// [`Stored::anchors`].
    pub fn need(&self, names: &[String], now: SystemTime, trusted: bool) -> Need {
        let usable = |a: &Authority| a.anchor.validity.check(now);
        let successor = self.successor.as_ref().filter(|s| usable(s).is_ok());
        let authority = match self.authority.as_ref().map(|a| (a, usable(a))) {
            Ok((authority, Ok(()))) => authority,
            // Better trusted by some API servers than by none.
            _ if successor.is_some() => return Need::Promotion("authority_unusable"),
            Ok((_, Err(error))) => return Need::Everything(error.reason()),
            Err(error) => return Need::Everything(error.reason()),
        };
        let leaf = match &self.leaf {
            Ok(leaf) => leaf,
            Err(error) => return Need::Leaf(error.reason()),
        };
        if let Err(error) = leaf.check(&authority.anchor, names, now) {
            return Need::Leaf(error.reason());
        }
        if authority.anchor.validity.is_due(now) && successor.is_none() {
            return Need::Successor;
        }
        if successor.is_some_and(|s| s.anchor.validity.age(now) >= SETTLING) && trusted {
            return Need::Promotion("authority_due");
        }
        if leaf.validity.is_due(now) {
            return Need::Leaf("leaf_due");
        }
        let served_for = leaf.validity.age(now);
        let done_with = |old: &Anchor| served_for >= SETTLING || old.validity.check(now).is_err();
        if self.litter || self.predecessor.as_ref().is_some_and(done_with) {
            return Need::Sweep;
        }
        Need::Nothing
    }

    /// What it becomes when it gets what it needs.
    ///
    /// # Errors
    /// No certificate could be made.
    pub fn meet(self, need: Need, names: &[String], now: SystemTime) -> Result<Self, CertificateError> {
        let next = match need {
            Need::Nothing => self,
            Need::Everything(_) => Self::make(names, now)?,
            Need::Leaf(_) => {
                let leaf = self
                    .authority
                    .as_ref()
                    .map_err(|_| CertificateError::Missing(AUTHORITY))?
                    .sign(names, now)?;
                Self { leaf: Ok(leaf), ..self }
            }
            Need::Successor => Self { successor: Some(Authority::make(now)?), ..self },
            Need::Promotion(_) => {
                let authority = self.successor.ok_or(CertificateError::Missing(SUCCESSOR))?;
                let leaf = authority.sign(names, now)?;
                let predecessor = self.authority.ok().map(|old| old.anchor);
                Self { authority: Ok(authority), leaf: Ok(leaf), successor: None, predecessor, litter: false }
            }
            Need::Sweep => {
                let keep = |old: &Anchor| {
                    let young = self.leaf.as_ref().is_ok_and(|leaf| leaf.validity.age(now) < SETTLING);
                    young && old.validity.check(now).is_ok()
                };
                let predecessor = self.predecessor.clone().filter(keep);
                Self { predecessor, ..self }
            }
        };
        Ok(Self { litter: false, ..next })
    }
}

#[cfg(test)]
mod tests;
