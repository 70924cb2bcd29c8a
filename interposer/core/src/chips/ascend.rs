//! The Ascend runtime's questions. A program's number of a device leads by a logical one to the physical one.

use std::ffi::{CStr, c_void};

use vnpu_quota_abi::table::FrontTable;

use super::{Chip, Runtime};

type Current = unsafe extern "C" fn(*mut i32) -> i32;
type Signed = unsafe extern "C" fn(i32, *mut i32) -> i32;
type Unsigned = unsafe extern "C" fn(u32, *mut u32) -> i32;

pub(super) struct Ascend {
    current: Current,
    to_logic: Option<Signed>,
    to_chip: Option<Unsigned>,
    to_chip_signed: Option<Signed>,
    count: Option<Current>,
}

impl Runtime for Ascend {
    fn find(front: &FrontTable) -> Option<Self> {
        let first = |names: &[&CStr]| super::resolve(front, names);
        // SAFETY: functions of these names have these C types (CANN's acl_rt.h, rts and runtime headers).
        unsafe {
            Some(Self {
                current: std::mem::transmute::<*mut c_void, Current>(first(&[
                    c"rtGetDevice",
                    c"aclrtGetDeviceImpl",
                ])?),
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
        let code = unsafe { self.count?(&raw mut count) };
        if code == 0 { u32::try_from(count).ok() } else { None }
    }

    fn chip(&self, user: i32) -> Option<Chip> {
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
            return (code == 0).then_some(Chip::Npu(chip));
        }
        let mut chip = -1;
        // SAFETY: as above.
        let code = unsafe { self.to_chip_signed?(logic, &raw mut chip) };
        if code == 0 { u32::try_from(chip).ok().map(Chip::Npu) } else { None }
    }
}
