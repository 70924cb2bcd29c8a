//! One pass over all Ascend chips. What fails on one die is that die's problem: a die seen before is kept with
//! unknown health, a new one is named and left out, and the others are served.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use vnpu_driver::hardware::{Chip, Health, Inventory, MultiDiePolicy, PciAddress, Problem, Vendor};
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::quantity::Bytes;

use super::dcmi::{Answer, ChipInfo, Dcmi, NOT_THERE, Refusal, Slot};
use super::sysfs;
use super::worker::{CallKey, Late, Worker};
use crate::error::{DiscoveryError, explain};

/// Board ids of dual-die (A3, 910C) boards: A900/A9000 A3 SuperPod bins, A800I A3, and the ZQ boards
/// (mind-cluster `devmanager/common/constants.go`, `a3BoardIds`). A card with two devices on another board, such
/// as a 310P Duo, is two chips and no module.
const DUAL_DIE_BOARDS: [u32; 9] = [0xb0, 0xb1, 0xb2, 0xb3, 0xb4, 0x81, 0x83, 0xd1, 0xd3];

/// Kind of a device in a card that is an NPU (`NPU_TYPE`).
const NPU: i32 = 0;

/// Health value of a device that is absent or not started.
const NOT_STARTED: u32 = u32::MAX;

/// What earlier passes learnt, for the case that the library cannot say it now.
#[derive(Debug, Default)]
pub(crate) struct Known {
    chips: BTreeMap<Slot, Chip>,
    policy: Option<MultiDiePolicy>,
    driver_version: String,
    superpod: Option<u32>,
}

/// Why a question about a die has no answer.
#[derive(Debug, Clone, Copy)]
struct Unanswered {
    function: &'static str,
    why: Why,
}

#[derive(Debug, Clone, Copy)]
enum Why {
    Code(i32),
    Absent,
    Hangs,
}

impl Unanswered {
    fn message(self) -> String {
        match self.why {
            Why::Code(code) => format!("{} failed with {code}{}", self.function, explain(code)),
            Why::Absent => format!("the library has no {}: install a newer driver", self.function),
            Why::Hangs => {
                format!(
                    "{} does not return: the driver hangs on this device, a reset may be due",
                    self.function
                )
            }
        }
    }

    fn reason(self) -> &'static str {
        match self.why {
            Why::Code(_) | Why::Absent => "vendor_call_failed",
            Why::Hangs => "vendor_call_hangs",
        }
    }

    fn nothing_there(self) -> bool {
        matches!(self.why, Why::Code(code) if NOT_THERE.contains(&code))
    }
}

/// One pass.
struct Pass<'a, D> {
    worker: &'a Worker<D>,
    sys_root: &'a Path,
    /// Dies on which a call hung in this pass: each costs one deadline, not one per call.
    hung: RefCell<BTreeMap<Slot, &'static str>>,
    problems: RefCell<Vec<Problem>>,
}

/// Looks at everything. `known` is updated to what this pass found.
pub(crate) fn scan<D: Dcmi>(
    worker: &Worker<D>,
    sys_root: &Path,
    known: &mut Known,
) -> Result<Inventory, DiscoveryError> {
    let pass = Pass { worker, sys_root, hung: RefCell::default(), problems: RefCell::default() };
    let cards = pass.global("dcmi_get_card_list", |d: &D| d.cards()).map_err(whole)?;
    known.policy = pass.policy(known.policy);
    if let Ok(version) = pass.global("dcmi_get_driver_version", |d: &D| d.driver_version()) {
        known.driver_version = version;
    }
    let mut found = Found::default();
    for card in cards {
        pass.card(card, known, &mut found);
    }
    let chips = found.settle(&known.chips, &pass.problems);
    if let Some(slot) = chips.keys().next().copied() {
        known.superpod = pass.superpod(slot, known.superpod);
    }
    known.chips = chips;
    Ok(Inventory {
        vendor: Vendor::Ascend,
        chips: known.chips.values().cloned().collect(),
        multi_die_policy: known.policy.unwrap_or(MultiDiePolicy::Independent),
        driver_version: known.driver_version.clone(),
        superpod: known.superpod,
        problems: pass.problems.into_inner(),
    })
}

fn whole(unanswered: Unanswered) -> DiscoveryError {
    let function = unanswered.function;
    match unanswered.why {
        Why::Code(code) => DiscoveryError::Call { function, code },
        Why::Absent => DiscoveryError::Call { function, code: -8255 },
        Why::Hangs => DiscoveryError::Hanging { function },
    }
}

