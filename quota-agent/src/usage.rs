//! The usage region of one claim, as the agent works on it: by reads and writes of the file. The claim's
//! processes can write every byte of it and cut it, so nothing in it says how large it is or whose.

use std::mem::offset_of;
use std::sync::atomic::Ordering;
use std::time::Duration;

use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_driver::quantity::{Bytes, Percent};
use vnpu_quota_abi::header::{HEADER_SIZE, Header};
use vnpu_quota_abi::mark::{Mark, reached};
use vnpu_quota_abi::quota::QuotaValues;
use vnpu_quota_abi::slot::{FREE, REAPING, SLOT_CELL_SIZE, SLOT_HEAD_SIZE, SlotCell, SlotHead, SlotTable};
use vnpu_quota_abi::usage::{
    USAGE_DEVICE_SIZE, USAGE_DEVICES_OFFSET, UsageDevice, slot_stride, slots_offset, usage_size,
};
use vnpu_quota_abi::view::UsageView;
use vnpu_quota_abi::{SLOT_COUNT, ledger as abi_ledger};

use crate::file::{self, SharedFile};
use crate::layout::{Layout, make_dir};
use crate::ledger::Cell;
use crate::locks::{self, Budget};
use crate::map::{Copy, invalid};
use crate::quota::QuotaRegion;
use crate::{AgentError, ChipUsage, ComputeUsage, MOST_WITHOUT_SLOT, ReapReport};

/// What the region must be like, by the claim's quota.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    /// Chips of the claim.
    pub(crate) devices: u16,
    /// The claim.
    pub(crate) uid: [u8; 16],
    /// Layout of the quota and lowest reader, `None` for this program's own.
    pub(crate) versions: Option<(u16, u16)>,
    /// See [`Header::generation`].
    pub(crate) generation: u64,
}

impl Expected {
    /// As the claim's quota has it.
    pub(crate) fn by(quota: &QuotaRegion) -> Result<Self, AgentError> {
        let devices = quota.devices()?;
        quota.header(|h| Self {
            devices,
            uid: h.claim(),
            versions: Some((h.layout_version.load(Ordering::Relaxed), h.min_reader.load(Ordering::Relaxed))),
            generation: h.generation.load(Ordering::Relaxed),
        })
    }

    fn size(self) -> usize {
        usage_size(self.devices, SLOT_COUNT)
    }

    /// The header of such a region, which has had `high_water` slots taken.
    fn header(self, high_water: u16) -> Option<Vec<u8>> {
        let copy = Copy::zeroed(self.size());
        let view =
            UsageView::create(copy.mapping(), self.devices, SLOT_COUNT, self.uid, self.generation).ok()?;
        let header = view.header()?;
        if let Some((layout, reader)) = self.versions {
            header.layout_version.store(layout, Ordering::Relaxed);
            header.min_reader.store(reader, Ordering::Relaxed);
        }
        header.slots_high_water.store(high_water, Ordering::Relaxed);
        Some(copy.first(HEADER_SIZE))
    }
}

fn compute(counters: &UsageDevice) -> ComputeUsage {
    ComputeUsage {
        busy: Duration::from_nanos(counters.busy_ns.load(Ordering::Relaxed)),
        throttled: Duration::from_nanos(counters.throttled_ns.load(Ordering::Relaxed)),
        launches: counters.launches.load(Ordering::Relaxed),
        leases: counters.leases.load(Ordering::Relaxed),
        forced: counters.forced_admits.load(Ordering::Relaxed),
    }
}

/// A slot whose record lock nobody holds: of a process that may be dead, or [`FREE`] with bytes in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Suspect {
    pub(crate) slot: usize,
    pub(crate) owner: u64,
    pub(crate) namespace: u32,
}

/// What a slot that somebody has says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotReading {
    pub(crate) slot: usize,
    pub(crate) owner: u64,
    pub(crate) namespace: u32,
    /// Chip by chip, in the region's order.
    pub(crate) cells: Vec<Cell>,
}

/// An open usage region.
pub(crate) struct UsageRegion {
    pub(crate) file: SharedFile,
    expected: Expected,
}

