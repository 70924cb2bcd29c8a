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
#[derive(Default)]
pub(super) struct RawMemoryInfo {
    pub(super) size: u64,
    pub(super) available: u64,
    pub(super) frequency: c_uint,
    pub(super) hugepage_size: c_ulong,
    pub(super) hugepages_total: c_ulong,
    pub(super) hugepages_free: c_ulong,
    pub(super) utilization: c_uint,
    pub(super) reserve: [[u8; 30]; 2],
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

/// `struct dcmi_event_filter`; all zeros for everything.
#[repr(C)]
#[derive(Default)]
pub(super) struct RawEventFilter {
    pub(super) flags: u64,
    pub(super) event_id: c_uint,
    pub(super) severity: u8,
    pub(super) node_type: u8,
    pub(super) reserve: [u8; 32],
}

/// `struct dcmi_event`: its type, of which `DCMI_DMS_FAULT_EVENT` (0) is the only one, and that type's content.
#[repr(C)]
pub(super) struct RawEvent {
    pub(super) kind: c_int,
    pub(super) fault: RawFaultEvent,
}

/// The head of `struct dcmi_dms_fault_event`. Texts follow, whose room has changed between versions.
#[repr(C)]
pub(super) struct RawFaultEvent {
    pub(super) event_id: c_uint,
    pub(super) device_id: u16,
    pub(super) node_type: u8,
    pub(super) node_id: u8,
    pub(super) sub_node_type: u8,
    pub(super) sub_node_id: u8,
    /// 0 is a note, 1 to 3 rising.
    pub(super) severity: u8,
    /// 0 it is over, 1 it began, 2 it happened once.
    pub(super) assertion: u8,
    pub(super) event_number: c_int,
    pub(super) notice_number: c_int,
    pub(super) raised: u64,
}

const _: () = assert!(size_of::<RawEventFilter>() == 48);
const _: () = assert!(std::mem::offset_of!(RawEvent, fault) == 8);
const _: () = assert!(std::mem::offset_of!(RawFaultEvent, assertion) == 11);
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
/// Card and device that stand for all of them in a subscription.
pub(super) const ALL: c_int = -1;
/// What `dcmi_get_device_utilization_rate` is asked for: the NPU as a whole, its AI cores.
pub(super) const UTILIZATION_NPU: c_int = 13;
pub(super) const UTILIZATION_CORES: c_int = 2;
/// `DCMI_VDIE`.
pub(super) const VDIE: c_int = 1;

pub(super) type EventHandler = unsafe extern "C" fn(*mut RawEvent);
pub(super) type Subscribe = unsafe extern "C" fn(c_int, c_int, RawEventFilter, EventHandler) -> c_int;
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
pub(super) type GetUtilization = unsafe extern "C" fn(c_int, c_int, c_int, *mut c_uint) -> c_int;
pub(super) type GetLogicId = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
pub(super) type GetPhysId = unsafe extern "C" fn(c_uint, *mut c_uint) -> c_int;
pub(super) type GetProcesses = unsafe extern "C" fn(c_int, c_int, *mut RawProcess, *mut c_int) -> c_int;
