//! The structures of the vendor's header that cross the boundary.

use std::ffi::{c_int, c_uint, c_ulong};

#[repr(C)]
pub struct ChipInfo {
    pub chip_type: [u8; 32],
    pub chip_name: [u8; 32],
    pub chip_ver: [u8; 32],
    pub aicore_count: c_uint,
    pub npu_name: [u8; 32],
}

#[repr(C)]
pub struct PcieInfo {
    pub vendor: c_uint,
    pub subvendor: c_uint,
    pub device: c_uint,
    pub subdevice: c_uint,
    pub domain: c_int,
    pub bus: c_uint,
    pub slot: c_uint,
    pub function: c_uint,
    pub reserve: [u8; 32],
}

#[repr(C)]
pub struct DieId {
    pub soc_die: [c_uint; 5],
}

#[repr(C)]
pub struct HbmInfo {
    pub memory_size: u64,
    pub frequency: c_uint,
    pub memory_usage: u64,
    pub temperature: c_int,
    pub bandwidth_rate: c_uint,
}

#[repr(C)]
pub struct MemoryInfo {
    pub size: u64,
    pub available: u64,
    pub frequency: c_uint,
    pub hugepage_size: c_ulong,
    pub hugepages_total: c_ulong,
    pub hugepages_free: c_ulong,
    pub utilization: c_uint,
    pub reserve: [u8; 60],
}

#[repr(C)]
pub struct SuperPodInfo {
    pub sdid: c_uint,
    pub scale: c_uint,
    pub super_pod_id: c_uint,
    pub server_id: c_uint,
    pub chassis_id: c_uint,
    pub super_pod_type: c_uint,
    pub reserve: [c_uint; 6],
}

#[repr(C)]
pub struct ProcessMemory {
    pub pid: c_int,
    pub bytes: c_ulong,
}

#[repr(C)]
pub struct BoardInfo {
    pub board_id: c_uint,
    pub pcb_id: c_uint,
    pub bom_id: c_uint,
    pub slot_id: c_uint,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct EventFilter {
    pub flags: u64,
    pub event_id: c_uint,
    pub severity: u8,
    pub node_type: u8,
    pub reserve: [u8; 32],
}

#[repr(C)]
pub struct FaultEvent {
    pub event_id: c_uint,
    pub device_id: u16,
    pub node_type: u8,
    pub node_id: u8,
    pub sub_node_type: u8,
    pub sub_node_id: u8,
    pub severity: u8,
    /// 0 it is over, 1 it began, 2 it happened once.
    pub assertion: u8,
    pub event_number: c_int,
    pub notice_number: c_int,
    /// Since 1970.
    pub raised_millis: u64,
    pub name: [u8; 256],
    pub info: [u8; 32],
    pub reserve: [u8; 32],
}

/// Kind 0 is the only one.
#[repr(C)]
pub struct Event {
    pub kind: c_uint,
    pub fault: FaultEvent,
}

const _: () = assert!(size_of::<EventFilter>() == 48);
const _: () = assert!(size_of::<Event>() == 360);
const _: () = assert!(size_of::<ChipInfo>() == 132);
const _: () = assert!(size_of::<PcieInfo>() == 64);
const _: () = assert!(size_of::<HbmInfo>() == 32);
const _: () = assert!(size_of::<MemoryInfo>() == 112);
const _: () = assert!(size_of::<ProcessMemory>() == 16);
