//! The times and bounds of a gate ([`crate::gate`]).

use crate::lease::tick;

/// Times in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Wall time of one lease, and device time that may be queued and unfinished.
    pub lease: u64,
    /// After so long without work the lease goes back.
    pub idle: u64,
    /// Device time that an idle claim saves up.
    pub burst: u64,
    /// Wall time that a claim which is never idle, and uses less than its share, saves up.
    pub saved: u64,
    /// Device time of debt that an elastic claim has to pay back at most.
    pub debt: u64,
    /// Nobody waits longer than this and twice the wall time of what he ran last, whatever the region says.
    pub patience: u64,
    /// How often somebody who waits looks again, even when nobody wakes him.
    pub look: u64,
    /// Most launches between two marks.
    pub launches: u32,
    /// Most of them where all of late were so short that these fit too: then a decision costs more than it decides.
    pub short_launches: u32,
}

impl Tuning {
    /// What the simulation in this crate's tests and the benches were made with.
    pub const DEFAULT: Self = Self {
        lease: 3_000_000,
        idle: 200_000,
        burst: 20_000_000,
        saved: 1_000_000_000,
        debt: 200_000_000,
        patience: 10_000_000_000,
        look: 500_000,
        launches: 64,
        short_launches: 256,
    };

    /// Leases that an owner may be late before it is taken for dead.
    const GRACE: u64 = 3;

    pub(crate) const fn grace_ticks(&self) -> u32 {
        tick(self.lease * Self::GRACE)
    }
}