impl<D: Dcmi> Pass<'_, D> {
    fn global<T: Send + 'static>(
        &self,
        function: &'static str,
        call: impl FnOnce(&D) -> Answer<T> + Send + 'static,
    ) -> Result<T, Unanswered> {
        self.call(function, None, call)
    }

    fn ask<T: Send + 'static>(
        &self,
        function: &'static str,
        slot: Slot,
        call: impl FnOnce(&D) -> Answer<T> + Send + 'static,
    ) -> Result<T, Unanswered> {
        if let Some(function) = self.hung.borrow().get(&slot).copied() {
            return Err(Unanswered { function, why: Why::Hangs });
        }
        let answer = self.call(function, Some(slot), call);
        if let Err(Unanswered { why: Why::Hangs, .. }) = answer {
            self.hung.borrow_mut().insert(slot, function);
        }
        answer
    }

    fn call<T: Send + 'static>(
        &self,
        function: &'static str,
        slot: Option<Slot>,
        call: impl FnOnce(&D) -> Answer<T> + Send + 'static,
    ) -> Result<T, Unanswered> {
        match self.worker.call(CallKey { function, slot }, call) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Refusal::Code(code))) => Err(Unanswered { function, why: Why::Code(code) }),
            Ok(Err(Refusal::Absent)) => Err(Unanswered { function, why: Why::Absent }),
            Err(Late::TimedOut | Late::StillHanging | Late::TooMany | Late::NoThread) => {
                Err(Unanswered { function, why: Why::Hangs })
            }
        }
    }

    fn problem(&self, object: String, message: String, reason: &str) {
        // The caller says it once; here it would be said in every pass.
        tracing::debug!(object, message, reason, "discovery");
        self.problems.borrow_mut().push(Problem { object, message, reason: reason.to_owned() });
    }

    /// Unknown to older drivers and single-die hardware: then every die stands alone.
    fn policy(&self, before: Option<MultiDiePolicy>) -> Option<MultiDiePolicy> {
        match self.global("dcmi_get_multi_die_policy", |d: &D| d.multi_die_policy()) {
            Ok(0) => Some(MultiDiePolicy::Union),
            Ok(_) => Some(MultiDiePolicy::Independent),
            Err(Unanswered { why: Why::Absent | Why::Code(-8255), .. }) => Some(MultiDiePolicy::Independent),
            Err(unanswered) => {
                self.problem("multi-die policy".to_owned(), unanswered.message(), unanswered.reason());
                before
            }
        }
    }

    /// Asked of one chip: it is the node's. Hardware without super-pods refuses the question.
    fn superpod(&self, slot: Slot, before: Option<u32>) -> Option<u32> {
        match self.ask("dcmi_get_device_info", slot, move |d: &D| d.super_pod(slot)) {
            Ok(u32::MAX) => None,
            Ok(id) => Some(id),
            Err(Unanswered { why: Why::Hangs, .. }) => before,
            Err(_) => None,
        }
    }

    fn card(&self, card: i32, known: &Known, found: &mut Found) {
        let key = Slot { card, device: -1 };
        let devices = match self.ask("dcmi_get_device_num_in_card", key, move |d: &D| d.devices(card)) {
            Ok(devices) => devices,
            Err(unanswered) => {
                self.problem(format!("card {card}"), unanswered.message(), unanswered.reason());
                let slots: Vec<Slot> = known.chips.keys().filter(|slot| slot.card == card).copied().collect();
                if !unanswered.nothing_there() {
                    slots.into_iter().for_each(|slot| found.carry(slot, known, unanswered));
                }
                return;
            }
        };
        for device in 0..devices.beyond {
            let slot = Slot { card, device };
            match self.die(slot) {
                Ok(Some(chip)) => {
                    found.fresh.insert(slot, chip);
                }
                Ok(None) => {}
                Err(Flaw::Unanswered(unanswered)) if unanswered.nothing_there() => {}
                Err(Flaw::Unanswered(unanswered)) => {
                    self.problem(object(slot), unanswered.message(), unanswered.reason());
                    found.carry(slot, known, unanswered);
                }
                Err(Flaw::Unusable { message, reason }) => self.problem(object(slot), message, reason),
            }
        }
    }

    /// The chip in a slot; `None` for a device that is no NPU.
    fn die(&self, slot: Slot) -> Result<Option<Chip>, Flaw> {
        if self.ask("dcmi_get_device_type", slot, move |d: &D| d.unit_type(slot))? != NPU {
            return Ok(None);
        }
        let words = self.ask("dcmi_get_device_die_v2", slot, move |d: &D| d.vdie(slot))?;
        let uuid = uuid(words)?;
        let board = self.ask("dcmi_get_device_board_info", slot, move |d: &D| d.board_id(slot))?;
        let info = self.ask("dcmi_get_device_chip_info_v2", slot, move |d: &D| d.chip_info(slot))?;
        let memory = self.memory(slot)?;
        let phys_id = self.phys_id(slot)?;
        let card = number(slot.card)?;
        let die = number(slot.device)?;
        let dual = DUAL_DIE_BOARDS.contains(&board);
        let pci = self.pci(slot);
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
            health: self.health(slot),
        }))
    }

    /// HBM; where there is none, the memory that the chip has.
    fn memory(&self, slot: Slot) -> Result<Bytes, Flaw> {
        let mib = match self.ask("dcmi_get_device_hbm_info", slot, move |d: &D| d.hbm_mib(slot)) {
            Ok(mib) if mib > 0 => mib,
            Err(unanswered @ Unanswered { why: Why::Hangs, .. }) => return Err(unanswered.into()),
            hbm => match self.ask("dcmi_get_device_memory_info_v3", slot, move |d: &D| d.memory_mib(slot)) {
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

    fn phys_id(&self, slot: Slot) -> Result<u32, Flaw> {
        let logic = self.ask("dcmi_get_device_logic_id", slot, move |d: &D| d.logic_id(slot))?;
        let logic = number(logic)?;
        Ok(self.ask("dcmi_get_device_phyid_from_logicid", slot, move |d: &D| d.phys_of_logic(logic))?)
    }

    fn pci(&self, slot: Slot) -> Option<PciAddress> {
        let raw = self.ask("dcmi_get_device_pcie_info_v2", slot, move |d: &D| d.pcie(slot)).ok()?;
        let address = PciAddress {
            domain: u32::try_from(raw.domain).ok()?,
            bus: u8::try_from(raw.bus).ok()?,
            device: u8::try_from(raw.device).ok().filter(|device| *device < 32)?,
            function: u8::try_from(raw.function).ok().filter(|function| *function < 8)?,
        };
        Some(address)
    }

    fn health(&self, slot: Slot) -> Health {
        match self.ask("dcmi_get_device_health", slot, move |d: &D| d.health(slot)) {
            Ok(0) => Health::Healthy,
            Ok(NOT_STARTED) => Health::Unknown("the device is absent or not started".to_owned()),
            Ok(level) => {
                let codes = self
                    .ask("dcmi_get_device_errorcode_v2", slot, move |d: &D| d.error_codes(slot))
                    .unwrap_or_default();
                let codes: Vec<String> = codes.iter().map(|code| format!("0x{code:08X}")).collect();
                let codes = if codes.is_empty() { "none told".to_owned() } else { codes.join(", ") };
                Health::Unhealthy(format!("alarm level {level}, error codes: {codes}"))
            }
            Err(unanswered) => Health::Unknown(unanswered.message()),
        }
    }
}

/// Why a slot's chip cannot be used.
enum Flaw {
    Unanswered(Unanswered),
    Unusable { message: String, reason: &'static str },
}

impl From<Unanswered> for Flaw {
    fn from(unanswered: Unanswered) -> Self {
        Self::Unanswered(unanswered)
    }
}

fn object(slot: Slot) -> String {
    format!("card {} die {}", slot.card, slot.device)
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

/// Chips of one pass before they are compared with each other.
#[derive(Default)]
struct Found {
    fresh: BTreeMap<Slot, Chip>,
    carried: BTreeMap<Slot, Chip>,
}

impl Found {
    /// Keeps a chip that was seen before and of which nothing is known now.
    fn carry(&mut self, slot: Slot, known: &Known, unanswered: Unanswered) {
        if let Some(chip) = known.chips.get(&slot) {
            let health = Health::Unknown(unanswered.message());
            self.carried.insert(slot, Chip { health, ..chip.clone() });
        }
    }

    /// Makes identities unique. Among chips that claim one identity, the one that had it in the last pass keeps
    /// it; otherwise nobody has it, because no guess about hardware is safe. A carried chip gives way to a fresh.
    fn settle(
        mut self,
        before: &BTreeMap<Slot, Chip>,
        problems: &RefCell<Vec<Problem>>,
    ) -> BTreeMap<Slot, Chip> {
        let problem = |slots: &[Slot], what: &str, reason: &str| {
            let names: Vec<String> = slots.iter().map(|slot| object(*slot)).collect();
            problems.borrow_mut().push(Problem {
                object: names.join(", "),
                message: format!("{what}: they cannot be told apart, update the driver or reset the devices"),
                reason: reason.to_owned(),
            });
        };
        for (what, reason, same) in [
            ("several dies report the same VDie id", "duplicate_uuid", Chip::same_uuid as Same),
            ("several dies report the same physical id", "duplicate_phys_id", Chip::same_phys as Same),
        ] {
            let fresh = self.fresh.clone();
            self.carried.retain(|_, chip| !fresh.values().any(|other| same(chip, other)));
            for (slot, chip) in &fresh {
                let twins: Vec<Slot> = fresh.iter().filter(|(_, c)| same(chip, c)).map(|(s, _)| *s).collect();
                // Each group once, at its first member.
                if twins.len() < 2 || twins.first() != Some(slot) {
                    continue;
                }
                let keeps: Vec<Slot> = twins
                    .iter()
                    .filter(|twin| before.get(twin).is_some_and(|old| same(old, chip)))
                    .copied()
                    .collect();
                let keeper = if keeps.len() == 1 { keeps.first() } else { None };
                self.fresh.retain(|slot, _| !twins.contains(slot) || Some(slot) == keeper);
                problem(&twins, what, reason);
            }
        }
        self.carried.into_iter().chain(self.fresh).collect()
    }
}

type Same = fn(&Chip, &Chip) -> bool;

/// What two different chips must not share.
trait Identity {
    fn same_uuid(&self, other: &Self) -> bool;
    fn same_phys(&self, other: &Self) -> bool;
}

impl Identity for Chip {
    fn same_uuid(&self, other: &Self) -> bool {
        self.uuid == other.uuid
    }

    fn same_phys(&self, other: &Self) -> bool {
        self.phys_id == other.phys_id
    }
}
