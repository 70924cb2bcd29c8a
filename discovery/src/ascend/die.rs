//! What DCMI tells of one die. All questions are asked in one visit, on the worker's thread.

use std::path::Path;

use vnpu_driver::hardware::{Chip, Fault, Health, PciAddress, Traits};
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::quantity::Bytes;

use super::dcmi::{Answer, ChipInfo, Dcmi, NOT_READY, NOT_SUPPORTED, NOT_THERE, Refusal, Slot};
use super::whole;
use crate::error::VendorLibrary;
use crate::sysfs;
use crate::worker::{Hangs, Steps};

/// Board ids of dual-die (A3, 910C) boards: A900/A9000 A3 SuperPod bins, A800I A3, and the ZQ boards
/// (mind-cluster `devmanager/common/constants.go`, `a3BoardIds`). A card with two devices on another board, such
/// as a 310P Duo, is two chips and no module.
const DUAL_DIE_BOARDS: [u32; 9] = [0xb0, 0xb1, 0xb2, 0xb3, 0xb4, 0x81, 0x83, 0xd1, 0xd3];

/// Kind of a device in a card that is an NPU (`NPU_TYPE`).
const NPU: i32 = 0;

/// Health value of a device that is absent or not started.
const NOT_STARTED: u32 = u32::MAX;

/// Why a question about a die has no answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unanswered {
    pub(super) function: &'static str,
    pub(super) why: Why,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Why {
    Code(i32),
    Absent,
    Hangs,
}

impl Unanswered {
    pub(super) fn message(self) -> String {
        match self.why {
            Why::Code(code) => {
                format!("{} failed with {code}{}", self.function, VendorLibrary::Dcmi.explain(code))
            }
            Why::Absent => format!("the library has no {}: install a newer driver", self.function),
            Why::Hangs => {
                format!(
                    "{} does not return: the driver hangs on this device, a reset may be due",
                    self.function
                )
            }
        }
    }

    pub(super) fn reason(self) -> &'static str {
        match self.why {
            Why::Code(_) | Why::Absent => "vendor_call_failed",
            Why::Hangs => "vendor_call_hangs",
        }
    }

    /// Of a chip that is only remembered.
    pub(super) fn health(self) -> Health {
        Health::Unknown(self.message())
    }

    /// Whether it may be answered soon.
    pub(super) fn may_pass(self) -> bool {
        matches!(self.why, Why::Hangs | Why::Code(NOT_READY))
    }

    pub(super) fn unsupported(self) -> bool {
        matches!(self.why, Why::Absent | Why::Code(NOT_SUPPORTED))
    }

    pub(super) fn nothing_there(self) -> bool {
        matches!(self.why, Why::Code(code) if NOT_THERE.contains(&code))
    }
}

/// Why a slot's chip cannot be used.
pub(super) type Flaw = crate::found::Flaw<Unanswered>;

impl From<Hangs> for Unanswered {
    fn from(Hangs(function): Hangs) -> Self {
        Self { function, why: Why::Hangs }
    }
}

/// A look at one slot.
pub(super) struct Look<'a, D> {
    pub(super) steps: &'a Steps<'a, D, Slot>,
    pub(super) slot: Slot,
    pub(super) sys_root: &'a Path,
    /// Whether what hardly ever changes is as it was in the last look, where the die is the same.
    pub(super) brief: bool,
}

