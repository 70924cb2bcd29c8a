//! Calls about one die.

use std::ffi::{c_char, c_int, c_uint, c_void};

use standin_protocol::{DeviceShare, DieView, Selector};

use crate::structs::{
    BoardInfo, ChipInfo, DieId, HbmInfo, MemoryInfo, PcieInfo, ProcessMemory, SuperPodInfo,
};
use crate::wire::{INVALID_PARAMETER, NOT_SUPPORTED, code, die, field, put, put_text};

/// `MAX_PROC_NUM` of the vendor's users: the room that callers give for processes.
const MOST_PROCESSES: usize = 32;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_type(card: c_int, device: c_int, kind: *mut c_int) -> c_int {
    let view = die("dcmi_get_device_type", Selector::Die(card, device));
    // SAFETY: the caller's out-pointer. 0 is an NPU.
    code(view.and_then(|_| unsafe { put(kind, 0) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_chip_info_v2(
    card: c_int,
    device: c_int,
    info: *mut ChipInfo,
) -> c_int {
    let view = die("dcmi_get_device_chip_info_v2", Selector::Die(card, device));
    code(view.and_then(|view| {
        let chip = ChipInfo {
            chip_type: field("Ascend"),
            chip_name: field(&view.card.chip_name),
            chip_ver: field("V1"),
            aicore_count: 24,
            npu_name: field(&view.card.npu_name),
        };
        // SAFETY: the caller's out-pointer.
        unsafe { put(info, chip) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_pcie_info_v2(
    card: c_int,
    device: c_int,
    info: *mut PcieInfo,
) -> c_int {
    let view = die("dcmi_get_device_pcie_info_v2", Selector::Die(card, device));
    code(view.and_then(|view| {
        let text = view.die.pci.ok_or(NOT_SUPPORTED)?;
        let numbers: Vec<u32> =
            text.split([':', '.']).filter_map(|part| u32::from_str_radix(part, 16).ok()).collect();
        let [domain, bus, slot, function] = numbers[..] else { return Err(NOT_SUPPORTED) };
        let pcie = PcieInfo {
            vendor: 0x19e5,
            subvendor: 0x19e5,
            device: 0xd803,
            subdevice: 0x3004,
            domain: domain as c_int,
            bus,
            slot,
            function,
            reserve: [0; 32],
        };
        // SAFETY: the caller's out-pointer.
        unsafe { put(info, pcie) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_health(card: c_int, device: c_int, health: *mut c_uint) -> c_int {
    let view = die("dcmi_get_device_health", Selector::Die(card, device));
    // SAFETY: the caller's out-pointer.
    code(view.and_then(|view| unsafe { put(health, view.die.health) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_errorcode_v2(
    card: c_int,
    device: c_int,
    count: *mut c_int,
    list: *mut c_uint,
    length: c_uint,
) -> c_int {
    let view = die("dcmi_get_device_errorcode_v2", Selector::Die(card, device));
    code(view.and_then(|view| {
        if list.is_null() {
            return Err(INVALID_PARAMETER);
        }
        let shown = view.die.error_codes.len().min(length as usize);
        for (place, error) in view.die.error_codes.iter().take(shown).enumerate() {
            // SAFETY: `place < length`, and the caller gives `length` entries.
            unsafe { list.add(place).write(*error) };
        }
        // SAFETY: the caller's out-pointer.
        unsafe { put(count, shown as c_int) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_hbm_info(card: c_int, device: c_int, info: *mut HbmInfo) -> c_int {
    let view = die("dcmi_get_device_hbm_info", Selector::Die(card, device));
    code(view.and_then(|view| {
        if !view.die.hbm {
            return Err(NOT_SUPPORTED);
        }
        let hbm = HbmInfo {
            memory_size: view.die.memory_mib,
            frequency: 1600,
            memory_usage: view.used >> 20,
            temperature: view.die.temperature,
            bandwidth_rate: 0,
        };
        // SAFETY: the caller's out-pointer.
        unsafe { put(info, hbm) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_memory_info_v3(
    card: c_int,
    device: c_int,
    info: *mut MemoryInfo,
) -> c_int {
    let view = die("dcmi_get_device_memory_info_v3", Selector::Die(card, device));
    code(view.and_then(|view| {
        let used = view.used >> 20;
        let memory = MemoryInfo {
            size: view.die.memory_mib,
            available: view.die.memory_mib.saturating_sub(used),
            frequency: 1600,
            hugepage_size: 2048,
            hugepages_total: view.die.memory_mib / 2,
            hugepages_free: view.die.memory_mib.saturating_sub(used) / 2,
            utilization: (used * 100).checked_div(view.die.memory_mib).unwrap_or(0) as c_uint,
            reserve: [0; 60],
        };
        // SAFETY: the caller's out-pointer.
        unsafe { put(info, memory) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_utilization_rate(
    card: c_int,
    device: c_int,
    kind: c_int,
    rate: *mut c_uint,
) -> c_int {
    let view = die("dcmi_get_device_utilization_rate", Selector::Die(card, device));
    code(view.and_then(|view| {
        let percent = match kind {
            // Memory.
            1 | 6 => ((view.used >> 20) * 100).checked_div(view.die.memory_mib).unwrap_or(0) as c_uint,
            // AI cores, the whole NPU.
            2 | 13 => view.die.utilization,
            _ => return Err(NOT_SUPPORTED),
        };
        // SAFETY: the caller's out-pointer.
        unsafe { put(rate, percent) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_temperature(
    card: c_int,
    device: c_int,
    degrees: *mut c_int,
) -> c_int {
    let view = die("dcmi_get_device_temperature", Selector::Die(card, device));
    // SAFETY: the caller's out-pointer.
    code(view.and_then(|view| unsafe { put(degrees, view.die.temperature) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_info(
    card: c_int,
    device: c_int,
    main_command: c_int,
    sub_command: c_uint,
    buffer: *mut c_void,
    size: *mut c_uint,
) -> c_int {
    let view = die("dcmi_get_device_info", Selector::Die(card, device));
    code(view.and_then(|view| {
        if buffer.is_null() || size.is_null() {
            return Err(INVALID_PARAMETER);
        }
        // SAFETY: the caller's in/out pointer.
        let room = unsafe { *size } as usize;
        match (main_command, sub_command, view.super_pod) {
            (12, 1, Some(pod)) if room >= size_of::<SuperPodInfo>() => {
                let info = SuperPodInfo {
                    sdid: view.die.phys_id,
                    scale: pod.scale,
                    super_pod_id: pod.id,
                    server_id: pod.server,
                    chassis_id: 0,
                    super_pod_type: 0,
                    reserve: [0; 6],
                };
                // SAFETY: the caller gives `room` bytes, checked to be enough; they may be unaligned.
                unsafe { buffer.cast::<SuperPodInfo>().write_unaligned(info) };
                // SAFETY: the caller's in/out pointer.
                unsafe { put(size, size_of::<SuperPodInfo>() as c_uint) }
            }
            (0x8001, _, _) if room >= 4 => {
                let enabled = shared(&view)?;
                // SAFETY: four bytes are there, checked.
                unsafe { buffer.cast::<c_int>().write_unaligned(enabled) };
                // SAFETY: the caller's in/out pointer.
                unsafe { put(size, 4) }
            }
            (12, 1, Some(_)) | (0x8001, _, _) => Err(INVALID_PARAMETER),
            _ => Err(NOT_SUPPORTED),
        }
    }))
}

fn shared(view: &DieView) -> Result<c_int, c_int> {
    match view.die.device_share {
        DeviceShare::On => Ok(1),
        DeviceShare::Off => Ok(0),
        DeviceShare::Unsupported => Err(NOT_SUPPORTED),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_share_enable(
    card: c_int,
    device: c_int,
    enabled: *mut c_int,
) -> c_int {
    let view = die("dcmi_get_device_share_enable", Selector::Die(card, device));
    // SAFETY: the caller's out-pointer.
    code(view.and_then(|view| shared(&view)).and_then(|flag| unsafe { put(enabled, flag) }))
}

/// 0 itself, 1 over PCIe and sockets, 3 HCCS, 6 the two dies of a module (SIO), 7 HCCS over switches.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_topo_info_by_device_id(
    card: c_int,
    device: c_int,
    other_card: c_int,
    other_device: c_int,
    kind: *mut c_int,
) -> c_int {
    let function = "dcmi_get_topo_info_by_device_id";
    let one = die(function, Selector::Die(card, device));
    let both = one.and_then(|one| Ok((one, die(function, Selector::Die(other_card, other_device))?)));
    let found = both.and_then(|(one, other)| {
        // As the vendor's library: 910B and 910C only.
        let dual = match one.card.chip_name.as_str() {
            "910C" => true,
            name if name.starts_with("910B") => false,
            _ => return Err(NOT_SUPPORTED),
        };
        Ok(match (one.die.hccs, other.die.hccs) {
            _ if (card, device) == (other_card, other_device) => 0,
            _ if dual && card == other_card => 6,
            (Some(group), Some(same)) if group == same => {
                if dual {
                    7
                } else {
                    3
                }
            }
            _ => 1,
        })
    });
    // SAFETY: the caller's out-pointer.
    code(found.and_then(|found| unsafe { put(kind, found) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_die_v2(
    card: c_int,
    device: c_int,
    kind: c_int,
    id: *mut DieId,
) -> c_int {
    let view = die("dcmi_get_device_die_v2", Selector::Die(card, device));
    code(view.and_then(|view| {
        let soc_die = match kind {
            1 => view.die.vdie,
            // The NDie is another number of the same chip.
            0 => view.die.vdie.map(|word| word ^ 0xFFFF_0000),
            _ => return Err(INVALID_PARAMETER),
        };
        // SAFETY: the caller's out-pointer.
        unsafe { put(id, DieId { soc_die }) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_resource_info(
    card: c_int,
    device: c_int,
    list: *mut ProcessMemory,
    count: *mut c_int,
) -> c_int {
    let view = die("dcmi_get_device_resource_info", Selector::Die(card, device));
    code(view.and_then(|view| {
        if list.is_null() {
            return Err(INVALID_PARAMETER);
        }
        let shown = view.processes.len().min(MOST_PROCESSES);
        for (place, process) in view.processes.iter().take(shown).enumerate() {
            // SAFETY: callers give room for MOST_PROCESSES entries, the call has no length.
            unsafe { list.add(place).write(ProcessMemory { pid: process.pid, bytes: process.bytes }) };
        }
        // SAFETY: the caller's out-pointer.
        unsafe { put(count, shown as c_int) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_board_info(
    card: c_int,
    device: c_int,
    info: *mut BoardInfo,
) -> c_int {
    let view = die("dcmi_get_device_board_info", Selector::Die(card, device));
    code(view.and_then(|view| {
        let board =
            BoardInfo { board_id: view.card.board_id, pcb_id: 1, bom_id: 1, slot_id: view.card.id as c_uint };
        // SAFETY: the caller's out-pointer.
        unsafe { put(info, board) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_mainboard_id(card: c_int, device: c_int, id: *mut c_uint) -> c_int {
    let view = die("dcmi_get_mainboard_id", Selector::Die(card, device));
    // SAFETY: the caller's out-pointer.
    code(view.and_then(|view| unsafe { put(id, view.card.mainboard_id) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_product_type(
    card: c_int,
    device: c_int,
    text: *mut c_char,
    length: c_int,
) -> c_int {
    let view = die("dcmi_get_product_type", Selector::Die(card, device));
    code(view.and_then(|view| {
        if view.card.product_type.is_empty() {
            return Err(NOT_SUPPORTED);
        }
        let room = usize::try_from(length).map_err(|_| INVALID_PARAMETER)?;
        // SAFETY: the caller gives `length` bytes.
        unsafe { put_text(text, room, &view.card.product_type) }
    }))
}
