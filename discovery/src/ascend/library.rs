//! `libdcmi.so`, loaded. The only place that calls into the vendor's library.
//!
//! # Safety
//! Every call below rests on the same argument. The function pointers were looked up in the library by their
//! names and have the types of the vendor's header (`raw.rs`, layouts asserted there); `_library` keeps the
//! library loaded as long as they exist. All out-pointers are to initialised locals or slices of the length that
//! is passed (or, where the function takes no length, of more than the vendor's documented maximum), and they
//! live until the call returns: a call that never returns keeps its thread's stack, and with it the locals, alive.
//!
//! # Thread-safety
//! DCMI's functions may be called from any thread once `dcmi_init` returned; `worker.rs` makes one call at a
//! time, except that a call which hangs is left behind while others go on.

use std::ffi::{c_int, c_uint};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library as Handle, RTLD_GLOBAL, RTLD_LAZY, Symbol};

use super::dcmi::{Answer, ChipInfo, Dcmi, Devices, Pcie, Refusal, Slot};
use super::events;
use super::raw::*;
use crate::error::{DiscoveryError, VendorLibrary};
use crate::stamp::unknown_path;

/// `dlfcn.h` of glibc.
const RTLD_DEEPBIND: c_int = 8;

/// A loaded `libdcmi.so` that has everything discovery needs.
pub(crate) struct Library {
    path: PathBuf,
    init: Init,
    cards: GetCards,
    device_count: GetDeviceCount,
    device_ids: Option<GetDeviceIds>,
    unit_type: GetStruct<c_int>,
    die: GetDie,
    board: GetStruct<RawBoardInfo>,
    chip: GetStruct<RawChipInfo>,
    hbm: Option<GetStruct<RawHbmInfo>>,
    memory: Option<GetStruct<RawMemoryInfo>>,
    logic_id: GetLogicId,
    phys_of_logic: GetPhysId,
    health: GetStruct<c_uint>,
    driver_version: Option<GetText>,
    multi_die_policy: Option<GetGlobalInt>,
    pcie: Option<GetStruct<RawPcieInfo>>,
    errors: Option<GetErrors>,
    info: Option<GetInfo>,
    share: Option<GetStruct<c_int>>,
    topology: Option<GetTopology>,
    processes: Option<GetProcesses>,
    subscribe: Option<Subscribe>,
    utilization: Option<GetUtilization>,
    temperature: Option<GetStruct<c_int>>,
    // Never unloaded: the thread that made the calls may end after we are gone, and what the library does at the end
    // of a thread must then still be there.
    _library: ManuallyDrop<Handle>,
}

impl Library {
    /// Loads the file and looks up the functions; `generation` is how many files were loaded from this path before.
    pub(crate) fn load(path: &Path, generation: usize) -> Result<Self, DiscoveryError> {
        // The vendor's own users load it globally: parts of it find each other by name (mind-cluster, dcmi.go). One that
        // takes another's place looks for names in itself first, not in the one that stays loaded.
        let deep = if generation == 0 { 0 } else { RTLD_DEEPBIND };
        // SAFETY: loading runs the library's constructors. It is the vendor's driver library, named by the
        // administrator or lying in the driver's directory, which only root can write.
        let library =
            unsafe { Handle::open(Some(unknown_path(path, generation)), RTLD_LAZY | RTLD_GLOBAL | deep) }
                .map_err(|error| DiscoveryError::LibraryBroken {
                    library: VendorLibrary::Dcmi,
                    path: path.to_owned(),
                    reason: error.to_string(),
                })?;
        let mut missing = Vec::new();
        let loaded = Self::look_up(path, library, &mut missing);
        loaded.ok_or(DiscoveryError::LibraryTooOld {
            library: VendorLibrary::Dcmi,
            path: path.to_owned(),
            missing,
        })
    }