impl UsageRegion {
    /// Opens the region beside `quota`; `None` when there is none.
    pub(crate) fn open(layout: &Layout, quota: &QuotaRegion) -> Result<Option<Self>, AgentError> {
        let expected = Expected::by(quota)?;
        let file = SharedFile::open(&layout.usage(&quota.uid))?;
        Ok(file.map(|file| Self { file, expected }))
    }

    /// As [`Self::open`], for a look that must change nothing.
    pub(crate) fn open_to_read(layout: &Layout, quota: &QuotaRegion) -> Result<Option<Self>, AgentError> {
        let expected = Expected::by(quota)?;
        let file = SharedFile::open_to_read(&layout.usage(&quota.uid))?;
        Ok(file.map(|file| Self { file, expected }))
    }

    /// Makes the region, or repairs the one that is there: never another file in its place, since processes that
    /// have the old one mapped would go on in a ledger of their own, beside a second quota.
    pub(crate) fn ensure(layout: &Layout, uid: &ClaimUid, expected: Expected) -> Result<(), AgentError> {
        make_dir(&layout.claim(uid), true)?;
        let path = layout.usage(uid);
        if let Some(file) = SharedFile::open(&path)? {
            let region = Self { file, expected };
            return if region.damage()?.is_some() { region.repair() } else { Ok(()) };
        }
        let header = expected.header(0).ok_or_else(|| invalid(&path, "it would be too large"))?;
        file::put(&path, &header, expected.size(), 0o666)?;
        reached(Mark::LedgerMade);
        Ok(())
    }

