//! What an allocation costs: the bytes that the Ascend runtime really takes for a request.
//!
//! The runtime serves requests above 1 MiB from 2 MiB huge pages where the policy lets it, and smaller ones in
//! units of 512 B (interposer design, section 2). What `aclrtMalloc` adds for its own alignment (32 B) is not
//! charged: whether it ever costs a whole page is unverified, and a program that asks for exactly its quota in
//! huge pages must get it.

/// Unit of allocations from normal pages.
pub const SMALL_UNIT: u64 = 512;
/// Unit of allocations from huge pages.
pub const HUGE_UNIT: u64 = 2 << 20;
/// Unit of allocations from gigantic pages.
pub const GIGANTIC_UNIT: u64 = 1 << 30;
/// Requests above this come from huge pages if the policy allows them.
pub const HUGE_ABOVE: u64 = 1 << 20;

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