    fn look_up(path: &Path, library: Handle, missing: &mut Vec<&'static str>) -> Option<Self> {
        let lib = &library;
        // All are looked up before any decides, so that the message names everything that lacks.
        let init = required(lib, "dcmi_init", missing);
        let cards = required(lib, "dcmi_get_card_list", missing);
        let device_count = required(lib, "dcmi_get_device_num_in_card", missing);
        let unit_type = required(lib, "dcmi_get_device_type", missing);
        let die = required(lib, "dcmi_get_device_die_v2", missing);
        let board = required(lib, "dcmi_get_device_board_info", missing);
        let chip = required(lib, "dcmi_get_device_chip_info_v2", missing);
        let logic_id = required(lib, "dcmi_get_device_logic_id", missing);
        let phys_of_logic = required(lib, "dcmi_get_device_phyid_from_logicid", missing);
        let health = required(lib, "dcmi_get_device_health", missing);
        let hbm = optional(lib, "dcmi_get_device_hbm_info");
        let memory = optional(lib, "dcmi_get_device_memory_info_v3");
        if hbm.is_none() && memory.is_none() {
            missing.push("dcmi_get_device_hbm_info");
        }
        if !missing.is_empty() {
            return None;
        }
        Some(Self {
            path: path.to_owned(),
            init: init?,
            cards: cards?,
            device_count: device_count?,
            device_ids: optional(lib, "dcmi_get_device_id_in_card"),
            unit_type: unit_type?,
            die: die?,
            board: board?,
            chip: chip?,
            hbm,
            memory,
            logic_id: logic_id?,
            phys_of_logic: phys_of_logic?,
            health: health?,
            driver_version: optional(lib, "dcmi_get_driver_version"),
            multi_die_policy: optional(lib, "dcmi_get_multi_die_policy"),
            pcie: optional(lib, "dcmi_get_device_pcie_info_v2"),
            errors: optional(lib, "dcmi_get_device_errorcode_v2"),
            info: optional(lib, "dcmi_get_device_info"),
            share: optional(lib, "dcmi_get_device_share_enable"),
            topology: optional(lib, "dcmi_get_topo_info_by_device_id"),
            processes: optional(lib, "dcmi_get_device_resource_info"),
            subscribe: optional(lib, "dcmi_subscribe_fault_event"),
            utilization: optional(lib, "dcmi_get_device_utilization_rate"),
            temperature: optional(lib, "dcmi_get_device_temperature"),
            _library: ManuallyDrop::new(library),
        })
    }

    /// Which file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Memory that is taken, in MiB: of the HBM, or of the memory of chips that have none.
    pub(crate) fn used_mib(&self, slot: Slot) -> Answer<u64> {
        match self.hbm(slot) {
            Ok(hbm) if hbm.size > 0 => Ok(hbm.used),
            _ => self.memory(slot).map(|memory| memory.size.saturating_sub(memory.available)),
        }
    }

    /// Percent of the time that the chip computed.
    pub(crate) fn busy_percent(&self, slot: Slot) -> Answer<u32> {
        let function = self.utilization.ok_or(Refusal::Absent)?;
        let mut percent = 0;
        // The whole NPU, which not every driver knows, then its AI cores.
        let ask = |kind, percent: &mut c_uint| {
            // SAFETY: module documentation.
            answer(unsafe { function(slot.card, slot.device, kind, percent) }, ())
        };
        ask(UTILIZATION_NPU, &mut percent).or_else(|_| ask(UTILIZATION_CORES, &mut percent))?;
        Ok(percent)
    }

    /// Degrees Celsius.
    pub(crate) fn temperature(&self, slot: Slot) -> Answer<i32> {
        let function = self.temperature.ok_or(Refusal::Absent)?;
        let mut degrees = 0;
        // SAFETY: module documentation.
        let code = unsafe { function(slot.card, slot.device, &mut degrees) };
        answer(code, degrees)
    }

    fn hbm(&self, slot: Slot) -> Answer<RawHbmInfo> {
        let function = self.hbm.ok_or(Refusal::Absent)?;
        let mut hbm = RawHbmInfo::default();
        // SAFETY: module documentation.
        let code = unsafe { function(slot.card, slot.device, &mut hbm) };
        answer(code, hbm)
    }

    fn memory(&self, slot: Slot) -> Answer<RawMemoryInfo> {
        let function = self.memory.ok_or(Refusal::Absent)?;
        let mut memory = RawMemoryInfo::default();
        // SAFETY: module documentation.
        let code = unsafe { function(slot.card, slot.device, &mut memory) };
        answer(code, memory)
    }

