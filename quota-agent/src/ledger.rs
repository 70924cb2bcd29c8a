//! What a claim really has on a chip: the ledger of its processes beside the vendor's numbers, and from both the
//! overhead of each process. Pure: who the processes are is found out elsewhere.

use std::collections::BTreeMap;

use vnpu_driver::quantity::Bytes;

/// Samples that a process's overhead is the least of. A program that allocates and frees all the time may be seen
/// between the two by the vendor and not by us, or the other way round; three times running it hardly is.
pub const SAMPLES: usize = 3;

/// The ledger's word on one process, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cell {
    /// Bytes of successful allocations.
    pub committed: u64,
    /// Bytes of allocations that were being made.
    pub reserved: u64,
}

/// One slot that somebody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Its owner word: the slot's next owner is another process.
    pub owner: u64,
    /// What stood in it before the vendor was asked; `None` when it was another's then.
    pub before: Option<Cell>,
    /// And after.
    pub after: Cell,
}

/// One process of the claim on the chip, by the vendor's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnChip {
    /// Its number on the host.
    pub pid: u32,
    /// When it began, as `/proc` says: the number alone may be another process's later.
    pub starttime: u64,
    /// All that it has on the chip.
    pub bytes: Bytes,
    /// The slot that it has in the claim's ledger.
    pub slot: Option<usize>,
    /// Whether it found no slot because there was none: the claim's policy was applied to it.
    pub crowded: bool,
}

/// What one claim has on one chip.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balance {
    /// Bytes that the claim's processes say they have.
    pub ledger: Bytes,
    /// Bytes that the vendor says they have.
    pub vendor: Bytes,
    /// Bytes beyond what each attached process says: contexts, modules, buffers of libraries.
    pub overhead: Bytes,
    /// The same by slot, of those that have been looked at often enough. Of others what stands there stays.
    pub overheads: BTreeMap<usize, Bytes>,
    /// Processes that the vendor sees and that have a slot, or found none free.
    pub attached: u32,
    /// Processes that the vendor sees and that have none.
    pub outside: Vec<OnChip>,
}

/// The last samples of each slot's overhead. Bounded by the slots of a region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Samples {
    of_slots: BTreeMap<usize, (u64, Vec<u64>)>,
}

impl Samples {
    /// Takes one more look at a slot; the overhead to put on it, once that is known.
    fn add(&mut self, slot: usize, owner: u64, sample: Option<u64>) -> Option<u64> {
        let (of, samples) = self.of_slots.entry(slot).or_insert_with(|| (owner, Vec::new()));
        if *of != owner {
            (*of, *samples) = (owner, Vec::new());
        }
        if let Some(sample) = sample {
            samples.push(sample);
            if samples.len() > SAMPLES {
                samples.remove(0);
            }
        }
        if samples.len() < SAMPLES { None } else { samples.iter().copied().min() }
    }
}

/// Draws the balance of one claim on one chip. `samples` are of the same claim and chip.
///
/// A process whose ledger moved while the vendor was asked gives no sample: nobody can say which of its states the
/// vendor saw. Its overhead stays what it was.
pub fn balance(slots: &BTreeMap<usize, Slot>, processes: &[OnChip], samples: &mut Samples) -> Balance {
    let mut out = Balance::default();
    let mut by_slot: BTreeMap<usize, u64> = BTreeMap::new();
    for process in processes {
        out.vendor.0 = out.vendor.0.saturating_add(process.bytes.0);
        match process.slot.filter(|slot| slots.contains_key(slot)) {
            Some(slot) => {
                let sum = by_slot.entry(slot).or_default();
                *sum = sum.saturating_add(process.bytes.0);
                out.attached += 1;
            }
            None if process.crowded => out.attached += 1,
            None => out.outside.push(*process),
        }
    }
    samples.of_slots.retain(|slot, _| slots.contains_key(slot));
    for (index, slot) in slots {
        let says = slot.after.committed.saturating_add(slot.after.reserved);
        out.ledger.0 = out.ledger.0.saturating_add(says);
        let still = slot.before == Some(slot.after) && slot.after.reserved == 0;
        // Whom the vendor does not see has nothing on the chip.
        let has = by_slot.get(index).copied();
        let sample = match has {
            None => Some(0),
            Some(has) if still => Some(has.saturating_sub(slot.after.committed)),
            Some(_) => None,
        };
        if let Some(overhead) = samples.add(*index, slot.owner, sample) {
            let overhead = overhead.min(has.unwrap_or(0));
            out.overhead.0 = out.overhead.0.saturating_add(overhead);
            out.overheads.insert(*index, Bytes(overhead));
        }
    }
    out
}

#[cfg(test)]
mod tests;
