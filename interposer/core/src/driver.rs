//! What the accounting of memory asks the CUDA driver, past our own hooks.

use std::ffi::{CStr, c_void};

use vnpu_quota_abi::table::FrontTable;

use crate::chips::resolve;
use crate::process::Process;

type GetContext = unsafe extern "C" fn(*mut *mut c_void) -> i32;
type GetState = unsafe extern "C" fn(i32, *mut u32, *mut i32) -> i32;

/// The functions; `None` where the driver is older than one.
pub(crate) struct Driver {
    current: GetContext,
    primary_state: Option<GetState>,
}

impl Driver {
    fn find(front: &FrontTable) -> Option<Self> {
        let find = |name: &CStr| resolve(front, &[name]);
        let current = find(c"cuCtxGetCurrent")?;
        // SAFETY: functions of these names have these C types (cuda.h; a CUdevice is an int).
        unsafe {
            Some(Self {
                current: std::mem::transmute::<*mut c_void, GetContext>(current),
                primary_state: find(c"cuDevicePrimaryCtxGetState")
                    .map(|f| std::mem::transmute::<*mut c_void, GetState>(f)),
            })
        }
    }

    /// The calling thread's context.
    pub(crate) fn current_context(&self) -> Option<u64> {
        let mut context = std::ptr::null_mut();
        // SAFETY: the vendor's function with a valid pointer.
        let code = unsafe { (self.current)(&raw mut context) };
        (code == 0).then_some(context as u64)
    }

    /// Whether a device has its primary context now.
    pub(crate) fn has_primary(&self, device: i32) -> Option<bool> {
        let (mut flags, mut active) = (0, 0);
        // SAFETY: as above.
        let code = unsafe { (self.primary_state?)(device, &raw mut flags, &raw mut active) };
        (code == 0).then_some(active != 0)
    }
}

impl Process {
    /// The driver; `None` while it is not loaded.
    pub(crate) fn driver(&self) -> Option<&Driver> {
        if let Some(driver) = self.driver.get() {
            return Some(driver);
        }
        let found = Driver::find(self.front)?;
        Some(self.driver.get_or_init(|| found))
    }
}
