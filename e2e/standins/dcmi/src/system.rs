//! Calls about the machine, its cards and its numbering.

use std::ffi::{c_char, c_int, c_uint};

use standin_protocol::{MultiDiePolicy, Reply, Selector};

use crate::wire::{
    INNER_ERROR, INVALID_PARAMETER, NOT_SUPPORTED, ask, code, die, put, put_text, set_initialized,
};

#[unsafe(no_mangle)]
pub extern "C" fn dcmi_init() -> c_int {
    code(ask("dcmi_init", Selector::Machine).map(|_| set_initialized()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_dcmi_version(version: *mut c_char, length: c_uint) -> c_int {
    // SAFETY: the caller gives `length` bytes.
    code(unsafe { put_text(version, length as usize, "25.5.0") })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_driver_version(version: *mut c_char, length: c_uint) -> c_int {
    code(ask("dcmi_get_driver_version", Selector::Machine).and_then(|reply| match reply {
        // SAFETY: the caller gives `length` bytes.
        Reply::Machine { driver_version, .. } => unsafe {
            put_text(version, length as usize, &driver_version)
        },
        _ => Err(INNER_ERROR),
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_card_list(count: *mut c_int, list: *mut c_int, length: c_int) -> c_int {
    code(ask("dcmi_get_card_list", Selector::Machine).and_then(|reply| {
        let Reply::Machine { cards, .. } = reply else { return Err(INNER_ERROR) };
        if list.is_null() || length < 0 {
            return Err(INVALID_PARAMETER);
        }
        let shown = cards.len().min(length as usize);
        for (place, card) in cards.iter().take(shown).enumerate() {
            // SAFETY: `place < length`, and the caller gives `length` entries.
            unsafe { list.add(place).write(*card) };
        }
        // SAFETY: the caller's out-pointer.
        unsafe { put(count, shown as c_int) }
    }))
}

/// As `dcmi_get_card_list`; the older name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_card_num_list(count: *mut c_int, list: *mut c_int, length: c_int) -> c_int {
    // SAFETY: same contract.
    unsafe { dcmi_get_card_list(count, list, length) }
}

fn devices(function: &str, card: c_int) -> Result<Vec<i32>, c_int> {
    match ask(function, Selector::Card(card))? {
        Reply::Card { devices } => Ok(devices),
        _ => Err(INNER_ERROR),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_num_in_card(card: c_int, count: *mut c_int) -> c_int {
    let found = devices("dcmi_get_device_num_in_card", card);
    // SAFETY: the caller's out-pointer.
    code(found.and_then(|found| unsafe { put(count, found.len() as c_int) }))
}

/// Ids run from 0 to below the maximum; there is no MCU and no CPU device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_id_in_card(
    card: c_int,
    maximum: *mut c_int,
    mcu: *mut c_int,
    cpu: *mut c_int,
) -> c_int {
    let found = devices("dcmi_get_device_id_in_card", card);
    code(found.and_then(|found| {
        let beyond = found.iter().max().map_or(0, |last| last + 1);
        // SAFETY: the caller's out-pointers.
        unsafe { put(maximum, beyond).and_then(|()| put(mcu, -1)).and_then(|()| put(cpu, -1)) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_multi_die_policy(policy: *mut c_int) -> c_int {
    code(ask("dcmi_get_multi_die_policy", Selector::Machine).and_then(|reply| {
        let Reply::Machine { multi_die_policy, .. } = reply else { return Err(INNER_ERROR) };
        let value = match multi_die_policy {
            MultiDiePolicy::Union => 0,
            MultiDiePolicy::Independent => 1,
            MultiDiePolicy::Unsupported => return Err(NOT_SUPPORTED),
        };
        // SAFETY: the caller's out-pointer.
        unsafe { put(policy, value) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_logic_id(logic: *mut c_int, card: c_int, device: c_int) -> c_int {
    let view = die("dcmi_get_device_logic_id", Selector::Die(card, device));
    // SAFETY: the caller's out-pointer.
    code(view.and_then(|view| unsafe { put(logic, view.logic_id as c_int) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_phyid_from_logicid(logic: c_uint, phys: *mut c_uint) -> c_int {
    let view = die("dcmi_get_device_phyid_from_logicid", Selector::Logic(logic));
    // SAFETY: the caller's out-pointer.
    code(view.and_then(|view| unsafe { put(phys, view.die.phys_id) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_device_logicid_from_phyid(phys: c_uint, logic: *mut c_uint) -> c_int {
    let view = die("dcmi_get_device_logicid_from_phyid", Selector::Physical(phys));
    // SAFETY: the caller's out-pointer.
    code(view.and_then(|view| unsafe { put(logic, view.logic_id) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_card_id_device_id_from_logicid(
    card: *mut c_int,
    device: *mut c_int,
    logic: c_uint,
) -> c_int {
    let view = die("dcmi_get_card_id_device_id_from_logicid", Selector::Logic(logic));
    // SAFETY: the caller's out-pointers.
    code(view.and_then(|view| unsafe { put(card, view.card.id).and_then(|()| put(device, view.die.id)) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcmi_get_card_id_device_id_from_phyid(
    card: *mut c_int,
    device: *mut c_int,
    phys: c_uint,
) -> c_int {
    let view = die("dcmi_get_card_id_device_id_from_phyid", Selector::Physical(phys));
    // SAFETY: the caller's out-pointers.
    code(view.and_then(|view| unsafe { put(card, view.card.id).and_then(|()| put(device, view.die.id)) }))
}
