//! The steps of the protocols between which a process may die or be stopped and leave something half done for others:
//! tests do both at each of them. Without the feature `fault`, which nothing that is shipped has, a mark is nothing.

macro_rules! marks {
    ($($(#[doc = $doc:literal])+ $name:ident,)* ; $($(#[doc = $agents_doc:literal])+ $agents:ident,)*) => {
        /// A step, named after what has just been done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Mark {
            $($(#[doc = $doc])+ $name,)*
            $($(#[doc = $agents_doc])+ $agents,)*
        }

        impl Mark {
            /// Those of tenants' processes.
            pub const INTERPOSER: &[Self] = &[$(Self::$name),*];

            /// Those of the node's agent.
            pub const AGENT: &[Self] = &[$(Self::$agents),*];

            /// The name, as it is written here.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                    $(Self::$agents => stringify!($agents),)*
                }
            }
        }
    };
}

marks! {
    /// A slot's record lock is taken, its owner word is not.
    SlotLocked,
    /// The table's high water is raised, the slot is not taken.
    HighWaterRaised,
    /// The owner word says who, not yet in which PID namespace.
    SlotTaken,
    /// It says in which too, and the process does not know yet that the slot is its own.
    SlotNamed,
    /// The process is attached.
    Attached,
    /// Bytes are reserved, and nobody has looked whether the quota allows it.
    ReservePublished,
    /// The quota does not allow it, and the bytes are still reserved.
    ReserveRefused,
    /// The reservation is granted; the vendor comes next.
    ReserveGranted,
    /// The vendor has given the memory; the ledger knows only of the reservation.
    Allocated,
    /// The bytes are counted as used, and as reserved too.
    CommitAdded,
    /// The bytes are counted as used, the process does not know the pointer.
    Committed,
    /// The allocation is complete.
    Remembered,
    /// The process has forgotten the pointer; the vendor still has the memory.
    Forgotten,
    /// The vendor has taken the memory back; the ledger counts it.
    Freed,
    /// The free is complete.
    Released,
    /// The record lock of somebody else's slot is taken, to look whether its owner lives.
    ReapLocked,
    /// The slot of a dead process says that it is being zeroed.
    ReapBegun,
    /// One chip's cell of it is zeroed.
    ReapCellZeroed,
    /// All of it is, and it is not free yet.
    ReapZeroed,
    /// It is free, and its record lock is still taken.
    ReapFreed,
    /// The claim has said that it waits for the chip.
    WaitSaid,
    /// The chip's lease is taken, nothing is launched.
    LeaseTaken,
    /// An event is recorded in the stream, the gate does not know it.
    EventRecorded,
    /// Launches are allowed, and none is made.
    LaunchAllowed,
    /// Device time is in the chip's counter, and not charged.
    TimeCounted,
    /// Device time is charged.
    Charged,
    /// The lease's end is moved.
    LeaseRenewed,
    /// The lease is given back.
    LeaseReleased,
    ;
    /// A new file is written under its temporary name.
    FileWritten,
    /// A chip has a region, with nobody in it.
    ChipMade,
    /// A chip's region that a tenant cut is whole again, and zero behind the cut.
    ChipResized,
    /// And begins as it should.
    ChipHeaderWritten,
    /// An entry of a chip is zeroed.
    EntryCleared,
    /// An entry of a chip says what the claim has of it.
    EntryWritten,
    /// A new claim has a ledger, and no quota.
    LedgerMade,
    /// A quota's entry is marked as being changed.
    QuotaOdd,
    /// Its values are the new ones, and it is still marked.
    QuotaWritten,
    /// The record lock of a dead process's slot is taken.
    BuryLocked,
    /// Its bytes are zeroed, and it is the dead process's still.
    BuryCellsZeroed,
    /// It is nobody's, and its record lock is still taken.
    BuryFreed,
    /// A claim's own files are gone, its entries on the chips are not.
    ClaimDirRemoved,
}

#[cfg(feature = "fault")]
mod hook {
    use core::sync::atomic::{AtomicPtr, Ordering};

    use super::Mark;

    static HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

    /// From now on calls `hook` at each mark.
    pub fn on_mark(hook: fn(Mark)) {
        HOOK.store(hook as *mut (), Ordering::Release);
    }

    pub(super) fn call(mark: Mark) {
        let hook = HOOK.load(Ordering::Acquire);
        // SAFETY: null, which is `None`, or what `on_mark` stored.
        if let Some(hook) = unsafe { core::mem::transmute::<*mut (), Option<fn(Mark)>>(hook) } {
            hook(mark);
        }
    }
}

#[cfg(feature = "fault")]
pub use hook::on_mark;

/// The step is done.
#[inline(always)]
pub fn reached(mark: Mark) {
    #[cfg(feature = "fault")]
    hook::call(mark);
    #[cfg(not(feature = "fault"))]
    let _ = mark;
}