    /// Faults of all chips are told to [`events`] from now on. The library takes this once in a process.
    pub(crate) fn subscribe(&self) -> Answer<()> {
        let function = self.subscribe.ok_or(Refusal::Absent)?;
        // SAFETY: module documentation; the handler is a function, and so lives for ever.
        answer(unsafe { function(ALL, ALL, RawEventFilter::default(), events::told) }, ())
    }
}

fn optional<T: Copy>(library: &Handle, name: &'static str) -> Option<T> {
    // SAFETY: each caller asks for the function type of that name in the vendor's header.
    let symbol: Symbol<T> = unsafe { library.get(name) }.ok()?;
    Some(*symbol)
}

fn required<T: Copy>(library: &Handle, name: &'static str, missing: &mut Vec<&'static str>) -> Option<T> {
    let found = optional(library, name);
    if found.is_none() {
        missing.push(name);
    }
    found
}

fn answer<T>(code: c_int, value: T) -> Answer<T> {
    if code == 0 { Ok(value) } else { Err(Refusal::Code(code)) }
}

/// The text up to the first NUL, what is not UTF-8 replaced, blanks cut.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).trim().to_owned()
}

/// How many entries a library may have written into room for `most`; a negative or too large count is cut.
fn count(written: c_int, most: usize) -> usize {
    usize::try_from(written).unwrap_or(0).min(most)
}

impl Dcmi for Library {
    fn init(&self) -> Answer<()> {
        // SAFETY: module documentation.
        answer(unsafe { (self.init)() }, ())
    }

    fn driver_version(&self) -> Answer<String> {
        let function = self.driver_version.ok_or(Refusal::Absent)?;
        let mut buffer = [0u8; 64];
        // SAFETY: module documentation. One byte less is told, so the text always ends in a NUL.
        let code = unsafe { function(buffer.as_mut_ptr().cast(), 63) };
        answer(code, text(&buffer))
    }

    fn multi_die_policy(&self) -> Answer<i32> {
        let function = self.multi_die_policy.ok_or(Refusal::Absent)?;
        let mut policy = -1;
        // SAFETY: module documentation.
        let code = unsafe { function(&mut policy) };
        answer(code, policy)
    }

    fn cards(&self) -> Answer<Vec<i32>> {
        let mut list = [0 as c_int; MOST_CARDS];
        let mut written = 0;
        // SAFETY: module documentation.
        let code = unsafe { (self.cards)(&mut written, list.as_mut_ptr(), MOST_CARDS as c_int) };
        answer(code, list.iter().take(count(written, MOST_CARDS)).copied().collect())
    }

    fn devices(&self, card: i32) -> Answer<Devices> {
        let mut devices = Devices { count: 0, beyond: 0 };
        // SAFETY: module documentation.
        let code = unsafe { (self.device_count)(card, &mut devices.count) };
        answer(code, ())?;
        devices.beyond = devices.count;
        if let Some(function) = self.device_ids {
            let (mut beyond, mut mcu, mut cpu) = (0, 0, 0);
            // SAFETY: module documentation.
            if unsafe { function(card, &mut beyond, &mut mcu, &mut cpu) } == 0 {
                devices.beyond = beyond.max(devices.count);
            }
        }
        devices.count = devices.count.clamp(0, MOST_DEVICES);
        devices.beyond = devices.beyond.clamp(0, MOST_DEVICES);
        Ok(devices)
    }

    fn unit_type(&self, slot: Slot) -> Answer<i32> {
        let mut kind = -1;
        // SAFETY: module documentation.
        let code = unsafe { (self.unit_type)(slot.card, slot.device, &mut kind) };
        answer(code, kind)
    }

    fn vdie(&self, slot: Slot) -> Answer<[u32; 5]> {
        let mut die = RawDieId::default();
        // SAFETY: module documentation.
        let code = unsafe { (self.die)(slot.card, slot.device, VDIE, &mut die) };
        answer(code, die.words)
    }

    fn board_id(&self, slot: Slot) -> Answer<u32> {
        let mut board = RawBoardInfo::default();
        // SAFETY: module documentation.
        let code = unsafe { (self.board)(slot.card, slot.device, &mut board) };
        answer(code, board.board_id)
    }

