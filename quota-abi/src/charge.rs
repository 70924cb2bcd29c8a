//! What an allocation costs: the bytes that the Ascend runtime really takes for a request.
//!
//! The runtime serves requests above 1 MiB from 2 MiB huge pages where the policy lets it, and smaller ones in
//! units of 512 B (unverified). `aclrtMalloc` and `aclrtMallocCached` make 32 bytes more of a request than was
//! asked (vendor's documentation), so there a request of whole huge pages costs one page more;
//! `aclrtMallocAlign32` exists because of that. Charging less would hand out more than the chip has.

/// Unit of allocations from normal pages.
pub const SMALL_UNIT: u64 = 512;
/// Unit of allocations from huge pages.
pub const HUGE_UNIT: u64 = 2 << 20;
/// Unit of allocations from gigantic pages.
pub const GIGANTIC_UNIT: u64 = 1 << 30;
/// Requests above this come from huge pages if the policy allows them.
pub const HUGE_ABOVE: u64 = 1 << 20;

/// What `aclrtMalloc` and `aclrtMallocCached` ask the runtime for when a program asks them for `size` bytes.
pub const fn padded(size: u64) -> u64 {
    match size.checked_next_multiple_of(32) {
        Some(aligned) => aligned.saturating_add(32),
        None => u64::MAX,
    }
}

/// Which pages a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// Huge pages when the request is large, else normal ones.
    HugeFirst,
    /// Huge pages however small the request.
    HugeOnly,
    /// Normal pages however large the request.
    NormalOnly,
    /// Pages of 1 GiB.
    Gigantic,
}

impl Pages {
    /// By the number of `aclrtMemMallocPolicy` (low 12 bits; `rtMallocPolicy` counts alike).
    pub const fn from_policy(policy: u32) -> Self {
        match policy & 0xfff {
            1 | 4 => Self::HugeOnly,
            2 | 5 => Self::NormalOnly,
            6..=9 => Self::Gigantic,
            _ => Self::HugeFirst,
        }
    }
}

/// Bytes charged for a request of `size` bytes, saturating at `u64::MAX`; 0 for 0.
pub const fn charged(size: u64, pages: Pages) -> u64 {
    let unit = match pages {
        Pages::HugeFirst if size > HUGE_ABOVE => HUGE_UNIT,
        Pages::HugeFirst | Pages::NormalOnly => SMALL_UNIT,
        Pages::HugeOnly => HUGE_UNIT,
        Pages::Gigantic => GIGANTIC_UNIT,
    };
    match size.checked_next_multiple_of(unit) {
        Some(bytes) => bytes,
        None => u64::MAX,
    }
}
