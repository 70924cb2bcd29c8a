//! Functions of the vendors' that take memory or launch, that a program asks for by name, and that we do not stand
//! before: told to the back end, which counts them, since what they do is not limited.

use core::ffi::c_char;

use vnpu_quota_abi::table::Vendor;

use crate::core_library::{self, Core};
use crate::hooks;
use crate::libc::{Errno, bytes};

/// What the names of such functions begin with.
const CUDA: [&[u8]; 10] = [
    b"cuMemAlloc",
    b"cuMemCreate",
    b"cuArrayCreate",
    b"cuArray3DCreate",
    b"cuMipmappedArrayCreate",
    b"cuLaunch",
    b"cuGraphLaunch",
    b"cuGraphUpload",
    b"cuGraphAddNode",
    b"cuGraphAddMemAllocNode",
];
const ASCEND: [&[u8]; 17] = [
    b"aclrtMalloc",
    b"aclrtMemAlloc",
    b"aclrtMemPoolMalloc",
    b"aclrtLaunch",
    b"aclmdlRIExecute",
    b"rtMalloc",
    b"rtsMalloc",
    b"rtMemAlloc",
    b"rtDvppMalloc",
    b"rtMemPoolMalloc",
    b"rtKernelLaunch",
    b"rtAicpuKernelLaunch",
    b"rtFusionLaunch",
    b"rtLaunch",
    b"rtsLaunch",
    b"rtModelExecute",
    b"rtsModelExecute",
];
/// What follows in the names of those that take the host's memory, or have the host run something.
const HOST: [&[u8]; 2] = [b"Host", b"Callback"];

fn vendor_of(name: &[u8]) -> Option<Vendor> {
    let is = |families: &[&[u8]]| {
        let mut rests = families.iter().filter_map(|family| name.strip_prefix(*family));
        rests.any(|rest| !HOST.iter().any(|host| rest.starts_with(host)))
    };
    if name.starts_with(b"cu") {
        is(&CUDA).then_some(Vendor::Cuda)
    } else if name.starts_with(b"acl") || name.starts_with(b"rt") {
        is(&ASCEND).then_some(Vendor::Ascend)
    } else {
        None
    }
}

/// Whether CANN's public function `name` only calls one that we stand before: of the same name, with this ending.
fn is_only_a_way(name: &[u8]) -> bool {
    const ENDING: &[u8] = b"Impl";
    let mut below = [0_u8; 64];
    let Some(room) = below.get_mut(..name.len() + ENDING.len()) else { return false };
    let (start, end) = room.split_at_mut(name.len());
    start.copy_from_slice(name);
    end.copy_from_slice(ENDING);
    name.starts_with(b"acl") && hooks::find(room).is_some()
}

/// The vendor of the function `name`, which has no hook, if it is of those.
pub(crate) fn concerned(name: &[u8]) -> Option<Vendor> {
    vendor_of(name).filter(|_| !is_only_a_way(name))
}

/// Tells the back end, if the process is in a claim, that a program got the function `name`.
///
/// # Safety
/// `name` is zero-terminated.
pub(crate) unsafe fn got(name: *const c_char) {
    let _errno = Errno::save();
    // SAFETY: zero-terminated by contract.
    if let Some(vendor) = concerned(unsafe { bytes(name) })
        && let Core::Loaded(core) = core_library::get()
    {
        // SAFETY: the back end's function with a zero-terminated name.
        unsafe { (core.unhooked)(vendor as u32, name) };
    }
}