    /// What tenants did to the file so that their own next processes could not use it; `None` when it is sound.
    pub(crate) fn damage(&self) -> Result<Option<&'static str>, AgentError> {
        if self.file.size()? != self.expected.size() as u64 {
            return Ok(Some("its size was changed by a process of the claim"));
        }
        let mut found = self.file.read(0, HEADER_SIZE)?;
        let high_water = offset_of!(Header, slots_high_water);
        // The one field that processes change.
        if let Some(field) = found.get_mut(high_water..high_water + 2) {
            field.fill(0);
        }
        let sound = self.expected.header(0).is_some_and(|header| header == found);
        Ok((!sound).then_some("its header was overwritten by a process of the claim"))
    }

    /// Brings size and header right in place; slots stay.
    pub(crate) fn repair(&self) -> Result<(), AgentError> {
        let size = self.expected.size();
        if self.file.size()? != size as u64 {
            self.file.resize(size)?;
        }
        // All slots count as taken once: processes may raise the number while it is written here.
        let header =
            self.expected.header(SLOT_COUNT).ok_or_else(|| invalid(&self.file.path, "it is too large"))?;
        self.file.write(0, &header)
    }

    /// Lets `look` see the ledger as it was at one moment.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&UsageView) -> T) -> Result<T, AgentError> {
        let copy = Copy::of(&self.file.read_all(self.expected.size())?);
        let view = UsageView::over(copy.mapping(), self.expected.devices, SLOT_COUNT)
            .map_err(|e| invalid(&self.file.path, e.words()))?;
        // A process can write a lower number, to hide slots.
        view.raise_high_water(usize::from(SLOT_COUNT));
        Ok(look(&view))
    }

    /// Slots that somebody has or that hold bytes: those of living processes as a number, and the others.
    pub(crate) fn owned(&self) -> Result<(u32, Vec<Suspect>), AgentError> {
        let taken: Vec<Suspect> = self.read(|view| {
            let slots = (0..view.capacity()).filter_map(|slot| {
                let head = view.head(slot)?;
                let owner = head.owner.load(Ordering::Relaxed);
                let namespace = head.pidns_inode.load(Ordering::Relaxed);
                let holds = || {
                    let cells = (0..view.devices()).filter_map(|device| view.cell(slot, device));
                    cells
                        .flat_map(|c| [&c.committed, &c.reserved, &c.overhead])
                        .any(|word| word.load(Ordering::Relaxed) != 0)
                };
                (owner != FREE || holds()).then_some(Suspect { slot, owner, namespace })
            });
            slots.collect()
        })?;
        let slots: Vec<usize> = taken.iter().map(|suspect| suspect.slot).collect();
        let locked = locks::locked(&self.file.file, &slots, &mut Budget::of_claim());
        let (locked, suspects): (Vec<Suspect>, Vec<Suspect>) =
            taken.into_iter().partition(|s| locked.contains(&s.slot));
        // The lock comes before the owner word.
        let live = locked.iter().filter(|s| s.owner != FREE).count();
        Ok((u32::try_from(live).unwrap_or(u32::MAX), suspects))
    }

    /// All slots that somebody has, with what they say.
    pub(crate) fn slots(&self) -> Result<Vec<SlotReading>, AgentError> {
        self.read(|view| {
            let slots = (0..view.capacity()).filter_map(|slot| {
                let head = view.head(slot)?;
                let owner = head.owner.load(Ordering::Relaxed);
                let cells = (0..view.devices()).filter_map(|device| {
                    let cell = view.cell(slot, device)?;
                    let reserved = cell.reserved.load(Ordering::Relaxed);
                    Some(Cell { committed: cell.committed.load(Ordering::Relaxed), reserved })
                });
                let namespace = head.pidns_inode.load(Ordering::Relaxed);
                (owner != FREE).then(|| SlotReading { slot, owner, namespace, cells: cells.collect() })
            });
            slots.collect()
        })
    }

    /// Puts overhead on a slot, if `owner` still has it.
    pub(crate) fn put_overhead(
        &self,
        slot: usize,
        owner: u64,
        device: usize,
        overhead: Bytes,
    ) -> Result<(), AgentError> {
        let offset = slots_offset(self.expected.devices) + slot * slot_stride(self.expected.devices);
        let cell = offset + SLOT_HEAD_SIZE + device * SLOT_CELL_SIZE + offset_of!(SlotCell, overhead);
        if slot >= usize::from(SLOT_COUNT) || device >= usize::from(self.expected.devices) {
            return Ok(());
        }
        let stands = || -> Result<bool, AgentError> {
            Ok(word(&self.file.read(offset + offset_of!(SlotHead, owner), 8)?, 0) == owner)
        };
        if !stands()? || word(&self.file.read(cell, 8)?, 0) == overhead.0 {
            return Ok(());
        }
        self.file.write(cell, &overhead.0.to_ne_bytes())?;
        // Whoever gives a slot back says so before he zeroes it: he may have zeroed the cell before the write.
        if stands()? { Ok(()) } else { self.file.write(cell, &0_u64.to_ne_bytes()) }
    }

    /// Gives back the slots of `dead`, and the bytes of those that nobody has, into `report`. Each is looked at again
    /// under its lock: what has another owner by now is not what was found dead.
    pub(crate) fn bury(&self, dead: &[Suspect], report: &mut ReapReport) -> Result<(), AgentError> {
        let mut budget = Budget::of_claim();
        for suspect in dead {
            if budget.is_spent() {
                // The next round goes on.
                break;
            }
            // Held while reaping, so that nobody takes or reaps the slot at the same time.
            let Some(_lock) = locks::try_lock(&self.file.file, suspect.slot, &mut budget) else {
                report.live += 1;
                continue;
            };
            reached(Mark::BuryLocked);
            let offset =
                slots_offset(self.expected.devices) + suspect.slot * slot_stride(self.expected.devices);
            let cells = usize::from(self.expected.devices) * SLOT_CELL_SIZE;
            let slot = self.file.read(offset, SLOT_HEAD_SIZE + cells)?;
            let owner = word(&slot, offset_of!(SlotHead, owner));
            let namespace = word(&slot, offset_of!(SlotHead, pidns_inode)) as u32;
            let same = (owner, namespace) == (suspect.owner, suspect.namespace);
            // A reaper that died holding the lock left the second.
            if !same && owner != REAPING {
                continue;
            }
            // The owner word last: until then the slot is a dead process's, whatever happens to us.
            self.file.write(offset + SLOT_HEAD_SIZE, &vec![0; cells])?;
            reached(Mark::BuryCellsZeroed);
            if owner != FREE {
                let behind = offset_of!(SlotHead, pidns_inode);
                self.file.write(
                    offset + behind,
                    &[0; offset_of!(SlotHead, reserved) - offset_of!(SlotHead, pidns_inode)],
                )?;
                self.file.write(offset + offset_of!(SlotHead, owner), &FREE.to_ne_bytes())?;
                reached(Mark::BuryFreed);
                report.reaped += 1;
            }
            for device in 0..usize::from(self.expected.devices) {
                let cell = SLOT_HEAD_SIZE + device * SLOT_CELL_SIZE;
                for field in [offset_of!(SlotCell, committed), offset_of!(SlotCell, reserved)] {
                    report.bytes.0 = report.bytes.0.saturating_add(word(&slot, cell + field));
                }
            }
        }
        Ok(())
    }

    /// Processes that found every slot taken, as far as that can be believed: not if the last slot was never
    /// taken, and not more than [`MOST_WITHOUT_SLOT`].
    pub(crate) fn without_slot(&self) -> Result<u32, AgentError> {
        let head = self.file.read(0, USAGE_DEVICES_OFFSET + USAGE_DEVICE_SIZE)?;
        // Not by a view: that one has its high water raised.
        let high_water = word(&head, offset_of!(Header, slots_high_water)) as u16;
        let found = word(&head, USAGE_DEVICES_OFFSET + offset_of!(UsageDevice, slotless_processes));
        let believed = if high_water < SLOT_COUNT { 0 } else { found };
        Ok(u32::try_from(believed).unwrap_or(MOST_WITHOUT_SLOT).min(MOST_WITHOUT_SLOT))
    }

    /// Nanoseconds of device time on one chip, as the claim's processes count them.
    pub(crate) fn busy(&self, device: usize) -> Result<u64, AgentError> {
        let counters = USAGE_DEVICES_OFFSET + device * USAGE_DEVICE_SIZE;
        Ok(word(&self.file.read(counters + offset_of!(UsageDevice, busy_ns), 8)?, 0))
    }

    /// Functions that processes got and that have no hook.
    pub(crate) fn unhooked_functions(&self) -> Result<u64, AgentError> {
        let head = self.file.read(0, USAGE_DEVICES_OFFSET + USAGE_DEVICE_SIZE)?;
        // The first chip's counters have them.
        Ok(word(&head, USAGE_DEVICES_OFFSET + offset_of!(UsageDevice, unhooked_functions)))
    }

    /// What the ledger says of the claim's `chips`, which are its quota's.
    pub(crate) fn chips(&self, chips: Vec<(DeviceUuid, QuotaValues)>) -> Result<Vec<ChipUsage>, AgentError> {
        self.read(|view| {
            let of = |(i, (uuid, values)): (usize, (_, QuotaValues))| {
                let sum = abi_ledger::sum(view, i);
                let counters = view.device(i);
                ChipUsage {
                    uuid,
                    phys_id: values.phys_id,
                    quota: Bytes(values.memory),
                    cores: Percent(values.share_milli / 10),
                    used: Bytes(sum.committed),
                    reserved: Bytes(sum.reserved),
                    overhead: Bytes(sum.overhead),
                    denied: counters.map_or(0, |c| c.oom_denied.load(Ordering::Relaxed)),
                    unknown_frees: counters.map_or(0, |c| c.unknown_frees.load(Ordering::Relaxed)),
                    unaccounted: counters.map_or(0, |c| c.unhooked.load(Ordering::Relaxed).into()),
                    denied_without_slot: counters.map_or(0, |c| c.slotless_denied.load(Ordering::Relaxed)),
                    compute: counters.map(compute).unwrap_or_default(),
                }
            };
            chips.into_iter().enumerate().map(of).collect()
        })
    }
}

/// The word at `offset`; 0 beyond the end.
fn word(bytes: &[u8], offset: usize) -> u64 {
    let found = offset.checked_add(8).and_then(|end| bytes.get(offset..end)?.try_into().ok());
    found.map_or(0, u64::from_ne_bytes)
}

#[cfg(test)]
mod tests;
