//! What the simulated driver knows: the machine, its allocations and its processes. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use standin_executor::{Executor, Mark};
use standin_protocol::{
    Card, Die, DieView, GpuView, GpusView, Machine, ProcessView, Reply, Request, RuntimeDevice, Selector,
    gpu_minor, gpu_number,
};

use crate::meter::Meter;

/// DCMI: no such device. The vendor's header calls it `DCMI_ERR_CODE_DEVICE_NOT_EXIST`.
const DEVICE_NOT_EXIST: i32 = -8008;

/// NVML: the library or driver is not there.
const NVML_DRIVER_NOT_LOADED: i32 = 9;

/// Where device addresses begin: far from any mapping of the host, so that a stray host access faults.
const FIRST_ADDRESS: u64 = 0x12C0_0000_0000;

/// Addresses are never used twice and never touch; the gap catches arithmetic past an allocation's end.
const GAP: u64 = 2 << 20;

/// One connection of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerId(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ChipId {
    Die { card: i32, die: i32 },
    Gpu { minor: u32 },
}

#[derive(Debug)]
struct Allocation {
    peer: PeerId,
    chip: ChipId,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Process {
    pid: i32,
    open: BTreeSet<ChipId>,
}

/// The driver's state.
#[derive(Debug)]
pub struct State {
    machine: Machine,
    /// How many descriptions there were.
    generation: u64,
    allocations: BTreeMap<u64, Allocation>,
    exports: BTreeMap<u64, u64>,
    processes: BTreeMap<PeerId, Process>,
    next_address: u64,
    next_key: u64,
    executors: BTreeMap<ChipId, Executor>,
    meters: BTreeMap<ChipId, Meter>,
    started: Instant,
}

impl State {
    /// A driver of this machine with nobody on it.
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            generation: 1,
            allocations: BTreeMap::new(),
            exports: BTreeMap::new(),
            processes: BTreeMap::new(),
            next_address: FIRST_ADDRESS,
            next_key: 1,
            executors: BTreeMap::new(),
            meters: BTreeMap::new(),
            started: Instant::now(),
        }
    }

    /// Puts another description in place. Allocations stay with their (card, die) or
    /// minor number, also of one that vanished.
    pub fn set_machine(&mut self, machine: Machine) {
        self.machine = machine;
        self.generation += 1;
    }

    /// Whether a request waits for another description now.
    pub fn waits(&self, request: &Request) -> bool {
        matches!(request, Request::Changed { seen, .. } if *seen == self.generation)
    }

    /// The machine as it is now.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Whether a management call hangs now.
    pub fn hangs(&self, request: &Request) -> bool {
        self.fault(request).is_some_and(|fault| fault.hang)
    }

    /// A connection was made by this process.
    pub fn connect(&mut self, peer: PeerId, pid: i32) {
        self.processes.insert(peer, Process { pid, open: BTreeSet::new() });
    }

    /// A connection ended: its memory is free again.
    pub fn disconnect(&mut self, peer: PeerId) {
        self.processes.remove(&peer);
        self.allocations.retain(|_, allocation| allocation.peer != peer);
        for executor in self.executors.values_mut() {
            executor.remove(peer.0);
        }
        let allocations = &self.allocations;
        self.exports.retain(|_, address| allocations.contains_key(address));
    }

    /// Answers one request. A request that hangs must not come here while `hangs` says so.
    pub fn answer(&mut self, peer: PeerId, request: &Request) -> Reply {
        match request {
            Request::Manage { selector, .. } => match self.fault(request) {
                Some(fault) if fault.error != 0 => Reply::Code(fault.error),
                _ => self.manage(*selector),
            },
            Request::Gpus { minor, .. } => match self.fault(request) {
                Some(fault) if fault.error != 0 => Reply::Code(fault.error),
                _ => {
                    self.look();
                    self.gpus(*minor)
                }
            },
            Request::Changed { .. } => Reply::Generation(self.generation),
            Request::Devices => {
                let mut devices: Vec<_> =
                    self.machine.dies().map(|(_, die)| RuntimeDevice { phys_id: die.phys_id }).collect();
                devices.sort_by_key(|device| device.phys_id);
                Reply::Devices(devices)
            }
            Request::Open { phys_id } => self.on_chip(*phys_id, |state, chip, total| {
                let needed = state.machine.context_bytes;
                let known = state.processes.get(&peer).is_some_and(|process| process.open.contains(&chip));
                if !known && needed > total.saturating_sub(state.used(chip)) {
                    return Reply::OutOfMemory;
                }
                if let Some(process) = state.processes.get_mut(&peer) {
                    process.open.insert(chip);
                }
                Reply::Done
            }),
            Request::Close { phys_id } => self.on_chip(*phys_id, |state, chip, _| {
                if let Some(process) = state.processes.get_mut(&peer) {
                    process.open.remove(&chip);
                }
                state.allocations.retain(|_, a| a.peer != peer || a.chip != chip);
                Reply::Done
            }),
            Request::Allocate { phys_id, bytes } => {
                self.on_chip(*phys_id, |state, chip, total| state.allocate(peer, chip, total, *bytes))
            }
            Request::Free { address } => match self.allocations.get(address) {
                Some(allocation) if allocation.peer == peer => {
                    self.allocations.remove(address);
                    self.exports.retain(|_, exported| exported != address);
                    Reply::Done
                }
                _ => Reply::NotFound,
            },
            Request::MemoryInfo { phys_id } => self.on_chip(*phys_id, |state, chip, total| Reply::Memory {
                free: total.saturating_sub(state.used(chip)),
                total,
            }),
            Request::Export { address } => {
                if !self.allocations.contains_key(address) {
                    return Reply::NotFound;
                }
                let key = self.next_key;
                self.next_key += 1;
                self.exports.insert(key, *address);
                Reply::Key(key)
            }
            Request::Import { key } => {
                let found = self.exports.get(key).and_then(|address| {
                    self.allocations.get(address).map(|allocation| (*address, allocation.bytes))
                });
                match found {
                    Some((address, bytes)) => Reply::Address { address, bytes },
                    None => Reply::NotFound,
                }
            }
            Request::Launch { phys_id, nanos } => self.on_executor(*phys_id, |executor| {
                executor.launch(peer.0, *nanos);
                Reply::Done
            }),
            Request::Record { phys_id } => {
                self.on_executor(*phys_id, |executor| Reply::Mark(executor.mark(peer.0).0))
            }
            Request::Reached { phys_id, mark } => {
                self.on_executor(*phys_id, |executor| Reply::Time(executor.take_reached(peer.0, Mark(*mark))))
            }
            Request::Queued { phys_id } => {
                self.on_executor(*phys_id, |executor| Reply::Work(executor.queued(peer.0)))
            }
        }
    }

    /// Looks at how busy the GPUs are; to be called a few times a second.
    pub fn look(&mut self) {
        let numbers: Vec<u32> = self.machine.gpus().map(|gpu| gpu_number(gpu.minor)).collect();
        for number in numbers {
            let peers: Vec<u64> = self.processes.keys().map(|peer| peer.0).collect();
            let mut seen = None;
            self.on_executor(number, |executor| {
                let busy = peers.iter().map(|peer| (*peer, executor.busy(*peer))).collect();
                seen = Some((executor.clock(), busy));
                Reply::Done
            });
            if let (Some((clock, busy)), Some(chip)) = (seen, self.by_phys(number)) {
                self.meters.entry(chip).or_default().look(clock, busy);
            }
        }
    }

    /// Acts on a chip whose queues have been worked on until now. Its clock is the machine's.
    fn on_executor(&mut self, phys_id: u32, act: impl FnOnce(&mut Executor) -> Reply) -> Reply {
        let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.on_chip(phys_id, |state, chip, _| {
            let discipline = state.machine.discipline;
            let executor = state.executors.entry(chip).or_default();
            executor.set_discipline(discipline);
            executor.advance(now);
            act(executor)
        })
    }

    fn fault(&self, request: &Request) -> Option<&standin_protocol::Fault> {
        let (function, selector) = match request {
            Request::Manage { function, selector } => (function, selector),
            Request::Gpus { function, minor } => {
                let minor = minor.and_then(|minor| i32::try_from(minor).ok());
                return self.machine.faults.iter().find(|fault| fault.hits(function, minor, None));
            }
            _ => return None,
        };
        let ids = |chip: Option<ChipId>| match chip {
            Some(ChipId::Die { card, die }) => (Some(card), Some(die)),
            _ => (None, None),
        };
        let (card, device) = match *selector {
            Selector::Machine => (None, None),
            Selector::Card(card) => (Some(card), None),
            Selector::Die(card, device) => (Some(card), Some(device)),
            Selector::Logic(id) => ids(self.by_logic(id)),
            Selector::Physical(id) => ids(self.by_phys(id)),
        };
        self.machine.faults.iter().find(|fault| fault.hits(function, card, device))
    }

    fn manage(&self, selector: Selector) -> Reply {
        let chip = match selector {
            Selector::Machine => {
                return Reply::Machine {
                    cards: self.machine.cards.iter().map(|card| card.id).collect(),
                    driver_version: self.machine.driver_version.clone(),
                    multi_die_policy: self.machine.multi_die_policy,
                };
            }
            Selector::Card(id) => {
                return match self.machine.cards.iter().find(|card| card.id == id) {
                    Some(card) => Reply::Card { devices: card.dies.iter().map(|die| die.id).collect() },
                    None => Reply::Code(DEVICE_NOT_EXIST),
                };
            }
            Selector::Die(card, die) => Some(ChipId::Die { card, die }),
            Selector::Logic(id) => self.by_logic(id),
            Selector::Physical(id) => self.by_phys(id),
        };
        match chip.and_then(|chip| self.view(chip)) {
            Some(view) => Reply::Die(Box::new(view)),
            None => Reply::Code(DEVICE_NOT_EXIST),
        }
    }

    fn view(&self, chip: ChipId) -> Option<DieView> {
        let (card, die) = self.find(chip)?;
        let logic_id = self.in_phys_order().iter().position(|other| *other == chip)?;
        Some(DieView {
            card: Card { dies: Vec::new(), ..card.clone() },
            die: die.clone(),
            logic_id: logic_id as u32,
            used: self.used(chip),
            processes: self.processes_on(chip),
            super_pod: self.machine.super_pod,
        })
    }

    /// All GPUs, or the one that the call is about.
    fn gpus(&self, only: Option<u32>) -> Reply {
        let Some(nvidia) = &self.machine.nvidia else { return Reply::Code(NVML_DRIVER_NOT_LOADED) };
        let mut gpus: Vec<GpuView> = nvidia
            .gpus
            .iter()
            .filter(|gpu| only.is_none_or(|minor| gpu.minor == minor))
            .map(|gpu| {
                let chip = ChipId::Gpu { minor: gpu.minor };
                let measured = self.meters.get(&chip).map_or(0, Meter::total);
                GpuView {
                    gpu: gpu.clone(),
                    used: self.used(chip),
                    busy_percent: gpu.utilization.unwrap_or(measured),
                    processes: self.processes_on(chip),
                }
            })
            .collect();
        gpus.sort_by(|a, b| a.gpu.pci.cmp(&b.gpu.pci));
        Reply::Gpus(Box::new(GpusView {
            driver_version: nvidia.driver_version.clone(),
            cuda_version: nvidia.cuda_version,
            unknown_symbols: nvidia.unknown_symbols,
            module_bytes: nvidia.module_bytes,
            gpus,
        }))
    }

    fn processes_on(&self, chip: ChipId) -> Vec<ProcessView> {
        let of = |peer: PeerId| self.allocations.values().filter(move |a| a.peer == peer && a.chip == chip);
        self.processes
            .iter()
            .filter(|(_, process)| process.open.contains(&chip))
            .map(|(peer, process)| ProcessView {
                pid: process.pid,
                bytes: self.machine.context_bytes + of(*peer).map(|a| a.bytes).sum::<u64>(),
                busy_percent: self.meters.get(&chip).map_or(0, |meter| meter.percent(peer.0)),
            })
            .collect()
    }

    fn allocate(&mut self, peer: PeerId, chip: ChipId, total: u64, bytes: u64) -> Reply {
        if bytes > total.saturating_sub(self.used(chip)) {
            return Reply::OutOfMemory;
        }
        let address = self.next_address;
        self.next_address += bytes.next_multiple_of(GAP) + GAP;
        self.allocations.insert(address, Allocation { peer, chip, bytes });
        Reply::Address { address, bytes }
    }

    fn used(&self, chip: ChipId) -> u64 {
        let contexts = self.processes.values().filter(|process| process.open.contains(&chip)).count() as u64;
        contexts * self.machine.context_bytes
            + self.allocations.values().filter(|a| a.chip == chip).map(|a| a.bytes).sum::<u64>()
    }

    fn on_chip(&mut self, phys_id: u32, act: impl FnOnce(&mut Self, ChipId, u64) -> Reply) -> Reply {
        let Some(chip) = self.by_phys(phys_id) else { return Reply::NotFound };
        let Some(total) = self.memory_mib(chip).map(|mib| mib << 20) else { return Reply::NotFound };
        act(self, chip, total)
    }

    fn memory_mib(&self, chip: ChipId) -> Option<u64> {
        match chip {
            ChipId::Die { .. } => self.find(chip).map(|(_, die)| die.memory_mib),
            ChipId::Gpu { minor } => {
                self.machine.gpus().find(|gpu| gpu.minor == minor).map(|gpu| gpu.memory_mib)
            }
        }
    }

    fn find(&self, chip: ChipId) -> Option<(&Card, &Die)> {
        self.machine.dies().find(|(card, die)| chip == id(card, die))
    }

    fn by_phys(&self, phys_id: u32) -> Option<ChipId> {
        if let Some(minor) = gpu_minor(phys_id) {
            return Some(ChipId::Gpu { minor });
        }
        self.machine.dies().find(|(_, die)| die.phys_id == phys_id).map(|(card, die)| id(card, die))
    }

    fn by_logic(&self, logic_id: u32) -> Option<ChipId> {
        self.in_phys_order().get(logic_id as usize).copied()
    }

    fn in_phys_order(&self) -> Vec<ChipId> {
        let mut dies: Vec<_> = self.machine.dies().collect();
        dies.sort_by_key(|(_, die)| die.phys_id);
        dies.into_iter().map(|(card, die)| id(card, die)).collect()
    }
}

fn id(card: &Card, die: &Die) -> ChipId {
    ChipId::Die { card: card.id, die: die.id }
}
