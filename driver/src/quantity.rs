//! Kubernetes quantities as exact integers: bytes and percents. Parsing follows
//! `k8s.io/apimachinery/pkg/api/resource`: a decimal number with a binary (`Ki`..`Ei`) or decimal
//! (`n`..`E`, `e3`) suffix; what is not a whole number of units is an error here, never rounded.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Device memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// One GiB: the step in which memory is claimed.
    pub const GIB: Self = Self(1 << 30);

    /// `n` GiB, saturating.
    pub const fn gib(n: u64) -> Self {
        Self(n.saturating_mul(1 << 30))
    }
}

impl fmt::Display for Bytes {
    /// Canonical Kubernetes form: the largest binary suffix that divides it, such as `4Gi`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        let (mut value, mut suffix) = (self.0, "");
        for next in SUFFIXES.iter().skip(1) {
            if value == 0 || value % 1024 != 0 {
                break;
            }
            value /= 1024;
            suffix = next;
        }
        write!(f, "{value}{suffix}")
    }
}

/// Percent of one chip's compute: the unit of the capacity `cores`, HAMi's word. 0 to 100 for one chip.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Percent(pub u32);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