    fn chip_info(&self, slot: Slot) -> Answer<ChipInfo> {
        let mut chip = RawChipInfo {
            chip_type: [0; 32],
            chip_name: [0; 32],
            chip_version: [0; 32],
            aicore_count: 0,
            npu_name: [0; 32],
        };
        // SAFETY: module documentation.
        let code = unsafe { (self.chip)(slot.card, slot.device, &mut chip) };
        answer(
            code,
            ChipInfo {
                chip_type: text(&chip.chip_type),
                chip_name: text(&chip.chip_name),
                npu_name: text(&chip.npu_name),
            },
        )
    }

    fn hbm_mib(&self, slot: Slot) -> Answer<u64> {
        self.hbm(slot).map(|hbm| hbm.size)
    }

    fn memory_mib(&self, slot: Slot) -> Answer<u64> {
        Self::memory(self, slot).map(|memory| memory.size)
    }

    fn logic_id(&self, slot: Slot) -> Answer<i32> {
        let mut logic = -1;
        // SAFETY: module documentation.
        let code = unsafe { (self.logic_id)(&mut logic, slot.card, slot.device) };
        answer(code, logic)
    }

    fn phys_of_logic(&self, logic: u32) -> Answer<u32> {
        let mut phys = 0;
        // SAFETY: module documentation.
        let code = unsafe { (self.phys_of_logic)(logic, &mut phys) };
        answer(code, phys)
    }

    fn pcie(&self, slot: Slot) -> Answer<Pcie> {
        let function = self.pcie.ok_or(Refusal::Absent)?;
        let mut raw = RawPcieInfo::default();
        // SAFETY: module documentation.
        let code = unsafe { function(slot.card, slot.device, &mut raw) };
        answer(code, Pcie { domain: raw.domain, bus: raw.bus, device: raw.device, function: raw.function })
    }

    fn health(&self, slot: Slot) -> Answer<u32> {
        let mut health = 0;
        // SAFETY: module documentation.
        let code = unsafe { (self.health)(slot.card, slot.device, &mut health) };
        answer(code, health)
    }

    fn error_codes(&self, slot: Slot) -> Answer<Vec<u32>> {
        let function = self.errors.ok_or(Refusal::Absent)?;
        let mut list = [0 as c_uint; MOST_ERRORS];
        let mut written = 0;
        // SAFETY: module documentation.
        let code = unsafe {
            function(slot.card, slot.device, &mut written, list.as_mut_ptr(), MOST_ERRORS as c_uint)
        };
        answer(code, list.iter().take(count(written, MOST_ERRORS)).copied().collect())
    }

    fn shares(&self, slot: Slot) -> Answer<bool> {
        let function = self.share.ok_or(Refusal::Absent)?;
        let mut enabled = 0;
        // SAFETY: module documentation.
        let code = unsafe { function(slot.card, slot.device, &mut enabled) };
        answer(code, enabled != 0)
    }

    fn connection(&self, one: Slot, other: Slot) -> Answer<i32> {
        let function = self.topology.ok_or(Refusal::Absent)?;
        let mut kind = -1;
        // SAFETY: module documentation.
        let code = unsafe { function(one.card, one.device, other.card, other.device, &mut kind) };
        answer(code, kind)
    }

    fn super_pod(&self, slot: Slot) -> Answer<u32> {
        let function = self.info.ok_or(Refusal::Absent)?;
        let mut pod = RawSuperPod::default();
        let mut size = size_of::<RawSuperPod>() as c_uint;
        let (main, sub) = SUPER_POD_COMMAND;
        // SAFETY: module documentation; `size` is the size of the buffer.
        let code = unsafe {
            function(slot.card, slot.device, main, sub, std::ptr::from_mut(&mut pod).cast(), &mut size)
        };
        answer(code, pod.super_pod_id)
    }

    fn processes(&self, slot: Slot) -> Answer<Vec<(i32, u64)>> {
        let function = self.processes.ok_or(Refusal::Absent)?;
        let mut list = [RawProcess::default(); MOST_PROCESSES];
        let mut written = 0;
        // SAFETY: module documentation; the room is eight times the vendor's maximum.
        let code = unsafe { function(slot.card, slot.device, list.as_mut_ptr(), &mut written) };
        // `c_ulong` is 64 bits wide on all targets of the driver.
        #[allow(clippy::useless_conversion)]
        let seen = list.iter().take(count(written, MOST_PROCESSES)).map(|p| (p.pid, u64::from(p.bytes)));
        answer(code, seen.collect())
    }
}
