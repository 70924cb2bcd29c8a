//! The C side of DCMI: structures and function types as in the vendor's `dcmi_interface_api.h` (mind-cluster,
//! ascend-common/devmanager/dcmi). Facts only; the comments give what is not obvious from the names.

use std::ffi::{c_char, c_int, c_uint, c_ulong, c_void};

/// `struct dcmi_chip_info_v2`.
#[repr(C)]
pub(super) struct RawChipInfo {
    pub(super) chip_type: [u8; 32],
    pub(super) chip_name: [u8; 32],
    pub(super) chip_version: [u8; 32],
    pub(super) aicore_count: c_uint,
    pub(super) npu_name: [u8; 32],
}

/// `struct dcmi_pcie_info_all`.
#[repr(C)]
#[derive(Default)]
pub(super) struct RawPcieInfo {
    pub(super) vendor: c_uint,
    pub(super) subvendor: c_uint,
    pub(super) device_type: c_uint,
    pub(super) subdevice_type: c_uint,
    pub(super) domain: c_int,
    pub(super) bus: c_uint,
    pub(super) device: c_uint,
    pub(super) function: c_uint,
    pub(super) reserve: [u8; 32],
}

/// `struct dcmi_die_id`.
#[repr(C)]
#[derive(Default)]
pub(super) struct RawDieId {
    pub(super) words: [c_uint; 5],
}

/// `struct dcmi_hbm_info`; sizes in MB of 2^20.
#[repr(C)]
#[derive(Default)]
pub(super) struct RawHbmInfo {
    pub(super) size: u64,
    pub(super) frequency: c_uint,
    pub(super) used: u64,
    pub(super) temperature: c_int,
    pub(super) bandwidth_rate: c_uint,
}

/// `struct dcmi_get_memory_info_stru`; sizes in MB of 2^20.
#[repr(C)]
pub(super) struct RawMemoryInfo {
    pub(super) size: u64,
    pub(super) available: u64,
    pub(super) frequency: c_uint,
    pub(super) hugepage_size: c_ulong,
    pub(super) hugepages_total: c_ulong,
    pub(super) hugepages_free: c_ulong,
    pub(super) utilization: c_uint,
    pub(super) reserve: [u8; 60],
}

/// `struct dcmi_spod_info`.
#[repr(C)]
#[derive(Default)]
pub(super) struct RawSuperPod {
    pub(super) sdid: c_uint,
    pub(super) scale_type: c_uint,
    pub(super) super_pod_id: c_uint,
    pub(super) server_id: c_uint,
    pub(super) chassis_id: c_uint,
    pub(super) super_pod_type: c_uint,
    pub(super) reserve: [c_uint; 6],
}

/// `struct dcmi_proc_mem_info`.
#[repr(C)]
#[derive(Default, Clone, Copy)]
pub(super) struct RawProcess {
    pub(super) pid: c_int,
    pub(super) bytes: c_ulong,
}

/// `struct dcmi_board_info`.
#[repr(C)]
#[derive(Default)]
pub(super) struct RawBoardInfo {
    pub(super) board_id: c_uint,
    pub(super) pcb_id: c_uint,
    pub(super) bom_id: c_uint,
    pub(super) slot_id: c_uint,
}

const _: () = assert!(size_of::<RawChipInfo>() == 132);
const _: () = assert!(size_of::<RawPcieInfo>() == 64);
const _: () = assert!(size_of::<RawDieId>() == 20);
const _: () = assert!(size_of::<RawHbmInfo>() == 32);
const _: () = assert!(size_of::<RawMemoryInfo>() == 112);
const _: () = assert!(size_of::<RawSuperPod>() == 48);
const _: () = assert!(size_of::<RawProcess>() == 16);
const _: () = assert!(size_of::<RawBoardInfo>() == 16);

/// Room for cards: the vendor's limit (`HiAIMaxCardNum`).
pub(super) const MOST_CARDS: usize = 64;
/// Device ids in a card: the vendor's limit (`HiAIMaxDeviceNum`).
pub(super) const MOST_DEVICES: i32 = 4;
/// Room for error codes (`MaxErrorCodeCount`).
pub(super) const MOST_ERRORS: usize = 128;
/// The library writes at most 32 processes (`MaxProcNum`) and takes no length; the rest is distrust.
pub(super) const MOST_PROCESSES: usize = 256;
/// `DCMI_MAIN_CMD_CHIP_INF` and its sub-command for the super-pod.
pub(super) const SUPER_POD_COMMAND: (c_int, c_uint) = (12, 1);
/// `DCMI_VDIE`.
pub(super) const VDIE: c_int = 1;

pub(super) type Init = unsafe extern "C" fn() -> c_int;
pub(super) type GetText = unsafe extern "C" fn(*mut c_char, c_uint) -> c_int;
pub(super) type GetGlobalInt = unsafe extern "C" fn(*mut c_int) -> c_int;
pub(super) type GetCards = unsafe extern "C" fn(*mut c_int, *mut c_int, c_int) -> c_int;
pub(super) type GetDeviceCount = unsafe extern "C" fn(c_int, *mut c_int) -> c_int;
pub(super) type GetDeviceIds = unsafe extern "C" fn(c_int, *mut c_int, *mut c_int, *mut c_int) -> c_int;
pub(super) type GetStruct<T> = unsafe extern "C" fn(c_int, c_int, *mut T) -> c_int;
pub(super) type GetDie = unsafe extern "C" fn(c_int, c_int, c_int, *mut RawDieId) -> c_int;
pub(super) type GetErrors = unsafe extern "C" fn(c_int, c_int, *mut c_int, *mut c_uint, c_uint) -> c_int;
pub(super) type GetInfo =
    unsafe extern "C" fn(c_int, c_int, c_int, c_uint, *mut c_void, *mut c_uint) -> c_int;
pub(super) type GetTopology = unsafe extern "C" fn(c_int, c_int, c_int, c_int, *mut c_int) -> c_int;
pub(super) type GetLogicId = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
pub(super) type GetPhysId = unsafe extern "C" fn(c_uint, *mut c_uint) -> c_int;
pub(super) type GetProcesses = unsafe extern "C" fn(c_int, c_int, *mut RawProcess, *mut c_int) -> c_int;
