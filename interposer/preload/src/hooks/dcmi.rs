//! Questions to DCMI (`dcmi_interface_api.h`) whose answers are the machine's: memory, processes, utilisation. Its
//! devices are places in cards; whose a place is says the die in it.

use core::ffi::c_void;

use crate::manage::{IDENTITY, MOST, Manager, NOBODY, Processes, View, view};
use crate::real::Real;

const VENDOR: Manager = Manager::Dcmi;

/// Entries for which callers of `dcmi_get_device_resource_info` have room: the call has no length.
const ROOM: usize = 32;

/// `struct dcmi_get_memory_info_stru`, its beginning. MiB.
#[repr(C)]
pub struct MemoryInfo {
    size: u64,
    available: u64,
    frequency: u32,
    hugepage_size: usize,
    hugepages_total: usize,
    hugepages_free: usize,
    utilization: u32,
}

/// `struct dcmi_hbm_info`. MiB.
#[repr(C)]
pub struct HbmInfo {
    size: u64,
    frequency: u32,
    usage: u64,
    temperature: i32,
    bandwidth: u32,
}

/// `struct dcmi_proc_mem_info`.
#[repr(C)]
pub struct Process {
    pid: i32,
    bytes: usize,
}

static DIE: Real = Real::new(c"dcmi_get_device_die_v2");

/// `VDIE`: the identity that the node knows the die by.
const VDIE: i32 = 1;

/// Writes `"%08X"` of each word, joined by dashes.
fn write_identity(words: [u32; 5], to: &mut [u8; IDENTITY]) {
    let digits = words.into_iter().enumerate().flat_map(|(index, word)| {
        let dash = (index > 0).then_some(b'-');
        let digits = (0..8).rev().map(move |place| {
            let digit = (word >> (place * 4) & 0xf) as u8;
            if digit < 10 { b'0' + digit } else { b'A' + digit - 10 }
        });
        dash.into_iter().chain(digits)
    });
    for (to, digit) in to.iter_mut().zip(digits) {
        *to = digit;
    }
}

/// How the claims have the die in a place.
fn seen(card: i32, device: i32, total: u64, list: Option<&mut Processes>) -> Option<View> {
    type Die = unsafe extern "C" fn(i32, i32, i32, *mut [u32; 5]) -> i32;
    let identify = |identity: &mut [u8; IDENTITY]| {
        let address = DIE.get(core::ptr::null_mut());
        if address.is_null() {
            return false;
        }
        // SAFETY: the vendor's function of this name has this type (dcmi_interface_api.h).
        let die = unsafe { core::mem::transmute::<*mut c_void, Die>(address) };
        let mut words = [0; 5];
        // SAFETY: the structure has five words.
        let code = unsafe { die(card, device, VDIE, &raw mut words) };
        write_identity(words, identity);
        code == 0
    };
    view(identify, total, list)
}

fn memory(_: Manager, real: impl Fn() -> i32, card: i32, device: i32, out: *mut MemoryInfo) -> i32 {
    let code = real();
    if code != 0 {
        return code;
    }
    // SAFETY: the vendor's function succeeded with this place. Without a size the device has other memory than this.
    if let Some(out) = unsafe { out.as_mut() }.filter(|out| out.size > 0)
        && let Some(seen) = seen(card, device, out.size.saturating_mul(1 << 20), None)
    {
        let free = seen.total - seen.used;
        (out.size, out.available, out.utilization) = (seen.total >> 20, free >> 20, seen.memory_percent());
        // Of pages of so many KiB.
        let pages = |bytes: u64| (bytes >> 10).checked_div(out.hugepage_size as u64).unwrap_or(0) as usize;
        (out.hugepages_total, out.hugepages_free) = (pages(seen.total), pages(free));
    }
    code
}

fn hbm(_: Manager, real: impl Fn() -> i32, card: i32, device: i32, out: *mut HbmInfo) -> i32 {
    let code = real();
    if code != 0 {
        return code;
    }
    // SAFETY: the vendor's function succeeded with this place.
    if let Some(out) = unsafe { out.as_mut() }.filter(|out| out.size > 0)
        && let Some(seen) = seen(card, device, out.size.saturating_mul(1 << 20), None)
    {
        (out.size, out.usage) = (seen.total >> 20, seen.used >> 20);
        // Of the whole chip, and not measured by claim: no more than the claim can have caused.
        out.bandwidth = out.bandwidth.min(seen.utilization);
    }
    code
}

/// `kind`: 1 memory, 2 AI cores, 5 bandwidth of the memory, 6 HBM, 10 bandwidth of the HBM, 12 vector cores, 13 the
/// whole NPU; processors of the host's side are not the claims'.
fn utilization(_: Manager, real: impl Fn() -> i32, card: i32, device: i32, kind: i32, out: *mut u32) -> i32 {
    let code = real();
    if code != 0 || !matches!(kind, 1 | 2 | 5 | 6 | 10 | 12 | 13) {
        return code;
    }
    // SAFETY: the vendor's function succeeded with this place.
    if let Some(out) = unsafe { out.as_mut() }
        && let Some(seen) = seen(card, device, 0, None)
    {
        *out = match kind {
            1 | 6 => seen.memory_percent(),
            5 | 10 => (*out).min(seen.utilization),
            _ => seen.utilization,
        };
    }
    code
}

/// The processes of the claims, where the machine's would be told.
fn processes(
    _: Manager,
    real: impl Fn() -> i32,
    card: i32,
    device: i32,
    list: *mut Process,
    count: *mut i32,
) -> i32 {
    let code = real();
    if code != 0 || list.is_null() || count.is_null() {
        return code;
    }
    let mut ours: Processes = [NOBODY; MOST];
    let Some(seen) = seen(card, device, 0, Some(&mut ours)) else { return code };
    let told = seen.processes.min(ROOM);
    for (place, process) in ours.iter().take(told).enumerate() {
        let process = Process { pid: process.pid.cast_signed(), bytes: process.bytes as usize };
        // SAFETY: callers have room for ROOM entries.
        unsafe { list.add(place).write(process) };
    }
    // SAFETY: not null.
    unsafe { *count = told as i32 };
    code
}

hooks! {
    memory dcmi_get_device_memory_info_v3(card: i32, device: i32, out: *mut MemoryInfo) => card, device, out;
    hbm dcmi_get_device_hbm_info(card: i32, device: i32, out: *mut HbmInfo) => card, device, out;
    utilization dcmi_get_device_utilization_rate(card: i32, device: i32, kind: i32, out: *mut u32) => card, device, kind, out;
    processes dcmi_get_device_resource_info(card: i32, device: i32, list: *mut Process, count: *mut i32) => card, device, list, count;
}