impl<D: Dcmi> Look<'_, D> {
    fn ask<T>(&self, function: &'static str, call: impl FnOnce(&D) -> Answer<T>) -> Result<T, Unanswered> {
        match self.steps.call(function, call)? {
            Ok(value) => Ok(value),
            Err(Refusal::Code(code)) => Err(Unanswered { function, why: Why::Code(code) }),
            Err(Refusal::Absent) => Err(Unanswered { function, why: Why::Absent }),
        }
    }

    /// The chip in a slot; `None` for a device that is no NPU.
    pub(super) fn chip(&self, before: Option<&Chip>) -> Result<Option<Chip>, Flaw> {
        // An administrator who switches sharing on waits for it; and what was not told is asked again.
        let open = |chip: &Chip| chip.traits.whole_only.as_ref().is_some_and(|why| why != whole::UNSUPPORTED);
        if let Some(before) = before.filter(|before| self.brief && before.pci.is_some() && !open(before))
            && uuid(self.ask("dcmi_get_device_die_v2", |d: &D| d.vdie(self.slot))?)? == before.uuid
        {
            return Ok(Some(Chip { phys_id: self.phys_id()?, health: self.health(), ..before.clone() }));
        }
        if self.ask("dcmi_get_device_type", |d: &D| d.unit_type(self.slot))? != NPU {
            return Ok(None);
        }
        let words = self.ask("dcmi_get_device_die_v2", |d: &D| d.vdie(self.slot))?;
        let uuid = uuid(words)?;
        let board = self.ask("dcmi_get_device_board_info", |d: &D| d.board_id(self.slot))?;
        let info = self.ask("dcmi_get_device_chip_info_v2", |d: &D| d.chip_info(self.slot))?;
        let memory = self.memory()?;
        let phys_id = self.phys_id()?;
        let card = number(self.slot.card)?;
        let die = number(self.slot.device)?;
        let dual = DUAL_DIE_BOARDS.contains(&board);
        let pci = self.pci();
        Ok(Some(Chip {
            card,
            die,
            uuid,
            module: dual.then_some(card),
            model: model(&info, dual),
            product_name: product(&info),
            memory,
            phys_id,
            pci,
            numa_node: pci.and_then(|address| sysfs::numa_node(self.sys_root, address)),
            pcie_root: pci.and_then(|address| sysfs::pcie_root(self.sys_root, address)),
            health: self.health(),
            traits: Traits { whole_only: self.whole_only(before), ..Traits::default() },
        }))
    }

    /// HBM; where there is none, the memory that the chip has.
    fn memory(&self) -> Result<Bytes, Flaw> {
        let mib = match self.ask("dcmi_get_device_hbm_info", |d: &D| d.hbm_mib(self.slot)) {
            Ok(mib) if mib > 0 => mib,
            Err(unanswered @ Unanswered { why: Why::Hangs, .. }) => return Err(unanswered.into()),
            hbm => match self.ask("dcmi_get_device_memory_info_v3", |d: &D| d.memory_mib(self.slot)) {
                Ok(mib) => mib,
                Err(unanswered @ Unanswered { why: Why::Hangs, .. }) => return Err(unanswered.into()),
                // The first question is the one that should have been answered.
                Err(other) => return Err(hbm.err().unwrap_or(other).into()),
            },
        };
        match mib.checked_mul(1 << 20) {
            Some(bytes) if bytes > 0 => Ok(Bytes(bytes)),
            _ => Err(Flaw::Unusable {
                message: format!(
                    "the driver reports {mib} MB of memory: the device is not started or broken, reset it"
                ),
                reason: "zero_memory",
            }),
        }
    }

    fn phys_id(&self) -> Result<u32, Flaw> {
        let logic = self.ask("dcmi_get_device_logic_id", |d: &D| d.logic_id(self.slot))?;
        let logic = number(logic)?;
        Ok(self.ask("dcmi_get_device_phyid_from_logicid", |d: &D| d.phys_of_logic(logic))?)
    }

    fn pci(&self) -> Option<PciAddress> {
        let raw = self.ask("dcmi_get_device_pcie_info_v2", |d: &D| d.pcie(self.slot)).ok()?;
        let address = PciAddress {
            domain: u32::try_from(raw.domain).ok()?,
            bus: u8::try_from(raw.bus).ok()?,
            device: u8::try_from(raw.device).ok().filter(|device| *device < 32)?,
            function: u8::try_from(raw.function).ok().filter(|function| *function < 8)?,
        };
        Some(address)
    }

    fn health(&self) -> Health {
        match self.ask("dcmi_get_device_health", |d: &D| d.health(self.slot)) {
            Ok(0) => Health::Healthy,
            Ok(NOT_STARTED) => Health::Unknown("the device is absent or not started".to_owned()),
            Ok(level) => {
                let codes = self
                    .ask("dcmi_get_device_errorcode_v2", |d: &D| d.error_codes(self.slot))
                    .unwrap_or_default();
                let alarm = format!("alarm-{level}");
                let mut faults: Vec<Fault> = codes
                    .iter()
                    .map(|code| Fault {
                        codes: vec![format!("0x{code:08x}"), alarm.clone()],
                        message: format!("alarm level {level}, error code 0x{code:08X}"),
                    })
                    .collect();
                if faults.is_empty() {
                    faults
                        .push(Fault::new(&alarm, format!("alarm level {level}, and no error code is told")));
                }
                // In whatever order the library tells them.
                faults.sort();
                Health::Unhealthy(faults)
            }
            Err(unanswered) => Health::Unknown(unanswered.message()),
        }
    }

    /// Why the die is only given whole. What is not known now is as it was before.
    fn whole_only(&self, before: Option<&Chip>) -> Option<String> {
        match self.ask("dcmi_get_device_share_enable", |d: &D| d.shares(self.slot)) {
            Ok(true) => None,
            Ok(false) => Some(whole::SWITCH_OFF.to_owned()),
            Err(unanswered) if unanswered.unsupported() => Some(whole::UNSUPPORTED.to_owned()),
            Err(unanswered) => match before {
                Some(chip) => chip.traits.whole_only.clone(),
                None => Some(unanswered.message()),
            },
        }
    }
}

fn number(value: i32) -> Result<u32, Flaw> {
    u32::try_from(value).map_err(|_| Flaw::Unusable {
        message: format!("the driver gives the negative number {value} for it"),
        reason: "invalid_number",
    })
}

/// The VDie as text: five words of eight hexadecimal digits. All zeros is what an unprogrammed die has.
fn uuid(words: [u32; 5]) -> Result<DeviceUuid, Flaw> {
    let missing = |message: String| Flaw::Unusable { message, reason: "missing_uuid" };
    if words.iter().all(|word| *word == 0) {
        return Err(missing(
            "the driver gives no VDie id for it, so it cannot be told from another".to_owned(),
        ));
    }
    let text = words.map(|word| format!("{word:08X}")).join("-");
    DeviceUuid::new(text).map_err(|error| missing(error.to_string()))
}

/// Model in the field's words. The vendor's name of a 910C die does not tell it from other 910 chips.
fn model(info: &ChipInfo, dual: bool) -> String {
    if dual {
        return "910C".to_owned();
    }
    info.chip_name.strip_prefix("Ascend").unwrap_or(&info.chip_name).trim().to_owned()
}

fn product(info: &ChipInfo) -> String {
    match (info.npu_name.as_str(), info.chip_name.as_str()) {
        ("", "") => String::new(),
        ("", chip) if chip.starts_with(&info.chip_type) => chip.to_owned(),
        ("", chip) => format!("{}{chip}", info.chip_type),
        (npu, _) => npu.to_owned(),
    }
}
