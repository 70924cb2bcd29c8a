//! Who makes an accelerator: the vendors whose libraries discovery knows, and those that a file on the node names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{InvalidId, is_dns_label};

const ASCEND: &str = "ascend";
const NVIDIA: &str = "nvidia";

/// Who makes the accelerator; also the last part of the pool's name. Written as one lower-case word everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Vendor {
    /// Huawei Ascend NPUs, read through DCMI.
    Ascend,
    /// NVIDIA GPUs, read through NVML.
    Nvidia,
    /// Hardware that a file on the node describes. No vendor library is asked about it, and vNPU-Core has no hooks
    /// for its runtime.
    Other(VendorName),
}

impl Vendor {
    /// The vendor's word in pools, attributes and files.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Ascend => ASCEND,
            Self::Nvidia => NVIDIA,
            Self::Other(name) => name.as_str(),
        }
    }

    /// Whether vNPU-Core can hold programs to a quota on this vendor's chips. Where it cannot, shares are counted and
    /// nothing more.
    pub const fn enforces_quotas(&self) -> bool {
        match self {
            Self::Ascend | Self::Nvidia => true,
            Self::Other(_) => false,
        }
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Vendor {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text {
            ASCEND => Ok(Self::Ascend),
            NVIDIA => Ok(Self::Nvidia),
            other => VendorName::new(other).map(Self::Other),
        }
    }
}

impl TryFrom<String> for Vendor {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<Vendor> for String {
    fn from(vendor: Vendor) -> Self {
        vendor.as_str().to_owned()
    }
}

/// The name of a vendor that the product has no library for: a DNS label of 1 to 32 characters, because it ends the
/// names of pools, and none of the known vendors'. Kept in place, so that a [`Vendor`] stays a small value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VendorName {
    /// The text, and zeros behind it.
    text: [u8; Self::LONGEST],
    length: u8,
}

impl VendorName {
    /// The most bytes that a name has.
    pub const LONGEST: usize = 32;

    /// Checks a name.
    ///
    /// # Errors
    /// It is no label, too long, or a known vendor's.
    pub fn new(name: &str) -> Result<Self, InvalidId> {
        let refuse = |rule| Err(InvalidId::new("vendor name", name, rule));
        if matches!(name, ASCEND | NVIDIA) {
            return refuse("it is the word of a vendor whose own library is asked");
        }
        let mut text = [0; Self::LONGEST];
        let (true, Some(place)) = (is_dns_label(name), text.get_mut(..name.len())) else {
            return refuse(
                "it must be a DNS label: lower-case letters, digits and '-', at most 32 characters",
            );
        };
        place.copy_from_slice(name.as_bytes());
        // At most 32, by the line above.
        let length = u8::try_from(name.len()).unwrap_or_default();
        Ok(Self { text, length })
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        let text = self.text.get(..usize::from(self.length)).unwrap_or_default();
        // Only ASCII was let in.
        std::str::from_utf8(text).unwrap_or_default()
    }
}

impl fmt::Debug for VendorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl fmt::Display for VendorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
