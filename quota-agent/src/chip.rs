//! The region of one chip, and which of its entries belongs to which claim. The claims' own quota files are the
//! only record of that, so that a restarted agent knows what the last one knew.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::sync::atomic::AtomicI64;

use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_quota_abi::DEVICE_ENTRIES;
use vnpu_quota_abi::bucket;
use vnpu_quota_abi::device::{DEVICE_ENTRY_SIZE, DEVICE_SIZE, DeviceEntry, ENTRIES_OFFSET};
use vnpu_quota_abi::header::{HEADER_SIZE, Header};
use vnpu_quota_abi::line::Mode;
use vnpu_quota_abi::mark::{Mark, reached};
use vnpu_quota_abi::quota::QuotaValues;
use vnpu_quota_abi::view::DeviceView;

use crate::AgentError;
use crate::debt::{Believed, Look};
use crate::file::{self, SharedFile};
use crate::layout::Layout;
use crate::map::{Copy, invalid};

/// Entries in use, per chip.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    chips: BTreeMap<DeviceUuid, BTreeMap<u16, ClaimUid>>,
    // What the last round saw of their buckets.
    believed: BTreeMap<(DeviceUuid, u16), Believed>,
    /// Some claims could not be read, and have entries that are not here.
    pub(crate) incomplete: bool,
}

/// A claim on a chip, by what its neighbours cannot write.
#[derive(Debug, Clone)]
pub(crate) struct Party {
    pub(crate) values: QuotaValues,
    /// Nanoseconds of device time by its own ledger; `None` when that cannot be read.
    pub(crate) busy: Option<u64>,
}

impl Entries {
    /// Notes that `claim` has `entry` of `chip`.
    pub(crate) fn insert(&mut self, chip: &DeviceUuid, entry: u16, claim: &ClaimUid) {
        self.chips.entry(chip.clone()).or_default().insert(entry, claim.clone());
    }

    /// The entry of `claim` on `chip`: the one it has, else the lowest free one; and whether it is a new one.
    pub(crate) fn pick(&self, chip: &DeviceUuid, claim: &ClaimUid) -> Result<(u16, bool), AgentError> {
        let empty = BTreeMap::new();
        let taken = self.chips.get(chip).unwrap_or(&empty);
        if let Some((entry, _)) = taken.iter().find(|(_, c)| *c == claim) {
            return Ok((*entry, false));
        }
        (0..DEVICE_ENTRIES)
            .find(|entry| !taken.contains_key(entry))
            .map(|entry| (entry, true))
            .ok_or_else(|| AgentError::DeviceFull(chip.clone()))
    }

    /// Forgets one entry of `claim` and returns it, with whether it was the chip's last; `None` when it has none.
    pub(crate) fn take(&mut self, claim: &ClaimUid) -> Option<(DeviceUuid, u16, bool)> {
        let (chip, entry) = self.chips.iter().find_map(|(chip, taken)| {
            taken.iter().find(|(_, c)| *c == claim).map(|(entry, _)| (chip.clone(), *entry))
        })?;
        let taken = self.chips.get_mut(&chip)?;
        taken.remove(&entry);
        let last = taken.is_empty();
        self.believed.remove(&(chip.clone(), entry));
        if last {
            self.chips.remove(&chip);
        }
        Some((chip, entry, last))
    }

    /// The claims on `chip`, each with its entry.
    pub(crate) fn claims_on(&self, chip: &DeviceUuid) -> Vec<(u16, ClaimUid)> {
        let taken = self.chips.get(chip).into_iter().flatten();
        taken.map(|(entry, claim)| (*entry, claim.clone())).collect()
    }

    /// All chips that have claims.
    pub(crate) fn chips(&self) -> impl Iterator<Item = &DeviceUuid> {
        self.chips.keys()
    }

    /// Whether a claim has `entry` of `chip`, or may have.
    fn may_have(&self, chip: &DeviceUuid, entry: u16) -> bool {
        self.incomplete || self.chips.get(chip).is_some_and(|taken| taken.contains_key(&entry))
    }

    /// Whether any claim is on `chip`.
    pub(crate) fn serves(&self, chip: &DeviceUuid) -> bool {
        self.chips.contains_key(chip)
    }
}

/// Writes the claim's entry into the chip's region, which is made if it is absent. A `fresh` entry starts from zero
/// whatever its last claim left.
pub(crate) fn write_entry(
    layout: &Layout,
    chip: &DeviceUuid,
    values: &QuotaValues,
    fresh: bool,
    generation: u64,
) -> Result<(), AgentError> {
    let path = layout.device(chip);
    let file = match SharedFile::open(&path)? {
        Some(file) => file,
        None => {
            let header = header(generation).ok_or_else(|| invalid(&path, "it cannot be made"))?;
            file::put(&path, &header, DEVICE_SIZE, 0o666)?;
            reached(Mark::ChipMade);
            SharedFile::open(&path)?.ok_or_else(|| invalid(&path, "somebody removed it"))?
        }
    };
    if fresh {
        clear(&file, values.entry)?;
    }
    set(&file, values)?;
    reached(Mark::EntryWritten);
    Ok(())
}

