//! What an allocation costs: the bytes that the vendor's runtime really takes for a request.
//!
//! Ascend's serves requests above 1 MiB from 2 MiB huge pages where the policy lets it, and smaller ones in
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

/// What `aclrtMalloc` and `aclrtMallocCached` ask the runtime for when a program asks them for `size` bytes of
/// `policy`: nothing more for pages of 1 GiB, where the padding would cost one.
pub const fn padded_for(size: u64, policy: u32) -> u64 {
    match Pages::from_policy(policy) {
        Pages::Gigantic => size,
        _ => padded(size),
    }
}

/// As [`padded_for`] for all other pages; 0 stays 0, which the runtime refuses.
pub const fn padded(size: u64) -> u64 {
    if size == 0 {
        return 0;
    }
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
    /// By the number of `aclrtMemMallocPolicy` (low 8 bits, above them is the kind of memory; `rtMallocPolicy`
    /// counts alike).
    pub const fn from_policy(policy: u32) -> Self {
        match policy & 0xff {
            1 | 4 => Self::HugeOnly,
            2 | 5 => Self::NormalOnly,
            6..=9 => Self::Gigantic,
            _ => Self::HugeFirst,
        }
    }
}

/// The `aclrtMemMallocPolicy` with the pages of an `rtMemType_t`, which carries them as bits beside the kind of
/// memory: 11 and 14 huge only, 12 and 15 normal only, 16 and 17 of 1 GiB (the latter of each pair for other
/// chips' access); anything else huge first.
pub const fn policy_of_type(kind: u32) -> u32 {
    if kind & 0x3_0000 != 0 {
        6
    } else if kind & 0x4800 != 0 {
        1
    } else if kind & 0x9000 != 0 {
        2
    } else {
        0
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

/// The policy of CUDA's requests for blocks of their own.
pub const CUDA_BLOCKS: u32 = 0;
/// The policy of CUDA's requests that a memory pool serves.
pub const CUDA_POOL: u32 = 1;
/// CUDA's requests from this size on take whole pages of [`HUGE_UNIT`] (unverified).
pub const CUDA_PAGES_FROM: u64 = 1 << 20;

/// What a memory pool of CUDA grows by (unverified).
pub const CUDA_PIECE: u64 = 32 << 20;

/// Bytes charged for a request of `size` bytes of the CUDA driver, saturating at `u64::MAX`; 0 for 0. Small blocks are
/// cut in units of 512 bytes from pages that the driver keeps (unverified), and so are all of a pool.
pub const fn cuda_charged(size: u64, policy: u32) -> u64 {
    let unit = if size < CUDA_PAGES_FROM || policy == CUDA_POOL { SMALL_UNIT } else { HUGE_UNIT };
    match size.checked_next_multiple_of(unit) {
        Some(bytes) => bytes,
        None => u64::MAX,
    }
}
