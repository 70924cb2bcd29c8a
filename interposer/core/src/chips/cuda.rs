//! The CUDA driver's questions. A device's identity is the same in every process, whatever numbers it has there.

use std::ffi::c_void;

use vnpu_quota_abi::table::FrontTable;

use super::{Chip, Runtime};

type Current = unsafe extern "C" fn(*mut i32) -> i32;
type Uuid = unsafe extern "C" fn(*mut [u8; 16], i32) -> i32;

pub(super) struct Cuda {
    current: Current,
    count: Current,
    uuid: Uuid,
}

impl Runtime for Cuda {
    fn find(front: &FrontTable) -> Option<Self> {
        let current = super::resolve(front, &[c"cuCtxGetDevice"])?;
        let count = super::resolve(front, &[c"cuDeviceGetCount"])?;
        // The second one knows slices of a GPU (MIG) as devices.
        let uuid = super::resolve(front, &[c"cuDeviceGetUuid_v2", c"cuDeviceGetUuid"])?;
        // SAFETY: functions of these names have these C types (cuda.h; a CUdevice is an int).
        unsafe {
            Some(Self {
                current: std::mem::transmute::<*mut c_void, Current>(current),
                count: std::mem::transmute::<*mut c_void, Current>(count),
                uuid: std::mem::transmute::<*mut c_void, Uuid>(uuid),
            })
        }
    }

    fn current(&self) -> Option<i32> {
        let mut device = -1;
        // SAFETY: the vendor's function with a valid pointer.
        let code = unsafe { (self.current)(&raw mut device) };
        (code == 0 && device >= 0).then_some(device)
    }

    fn count(&self) -> Option<u32> {
        let mut count = -1;
        // SAFETY: as above.
        let code = unsafe { (self.count)(&raw mut count) };
        if code == 0 { u32::try_from(count).ok() } else { None }
    }

    fn chip(&self, user: i32) -> Option<Chip> {
        let mut uuid = [0; 16];
        // SAFETY: as above.
        let code = unsafe { (self.uuid)(&raw mut uuid, user) };
        (code == 0).then_some(Chip::Gpu(uuid))
    }
}