/// Brings size and header right in place, because the claims on the chip have this very file mapped.
fn repair(file: &SharedFile, header: &[u8]) -> Result<(), AgentError> {
    if !is_spoiled(file, header)? {
        return Ok(());
    }
    tracing::warn!(path = %file.path.display(), "a chip's region was overwritten by a tenant and is repaired");
    if file.size()? != DEVICE_SIZE as u64 {
        file.resize(DEVICE_SIZE)?;
        reached(Mark::ChipResized);
    }
    file.write(0, header)?;
    reached(Mark::ChipHeaderWritten);
    Ok(())
}

/// Brings right what the claims on `chip`, whose `parties` these are, can write but must not: size, header, shares,
/// credit and debt beyond belief, and entries that nobody has.
pub(crate) fn mend(
    layout: &Layout,
    chip: &DeviceUuid,
    parties: &[Party],
    entries: &mut Entries,
) -> Result<(), AgentError> {
    let path = layout.device(chip);
    let Some(file) = SharedFile::open(&path)? else { return Ok(()) };
    let header = header(1).ok_or_else(|| invalid(&path, "it cannot be made"))?;
    repair(&file, &header)?;
    for Party { values, busy } in parties {
        set(&file, values)?;
        let at = offset(values.entry) + offset_of!(DeviceEntry, tat);
        let found = file.read(at, 8)?;
        let found = <[u8; 8]>::try_from(found.as_slice()).map_or(0, i64::from_ne_bytes);
        let look = Look {
            now: monotonic(),
            // As new: never used, or cut off, by whomever the file was made whole again.
            word: Some(found).filter(|word| *word != 0),
            busy: *busy,
            share_milli: values.share_milli,
            mode: Mode::from_raw(values.mode),
        };
        let key = (chip.clone(), values.entry);
        let (believed, put) = Believed::after(entries.believed.get(&key).copied(), &look);
        entries.believed.insert(key, believed);
        if let Some(word) = put {
            // A charge between the look and the write is lost. Credit is cut of who idles, and he has none.
            file.write(at, &word.to_ne_bytes())?;
            if bucket::credit(&AtomicI64::new(found), look.now) < 0 {
                tracing::warn!(path = %path.display(), entry = values.entry, "a claim's debt was written by a tenant and is forgiven");
            }
        }
    }
    let all = file.read(ENTRIES_OFFSET, DEVICE_SIZE - ENTRIES_OFFSET)?;
    for (entry, bytes) in (0..DEVICE_ENTRIES).zip(all.chunks_exact(DEVICE_ENTRY_SIZE)) {
        // Left by an agent that died, or written by a tenant: somebody who waits there would be waited for.
        if !entries.may_have(chip, entry) && bytes.iter().any(|byte| *byte != 0) {
            clear(&file, entry)?;
        }
    }
    Ok(())
}

/// The clock of the buckets, in nanoseconds.
fn monotonic() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

/// Zeroes an entry that no claim has any more.
pub(crate) fn clear_entry(layout: &Layout, chip: &DeviceUuid, entry: u16) -> Result<(), AgentError> {
    let Some(file) = SharedFile::open(&layout.device(chip))? else { return Ok(()) };
    // One that is cut is brought right by the next claim on the chip.
    if file.size()? == DEVICE_SIZE as u64 { clear(&file, entry) } else { Ok(()) }
}

fn offset(entry: u16) -> usize {
    ENTRIES_OFFSET + usize::from(entry) * DEVICE_ENTRY_SIZE
}

fn clear(file: &SharedFile, entry: u16) -> Result<(), AgentError> {
    file.write(offset(entry), &[0; DEVICE_ENTRY_SIZE])?;
    reached(Mark::EntryCleared);
    Ok(())
}

/// Writes what the agent decides of an entry, if it is not so already; the rest is the interposer's.
fn set(file: &SharedFile, values: &QuotaValues) -> Result<(), AgentError> {
    const {
        assert!(offset_of!(DeviceEntry, priority) == offset_of!(DeviceEntry, share_milli) + 4);
        assert!(offset_of!(DeviceEntry, mode) == offset_of!(DeviceEntry, share_milli) + 5);
    }
    let mut bytes = values.share_milli.to_ne_bytes().to_vec();
    bytes.extend([values.priority, values.mode]);
    let at = offset(values.entry) + offset_of!(DeviceEntry, share_milli);
    if file.read(at, bytes.len())? == bytes { Ok(()) } else { file.write(at, &bytes) }
}

fn header(generation: u64) -> Option<Vec<u8>> {
    let copy = Copy::zeroed(DEVICE_SIZE);
    DeviceView::create(copy.mapping(), generation).ok()?;
    Some(copy.first(HEADER_SIZE))
}

fn is_spoiled(file: &SharedFile, wanted: &[u8]) -> Result<bool, AgentError> {
    if file.size()? != DEVICE_SIZE as u64 {
        return Ok(true);
    }
    let mut found = file.read(0, HEADER_SIZE)?;
    // Of the agent that made it.
    let generation = offset_of!(Header, generation)..offset_of!(Header, generation) + 8;
    if let (Some(to), Some(from)) = (found.get_mut(generation.clone()), wanted.get(generation)) {
        to.copy_from_slice(from);
    }
    Ok(found != wanted)
}
