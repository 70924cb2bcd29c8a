//! Names and identities: small validated newtypes, so that a claim's UID can never be taken for a device's
//! UUID and no unchecked text ever becomes part of a path.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not the identity it was read as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a valid {what}: {rule}")]
pub struct InvalidId {
    /// Which identity was expected, for people.
    pub what: &'static str,
    /// The refused text, shortened to 80 characters.
    pub value: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl InvalidId {
    pub(crate) fn new(what: &'static str, value: &str, rule: &'static str) -> Self {
        Self { what, value: value.chars().take(80).collect(), rule }
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `value` against the rule of this identity.
            pub fn new(value: impl Into<String>) -> Result<Self, InvalidId> {
                let value = value.into();
                let check: fn(&str) -> bool = $check;
                if check(&value) { Ok(Self(value)) } else { Err(InvalidId::new($what, &value, $rule)) }
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(value: &str) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(value: String) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }
    };
}

text_id!(
    /// The UID of a ResourceClaim: the RFC 4122 text form that the API server makes (36 characters, lower-case
    /// hexadecimal digits and dashes). It becomes part of file names, so nothing else is let in.
    ClaimUid,
    "claim UID",
    "it must be an RFC 4122 UUID in lower case, as the API server makes them",
    |s| s.len() == 36
        && s.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        })
);

impl ClaimUid {
    /// The 16 bytes of the UUID, most significant first: how the regions carry it.
    pub fn bytes(&self) -> [u8; 16] {
        let mut out = [0u8; 16];
        let digits = self.0.bytes().filter(|b| *b != b'-').map(|b| match b {
            b'0'..=b'9' => b - b'0',
            _ => b.wrapping_sub(b'a').wrapping_add(10),
        });
        for (i, digit) in digits.enumerate() {
            if let Some(byte) = out.get_mut(i / 2) {
                *byte = (*byte << 4) | (digit & 0xf);
            }
        }
        out
    }
}

text_id!(
    /// A Kubernetes Node's name: a DNS subdomain of at most 253 characters.
    NodeName,
    "node name",
    "it must be a DNS subdomain: lower-case letters, digits, '-' and '.', at most 253 characters",
    is_dns_subdomain
);

text_id!(
    /// The hardware's own identity of one chip (an Ascend VDie, a GPU UUID): 1 to 64 bytes of letters, digits,
    /// `-`, `_` and `.`, not starting with a dot. It is an attribute value (the API's limit is 64 bytes) and a file name.
    DeviceUuid,
    "device UUID",
    "it must have 1 to 64 of the characters A-Z a-z 0-9 - _ . and not start with a dot",
    |s| (1..=64).contains(&s.len())
        && !s.starts_with('.')
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
);

text_id!(
    /// A pool of devices, `<node>/<vendor>`. Never the bare node name: another driver's pool of the same name
    /// would corrupt the scheduler's counters (kubernetes#140434).
    PoolName,
    "pool name",
    "it must be DNS subdomains joined by '/', at most 253 characters",
    |s| s.len() <= 253 && s.split('/').all(is_dns_subdomain)
);

text_id!(
    /// The name of a claim's request (or of one alternative of it): a DNS label. It becomes part of a CDI
    /// device name.
    RequestName,
    "request name",
    "it must be a DNS label: lower-case letters, digits and '-', at most 63 characters",
    is_dns_label
);

impl PoolName {
    /// The pool of one vendor's devices on one node.
    pub fn of(node: &NodeName, vendor: crate::hardware::Vendor) -> Result<Self, InvalidId> {
        Self::new(format!("{node}/{vendor}"))
    }

    /// Node and vendor again; `None` for a name that is of another form.
    pub fn parts(&self) -> Option<(NodeName, crate::hardware::Vendor)> {
        let (node, vendor) = self.0.split_once('/')?;
        Some((NodeName::new(node).ok()?, vendor.parse().ok()?))
    }
}

fn is_dns_subdomain(s: &str) -> bool {
    (1..=253).contains(&s.len()) && s.split('.').all(is_dns_label)
}

pub(crate) fn is_dns_label(s: &str) -> bool {
    (1..=63).contains(&s.len())
        && !s.starts_with('-')
        && !s.ends_with('-')
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// A device's name in a slice: `chip-<card>-<die>`, `module-<card>` or `partition-<card>-<gpu instance>-<compute
/// instance>`. The numbers come from the hardware (DCMI card and device id, a GPU's minor number and the ids of its
/// instances), so a vanished card renames nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceName {
    /// One chip (die).
    Chip {
        /// DCMI card id, a GPU's minor number.
        card: u32,
        /// DCMI device id inside the card, 0 for a GPU.
        die: u32,
    },
    /// One dual-die module, both its chips.
    Module {
        /// DCMI card id.
        card: u32,
    },
    /// One instance of a partitioned GPU.
    Partition {
        /// The GPU's minor number.
        card: u32,
        /// Id of the GPU instance.
        gpu_instance: u32,
        /// Id of the compute instance inside it.
        compute_instance: u32,
    },
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chip { card, die } => write!(f, "chip-{card}-{die}"),
            Self::Module { card } => write!(f, "module-{card}"),
            Self::Partition { card, gpu_instance, compute_instance } => {
                write!(f, "partition-{card}-{gpu_instance}-{compute_instance}")
            }
        }
    }
}

impl FromStr for DeviceName {
    type Err = InvalidId;

    fn from_str(value: &str) -> Result<Self, InvalidId> {
        let number = |text: &str| -> Option<u32> {
            let number: u32 = text.parse().ok()?;
            // "+1" and "01" parse as numbers but are not what Display writes: one name, one device.
            (number.to_string() == text).then_some(number)
        };
        let parsed = match value.split('-').collect::<Vec<_>>().as_slice() {
            ["chip", card, die] => number(card).zip(number(die)).map(|(card, die)| Self::Chip { card, die }),
            ["module", card] => number(card).map(|card| Self::Module { card }),
            ["partition", card, gpu, compute] => number(card).zip(number(gpu)).zip(number(compute)).map(
                |((card, gpu_instance), compute_instance)| Self::Partition {
                    card,
                    gpu_instance,
                    compute_instance,
                },
            ),
            _ => None,
        };
        parsed.ok_or_else(|| {
            InvalidId::new(
                "device name",
                value,
                "it must be chip-<card>-<die>, module-<card> or partition-<card>-<gpu instance>-<compute instance>",
            )
        })
    }
}

impl TryFrom<String> for DeviceName {
    type Error = InvalidId;
    fn try_from(value: String) -> Result<Self, InvalidId> {
        value.parse()
    }
}

impl From<DeviceName> for String {
    fn from(value: DeviceName) -> String {
        value.to_string()
    }
}

#[cfg(test)]
mod tests;
