//! Which chip a call is about: the physical number of the thread's current device, asked of the runtime at run
//! time. Environment variables and container subsets permute the numbers, so nothing is assumed before.

use std::ffi::{CStr, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use vnpu_quota_abi::table::FrontTable;

type Current = unsafe extern "C" fn(*mut i32) -> i32;
type Signed = unsafe extern "C" fn(i32, *mut i32) -> i32;
type Unsigned = unsafe extern "C" fn(u32, *mut u32) -> i32;

/// Greatest user device number whose chip is remembered.
const REMEMBERED: usize = 64;

/// The runtime's questions, looked up once per process.
pub(crate) struct Chips {
    functions: OnceLock<Functions>,
    // Chip + 1 by user device number; 0: not asked yet.
    known: [AtomicU64; REMEMBERED],
    // How many devices the process sees, + 1; 0: not asked yet.
    count: AtomicU64,
}

#[derive(Default)]
struct Functions {
    current: Option<Current>,
    to_logic: Option<Signed>,
    to_chip: Option<Unsigned>,
    to_chip_signed: Option<Signed>,
    count: Option<Current>,
}

impl Chips {
    pub(crate) fn new() -> Self {
        Self {
            functions: OnceLock::new(),
            known: std::array::from_fn(|_| AtomicU64::new(0)),
            count: AtomicU64::new(0),
        }
    }

    /// The physical number of `device` (the caller's number), or of the current one when negative; `None` when
    /// the runtime does not say.
    pub(crate) fn physical(&self, front: &FrontTable, device: i32) -> Option<u32> {
        let functions = self.functions(front)?;
        let user = if device >= 0 { device } else { functions.current()? };
        let place = usize::try_from(user).ok().and_then(|i| self.known.get(i));
        if let Some(known) = place.map(|p| p.load(Ordering::Relaxed)).filter(|known| *known != 0) {
            return u32::try_from(known - 1).ok();
        }
        let chip = functions.chip(user)?;
        if let Some(place) = place {
            place.store(u64::from(chip) + 1, Ordering::Relaxed);
        }
        Some(chip)
    }

    /// How many devices this process sees; `None` when the runtime does not say.
    pub(crate) fn visible(&self, front: &FrontTable) -> Option<u32> {
        let known = self.count.load(Ordering::Relaxed);
        if known != 0 {
            return u32::try_from(known - 1).ok();
        }
        let count = self.functions(front)?.count()?;
        self.count.store(u64::from(count) + 1, Ordering::Relaxed);
        Some(count)
    }

    /// Whether one of the devices that this process sees has this physical number.
    pub(crate) fn sees(&self, front: &FrontTable, chip: u32) -> bool {
        let count = self.visible(front).and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
        (0..count).any(|device| self.physical(front, device) == Some(chip))
    }

    fn functions(&self, front: &FrontTable) -> Option<&Functions> {
        if let Some(functions) = self.functions.get() {
            return Some(functions);
        }
        let found = Functions::find(front);
        // Nothing found may only mean that the runtime is not loaded yet: asked again next time.
        found.current?;
        Some(self.functions.get_or_init(|| found))
    }
}

impl Functions {
    fn find(front: &FrontTable) -> Self {
        let first = |names: &[&CStr]| {
            names.iter().find_map(|name| {
                // SAFETY: the front end's function with a zero-terminated name.
                let address = unsafe { (front.resolve)(name.as_ptr()) };
                (!address.is_null()).then_some(address)
            })
        };
        // SAFETY: functions of these names have these C types (CANN's acl_rt.h, rts and runtime headers).
        unsafe {
            Self {
                current: first(&[c"rtGetDevice", c"aclrtGetDeviceImpl"])
                    .map(|f| std::mem::transmute::<*mut c_void, Current>(f)),
                to_logic: first(&[
                    c"rtsGetLogicDevIdByUserDevId",
                    c"rtGetLogicDevIdByUserDevId",
                    c"aclrtGetLogicDevIdByUserDevIdImpl",
                ])
                .map(|f| std::mem::transmute::<*mut c_void, Signed>(f)),
                to_chip: first(&[c"rtGetDevicePhyIdByIndex"])
                    .map(|f| std::mem::transmute::<*mut c_void, Unsigned>(f)),
                to_chip_signed: first(&[c"rtsGetPhyDevIdByLogicDevId", c"aclrtGetPhyDevIdByLogicDevIdImpl"])
                    .map(|f| std::mem::transmute::<*mut c_void, Signed>(f)),
                count: first(&[c"rtGetDeviceCount", c"aclrtGetDeviceCountImpl"])
                    .map(|f| std::mem::transmute::<*mut c_void, Current>(f)),
            }
        }
    }

    fn current(&self) -> Option<i32> {
        let mut device = -1;
        // SAFETY: the vendor's function with a valid pointer.
        let code = unsafe { self.current?(&raw mut device) };
        (code == 0 && device >= 0).then_some(device)
    }

    fn count(&self) -> Option<u32> {
        let mut count = -1;
        // SAFETY: as above.
        let code = unsafe { self.count?(&raw mut count) };
        if code == 0 { u32::try_from(count).ok() } else { None }
    }

    fn chip(&self, user: i32) -> Option<u32> {
        let mut logic = user;
        if let Some(to_logic) = self.to_logic {
            // SAFETY: as above.
            if unsafe { to_logic(user, &raw mut logic) } != 0 {
                return None;
            }
        }
        if let Some(to_chip) = self.to_chip {
            let mut chip = u32::MAX;
            // SAFETY: as above.
            let code = unsafe { to_chip(u32::try_from(logic).ok()?, &raw mut chip) };
            return (code == 0).then_some(chip);
        }
        let mut chip = -1;
        // SAFETY: as above.
        let code = unsafe { self.to_chip_signed?(logic, &raw mut chip) };
        if code == 0 { u32::try_from(chip).ok() } else { None }
    }
}
