//! Which chip a call is about: asked of the runtime at run time, since environment variables and container subsets
//! permute the numbers of devices.

mod ascend;
mod cuda;

use std::ffi::{CStr, c_void};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use vnpu_quota_abi::quota::QuotaValues;
use vnpu_quota_abi::table::{FrontTable, Vendor};

use crate::once::Once;

/// A chip, as runtimes and quotas both can name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chip {
    /// Of Ascend, by its physical number: the one in the device node's name.
    Npu(u32),
    /// Of NVIDIA, by its identity: a GPU, or a slice of one.
    Gpu([u8; 16]),
}

impl Chip {
    /// The chip of a quota.
    pub(crate) fn of(quota: &QuotaValues) -> Self {
        Self::of_text(quota.uuid_bytes()).unwrap_or(Self::Npu(quota.phys_id))
    }

    /// A GPU by its identity as text; `None` for other vendors'.
    pub(crate) fn of_text(uuid: &[u8]) -> Option<Self> {
        let digits = uuid.strip_prefix(b"GPU-").or_else(|| uuid.strip_prefix(b"MIG-"))?;
        let mut digits = digits.iter().filter(|b| **b != b'-').map(|b| char::from(*b).to_digit(16));
        let mut bytes = [0; 16];
        for byte in &mut bytes {
            let (high, low) = (digits.next()??, digits.next()??);
            *byte = (high << 4 | low) as u8;
        }
        digits.next().is_none().then_some(Self::Gpu(bytes))
    }

    /// Whose runtime it belongs to.
    pub(crate) fn vendor(self) -> Vendor {
        match self {
            Self::Npu(_) => Vendor::Ascend,
            Self::Gpu(_) => Vendor::Cuda,
        }
    }
}

impl fmt::Display for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Npu(number) => write!(f, "{number}"),
            Self::Gpu(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// Greatest device number whose chip is remembered.
const REMEMBERED: usize = 64;

/// What the runtimes of this process answered.
pub(crate) struct Chips {
    ascend: Answers<ascend::Ascend>,
    cuda: Answers<cuda::Cuda>,
}

impl Chips {
    pub(crate) fn new() -> Self {
        Self { ascend: Answers::new(), cuda: Answers::new() }
    }

    /// The chip of `device` (the caller's number), or of the current one when negative; `None` when the runtime does
    /// not say.
    pub(crate) fn find(&self, front: &FrontTable, vendor: Vendor, device: i32) -> Option<Chip> {
        match vendor {
            Vendor::Ascend => self.ascend.find(front, device),
            Vendor::Cuda => self.cuda.find(front, device),
        }
    }

    /// How many devices this process sees; `None` when the runtime does not say.
    pub(crate) fn visible(&self, front: &FrontTable, vendor: Vendor) -> Option<u32> {
        match vendor {
            Vendor::Ascend => self.ascend.visible(front),
            Vendor::Cuda => self.cuda.visible(front),
        }
    }

    /// Whether one of the devices that this process sees is this chip.
    pub(crate) fn sees(&self, front: &FrontTable, chip: Chip) -> bool {
        let vendor = chip.vendor();
        let count = self.visible(front, vendor).and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
        (0..count).any(|device| self.find(front, vendor, device) == Some(chip))
    }
}

/// The questions of a runtime.
trait Runtime: Sized {
    /// Looks its functions up; `None` while it is not loaded.
    fn find(front: &FrontTable) -> Option<Self>;
    /// The calling thread's device.
    fn current(&self) -> Option<i32>;
    /// How many devices the process sees.
    fn count(&self) -> Option<u32>;
    /// The chip of a device.
    fn chip(&self, device: i32) -> Option<Chip>;
}

/// One runtime's answers, asked for once per process.
struct Answers<R> {
    runtime: Once<R>,
    known: [Once<Chip>; REMEMBERED],
    // How many devices the process sees, + 1; 0: not asked yet.
    count: AtomicU64,
}

impl<R: Runtime> Answers<R> {
    fn new() -> Self {
        Self { runtime: Once::new(), known: std::array::from_fn(|_| Once::new()), count: AtomicU64::new(0) }
    }

    fn find(&self, front: &FrontTable, device: i32) -> Option<Chip> {
        let runtime = self.runtime(front)?;
        let device = if device >= 0 { device } else { runtime.current()? };
        let place = usize::try_from(device).ok().and_then(|i| self.known.get(i));
        if let Some(known) = place.and_then(|place| place.get()) {
            return Some(*known);
        }
        let chip = runtime.chip(device)?;
        Some(place.map_or(chip, |place| *place.get_or_init(|| chip)))
    }

    fn visible(&self, front: &FrontTable) -> Option<u32> {
        let known = self.count.load(Ordering::Relaxed);
        if known != 0 {
            return u32::try_from(known - 1).ok();
        }
        let count = self.runtime(front)?.count()?;
        self.count.store(u64::from(count) + 1, Ordering::Relaxed);
        Some(count)
    }

    fn runtime(&self, front: &FrontTable) -> Option<&R> {
        if let Some(runtime) = self.runtime.get() {
            return Some(runtime);
        }
        // Nothing found may only mean that the runtime is not loaded yet: asked again next time.
        let found = R::find(front)?;
        Some(self.runtime.get_or_init(|| found))
    }
}

/// The first of the vendor's functions that there is.
pub(crate) fn resolve(front: &FrontTable, names: &[&CStr]) -> Option<*mut c_void> {
    names.iter().find_map(|name| {
        // SAFETY: the front end's function with a zero-terminated name.
        let address = unsafe { (front.resolve)(name.as_ptr()) };
        (!address.is_null()).then_some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_of_gpus_are_known_by_their_form() {
        let bytes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255];
        for name in ["GPU-00010203-0405-0607-0809-0a0b0c0d0eff", "MIG-00010203-0405-0607-0809-0A0B0C0D0EFF"] {
            assert_eq!(Chip::of_text(name.as_bytes()), Some(Chip::Gpu(bytes)), "{name}");
        }
        for name in ["CHIP-0", "GPU-", "GPU-0001", "GPU-00010203-0405-0607-0809-0a0b0c0d0eff0", "GPU-x0"] {
            assert_eq!(Chip::of_text(name.as_bytes()), None, "{name}");
        }
        assert_eq!(Chip::Gpu(bytes).vendor(), Vendor::Cuda);
        assert_eq!(Chip::Gpu(bytes).to_string(), "000102030405060708090a0b0c0d0eff");
    }
}
